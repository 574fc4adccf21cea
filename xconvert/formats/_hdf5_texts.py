"""The texts of variable length in an HDF5 attribute, read without the library.

Such a text is a reference: its length, and where it is. libhdf5 allocates that length, and fills it with zeros, before it looks
whether the text is there: a kilobyte of file could take any memory. And where the collection of texts is damaged it loops for
ever (1.14.6). Layout from the HDF5 File Format Specification 3.0, section III.E, "Global Heap".
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from xconvert.formats._hdf5_objects import NONSENSE, Image

_REFERENCE = struct.Struct("<LQL")  # length, place of the collection, number in it


def lengths(references: memoryview, count: int) -> list[int] | None:
    """The lengths of the ``count`` texts in the value of an attribute; None where it does not hold as many."""
    if len(references) < _REFERENCE.size * count:
        return None
    return [length for length, _, _ in _REFERENCE.iter_unpack(references[: _REFERENCE.size * count])]


def texts(image: Image, references: memoryview, count: int) -> list[bytes] | None:
    """The texts themselves, each up to its first zero byte; None where one of them is not in the file."""
    out = []
    try:
        for length, place, number in _REFERENCE.iter_unpack(references[: _REFERENCE.size * count]):
            if length and place not in image.collections:
                image.collections[place] = dict(_collection(image, image.base + place))
            content = image.collections[place][number] if length else memoryview(b"")
            if length > len(content):
                return None
            out.append(bytes(content[:length]).partition(b"\0")[0])
    except NONSENSE:
        return None
    return out


def _collection(image: Image, at: int) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of each object of a collection in the global heap; raises ``ValueError`` for what is none."""
    data = image.data
    signature, version, size = struct.unpack_from("<4sB3xQ", data, at)
    if signature != b"GCOL" or version != 1:
        raise ValueError("no collection")
    image.spend(at, size)
    end = at + size
    at += 16
    while at + 16 <= end:
        number, length = struct.unpack_from("<H6xQ", data, at)
        if number == 0:  # what is left is free
            return
        if length > end - at - 16:
            raise ValueError("an object outside its collection")
        image.keep(1)
        yield number, data[at + 16 : at + 16 + length]
        at += 16 + length + -length % 8
