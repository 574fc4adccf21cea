"""HDF5's structures as bytes, in the forms that every version of the library since 1.8 reads, which are those that h5py writes.

The sections named are those of the HDF5 File Format Specification 3.0; ``_hdf5_messages`` and ``_hdf5_structure`` read the same.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise

from xconvert.errors import UsageError
from xconvert.formats._arrays import elements
from xconvert.formats._hdf5_messages import ENUM, FIXED, FLOAT, IEEE, OPAQUE, STRING, VARIABLE
from xconvert.formats._hdf5_objects import ATTRIBUTE, CONTIGUOUS, LAYOUT, SPACE, TABLE, TYPE, UNDEFINED
from xconvert.formats._hdf5_signature import SIGNATURE
from xconvert.model import DType

FILL = 0x05  # a kind of message: with what a dataset is filled that nobody has written
SUPERBLOCK = 96  # bytes
LEAF, INTERNAL = 4, 16  # a node of a group's symbols has twice as many, and one of its B-tree
_NODE = 24 + 16 * 2 * INTERNAL + 8  # bytes of the latter
_SMALLEST_HEAP = 4096  # bytes of a collection of texts
_MOST = 0xFFFF - 7  # bytes of a message, which are a multiple of 8
_COUNTED = 0xFFFF  # texts in a collection, and messages in a header: numbers of two bytes
_CONSTANT = 0x01  # of a message's flags
_HARD = 1  # how an entry in a group says that the object is a group, and where its members are


def padded(content: bytes) -> bytes:
    """``content`` with zeros behind it, to a multiple of 8 bytes."""
    return content + bytes(-len(content) % 8)


def superblock(root: int, members: bytes, end: int) -> bytes:
    """Version 0 (II.A), for a file of ``end`` bytes whose root has its header at ``root``, and ``members``."""
    sizes = struct.pack("<8B2H4x", 0, 0, 0, 0, 0, 8, 8, 0, LEAF, INTERNAL)
    return SIGNATURE + sizes + struct.pack("<4Q", 0, UNDEFINED, end, UNDEFINED) + entry(0, root, members)


def entry(name: int, address: int, members: bytes = b"") -> bytes:
    """An entry of a symbol table (III.C): where its name is in the group's heap, the object, and the ``members`` of a group."""
    return struct.pack("<2QL4x", name, address, _HARD if members else 0) + members.ljust(16, b"\0")


def header(messages: Sequence[bytes]) -> bytes:
    """Version 1 of an object's header (IV.A.1.a); raises ``UsageError`` for more attributes than it can have."""
    _countable(messages, "attributes")
    body = b"".join(messages)
    return struct.pack("<BxH2L4x", 1, len(messages), 1, len(body)) + body


def _countable(parts: Sequence[bytes], what: str) -> None:
    if len(parts) > _COUNTED:
        raise UsageError(f"an HDF5 file has room for {_COUNTED} {what}, and {len(parts)} are wanted")


def _message(kind: int, content: bytes, flags: int = 0) -> bytes:
    if len(content) > _MOST:
        raise UsageError(f"an HDF5 attribute has at most {_MOST} bytes, and one of {len(content)} is wanted")
    content = padded(content)
    return struct.pack("<2HB3x", kind, len(content), flags) + content


def dataset(shape: tuple[int, ...], dtype: DType, place: int) -> list[bytes]:
    """The messages of a contiguous dataset at ``place`` (IV.A.2.b, d, f, i)."""
    size = elements(shape) * dtype.itemsize
    return [
        _message(SPACE, space(shape)),
        _message(TYPE, datatype(dtype.kind, dtype.itemsize), _CONSTANT),
        _message(FILL, bytes((2, 1, 1, 1)) + bytes(4), _CONSTANT),  # room is made early, and never filled
        _message(LAYOUT, struct.pack("<2B2Q", 3, CONTIGUOUS, place if size else UNDEFINED, size), _CONSTANT),
    ]


def table(tree: int, heap: int) -> tuple[bytes, bytes]:
    """The message of a group that says where its members are (IV.A.2.r), and the same within its entry."""
    members = struct.pack("<2Q", tree, heap)
    return _message(TABLE, members), members


def attribute(name: str, kind: bytes, shape: tuple[int, ...], value: bytes) -> bytes:
    """The message of an attribute with the datatype ``kind``, version 1 (IV.A.2.m)."""
    raw, extent = name.encode()[:_MOST] + b"\0", space(shape)
    sizes = struct.pack("<Bx3H", 1, len(raw), len(kind), len(extent))
    return _message(ATTRIBUTE, sizes + padded(raw) + padded(kind) + padded(extent) + value)


