"""How long the texts in an HDF5 attribute say they are, looked up before the library believes it.

A text of variable length is a reference: its length, and where it is. libhdf5 allocates that length, and fills it with zeros,
before it looks whether the text is there: a kilobyte of file could take any memory. So references are read here first, from the
object's header (HDF5 File Format Specification 3.0, sections III.A, "Data Objects", and IV.A.2.m, "The Attribute Message").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

_ATTRIBUTE, _CONTINUATION = 0x0C, 0x10
_SHARED = 0x02  # of a message's flags: it is a reference to a message elsewhere
_REFERENCE = 16  # bytes: length (4), place of the collection (8), number in it (4)
_MOST = 10_000  # messages of one object


def lengths(data: memoryview, base: int, address: int, name: bytes, count: int) -> list[int] | None:
    """The lengths of the ``count`` texts in the attribute ``name`` of the object whose header is at ``address``; None where the
    header does not hold it in the form that HDF5 writes by default. ``base``: what addresses are counted from.
    """
    try:
        found = [content for kind, content in _messages(data, base, address) if kind == _ATTRIBUTE]
        values = [value for told, value in map(_named, found) if told == name]
    except (struct.error, IndexError):
        return None
    if len(values) != 1 or len(values[0]) < _REFERENCE * count:
        return None
    return [struct.unpack_from("<L", values[0], _REFERENCE * n)[0] for n in range(count)]


def _named(content: memoryview) -> tuple[bytes, memoryview]:
    """Name and value of an attribute message."""
    version, _, *sizes = struct.unpack_from("<2B3H", content)
    if version == 1:
        name, kind, space = (size + -size % 8 for size in sizes)  # each is padded
    else:
        name, kind, space = sizes
    at = 8 if version < 3 else 9
    return bytes(content[at : at + sizes[0]]).rstrip(b"\0"), content[at + name + kind + space :]


def _messages(data: memoryview, base: int, address: int) -> Iterator[tuple[int, memoryview]]:
    """(type, content) of each message of the object's header that is in it itself."""
    start = base + address
    tracked = 0
    if newer := bytes(data[start : start + 4]) == b"OHDR":
        flags = data[start + 5]
        tracked = 2 if flags & 0x04 else 0  # a number of creation
        at = start + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        pending = [(at + width, int.from_bytes(data[at : at + width], "little"))]
    else:
        pending = [(start + 16, struct.unpack_from("<L", data, start + 8)[0])]
    count = 0
    while pending:
        at, size = pending.pop()
        end, head = at + size, 4 + tracked if newer else 8
        while at + head <= end:
            if (count := count + 1) > _MOST:
                raise IndexError("too many messages")
            kind, length, flags = struct.unpack_from("<BHB" if newer else "<HHB", data, at)
            content = data[at + head : at + head + length]
            if kind == _CONTINUATION:
                place, size = struct.unpack_from("<2Q", content)
                # a newer part has a signature before and a checksum after its messages
                pending.append((base + place + 4, size - 8) if newer else (base + place, size))
            elif not flags & _SHARED:
                yield kind, content
            at += head + length
