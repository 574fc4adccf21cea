"""How images become inputs: what a preprocessing table may say. And the kinds of values that tables which people write
are held to, before anything else looks at them.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, NamedTuple

from xconvert.attributes import shown


class Kind(NamedTuple):
    """What a value must be: in words, and as a test that takes any value."""

    expected: str
    fits: Callable[[Any], bool]


def one_of(choices: Collection[str]) -> Kind:
    """One of several words."""
    return Kind("one of " + ", ".join(f"`{c}`" for c in choices), lambda v: isinstance(v, str) and v in choices)


def matching(pattern: str, expected: str) -> Kind:
    """A text of some form."""
    return Kind(expected, lambda v: isinstance(v, str) and v.isprintable() and bool(re.fullmatch(pattern, v, re.ASCII)))


def list_of(kind: Kind, least: int = 0, most: int = sys.maxsize) -> Kind:
    """A list of values of one kind."""
    size = f" of {least} or more" if least else ""
    return Kind(
        f"a list{size}, each {kind.expected}",
        lambda v: isinstance(v, list) and least <= len(v) <= most and all(map(kind.fits, v)),
    )


def table_of(kind: Kind, keys: Collection[str] = (), exactly: bool = False) -> Kind:
    """A table of values of one kind, under any keys, or some or all of ``keys``."""
    return Kind(
        f"a table{' of ' * bool(keys)}{', '.join(keys)}, each {kind.expected}",
        lambda v: (
            isinstance(v, dict)
            and all(map(kind.fits, v.values()))
            and (not keys or v.keys() <= {*keys})
            and (not exactly or len(v) == len(keys))
        ),
    )


TEXT = matching(".+", "text without control characters")
TABLE = Kind("a table", lambda v: isinstance(v, dict))
FLAG = Kind("true or false", lambda v: isinstance(v, bool))


def mistakes(
    table: Mapping[str, Any], schema: Mapping[str, Kind], where: str = "", required: Collection[str] = ()
) -> Iterator[str]:
    """Keys that are missing or unknown, and values of another kind; ``where`` goes before each."""
    yield from (f"{where}`{key}` is missing" for key in required if key not in table)
    for key, value in table.items():
        if key not in schema:
            yield f"{where}`{key}` is none of {', '.join(schema)}"
        elif not schema[key].fits(value):
            yield f"{where}`{key}` is {shown(value)}, expected {schema[key].expected}"


def _number(least: float, expected: str) -> Kind:  # the comparison holds for no nan
    return Kind(expected, lambda v: type(v) in (int, float) and least <= v <= sys.float_info.max)


PIXELS = Kind("a whole number from 1 to 65536", lambda v: type(v) is int and 1 <= v <= 65536)
PREPROCESSING: Mapping[str, Kind] = {
    "size": PIXELS,
    "resize": PIXELS,
    "crop": one_of(("centre", "central fraction")),
    "interpolation": one_of(("bilinear", "bicubic", "nearest", "lanczos", "box")),
    "mean": list_of(_number(-sys.float_info.max, "a finite number"), 1, 64),
    "std": list_of(_number(sys.float_info.min, "a finite positive number"), 1, 64),
    "channels": one_of(("RGB", "BGR", "GRAY")),
}


def preprocessing_problems(table: Any) -> list[str]:
    """What is wrong with a preprocessing table, whatever it is; empty when nothing is."""
    if not isinstance(table, dict):
        return [f"`preprocessing` is {shown(table)}, expected a table"]
    found = list(mistakes(table, PREPROCESSING, "preprocessing "))
    if not found and "mean" in table and "std" in table and len(table["mean"]) != len(table["std"]):
        found.append(f"preprocessing `mean` has {len(table['mean'])} values and `std` {len(table['std'])}")
    return found
