"""What no converter with xconvert's promises can do without: ``bare.py SOURCE OUTPUT PLACES CHECKS…``.

It is told where every tensor lies (``files.places``), reads no header, recognises nothing, checks and reports nothing, and
writes no container; the rest it does as xconvert does: the source has its sha256 taken meanwhile, every tensor its CRC-32C.
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
from pathlib import Path

import click  # noqa: F401  (every command line needs something like it)
import numpy as np
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


thread = threading.Thread(target=digest)
thread.start()
room = np.empty(CHUNK, np.uint8)
with source.open("rb") as file, output.open("wb", buffering=0) as out:
    data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for start, dtype, shape, strides in json.loads(places.read_text()):
        tensor = np.ndarray(shape, dtype, data, start, strides).squeeze()
        if "crc32c" in checks:
            crc32c(memoryview(data)[start : start + tensor.nbytes])
        rows = tensor if tensor.ndim else tensor.reshape(1)
        many = max(CHUNK // max(rows[:1].nbytes, 1), 1)
        written = copied = 0
        for part in (rows[at : at + many] for at in range(0, len(rows), many)):
            piece = part
            if not part.flags.c_contiguous:
                piece = room[: part.nbytes].view(dtype).reshape(part.shape)
                if part.ndim == 2:
                    step = 16 if part.strides[1] % 1024 == 0 else 64
                    for i in range(0, part.shape[1], step):
                        piece[:, i : i + step] = part[:, i : i + step]
                else:
                    piece[...] = part
            content = piece.reshape(-1).view(np.uint8).data
            written = zlib.crc32(content, written) if "crc32" in checks else 0
            copied = crc32c(content, copied)
            out.write(content)
thread.join()
os._exit(0)
