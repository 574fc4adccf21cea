"""The numbers of an HDF5 dataset that is stored in chunks, read without the library.

On damaged filters and indexes libhdf5 reads and writes where nothing is, and the process ends (1.14.6: a chunk shorter than its
checksum, an index with fewer entries than the dataset has chunks). Layout from the HDF5 File Format Specification 3.0, section
III.A.1, "Version 1 B-trees", which is the index that h5py and Keras write.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence
from math import prod

from xconvert.deferred import np
from xconvert.formats._hdf5_objects import UNDEFINED
from xconvert.model import Array
from xconvert.tuples import NamedTuple

DEFLATE, SHUFFLE, FLETCHER32, LZF = 1, 2, 3, 32000
FILTERS = {DEFLATE, SHUFFLE, FLETCHER32, LZF}  # those that h5py always has, and that load no plugin


class Chunked(NamedTuple):
    """A dataset in chunks: ``base`` is what addresses are counted from, ``filters`` are (number, size of an element) in the
    order in which they were applied, ``dtype`` NumPy's code.
    """

    data: memoryview
    base: int
    tree: int
    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    dtype: str
    filters: Sequence[tuple[int, int]]

    def read(self) -> Array:
        """The numbers, in the dtype of the file; raises ``ValueError`` for a damaged dataset and for one that lacks a chunk."""
        out = np.empty(self.shape, self.dtype)
        counts = chunk_counts(self.shape, self.chunk)
        seen = set[tuple[int, ...]]()
        for start, mask, raw in index(self.data, self.base, self.tree, counts):
            inside = all(at < size and at % step == 0 for at, size, step in zip(start, self.shape, self.chunk, strict=True))
            if not inside or start in seen:
                raise ValueError("a chunk of it is not where one can be")
            seen.add(start)
            place = tuple(slice(at, at + step) for at, step in zip(start, self.chunk, strict=True))
            part = self._unpacked(raw, mask)
            out[place] = part[tuple(slice(0, size - at) for at, size in zip(start, self.shape, strict=True))]
        if len(seen) != prod(counts):
            raise ValueError("some of its chunks are missing")
        return out

    def _unpacked(self, raw: memoryview, mask: int) -> Array:
        size = prod(self.chunk) * int(self.dtype[2:])
        content: bytes | memoryview = raw
        for number, (kind, width) in reversed(list(enumerate(self.filters))):
            if mask >> number & 1:  # left away for this chunk
                continue
            content = _undone(kind, width, content, size + 4 * len(self.filters))
        if len(content) != size:
            raise ValueError("a chunk of it does not have its size")
        return np.frombuffer(content, self.dtype).reshape(self.chunk)


def chunk_counts(shape: tuple[int, ...], chunk: tuple[int, ...]) -> list[int]:
    """How many chunks there are along each dimension."""
    return [-(-size // step) for size, step in zip(shape, chunk, strict=True)]


def index(data: memoryview, base: int, tree: int, counts: Sequence[int]) -> Iterator[tuple[tuple[int, ...], int, memoryview]]:
    """(start, filters left away, bytes) of each chunk of a dataset with ``counts`` chunks along its dimensions, whose index is at
    ``tree``. A part of the index that comes twice, or more entries than there are chunks or room for, raise ``ValueError``.
    """
    key, most, found = struct.Struct(f"<2L{len(counts) + 1}Q"), prod(counts), 0
    pending, seen = [(base + tree, 256)] if tree != UNDEFINED else [], set[int]()
    left = len(data) // (key.size + 8)
    while pending:
        at, level_above = pending.pop()
        signature, kind, level, entries = struct.unpack_from("<4s2BH", data, at)
        left -= entries
        if signature != b"TREE" or kind != 1 or level >= level_above or at in seen or left < 0:
            raise ValueError("the index of its chunks makes no sense")
        seen.add(at)
        at += 24
        for _ in range(entries):
            size, mask, *start = key.unpack_from(data, at)
            child = base + int.from_bytes(data[at + key.size : at + key.size + 8], "little")
            at += key.size + 8
            if level:
                pending.append((child, level))
                continue
            found += 1
            if found > most or child + size > len(data):
                raise ValueError("the index of its chunks makes no sense")
            yield tuple(start[:-1]), mask, data[child : child + size]


def _undone(kind: int, width: int, content: bytes | memoryview, most: int) -> bytes | memoryview:
    """``content`` before the filter ``kind`` was applied; no more than ``most`` bytes."""
    if kind == DEFLATE:
        try:
            return zlib.decompressobj().decompress(content, most)
        except zlib.error:
            raise ValueError("a chunk of it cannot be inflated") from None
    if kind == SHUFFLE:
        whole = len(content) // width * width if width > 1 else 0
        turned = np.frombuffer(content[:whole], np.uint8).reshape(width, -1).T.tobytes() if whole else b""
        return turned + bytes(content[whole:])
    if kind == FLETCHER32:
        if len(content) < 4 or _fletcher32(content[:-4]) != int.from_bytes(content[-4:], "little"):
            raise ValueError("a chunk of it does not have its checksum")
        return content[:-4]
    return _unlzf(content, most)


def _fletcher32(content: bytes | memoryview) -> int:
    """HDF5's checksum of a chunk (``H5_checksum_fletcher32``): sums of big-endian words, and of these sums, mod 65535."""
    words = np.frombuffer(bytes(content) + b"\0" * (len(content) % 2), ">u2").astype(np.uint64)
    if not words.any():
        return 0
    weights = np.arange(len(words), 0, -1, dtype=np.uint64) % np.uint64(65535)
    first, second = (int(total) % 65535 or 65535 for total in (words.sum(), (words * weights).sum()))  # folded, never 0
    return second << 16 | first


def _unlzf(content: bytes | memoryview, most: int) -> bytes:
    """LibLZF's format, as h5py's ``lzf/lzf_d.c`` reads it: runs of bytes, and references to what is unpacked already."""
    out, at = bytearray(), 0
    while at < len(content):
        control = content[at]
        at += 1
        if control < 32:
            piece = content[at : at + control + 1]
            if len(piece) != control + 1:
                raise ValueError("a chunk of it cannot be unpacked")
            at += control + 1
        else:
            length = control >> 5
            if length == 7:
                length, at = length + content[at], at + 1
            back = ((control & 31) << 8 | content[at]) + 1
            at, length = at + 1, length + 2
            if back > len(out):
                raise ValueError("a chunk of it cannot be unpacked")
            source = bytes(out[-back:][:length])
            piece = (source * (length // len(source) + 1))[:length]  # may repeat what it makes
        out += piece
        if len(out) > most:
            raise ValueError("a chunk of it does not have its size")
    return bytes(out)
