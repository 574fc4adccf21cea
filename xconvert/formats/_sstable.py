"""LevelDB's table of sorted keys, in which TensorFlow keeps a checkpoint's index, and in its first version all of it.

Layout from https://github.com/google/leveldb/blob/main/doc/table_format.md, options as in TensorFlow's
``tsl/lib/io/table_builder.cc``: blocks of sorted entries, then a block that says where each lies, then a footer that says
where that one lies. Every block is followed by a byte for its compression and by the checksum of both.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xconvert.errors import UnreadableError
from xconvert.formats._arrays import damaged
from xconvert.formats._crc32c import checksum
from xconvert.formats._limits import MAX_TENSORS, USUAL, Budget, told
from xconvert.formats._protobuf import encoded, varint

MAGIC = bytes.fromhex("57fb808b247547db")
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # the key of TensorFlow's object graph
_FOOTER = 48
_TRAILER = 5
_INTERVAL = 16  # entries after which a key is written whole
_BLOCK = 262_144  # bytes after which TensorFlow starts a new block
_MOST = 2 * MAX_TENSORS  # entries: a tensor may be in parts
_ENTRY = 320  # bytes of memory that an entry takes beside its key
_EXPANSION = 22  # snappy makes at most 64 bytes of 3


def kind(data: mmap.mmap) -> str:
    """Which of TensorFlow's checkpoints ``data`` is: ``"v1"``, ``"v2"``, ``"objects"`` (a V2 with an object graph), or
    ``""``. Quick; a damaged table is taken for a V2, whose reader says what is wrong.
    """
    if data[-len(MAGIC) :] != MAGIC:
        return ""
    try:
        first, value = next(entries(Path(), data))
        if first == b"" and bytes(value[:1]) == b"\x0a":  # SavedTensorSlices.meta; a V2 header starts with a number
            return "v1"
        found, _ = next(entries(Path(), data, GRAPH.encode()))
        return "objects" if found == GRAPH.encode() else "v2"
    except (UnreadableError, StopIteration):
        return "v2"


@contextmanager
def parsing(path: Path) -> Iterator[None]:
    """Turn what goes wrong in reading ``path`` into the ``UnreadableError`` of a damaged file."""
    try:
        yield
    except UnicodeDecodeError:
        raise damaged(path, "a name in it is not UTF-8") from None
    except LookupError:
        raise damaged(path, "a message in it is not complete") from None
    except (ValueError, OverflowError) as error:
        raise damaged(path, str(error)) from None


def entries(
    path: Path, data: mmap.mmap | memoryview, start: bytes = b"", budget: Budget | None = None
) -> Iterator[tuple[bytes, memoryview]]:
    """(key, value) of each entry from the key ``start`` on, in order; values are views of ``data`` where it is not compressed.

    Checksums are verified. ``budget``: the memory that keys and what is compressed may take, by default what is usual. Raises
    ``UnreadableError`` for a damaged table; keys that are not in order are damage.
    """
    budget = budget or USUAL.budget(path, len(data))
    with parsing(path):
        table = memoryview(data)
        if len(table) < _FOOTER or table[-len(MAGIC) :] != MAGIC:
            raise ValueError("its end is no table's")
        _, at = _handle(table[-_FOOTER:], 0)  # of metadata, which nothing writes
        (offset, size), _ = _handle(table[-_FOOTER:], at)
        end, last, count = 0, None, 0
        for until, handle in _entries(_block(table, offset, size, len(table) - _FOOTER, budget)):
            (first, length), _ = _handle(handle, 0)
            if first < end:
                raise ValueError("the blocks of its table overlap")
            end = first + length + _TRAILER
            if until < start:
                continue
            for key, value in _entries(_block(table, first, length, offset, budget)):
                if last is not None and key <= last:
                    raise ValueError("the keys of its table are not in order")
                last, count = key, count + 1
                if count > _MOST:
                    raise ValueError(f"its table has more than {_MOST} entries")
                budget.take(_ENTRY + len(key), "the keys of its table repeat each other")
                if key >= start:
                    yield key, value


def _handle(data: memoryview, at: int) -> tuple[tuple[int, int], int]:
    """(where a block starts, its size) as written at ``at``, and where that ends."""
    offset, at = varint(data, at)
    size, at = varint(data, at)
    return (offset, size), at


def _block(table: memoryview, offset: int, size: int, limit: int, budget: Budget) -> memoryview:
    """The contents of the block at ``offset``, verified and unpacked; it must end before ``limit``."""
    end = offset + size
    if end + _TRAILER > limit:
        raise ValueError(f"the block of its table at byte {offset} goes on to byte {end + _TRAILER} of {limit}")
    if checksum([table[offset : end + 1]]) != int.from_bytes(table[end + 1 : end + _TRAILER], "little"):
        raise ValueError(f"the block of its table at byte {offset} does not have its checksum")
    if table[end] > 1:
        raise ValueError(f"the block of its table at byte {offset} is compressed in the way {table[end]}, which is unknown")
    if table[end] == 0:
        return table[offset:end]
    packed = table[offset:end]
    inflated = min(varint(packed, 0)[0], _EXPANSION * len(packed))
    budget.take(inflated, f"a block of its table would inflate to {told(inflated)}")
    return memoryview(unsnapped(packed))


def _entries(block: memoryview) -> Iterator[tuple[bytes, memoryview]]:
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if len(block) < 4 or end < 0:
        raise ValueError("a block of its table is shorter than it says")
    key, at, budget = b"", 0, _INTERVAL * len(block)
    while at < end:
        shared, at = varint(block, at)
        fresh, at = varint(block, at)
        size, at = varint(block, at)
        if shared > len(key) or fresh + size > end - at:
            raise ValueError("an entry of its table goes on past the end")
        key = key[:shared] + bytes(block[at : at + fresh])
        budget -= len(key)
        if budget < 0:  # few bytes could name gigabytes
            raise ValueError("the keys of its table repeat each other too often")
        at += fresh + size
        yield key, block[at - size : at]


def unsnapped(data: memoryview) -> bytearray:
    """``data`` unpacked: https://github.com/google/snappy/blob/main/format_description.txt. Raises ``ValueError``."""
    size, at = varint(data, 0)
    if size > _EXPANSION * len(data):
        raise ValueError("a compressed block says that it is larger than it can be")
    packed, end, out, have = bytes(data) + bytes(4), len(data), bytearray(), 0
    while at < end:
        tag = packed[at]
        if tag & 3 == 0:
            extra = max((tag >> 2) - 59, 0)
            at += 1 + extra
            length = (int.from_bytes(packed[at - extra : at], "little") if extra else tag >> 2) + 1
            piece: bytes | bytearray = packed[at : min(at + length, end)]
            at += length
        else:
            if tag & 3 == 2:
                length, number, at = (tag >> 2) + 1, packed[at + 1] | packed[at + 2] << 8, at + 3
            elif tag & 3 == 1:
                length, number, at = (tag >> 2 & 7) + 4, packed[at + 1] | tag >> 5 << 8, at + 2
            else:
                length, number, at = (tag >> 2) + 1, int.from_bytes(packed[at + 1 : at + 5], "little"), at + 5
            if not 0 < number <= have:
                raise ValueError("a compressed block refers to what is not in it")
            start = have - number
            # a copy may repeat what it makes
            piece = out[start : start + length] if number >= length else (out[start:] * (length // number + 1))[:length]
        have += length
        if len(piece) != length or have > size:
            raise ValueError("a compressed block does not have the size that it says")
        out += piece
    if have != size or at != end:
        raise ValueError("a compressed block does not have the size that it says")
    return out


def table(items: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The table of ``items``, sorted by key, byte for byte as TensorFlow writes it: not compressed."""
    out, block, index, last = bytearray(), _Block(_INTERVAL), _Block(1), b""
    pending: bytes | None = None  # the place of a block whose last key the next one's first may shorten
    for key, value in items:
        if pending is not None:
            index.add(_between(last, key), pending)
            pending = None
        block.add(key, value)
        last = key
        if block.size() >= _BLOCK:
            pending, block = _append(out, block), _Block(_INTERVAL)
    if block.count:
        pending = _append(out, block)
    metadata = _append(out, _Block(_INTERVAL))
    if pending is not None:
        index.add(_after(last), pending)
    footer = metadata + _append(out, index)
    return bytes(out + footer.ljust(_FOOTER - len(MAGIC), b"\0") + MAGIC)


class _Block:
    """A block in the making."""

    def __init__(self, interval: int) -> None:
        self.out, self.interval, self.count, self.last = bytearray(), interval, 0, b""
        self.restarts = [0]

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self.count % self.interval:
            while shared < min(len(key), len(self.last)) and key[shared] == self.last[shared]:
                shared += 1
        elif self.count:
            self.restarts.append(len(self.out))
        self.out += encoded(shared) + encoded(len(key) - shared) + encoded(len(value)) + key[shared:] + value
        self.count, self.last = self.count + 1, key

    def size(self) -> int:
        return len(self.out) + 4 * len(self.restarts) + 4


def _append(out: bytearray, block: _Block) -> bytes:
    """Write ``block`` at the end of ``out``; returns its place as the index says it."""
    content = bytes(block.out) + b"".join(n.to_bytes(4, "little") for n in (*block.restarts, len(block.restarts))) + b"\0"
    place = encoded(len(out)) + encoded(len(content) - 1)
    out += content + checksum([content]).to_bytes(4, "little")
    return place


def _between(low: bytes, high: bytes) -> bytes:
    """The shortest key that is not below ``low`` and is below ``high``, as LevelDB finds it."""
    at = next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), None)
    if at is None or low[at] == 0xFF or low[at] + 1 >= high[at]:
        return low
    return low[:at] + bytes([low[at] + 1])


def _after(key: bytes) -> bytes:
    """The shortest key that is not below ``key``, as LevelDB finds it."""
    at = next((i for i, byte in enumerate(key) if byte != 0xFF), None)
    return key if at is None else key[:at] + bytes([key[at] + 1])
