"""The checksum of TensorFlow's files: CRC-32C (Castagnoli), masked as LevelDB does (its ``util/crc32c.h``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import Any

_SHIFT = 0xA282EAD8


def checksum(parts: Iterable[memoryview | bytes]) -> int:
    """The masked CRC-32C of ``parts``, one after the other."""
    crc = 0
    for part in parts:
        crc = extended(crc, part)
    return masked(crc)


def extended(crc: int, part: memoryview | bytes) -> int:
    """The CRC-32C, not masked, of what had ``crc`` (0: of nothing) and ``part`` after it."""
    return _function()(part, crc)


def masked(crc: int) -> int:
    """``crc`` as TensorFlow stores it: rotated right by 15 bits, plus a constant."""
    return ((crc >> 15 | crc << 17) + _SHIFT) & 0xFFFFFFFF


@cache
def _function() -> Callable[[memoryview | bytes, int], int]:
    """That of the extension in the package ``crc32c``. The package itself has a command line, for which it imports argparse and
    importlib.metadata: 17 ms, three times as long as the checksums of a whole checkpoint take.
    """
    package = find_spec("crc32c")
    spec = PathFinder.find_spec("_crc32c", package.submodule_search_locations) if package else None
    if spec and spec.loader:
        extension: Any = module_from_spec(spec)
        spec.loader.exec_module(extension)
        if hasattr(extension, "crc32c"):
            return extension.crc32c  # type: ignore[no-any-return]
    import crc32c

    return crc32c.crc32c
