"""What the messages in the headers of HDF5 objects say (HDF5 File Format Specification 3.0, section IV.A.2).

Every function takes the content of a message and raises one of ``NONSENSE`` where it makes no sense, ``Unfamiliar`` where it is
in a form that is left to the library.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from operator import gt

from xconvert.formats._arrays import elements
from xconvert.formats._hdf5_objects import CHUNKED, COMPACT, HARD, UNDEFINED, Text, Unfamiliar
from xconvert.tuples import NamedTuple

BFLOAT16 = "|V2"  # HDF5 has no such type; Keras stores opaque pairs of bytes
FIXED, FLOAT, STRING, OPAQUE, ENUM, VARIABLE = 0, 1, 3, 5, 8, 9  # classes of datatypes
_NEWEST = 4  # of datatypes and layouts, in HDF5 1.14
_MOST_DIMENSIONS, _MOST_FILTERS = 32, 32
_ENDS, _SPACES = 0, 2  # how a text of fixed length is filled: with anything after a zero, with spaces
_REFERENCE = 16  # bytes of a reference to a text
# Offset and precision, places and sizes of exponent and mantissa, bias: of IEEE's floats by their size, and where the sign is.
IEEE = {
    2: (15, (0, 16, 10, 5, 0, 10, 15)),
    4: (31, (0, 32, 23, 8, 0, 23, 127)),
    8: (63, (0, 64, 52, 11, 0, 52, 1023)),
}


def dataspace(content: memoryview) -> tuple[int, ...] | None:
    """The shape; None for a dataspace that is none (IV.A.2.b)."""
    version, rank, bounded, kind = struct.unpack_from("<4B", content)
    if version not in (1, 2) or rank > _MOST_DIMENSIONS or (version == 2 and (kind > 2 or (rank and kind != 1))):
        raise ValueError("a dataspace makes no sense")
    if version == 2 and kind == 2:
        return None
    at = 8 if version == 1 else 4
    shape = struct.unpack_from(f"<{rank}Q", content, at)
    if bounded & 1 and any(map(gt, shape, struct.unpack_from(f"<{rank}Q", content, at + 8 * rank))):
        raise ValueError("a dataspace makes no sense")
    return shape


class _Type(NamedTuple):
    """The head of a datatype: its class, the 24 bits that mean another thing in each, and how many bytes a value has."""

    version: int
    kind: int
    bits: int
    size: int


def _type(content: memoryview | bytes) -> _Type:
    first, size = struct.unpack_from("<2L", content)
    version = first >> 4 & 15
    if version > _NEWEST:
        raise Unfamiliar
    if not version or not size:
        raise ValueError("a datatype makes no sense")
    return _Type(version, first & 15, first >> 8, size)


@lru_cache(64)
def plain(content: bytes) -> str | None:
    """NumPy's code (``dtype.str``) of numbers that it has in the same form, and of opaque pairs; else None (IV.A.2.d)."""
    version, kind, bits, size = _type(content)
    if kind == FIXED:
        return _whole(content, bits, size)
    if kind == FLOAT and size in IEEE:
        sign, form = IEEE[size]
        there = struct.unpack_from("<2H4BL", content, 8)
        order = ">" if bits & 1 else "<"
        # 0x20: the highest bit of the mantissa is not stored
        return f"{order}f{size}" if (bits & 0xFF7E, there) == (sign << 8 | 0x20, form) else None
    if kind == OPAQUE and size == 2:
        tag = content[8 : 8 + (bits & 0xFF)]
        return None if tag.strip(b"\0") else BFLOAT16
    return _listed(content, version, bits & 0xFFFF, size) if kind == ENUM else None


def _whole(content: bytes, bits: int, size: int) -> str | None:
    whole = struct.unpack_from("<2H", content, 8) == (0, 8 * size) and not bits & 6 and size in (1, 2, 4, 8)
    if not whole or (size == 1 and bits & 1):
        return None
    return f"{'|' if size == 1 else '>' if bits & 1 else '<'}{'i' if bits & 8 else 'u'}{size}"


def _listed(content: bytes, version: int, count: int, width: int) -> str | None:
    """What an enumeration is: booleans if it is h5py's own, else the whole numbers it is of."""
    _, kind, bits, size = _type(content[8:])
    base = _whole(content[8:], bits, size) if kind == FIXED and size == width else None
    if count != 2 or base is None:
        return base if count else None
    at, names = 20, list[bytes]()
    for _ in range(count):
        end = content.find(b"\0", at)
        if end < 0:
            raise ValueError("a datatype makes no sense")
        names.append(content[at:end])
        at = end + 1 if version > 2 else end + 8 - (end - at) % 8
    if len(content) < at + count * size:
        raise ValueError("a datatype makes no sense")
    zero, one = (number.to_bytes(size, "big" if base.startswith(">") else "little") for number in (0, 1))
    values = (content[at : at + size], content[at + size : at + 2 * size])
    if dict(zip(names, values, strict=True)) != {b"FALSE": zero, b"TRUE": one}:
        return base
    return "|b1" if base == "|i1" else None


def width(content: memoryview) -> int:
    """How many bytes a value of a datatype has."""
    return _type(content).size


