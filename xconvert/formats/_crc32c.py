"""The checksum of TensorFlow's files: CRC-32C (Castagnoli), masked as LevelDB does (its ``util/crc32c.h``)."""

from __future__ import annotations

from collections.abc import Iterable

_SHIFT = 0xA282EAD8


def checksum(parts: Iterable[memoryview | bytes]) -> int:
    """The masked CRC-32C of ``parts``, one after the other: rotated right by 15 bits, plus a constant."""
    from crc32c import crc32c  # 4 ms, for those who need it

    crc = 0
    for part in parts:
        crc = crc32c(part, crc)
    return ((crc >> 15 | crc << 17) + _SHIFT) & 0xFFFFFFFF
