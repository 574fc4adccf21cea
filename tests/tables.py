"""TensorFlow's checkpoints written row by row: what no honest program writes must be written by hand."""

from __future__ import annotations

import numpy as np

from xconvert.formats._crc32c import checksum
from xconvert.formats._protobuf import block, encoded, fixed32, number
from xconvert.formats._slices import key
from xconvert.formats._sstable import MAGIC

HEADER = number(1, 1) + block(3, number(1, 1))


DATA = np.arange(6, dtype=np.float32).tobytes()


def entry(
    size: int = 24, offset: int = 0, dims: tuple[int, ...] = (2, 3), data: bytes = DATA, dtype: int = 1, shard: int = 0
) -> bytes:
    shape = b"".join(block(2, number(1, dim) if dim else b"") for dim in dims)
    crc = fixed32(6, checksum([data[offset : offset + size]]))
    return number(1, dtype) + block(2, shape) + number(3, shard) + number(4, offset) + number(5, size) + crc


def sliced(*parts: tuple[tuple[int, int], ...], dims: tuple[int, ...] = (2, 3)) -> bytes:
    shape = b"".join(block(2, number(1, dim)) for dim in dims)
    extents = (b"".join(block(1, number(1, a) + (number(2, n) if n >= 0 else b"")) for a, n in part) for part in parts)
    return number(1, 1) + block(2, shape) + b"".join(block(7, part) for part in extents)


def raw(content: bytes, compression: int = 0) -> bytes:
    """A block as it is stored."""
    return content + bytes([compression]) + checksum([content + bytes([compression])]).to_bytes(4, "little")


def row(key: bytes, value: bytes, shared: int = 0) -> bytes:
    return encoded(shared) + encoded(len(key)) + encoded(len(value)) + key + value


def rows(*items: tuple[bytes, bytes], then: bytes = b"") -> bytes:
    return b"".join(row(*item) for item in items) + then + bytes(4) + b"\x01\0\0\0"


def footer(offset: int, size: int) -> bytes:
    return (encoded(0) + encoded(0) + encoded(offset) + encoded(size)).ljust(40, b"\0") + MAGIC


def tabled(*blocks: bytes, handles: tuple[tuple[bytes, int, int], ...] | None = None) -> bytes:
    """A table of blocks as stored; ``handles``: what its index says instead of the truth."""
    if handles is None:
        ends = np.cumsum([len(b) for b in blocks]).tolist()
        handles = tuple(
            (b"\xff" * (i + 1), end - len(b), len(b) - 5) for i, (b, end) in enumerate(zip(blocks, ends, strict=True))
        )
    index = rows(*((k, encoded(offset) + encoded(size)) for k, offset, size in handles))
    start = sum(map(len, blocks))
    return b"".join(blocks) + raw(index) + footer(start, len(index))


ONE = raw(rows((b"", HEADER), (b"a", entry())))


FULL = ((0, -1), (0, -1))


HALVES = (((0, 1), (0, -1)), ((1, 1), (0, -1)))


HALF = {key("a", part): entry(12, 12 * i, (1, 3)) for i, part in enumerate(HALVES)}


def graph(*nodes: bytes) -> bytes:
    return b"".join(block(1, node) for node in nodes)


def children(**nodes: int) -> bytes:
    return b"".join(block(1, number(1, node) + block(2, name)) for name, node in nodes.items())


def variable(name: str, key: str) -> bytes:
    return block(2, block(1, "VARIABLE_VALUE") + block(2, name) + block(3, key))


def listed(name: str, dtype: int, *parts: bytes, dims: tuple[int, ...] = (2, 3)) -> bytes:
    shape = b"".join(block(2, number(1, dim)) for dim in dims)
    return block(1, block(1, name) + block(2, shape) + number(3, dtype) + b"".join(block(4, part) for part in parts))


def saved(numbers: bytes) -> bytes:
    return block(2, block(1, "a") + block(3, numbers))


WHOLE = block(1, b"") * 2


V1 = {b"": block(1, listed("a", 1, WHOLE)), key("a", FULL): saved(block(5, DATA))}
