"""Changes to JSON values, objects kept as lists of pairs so that a key may stand there twice."""

from __future__ import annotations

import json
import random
from typing import Any

from tests.fuzz.mutate import edge

_NAMES = [
    "",
    "\0",
    "\x1b[31m",
    "..",
    "a/b",
    "é",
    "\u202e",
    "\ud800",
    "x" * 2000,
    "__proto__",
    "config",
    "layers",
    "name",
    "class_name",
]
_NAMES += [
    "__metadata__",
    "dtype",
    "shape",
    "data_offsets",
    "axis",
    "a\nb",
    "conv1.weight",
    "xconvert",
    "BF16",
    "C64",
    "F8_E8M0",
    "valid",
]
_PLAIN: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    0.5,
    1e308,
    float("inf"),
    float("nan"),
    "",
    [],
    {},
    [[]],
    [None],
    "x",
    10**30,
    -0.0,
    1e-320,
]


class Verbatim(bytes):
    """Text that stands for a value: what is nested too deeply for Python to write."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object."""


def parsed(text: bytes | str) -> Any:
    """JSON with its objects as ``Pairs``."""
    return json.loads(text, object_pairs_hook=Pairs)


def written(value: Any) -> bytes:
    """The text of ``value``; numbers that are none are written as Python does."""
    if isinstance(value, Pairs):
        return b"{" + b",".join(json.dumps(key).encode() + b":" + written(inner) for key, inner in value) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(written, value)) + b"]"
    if isinstance(value, Verbatim):
        return value
    return json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass")


def changed(value: Any, rng: random.Random) -> Any:
    """``value`` with one change somewhere inside it; what it holds is shared, not copied."""
    if isinstance(value, Pairs) and value and rng.random() < 0.85:
        return _changed_pairs(value, rng)
    if isinstance(value, list) and not isinstance(value, Pairs) and value and rng.random() < 0.8:
        at, out = rng.randrange(len(value)), list(value)
        match rng.randrange(8):
            case 0:
                del out[at]
            case 1:
                out.insert(at, rng.choice(value))
            case 2:
                out.insert(at, _fresh(rng))
            case 3:
                out *= rng.choice((2, 2, 20))
            case _:
                out[at] = changed(out[at], rng)
        return out
    return _instead(value, rng)


def _changed_pairs(value: Pairs, rng: random.Random) -> Pairs:
    at, out = rng.randrange(len(value)), Pairs(value)
    key, inner = out[at]
    match rng.randrange(12):
        case 0:
            del out[at]
        case 1:
            out.append(out[at])
        case 2:
            out[at] = (rng.choice(_NAMES), inner)
        case 3:
            out.insert(at, (rng.choice(_NAMES), _fresh(rng)))
        case 4:
            out[at] = (key, rng.choice(value)[1])
        case 5:
            out[at] = (key + rng.choice(_NAMES), inner)
        case _:
            out[at] = (key, changed(inner, rng))
    return out


def _instead(value: Any, rng: random.Random) -> Any:
    if isinstance(value, bool) or value is None:
        return rng.choice((not value, _fresh(rng)))
    if isinstance(value, (int, float)) and rng.random() < 0.7:
        return rng.choice((value + 1, value - 1, -value, value * 2, float(value) if abs(value) < 1e9 else 0, edge(rng)))
    if isinstance(value, str) and rng.random() < 0.6:
        return rng.choice((value + rng.choice(_NAMES), value[1:], value.upper(), rng.choice(_NAMES), value * 2, [value]))
    return _fresh(rng)


def _fresh(rng: random.Random) -> Any:
    match rng.randrange(5):
        case 0:
            return edge(rng)
        case 1:
            return rng.choice(_NAMES)
        case 2:
            depth = rng.choice((2, 2, 2, 2, 40, 400, 20_000))
            return Verbatim(rng.choice((b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1" + b"}" * depth)))
        case _:
            found = rng.choice(_PLAIN)
            return Pairs() if found == {} and isinstance(found, dict) else found
