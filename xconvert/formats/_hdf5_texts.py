"""The texts of variable length in an HDF5 attribute, and how a dataset is laid out, read without the library.

A text of variable length is a reference: its length, and where it is. libhdf5 allocates that length, and fills it with zeros,
before it looks whether the text is there: a kilobyte of file could take any memory. And where the collection of texts is damaged
it loops for ever (1.14.6). So both are read here, from the object's header (HDF5 File Format Specification 3.0, sections III.E,
"Global Heap", IV.A, "Data Object Headers", and IV.A.2.m, "The Attribute Message").
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from xconvert.formats._limits import Budget

_LAYOUT, _ATTRIBUTE, _CONTINUATION = 0x08, 0x0C, 0x10
_SHARED = 0x02  # of a message's flags: it is a reference to a message elsewhere
_REFERENCE = 16  # bytes: length (4), place of the collection (8), number in it (4)
_MOST = 10_000  # messages of one object
_PART = 320  # bytes of memory that a message or a text takes beside its content
_NONSENSE = (struct.error, LookupError, ValueError, OverflowError)


class Headers:
    """The headers of the objects in ``data``, and the texts that their attributes refer to, each read once. ``base``: what
    addresses are counted from. Objects may share parts of headers and collections of texts, so what is read of them is taken
    from ``budget``.
    """

    def __init__(self, data: memoryview, base: int, budget: Budget) -> None:
        self._data, self.base, self._budget = data, base, budget
        self._read: dict[int, dict[bytes, list[memoryview]]] = {}
        self._collections: dict[int, dict[int, memoryview]] = {}

    def lengths(self, address: int, name: bytes, count: int) -> list[int] | None:
        """The lengths of the ``count`` texts in the attribute ``name`` of the object whose header is at ``address``; None where
        the header does not hold it in the form that HDF5 writes by default.
        """
        found = self._references(address, name, count)
        return None if found is None else [length for length, _, _ in found]

    def texts(self, address: int, name: bytes, count: int) -> list[bytes] | None:
        """The texts themselves, each up to its first zero byte; None where ``lengths`` is None or one of them is not there."""
        out = []
        try:
            for length, place, number in self._references(address, name, count) or ():
                content = self._collection(place)[number] if length else memoryview(b"")
                if length > len(content):
                    return None
                out.append(bytes(content[:length]).partition(b"\0")[0])
        except _NONSENSE:
            return None
        return out if len(out) == count else None

    def layout(self, address: int) -> memoryview | None:
        """The message that says how a dataset is laid out; None where its header has none or two."""
        try:
            found = [content for kind, content in self._messages(address) if kind == _LAYOUT]
        except _NONSENSE:
            return None
        return found[0] if len(found) == 1 else None

    def _references(self, address: int, name: bytes, count: int) -> list[tuple[int, int, int]] | None:
        """(length, place of the collection, number in it) of each text."""
        try:
            values = self._attributes(address).get(name, [])
            if len(values) != 1 or len(values[0]) < _REFERENCE * count:
                return None
            return [struct.unpack_from("<LQL", values[0], _REFERENCE * n) for n in range(count)]
        except _NONSENSE:
            return None

    def _attributes(self, address: int) -> dict[bytes, list[memoryview]]:
        """The values of each attribute by its name; of an honest one there is one."""
        if address not in self._read:
            found: dict[bytes, list[memoryview]] = {}
            for kind, content in self._messages(address):
                if kind == _ATTRIBUTE:
                    name, value = _named(content)
                    found.setdefault(name, []).append(value)
            self._read[address] = found
        return self._read[address]

    def _messages(self, address: int) -> Iterator[tuple[int, memoryview]]:
        return self._counted(_messages(self._data, self.base, address))

    def _collection(self, place: int) -> dict[int, memoryview]:
        if place not in self._collections:
            self._collections[place] = dict(self._counted(_collection(self._data, self.base + place)))
        return self._collections[place]

    def _counted(self, parts: Iterator[tuple[int, memoryview]]) -> Iterator[tuple[int, memoryview]]:
        for part in parts:
            self._budget.take(_PART, "its headers and texts overlap")
            yield part


def _collection(data: memoryview, at: int) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of each object of a collection in the global heap; raises ``ValueError`` for what is none."""
    signature, version, size = struct.unpack_from("<4sB3xQ", data, at)
    end = at + size
    if signature != b"GCOL" or version != 1 or end > len(data):
        raise ValueError("no collection")
    at += 16
    while at + 16 <= end:
        number, length = struct.unpack_from("<H6xQ", data, at)
        if number == 0:  # what is left is free
            return
        if length > end - at - 16:
            raise ValueError("an object outside its collection")
        yield number, data[at + 16 : at + 16 + length]
        at += 16 + length + -length % 8


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