def pipeline(content: memoryview) -> list[tuple[int, int]]:
    """(number, first parameter or 1) of each filter, in the order in which they were applied (IV.A.2.l)."""
    version, count = content[0], content[1]
    if version not in (1, 2) or count > _MOST_FILTERS:
        raise ValueError("a list of filters makes no sense")
    at, found = 8 if version == 1 else 2, []
    for _ in range(count):
        (number,) = struct.unpack_from("<H", content, at)
        named = version == 1 or number >= 256
        length = struct.unpack_from("<H", content, at + 2)[0] if named else 0
        at += 4 if named else 2
        _, parameters = struct.unpack_from("<2H", content, at)
        at += 4 + (length + -length % 8 if version == 1 else length)
        found.append((number, struct.unpack_from("<L", content, at)[0] if parameters else 1))
        at += 4 * parameters + (4 if version == 1 and parameters % 2 else 0)
        if at > len(content):
            raise ValueError("a list of filters makes no sense")
    return found


def layout_class(content: memoryview) -> int:
    """How a dataset is stored (IV.A.2.i)."""
    version, second, third = struct.unpack_from("<3B", content)
    if version > _NEWEST:
        raise Unfamiliar
    found = third if version < 3 else second
    if not version or found > (3 if version == 4 else CHUNKED):
        raise ValueError("the layout of a dataset makes no sense")
    return int(found)


def contiguous(content: memoryview, size: int) -> tuple[int, int | None]:
    """How many bytes are stored, and their address; ``size`` where the message does not say it (IV.A.2.i)."""
    if content[0] < 3:
        (address,) = struct.unpack_from("<Q", content, 8)
    else:
        address, size = struct.unpack_from("<2Q", content, 2)
    return (size, address) if address != UNDEFINED else (0, None)


def chunking(content: memoryview) -> tuple[int, tuple[int, ...], int] | None:
    """Where the index of chunks is, the shape of a chunk and how many bytes a number has; None for newer kinds of index."""
    if content[0] > 3 or layout_class(content) != CHUNKED:
        return None
    rank, address, at = (content[2], 3, 11) if content[0] == 3 else (content[1], 8, 16)
    sizes = struct.unpack_from(f"<{rank}L", content, at)
    if not rank or rank > _MOST_DIMENSIONS + 1 or 0 in sizes:
        raise ValueError("the layout of a dataset makes no sense")
    return struct.unpack_from("<Q", content, address)[0], sizes[:-1], sizes[-1]


def compact(content: memoryview) -> memoryview | None:
    """The numbers themselves where they are in the message; None where it does not hold as many as it says."""
    if content[0] > _NEWEST or layout_class(content) != COMPACT:
        return None
    if content[0] > 2:
        at, size = 4, int.from_bytes(content[2:4], "little")
    else:
        at = 12 + 4 * content[1]
        size = int.from_bytes(content[at - 4 : at], "little")
    return content[at : at + size] if size <= len(content) - at else None


def link(content: memoryview) -> tuple[bytes, int, int, int]:
    """Name, kind, address of what a hard one leads to, and number of creation, 0 without one (IV.A.2.g)."""
    version, flags = content[0], content[1]
    if version != 1 or flags & 0xE0:
        raise ValueError("a link makes no sense")
    at, kind, order = 2, HARD, 0
    if flags & 0x08:
        at, kind = at + 1, content[at]
    if flags & 0x04:
        at, order = at + 8, struct.unpack_from("<Q", content, at)[0]
    at += 1 if flags & 0x10 else 0  # whether the name is UTF-8
    size = 1 << (flags & 3)
    length = int.from_bytes(content[at : at + size], "little")
    at += size
    name = bytes(content[at : at + length])
    if not length or length != len(name):
        raise ValueError("a link makes no sense")
    return name, kind, struct.unpack_from("<Q", content, at + length)[0] if kind == HARD else UNDEFINED, order


class Attribute(NamedTuple):
    """The parts of an attribute; ``shared`` where datatype or dataspace are elsewhere."""

    name: bytes
    shared: bool
    type: memoryview
    space: memoryview
    value: memoryview


def attribute(content: memoryview) -> Attribute:
    """An attribute message (IV.A.2.m)."""
    version, flags, named, typed, spaced = struct.unpack_from("<2B3H", content)
    if version not in (1, 2, 3):
        raise ValueError("an attribute makes no sense")
    padded = 7 if version == 1 else 0  # to whole eights
    at = 8 if version < 3 else 9
    kind = at + (named + padded & ~padded)
    space = kind + (typed + padded & ~padded)
    value = space + (spaced + padded & ~padded)
    if value > len(content):
        raise ValueError("an attribute makes no sense")
    text, zero, rest = bytes(content[at : at + named]).partition(b"\0")
    if not text or not zero or rest:  # readers that go by the length would see another name than those that go by the zero
        raise ValueError("an attribute makes no sense")
    shared = version > 1 and bool(flags & 3)
    return Attribute(text, shared, content[kind : kind + typed], content[space : space + spaced], content[value:])


def text(content: memoryview) -> Text | None:
    """What an attribute is, if it is one of texts, or has no elements."""
    found = attribute(content)
    if found.shared:
        raise Unfamiliar
    shape = dataspace(found.space)
    _, kind, bits, size = _type(found.type)
    if shape is not None and 0 in shape:
        return Text(shape, 0)
    count = elements(shape or ())
    if kind == VARIABLE and bits & 15 == 1:
        return Text(shape, 0, references=found.value[: _REFERENCE * count])
    if kind != STRING:
        return None

    def read() -> Sequence[bytes]:
        if count * size > len(found.value):
            raise ValueError("an attribute has fewer bytes than it says")
        texts = [bytes(found.value[at : at + size]) for at in range(0, count * size, size)]
        if bits & 15 == _ENDS:
            return [value.partition(b"\0")[0] for value in texts]
        return [value.rstrip(b" ") if bits & 15 == _SPACES else value.rstrip(b"\0") for value in texts]

    return Text(shape, size, read)