def space(shape: tuple[int, ...]) -> bytes:
    """A dataspace, version 1: the shape, and that it is the largest (IV.A.2.b)."""
    return struct.pack(f"<3B5x{2 * len(shape)}Q", 1, len(shape), bool(shape), *shape, *shape)


def datatype(letter: str, size: int) -> bytes:
    """The little-endian datatype, version 1 (IV.A.2.d), of ``size`` bytes of what has this ``letter`` as ``dtype.kind`` in NumPy:
    numbers, texts of one length, and bfloat16, for which h5py has opaque pairs of bytes. Booleans are an enumeration, as h5py
    writes them.
    """
    if letter == "b":
        return _kind(ENUM, 2, 1) + datatype("i", 1) + b"FALSE\0\0\0TRUE\0\0\0\0" + bytes((0, 1))
    if letter == "V":
        return _kind(OPAQUE, 0, size)
    if letter == "S":
        return _kind(STRING, 1, size)  # filled with zeros
    if letter == "f":
        sign, form = IEEE[size]
        return _kind(FLOAT, 0x20 | sign << 8, size) + struct.pack("<2H4BL", *form)
    return _kind(FIXED, 0x08 * (letter == "i"), size) + struct.pack("<2H", 0, 8 * size)


def _kind(kind: int, bits: int, size: int) -> bytes:
    return struct.pack("<2L", 1 << 4 | kind | bits << 8, size)


TEXT = _kind(VARIABLE, 0x0101, 16) + datatype("u", 1)  # of any length, in UTF-8


def texts(values: Sequence[bytes]) -> bytes:
    """A collection in which the texts have the numbers from 1 on (III.E); raises ``UsageError`` for more than it can have."""
    _countable(values, "texts")
    objects = b"".join(struct.pack("<2H4xQ", i, 0, len(value)) + padded(value) for i, value in enumerate(values, 1))
    size = max(16 + len(objects) + 16, _SMALLEST_HEAP)
    rest = size - 16 - len(objects)
    return b"GCOL" + struct.pack("<B3xQ", 1, size) + objects + struct.pack("<2H4xQ", 0, 0, rest) + bytes(rest - 16)


def reference(text: bytes, collection: int, number: int) -> bytes:
    """What an attribute holds of a text of any length."""
    return struct.pack("<LQL", len(text), collection, number)


def heap(names: Sequence[bytes], place: int) -> tuple[bytes, dict[bytes, int]]:
    """The local heap (III.D) with the names of a group's members, at ``place``, and where in it each is."""
    at, data = dict[bytes, int](), bytearray(8)  # the empty name is before all others
    for name in names:
        at[name] = len(data)
        data += padded(name + b"\0")
    none_free = 1
    return b"HEAP" + struct.pack("<B3x3Q", 0, len(data), none_free, place + 32) + data, at


def symbols(entries: Sequence[bytes]) -> bytes:
    """A node of symbols (III.B), with room for as many as there may be."""
    return b"SNOD" + struct.pack("<BxH", 1, len(entries)) + b"".join(entries).ljust(40 * 2 * LEAF, b"\0")


def level(children: Sequence[tuple[int, int]], below: int, place: int) -> tuple[bytes, list[tuple[int, int]]]:
    """The nodes of one level of a group's B-tree (III.A.1), one after another at ``place``; and of each what it is in the next.

    ``children``: where each is, and where the last name in it is in the heap. ``below``: how many levels are.
    """
    parts = [children[i : i + 2 * INTERNAL] for i in range(0, max(len(children), 1), 2 * INTERNAL)]
    places = [UNDEFINED, *(place + i * _NODE for i in range(len(parts))), UNDEFINED]
    nodes, before = b"", 0
    for part, (left, _), (_, right) in zip(parts, pairwise(places[:-1]), pairwise(places[1:]), strict=True):
        keys = struct.pack("<Q", before) + b"".join(struct.pack("<2Q", *child) for child in part)
        nodes += (b"TREE" + struct.pack("<2BH2Q", 0, below, len(part), left, right) + keys).ljust(_NODE, b"\0")
        before = part[-1][1] if part else 0
    lasts = [part[-1][1] if part else 0 for part in parts]
    return nodes, [*zip(places[1:-1], lasts, strict=True)]
