"""Mapped files, and letting go of their pages: what is read once should not count as this process's memory for ever."""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import BinaryIO
from weakref import WeakSet

from xconvert.errors import UnreadableError

_mapped: WeakSet[mmap.mmap] = WeakSet()


def opened(path: Path) -> BinaryIO:
    """The file ``path``, open for reading; raises ``UnreadableError`` for what is no regular file or cannot be opened."""
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would wait for ever
            raise UnreadableError(f"`{path}` is not a regular file", hints=["write it to a file first"])
        return path.open("rb")
    except FileNotFoundError:
        raise UnreadableError(f"`{path}` does not exist") from None
    except ValueError:  # a name with a zero byte
        raise UnreadableError(f"`{path}` cannot be opened: it is no name of a file") from None
    except OSError as error:
        raise UnreadableError(f"`{path}` cannot be opened: {error.strerror}") from None


def mapped(path: Path) -> mmap.mmap:
    """The bytes of the file ``path``, read when touched; raises ``UnreadableError`` where there are none."""
    with opened(path) as file:
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except ValueError:  # mmap refuses an empty file
            raise UnreadableError(f"`{path}` is empty", hints=["fetch or save it again"]) from None
        except OSError as error:
            raise UnreadableError(f"`{path}` cannot be opened: {error.strerror}") from None
    _mapped.add(data)
    return data


def let_go() -> None:
    """Let go of the pages of all mapped files that were read so far; who reads on gets them from the system's cache again.

    A process that walks through a file of any size has no more of it in memory than what it read since.
    """
    if hasattr(mmap, "MADV_DONTNEED"):
        for data in _mapped:
            data.madvise(mmap.MADV_DONTNEED)
