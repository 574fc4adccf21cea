"""What no converter with xconvert's promises can do without: ``bare.py SOURCE OUTPUT PLACES CHECKS…``.

It is told where every tensor lies (``files.places``), reads no header, recognises nothing, checks and reports nothing, and
writes no container; the rest it does as xconvert does: the source has its sha256 taken meanwhile, every tensor its CRC-32C, and
NumPy turns those that do not lie as they are wanted, if there are any.
CHECKS: ``crc32`` of what is written, as zip archives have it, and ``crc32c`` of what is read, as TensorFlow has it.
"""

import os

os.environ["OPENBLAS_NUM_THREADS"] = "1"

import hashlib
import json
import mmap
import sys
import threading
import zlib
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any

import click  # noqa: F401  (every command line needs something like it)
from crc32c import crc32c

CHUNK = 1 << 20
source, output, places = map(Path, sys.argv[1:4])
checks = sys.argv[4:]


def digest() -> None:
    """Of the whole source, in another thread."""
    found, room = hashlib.sha256(), memoryview(bytearray(1 << 18))
    with source.open("rb", buffering=0) as file:
        while size := file.readinto(room):
            found.update(room[:size])


def as_it_lies(itemsize: int, shape: list[int], strides: list[int]) -> bool:
    """Whether an array with these strides has the bytes of one in C order."""
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != itemsize:
            return False
        itemsize *= size
    return True


def turned(data: mmap.mmap, room: Any, start: int, dtype: str, shape: list[int], strides: list[int]) -> Iterator[memoryview]:
    """The bytes in C order, as many rows at a time as there is room for."""
    import numpy as np

    rows = np.ndarray(shape, dtype, data, start, strides).squeeze()
    flat = np.frombuffer(room, np.uint8)
    many = max(CHUNK // rows[:1].nbytes, 1)
    for part in (rows[at : at + many] for at in range(0, len(rows), many)):
        piece = flat[: part.nbytes].view(dtype).reshape(part.shape)
        if part.ndim == 2:
            step = 16 if part.strides[1] % 1024 == 0 else 64
            for i in range(0, part.shape[1], step):
                piece[:, i : i + step] = part[:, i : i + step]
        else:
            piece[...] = part
        yield piece.reshape(-1).view(np.uint8).data


thread = threading.Thread(target=digest)
thread.start()
room = bytearray(CHUNK)
with source.open("rb") as file, output.open("wb", buffering=0) as out:
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for start, dtype, shape, strides in json.loads(places.read_text()):
        size = prod(shape) * int(dtype[2:])
        there = memoryview(data)[start : start + size]
        if "crc32c" in checks:
            crc32c(there)
        pieces: Iterator[memoryview] = (there[at : at + CHUNK] for at in range(0, size, CHUNK))
        if not as_it_lies(int(dtype[2:]), shape, strides):
            pieces = turned(data, room, start, dtype, shape, strides)
        written = copied = 0
        for content in pieces:
            written = zlib.crc32(content, written) if "crc32" in checks else 0
            copied = crc32c(content, copied)
            out.write(content)
thread.join()
os._exit(0)
