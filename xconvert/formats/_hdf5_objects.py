"""What is asked about an HDF5 file, whoever answers: code of our own (``_hdf5_structure``) or the library (``_hdf5_library``).

Also the headers of objects, which both need (HDF5 File Format Specification 3.0, section IV.A.1, "Data Object Header Prefix").
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

from xconvert.formats._limits import Budget
from xconvert.tuples import NamedTuple

NONSENSE = (struct.error, LookupError, ValueError, OverflowError)  # what damage comes to
UNDEFINED = 2**64 - 1  # the address of what is nowhere

SPACE, LINK_INFO, TYPE, LINK, EXTERNAL, LAYOUT, FILTERS = 0x01, 0x02, 0x03, 0x06, 0x07, 0x08, 0x0B  # kinds of messages
ATTRIBUTE, CONTINUATION, TABLE, ATTRIBUTE_INFO = 0x0C, 0x10, 0x11, 0x15
_ASKED = {SPACE, LINK_INFO, TYPE, LINK, EXTERNAL, LAYOUT, FILTERS, ATTRIBUTE, TABLE, ATTRIBUTE_INFO}
_KNOWN = 0x18  # the highest kind of message there is
_SHARED, _MUST_BE_KNOWN = 0x02, 0x80  # of a message's flags: it is a reference to a message elsewhere; who does not know it stops

_MOST = 500_000  # messages, members and texts, which take two seconds; an Xception with its optimizer has 40,000
_MEMORY, _STEP = 500, 4096  # bytes that each of them takes, and how many are accounted for at a time

HARD, SOFT = 0, 1  # kinds of links, as HDF5 numbers them
COMPACT, CONTIGUOUS, CHUNKED, VIRTUAL = 0, 1, 2, 3  # classes of layout

_HEAD_1, _HEAD_2 = struct.Struct("<HHB3x"), struct.Struct("<BHB")  # of a message


class Unfamiliar(Exception):
    """The file may be sound, but says this in a form that is left to the library."""


class Node(NamedTuple):
    """A group or dataset: where its header is, and the path that led to it, empty for the root."""

    address: int
    path: str


class Text(NamedTuple):
    """An attribute of texts: ``read`` gives those of one length, ``size`` bytes each; of any length there are ``references`` to
    them, None where they are in a form that is not read.
    """

    shape: tuple[int, ...] | None
    size: int
    read: Callable[[], Sequence[bytes]] | None = None
    references: memoryview | None = None


class Dataset(NamedTuple):
    """What a dataset is. ``dtype`` is NumPy's code of that in the file (``<f4``), None for what is no plain numbers. ``stored``:
    how many bytes, from ``offset`` on, unless it is in chunks. ``filters`` are (number, first parameter); ``message`` is the one
    of the layout.
    """

    shape: tuple[int, ...] | None = None
    dtype: str | None = None
    layout: int = VIRTUAL
    external: bool = False
    stored: int = 0
    offset: int | None = None
    filters: Sequence[tuple[int, int]] = ()
    message: memoryview | None = None


class Finder(Protocol):
    """Who knows where things are. Names come in the file's order; what is damaged raises one of ``NONSENSE`` or h5py's errors."""

    root: Node
    image: Image

    def is_group(self, node: Node) -> bool: ...
    def is_dataset(self, node: Node) -> bool: ...
    def members(self, node: Node) -> list[bytes]: ...
    def link(self, node: Node, name: bytes) -> tuple[int, int] | None: ...
    def attributes(self, node: Node) -> list[bytes]: ...
    def attribute(self, node: Node, name: bytes) -> Text | None: ...
    def dataset(self, node: Node) -> Dataset: ...


class Image:
    """The bytes of a file; addresses in it count from ``base``. Honest structures do not overlap, so that reading all of them
    takes no more bytes than there are, and names up to four times; where it takes more, the file is tangled.
    """

    __slots__ = ("_budget", "_kept", "_left", "_paid", "base", "collections", "data")

    def __init__(self, data: memoryview, base: int, budget: Budget) -> None:
        self.data, self.base, self._budget = data, base, budget
        self.collections: dict[int, dict[int, memoryview]] = {}  # of texts, that were read already
        self._left, self._kept, self._paid = 4 * len(data), 0, _STEP

    def spend(self, at: int, size: int) -> None:
        """Account for reading ``size`` bytes at ``at``; raises ``ValueError`` where they are not in the file."""
        if at + size > len(self.data):
            raise ValueError(f"it refers to byte {at + size} of {len(self.data)}")
        self._left -= size
        if self._left < 0:
            raise ValueError("its parts lie in one another")

    def keep(self, count: int) -> None:
        """Account for the memory of ``count`` messages, members or texts."""
        self._kept += count
        if self._kept > _MOST:
            raise ValueError(f"it has more than {_MOST} parts")
        if self._kept > self._paid:
            more = max(self._kept - self._paid, _STEP)
            self._paid += more
            self._budget.take(_MEMORY * more, f"it has more than {self._kept} parts")


def messages(image: Image, address: int) -> Iterator[tuple[int, int, memoryview]]:
    """(kind, whether it only says where it is, content) of the messages in the header at ``address`` that anyone asks for."""
    data, start = image.data, image.base + address
    tracked = 0
    if newer := bytes(data[start : start + 4]) == b"OHDR":
        version, flags = struct.unpack_from("<2B", data, start + 4)
        tracked = 2 if flags & 0x04 else 0  # a number of creation
        at = start + 6 + (16 if flags & 0x20 else 0) + (4 if flags & 0x10 else 0)
        width = 1 << (flags & 3)
        pending = [(at + width, int.from_bytes(data[at : at + width], "little"))]
    else:
        version, size = struct.unpack_from("<B7xL", data, start)
        pending = [(start + 16, size)]
    if version != 1 + newer:
        raise ValueError("the header of an object makes no sense")
    head, width = (_HEAD_2, 4 + tracked) if newer else (_HEAD_1, 8)
    while pending:
        at, size = pending.pop()
        image.spend(at, size)
        end = at + size
        while at + width <= end:
            kind, length, flags = head.unpack_from(data, at)
            at += width
            if at + length > end:
                raise ValueError("the header of an object makes no sense")
            if kind in _ASKED:
                image.keep(1)
                yield kind, flags & _SHARED, data[at : at + length]
            elif kind == CONTINUATION:
                pending.append(_continued(image, data[at : at + length], newer))
            elif kind > _KNOWN and flags & _MUST_BE_KNOWN:
                raise Unfamiliar
            at += length


def _continued(image: Image, content: memoryview, newer: bool) -> tuple[int, int]:
    """Place and size of the messages that a header goes on with."""
    place, size = struct.unpack_from("<2Q", content)
    at = int(image.base + place)
    if not newer:
        return at, size
    if size < 8 or bytes(image.data[at : at + 4]) != b"OCHK":
        raise ValueError("the header of an object makes no sense")
    return at + 4, size - 8  # a signature before the messages, a checksum after them
