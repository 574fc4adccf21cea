"""What an evaluation found about each image, and the file that remembers it.

The file is JSON: ``key`` says of which networks, prepared and run how, and ``images`` has for each name the bytes of its file,
its class, and what was found. It is replaced in one step after every batch, so a kill loses a batch and counts nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from xconvert.datasets import Sample
from xconvert.errors import UnreadableError, UsageError
from xconvert.model import Array
from xconvert.outputs import replaced
from xconvert.sealing import content
from xconvert.serving import Server
from xconvert.tuples import NamedTuple

_LARGEST = 1 << 29  # bytes of a state; that of ImageNet's 50,000 images has 6 MB
_SCHEMA = 1


class Outcome(NamedTuple):
    """What one or two networks say of an image.

    ``ranks``: how many classes each holds likelier than the right one, ``label``; of equal ones the first is likelier.
    ``firsts``: the likeliest class of each. ``gap``: the largest difference between their logits, 0 of one alone; ``largest``:
    the largest logit, without its sign.
    """

    name: str
    label: int
    ranks: tuple[int, ...]
    firsts: tuple[int, ...]
    gap: float
    largest: float

    @classmethod
    def of(cls, sample: Sample, logits: Sequence[Array]) -> Outcome:
        """From the logits (classes,) of each network."""
        right = sample.label
        ranks = tuple(int((row > row[right]).sum() + (row[:right] == row[right]).sum()) for row in logits)
        firsts = tuple(int(row.argmax()) for row in logits)
        wide = [row.astype(np.float64) for row in logits]
        gap = float(np.abs(wide[0] - wide[-1]).max())
        return cls(sample.name, right, ranks, firsts, gap, max(float(np.abs(row).max()) for row in wide))


def key_of(skipped: Sequence[int], servers: Sequence[Server]) -> str:
    """A digest of all that answers depend on but the images: weights, attributes, preprocessing, backends, classes left out."""
    told = [
        {
            "weights": s.model.origin.sha256() if s.model.origin else content(s.model.weights),
            "attributes": s.model.inference,
            "preprocessing": s.preprocessing,
            "backend": s.backend,
            "skipped": skip,
        }
        for s, skip in zip(servers, skipped, strict=True)
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).hexdigest()


class State:
    """Outcomes that are remembered in the file ``path``, if there is one.

    Raises ``UsageError`` for the state of another evaluation, ``UnreadableError`` for what is none.
    """

    def __init__(self, path: Path | None, key: str) -> None:
        self._path, self._key, self._known = path, key, dict[str, list[Any]]()
        if path is not None and path.exists():
            told = _read(path)
            if told["key"] != key:
                hints = ["give the same files and options as then, or another file to `--resume`"]
                raise UsageError(f"`{path}` remembers another evaluation", hints=hints)
            self._known = told["images"]
        elif path is not None:
            self._write()  # now, so that a place that cannot be written is told before hours of work

    def outcome(self, sample: Sample) -> Outcome | None:
        """What is known of an image; nothing where its file or its class is another one."""
        row = self._known.get(sample.name)
        if row is None or row[:2] != [_size(sample.path), sample.label]:
            return None
        _, label, ranks, firsts, gap, largest = row
        return Outcome(sample.name, label, tuple(ranks), tuple(firsts), gap, largest)

    def add(self, made: Sequence[tuple[Sample, Outcome]]) -> None:
        """Remember outcomes."""
        if self._path is None or not made:
            return
        for sample, outcome in made:
            row = outcome._asdict()
            del row["name"]
            self._known[sample.name] = [_size(sample.path), *row.values()]
        self._write()

    def _write(self) -> None:
        assert self._path  # noqa: S101  (who calls looks)
        told = {"xconvert": "evaluate", "schema": _SCHEMA, "key": self._key, "images": self._known}
        replaced(self._path, json.dumps(told, separators=(",", ":")).encode())


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file() or path.stat().st_size > _LARGEST:
            raise ValueError
        told = json.loads(path.read_bytes())
        if told["xconvert"] != "evaluate" or told["schema"] != _SCHEMA or not isinstance(told["key"], str):
            raise ValueError
        if not all(_is_row(row) for row in told["images"].values()):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        hints = ["name a file that is not there yet, or that an evaluation wrote"]
        raise UnreadableError(f"`{path}` is no state of an evaluation", hints=hints) from None
    return dict(told)


def _is_row(row: Any) -> bool:
    if not isinstance(row, list) or len(row) != 6:
        return False
    size, label, ranks, firsts, gap, largest = row
    whole = [size, label, *ranks, *firsts] if isinstance(ranks, list) and isinstance(firsts, list) else [None]
    numbers = all(type(n) is int and -1 <= n < 1 << 53 for n in whole) and 1 <= len(ranks) == len(firsts) <= 2
    return numbers and all(type(n) in (int, float) and math.isfinite(n) for n in (gap, largest))
