"""How images become inputs: what a preprocessing table may say. And the kinds of values that tables which people write
are held to, before anything else looks at them.

What a table does not say of geometry is as torchvision does it with Pillow (``DEFAULTS``):

- ``crop``: ``"centre"``, the shorter side becomes ``resize`` pixels and ``size`` by ``size`` of them are taken; ``"square"``, the
  largest square in the middle becomes ``size`` by ``size``; ``"central fraction"``, the middle ``fraction`` of each side does;
  ``"none"``, the whole image does, whatever its shape.
- ``antialias``: whether a filter is widened when an image shrinks, so that every pixel counts; OpenCV and TensorFlow look at
  neighbours alone. ``rounding``: whether pixels are whole numbers again after each axis (Pillow), after both (``"once"``,
  OpenCV) or not (``"none"``, TensorFlow). ``grid``: whether pixels are points at their ``"centres"`` or at their ``"corners"``,
  as in TensorFlow 1.
- ``longer_side``, ``offset``: whether the pixels of the longer side, and those before the crop, are rounded ``"down"`` or to the
  ``"nearest"`` whole number (to the even one of two).
- ``exif``: whether the image is turned as the camera says; all but OpenCV ignore it.
"""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from xconvert.attributes import shown
from xconvert.errors import UsageError
from xconvert.tuples import NamedTuple


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


TEXT = Kind("text without control characters", lambda v: isinstance(v, str) and v != "" and v.isprintable())
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
    "crop": one_of(("centre", "square", "central fraction", "none")),
    "fraction": Kind("a number above 0, at most 1", lambda v: type(v) in (int, float) and 0 < v <= 1),
    "interpolation": one_of(("bilinear", "bicubic", "nearest", "lanczos", "box")),
    "mean": list_of(_number(-sys.float_info.max, "a finite number"), 1, 64),
    "std": list_of(_number(sys.float_info.min, "a finite positive number"), 1, 64),
    "channels": one_of(("RGB", "BGR", "GRAY")),
    "antialias": FLAG,
    "rounding": one_of(("per axis", "once", "none")),
    "grid": one_of(("centres", "corners")),
    "longer_side": one_of(("down", "nearest")),
    "offset": one_of(("down", "nearest")),
    "exif": FLAG,
}
DEFAULTS: Mapping[str, Any] = {
    "antialias": True,
    "rounding": "per axis",
    "grid": "centres",
    "longer_side": "down",
    "offset": "nearest",
    "exif": False,
}


def preprocessing_problems(table: Any) -> list[str]:
    """What is wrong with a preprocessing table, whatever it is; empty when nothing is."""
    if not isinstance(table, dict):
        return [f"`preprocessing` is {shown(table)}, expected a table"]
    found = list(mistakes(table, PREPROCESSING, "preprocessing "))
    if not found and "mean" in table and "std" in table and len(table["mean"]) != len(table["std"]):
        found.append(f"preprocessing `mean` has {len(table['mean'])} values and `std` {len(table['std'])}")
    return found


def parse_setting(name: str, text: str) -> Any:
    """The value of the setting ``name`` of a preprocessing table in the words of the command line: lists with commas.

    Raises ``UsageError`` for what it cannot be.
    """
    kind = PREPROCESSING[name]
    value: Any = {"true": True, "false": False}.get(text, text)
    with contextlib.suppress(ValueError):
        numbers = [float(part) if re.search("[.e]", part) else int(part) for part in text.split(",")]
        value = numbers if name in ("mean", "std") else numbers[0] if len(numbers) == 1 else text
    if not kind.fits(value):
        raise UsageError(f"`{name}` cannot be `{text}`", facts=[f"expected {kind.expected}"])
    return value
