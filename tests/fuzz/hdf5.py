"""Changes to HDF5: where it says what things are, rather than in the numbers, and with the checksums of its newer layout right.

Layout from the HDF5 File Format Specification, version 3.0: signatures of superblock (II.A), object header 2 (IV.A.1.b).
"""

from __future__ import annotations

import random
from typing import NamedTuple

from tests.fuzz.mutate import EDGES, HDF5, mutated

_MASK = 0xFFFFFFFF


class Image(NamedTuple):
    """An HDF5 file: ``data`` are the spans of numbers, ``sums`` those (start, end) whose checksum stands at their end."""

    content: bytes
    data: tuple[tuple[int, int], ...] = ()
    sums: tuple[tuple[int, int], ...] = ()

    def mutated(self, rng: random.Random) -> Image:
        """With one to a few changes, mostly of what is not numbers."""
        if rng.random() < 0.08:  # pieces move, and checksums with them
            return Image(mutated(self.content, rng, HDF5))
        out = bytearray(self.content)
        for _ in range(rng.choice((1, 1, 1, 1, 2, 2, 3))):
            self._change(out, rng)
        for start, end in self.sums:
            if out[start:end] != self.content[start:end]:
                out[end : end + 4] = lookup3(out[start:end]).to_bytes(4, "little")
        return Image(bytes(out), self.data, self.sums)

    def _change(self, out: bytearray, rng: random.Random) -> None:
        at = self._place(rng)
        aligned = at & ~7
        match rng.randrange(10):
            case 0 | 1:
                out[at] ^= 1 << rng.randrange(8)
            case 2:
                out[at] = rng.choice((0, 1, 2, 3, 4, 5, 6, 8, 9, 10, 16, 17, 32, 127, 128, 254, 255))
            case 3:
                out[at] = (out[at] + rng.choice((1, -1, 2, 8))) & 255
            case 4 | 5:
                size = rng.choice((1, 2, 4, 8))
                out[aligned : aligned + size] = (rng.choice(EDGES) & ((1 << 8 * size) - 1)).to_bytes(size, "little")
            case 6:  # an address, perhaps of something else or of itself
                out[aligned : aligned + 8] = rng.choice((self._place(rng) & ~7, aligned, len(out), len(out) - 8)).to_bytes(
                    8, "little"
                )
            case 7:
                token = rng.choice(HDF5)
                out[aligned : aligned + len(token)] = token
            case _:
                start, size = self._place(rng) & ~7, rng.choice((2, 4, 8, 8, 16, 24, 40))
                part = out[start : start + size]  # shorter at the end, and must not move what is behind it
                out[aligned : aligned + len(part)] = part
        del out[len(self.content) :]

    def _place(self, rng: random.Random) -> int:
        for _ in range(4):
            at = rng.randrange(len(self.content))
            if not any(start <= at < end for start, end in self.data) and (self.content[at] or rng.random() < 0.3):
                break
        return at


def image(content: bytes, data: tuple[tuple[int, int], ...] = ()) -> Image:
    """``content`` with its checksums found."""
    sums = []
    if content[8:9] in (b"\2", b"\3"):
        sums.append((0, 44))
    at = content.find(b"OHDR")
    while at >= 0:
        flags = content[at + 5]
        width = 1 << (flags & 3)
        start = at + 6 + 16 * bool(flags & 0x20) + 4 * bool(flags & 0x10)
        end = start + width + int.from_bytes(content[start : start + width], "little")
        if end + 4 <= len(content) and lookup3(content[at:end]) == int.from_bytes(content[end : end + 4], "little"):
            sums.append((at, end))
        at = content.find(b"OHDR", at + 4)
    return Image(content, data, tuple(sums))


def lookup3(data: bytes | bytearray) -> int:
    """Bob Jenkins' hash of 2006 (``hashlittle``), the checksum of HDF5's metadata."""
    a = b = c = (0xDEADBEEF + len(data)) & _MASK
    at, left = 0, len(data)
    while left > 12:
        a, b, c = (x + int.from_bytes(data[at + i : at + i + 4], "little") & _MASK for x, i in ((a, 0), (b, 4), (c, 8)))
        for shift in ((4, 6, 8), (16, 19, 4)):
            a = ((a - c) & _MASK) ^ _rotated(c, shift[0])
            c = c + b & _MASK
            b = ((b - a) & _MASK) ^ _rotated(a, shift[1])
            a = a + c & _MASK
            c = ((c - b) & _MASK) ^ _rotated(b, shift[2])
            b = b + a & _MASK
        at, left = at + 12, left - 12
    if left == 0:
        return c
    tail = bytes(data[at:]).ljust(12, b"\0")
    a, b, c = (x + int.from_bytes(tail[i : i + 4], "little") & _MASK for x, i in ((a, 0), (b, 4), (c, 8)))
    c = (c ^ b) - _rotated(b, 14) & _MASK
    a = (a ^ c) - _rotated(c, 11) & _MASK
    b = (b ^ a) - _rotated(a, 25) & _MASK
    c = (c ^ b) - _rotated(b, 16) & _MASK
    a = (a ^ c) - _rotated(c, 4) & _MASK
    b = (b ^ a) - _rotated(a, 14) & _MASK
    return (c ^ b) - _rotated(b, 24) & _MASK


def _rotated(value: int, by: int) -> int:
    return (value << by | value >> 32 - by) & _MASK
