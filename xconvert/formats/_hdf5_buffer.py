"""A buffer as a file that h5py reads."""

from __future__ import annotations

import io
from typing import Any


class Buffer(io.RawIOBase):
    """A file whose contents are ``buffer``, which is copied once: to where it is read."""

    def __init__(self, buffer: memoryview) -> None:
        super().__init__()
        self._buffer, self._at = buffer, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, len(self._buffer))[whence]
        return self._at

    def readinto(self, target: Any) -> int:
        part = self._buffer[self._at : self._at + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)
