"""What a file may cost: the memory that it can ask for without holding that much, and how many names it may have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from xconvert.errors import UnreadableError, UsageError
from xconvert.model import Tensor
from xconvert.tuples import NamedTuple

FREE = 256 << 20  # bytes that every file may ask for: a network of zeros packs into nearly nothing
TIMES = 4  # and this many times its own size: pickled and JSON structures are larger in memory than in a file
MAX_TENSORS = 100_000  # names in one file; the largest Xception has 1,300, with an optimizer's moments 4,000
MAX_NAME = 1_000  # characters
_UNITS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


class Limits(NamedTuple):
    """How far to trust a file: the bytes of ``memory`` that it may ask for beyond what it holds (None: 256 MiB and 4 times its
    size), whether to verify the ``checksums`` that other programs leave alone too, and whether to read it in a process of its
    own (``isolate``).
    """

    memory: int | None = None
    checksums: bool = False
    isolate: bool = False

    def budget(self, path: Path, size: int) -> Budget:
        """For the file ``path`` of ``size`` bytes."""
        return Budget(path, FREE + TIMES * size if self.memory is None else self.memory, size)


USUAL = Limits()


class Budget:
    """The bytes of memory that one file of ``size`` bytes may still ask for, and ``allowed``, those it could at first."""

    def __init__(self, path: Path, allowed: int, size: int) -> None:
        self._path, self.allowed, self.left, self.size = path, allowed, allowed, size

    def take(self, size: int, what: str) -> None:
        """Account for ``size`` bytes, needed for ``what``, before they are allocated; raises ``UnreadableError`` beyond that."""
        self.left -= size
        if self.left < 0:
            raise UnreadableError(
                f"`{self._path}` would take more memory than it may: {what}",
                facts=[f"allowed are {told(self.allowed)}"],
                hints=["if you trust the file, allow more: `--max-memory 4G`"],
            )

    def parse(self, size: int, what: str) -> None:
        """Account for ``size`` bytes of JSON or of protocol buffers: the objects made of them take up to 64 times as much."""
        self.take(64 * size, f"{what} has {told(size)}")

    def hold(self, tensors: Iterable[Tensor], size: int) -> None:
        """Account for what ``tensors`` have beyond the ``size`` bytes they are read from: several may share the same."""
        total = sum(tensor.nbytes for tensor in tensors)
        if total > size:
            self.take(total - size, f"its tensors expand to {told(total)}")


def check_count(path: Path, count: int) -> None:
    """Raise ``UnreadableError`` where ``path`` has more tensors than any network."""
    if count > MAX_TENSORS:
        raise UnreadableError(f"`{path}` is no checkpoint: it has {count} tensors, more than {MAX_TENSORS}")


def told(size: int) -> str:
    """``size`` in bytes as people say it: ``256 MiB``."""
    amount, unit = float(size), "bytes"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB", "EiB"):
        if amount < 1024:
            break
        amount, unit = amount / 1024, larger
    return f"{amount:.3g} {unit}" if amount < 1000 else f"{amount:.0f} {unit}"


def parse_memory(text: str) -> int:
    """The bytes that ``text`` means: ``"2G"``, ``"512M"``, ``"1.5GiB"``, ``"1000000"``; units are powers of 1024.

    Raises ``UsageError`` for anything else.
    """
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE | re.ASCII)
    if not match:
        raise UsageError(f"`--max-memory {text}` is no size", hints=["for example `--max-memory 2G`"])
    return int(float(match[1]) * 2 ** _UNITS[match[2].upper()])
