"""Whether a file is HDF5 at all: asked of every file, so the modules that read one are loaded only then."""

from __future__ import annotations

import mmap

SIGNATURE = b"\x89HDF\r\n\x1a\n"
_VERSIONS = (b"\0", b"\1", b"\2", b"\3")  # of the superblock, the byte after the signature


def is_hdf5(data: mmap.mmap | memoryview) -> bool:
    """Whether the signature is at byte 0, 512, 1024, 2048 …, where HDF5 looks for it, and is not a part of something else."""
    if data[:4] == b"PK\x03\x04":  # a zip archive may hold HDF5, and tensors any bytes
        return False
    at = 0
    while at < len(data):
        if data[at : at + len(SIGNATURE)] == SIGNATURE and (at == 0 or data[at + 8 : at + 9] in _VERSIONS):
            return True
        at = at * 2 or 512
    return False
