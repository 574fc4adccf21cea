"""Zip archives over a memory map: an index that trusts nothing, and a writer whose members are aligned.

Checkpoint archives are read in place, so a member must be one span of bytes that every reader agrees on: duplicate names,
overlapping members and headers that contradict each other, with which a file shows different contents to different
programs, are refused. Field names follow the format's own specification (PKWARE APPNOTE 6.3.9, section 4.3).
"""

from __future__ import annotations

import mmap
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO
from weakref import WeakKeyDictionary

from xconvert.errors import UnreadableError, UsageError
from xconvert.formats._arrays import damaged, pieces, shown, truncated
from xconvert.formats._limits import MAX_TENSORS, USUAL, Budget, Limits, told
from xconvert.tuples import NamedTuple

_LOCAL = struct.Struct("<4s5H3L2H")
_CRC = 14  # where the checksum stands in a local header
_CENTRAL = struct.Struct("<4s6H3L5H2L")
_END = struct.Struct("<4s4H2LH")
_LOCATOR64 = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENCRYPTED = 0x0001 | 0x0040 | 0x2000
_SIZES_FOLLOW = 0x0008
_UTF8 = 0x0800
_STORED, _DEFLATED = 0, 8
_MAX_MEMBERS = MAX_TENSORS + 10  # of a state dict: one for each tensor, and those that describe them


class _Member(NamedTuple):
    name: str
    start: int  # of the data
    packed: int
    size: int
    method: int
    crc: int


class ZipIndex:
    """Where the members of a zip archive lie; ``names`` in the archive's order, ``comment`` the archive's own."""

    def __init__(self, path: Path, data: mmap.mmap, members: dict[str, _Member], comment: bytes, budget: Budget) -> None:
        self._path, self._data, self._members = path, memoryview(data), members
        self.comment, self.budget = comment, budget
        self.inflated = sum(m.size for m in members.values() if m.method == _DEFLATED)  # bytes
        budget.take(self.inflated, f"it would inflate to {told(self.inflated)}")

    @property
    def names(self) -> tuple[str, ...]:
        """All member names, without folders."""
        return tuple(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """Bytes that ``view(name)`` has."""
        return self._members[name].size

    def view(self, name: str) -> memoryview:
        """The contents of a member: the mapped bytes themselves where it is stored, a fresh copy where it is deflated.

        Raises ``UnreadableError`` when deflated contents are damaged; the checksum of stored ones is not looked at, because
        PyTorch does not: ``set_crc32_options(False)`` writes wrong ones.
        """
        member = self._members[name]
        if member.method == _STORED:
            return self._data[member.start : member.start + member.size]
        contents = self._inflate(member, member.size + 1)
        if len(contents) != member.size or zlib.crc32(contents) != member.crc:
            raise damaged(self._path, f"`{shown(name)}` does not inflate to what it should be")
        return memoryview(contents)

    def head(self, name: str, size: int) -> bytes:
        """The first ``size`` bytes of a member, or all if there are fewer."""
        member = self._members[name]
        if member.method == _STORED:
            return bytes(self._data[member.start : member.start + min(size, member.size)])
        return self._inflate(member, size)

    def verify(self) -> None:
        """Raise ``UnreadableError`` for the first member whose contents do not have their checksum."""
        for name, member in self._members.items():
            if zlib.crc32(self.view(name)) != member.crc:
                raise UnreadableError(
                    f"`{self._path}` is damaged: `{shown(name)}` does not have its checksum",
                    facts=["after `torch.serialization.set_crc32_options(False)` PyTorch writes wrong checksums"],
                    hints=["fetch or save it again"],
                )

    def _inflate(self, member: _Member, limit: int) -> bytes:
        packed = self._data[member.start : member.start + member.packed]
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, limit)
        except zlib.error:
            raise damaged(self._path, f"`{shown(member.name)}` cannot be inflated") from None


def open_zip(path: Path, data: mmap.mmap, limits: Limits = USUAL) -> ZipIndex:
    """The index of the archive ``data``; raises ``UnreadableError`` when it is truncated, contradicts itself or is encrypted,
    when it would inflate to more than ``limits`` allow, and, if they ask for it, when a checksum is wrong.
    """
    members, comment = _known.get(data) or _known.setdefault(data, _read(path, data))
    index = ZipIndex(path, data, members, comment, limits.budget(path, len(data)))
    if limits.checksums:
        index.verify()
    return index


_known: WeakKeyDictionary[mmap.mmap, tuple[dict[str, _Member], bytes]] = WeakKeyDictionary()  # three formats look at each archive


def _read(path: Path, data: mmap.mmap) -> tuple[dict[str, _Member], bytes]:
    """The members of the archive by name, without folders, and its comment."""
    start, end, count, comment = _directory(path, data)
    if count > _MAX_MEMBERS:
        raise UnreadableError(f"`{path}` is no checkpoint: it has {count} members, more than {_MAX_MEMBERS}")
    members: dict[str, _Member] = {}
    spans: list[tuple[int, int]] = []
    try:
        for member, header in _central(path, data, start, end, count):
            if member.name in members:
                raise damaged(path, f"it holds `{shown(member.name)}` twice")
            members[member.name] = member
            spans.append((header, member.start + member.packed))
    except (struct.error, UnicodeDecodeError):
        raise damaged(path, "its zip directory makes no sense") from None
    spans.sort()
    after = [begin for begin, _ in spans[1:]] + [start]
    if any(stop > following for (_, stop), following in zip(spans, after, strict=False)):
        raise damaged(path, "its members overlap")
    return {name: member for name, member in members.items() if not name.endswith("/")}, comment


def sniff(data: mmap.mmap) -> tuple[str, ...]:
    """The member names of what may be a zip archive, of a damaged one the first, of anything else none. Never raises."""
    if data[:4] != b"PK\x03\x04":
        return ()
    try:
        return open_zip(Path(), data, Limits(memory=1 << 62)).names  # nothing is inflated here
    except UnreadableError:
        length = int.from_bytes(data[26:28], "little")
        return (data[30 : 30 + length].decode("utf-8", "replace"),)


def _directory(path: Path, data: mmap.mmap) -> tuple[int, int, int, bytes]:
    """(start, end, number of entries) of the central directory, and the archive's comment."""
    at, earliest = len(data), max(0, len(data) - _END.size - 0xFFFF)
    while (at := data.rfind(b"PK\x05\x06", earliest, at)) >= 0:
        if at + _END.size <= len(data) and at + _END.size + _END.unpack_from(data, at)[7] == len(data):
            break  # its comment, any bytes, reaches exactly to the end
    else:
        raise truncated(path, "the zip directory at its end is missing")
    _, disk, _, _, count, size, start, _ = _END.unpack_from(data, at)
    end, comment = at, data[at + _END.size :]
    if at >= _LOCATOR64.size and data[at - _LOCATOR64.size : at - _LOCATOR64.size + 4] == b"PK\x06\x07":
        end = _LOCATOR64.unpack_from(data, at - _LOCATOR64.size)[2]
        if data[end : end + 4] != b"PK\x06\x06" or end + _END64.size > at:
            raise damaged(path, "its zip64 directory is missing")
        count64, size64, start64 = _END64.unpack_from(data, end)[7:]
        if count not in (count64, 0xFFFF) or size not in (size64, 0xFFFFFFFF) or start not in (start64, 0xFFFFFFFF):
            raise damaged(path, "its two zip directories differ")
        count, size, start = count64, size64, start64
    if disk or start + size != end:
        raise damaged(path, "its zip directory is not where it should be")
    return start, end, count, comment


def _central(path: Path, data: mmap.mmap, at: int, end: int, count: int) -> Iterator[tuple[_Member, int]]:
    """Every entry of the central directory with the position of its local header."""
    for _ in range(count):
        signature, _, _, flags, method, _, _, crc, packed, size, *lengths, _, _, _, header = _CENTRAL.unpack_from(data, at)
        name_end = at + _CENTRAL.size + lengths[0]
        raw = data[at + _CENTRAL.size : name_end]
        at = name_end + lengths[1] + lengths[2]
        if signature != b"PK\x01\x02" or at > end:
            raise damaged(path, "its zip directory makes no sense")
        size, packed, header = _zip64(data[name_end : name_end + lengths[1]], size, packed, header)
        name = raw.decode("utf-8" if flags & _UTF8 else "cp437")
        if flags & _ENCRYPTED:
            raise UnreadableError(f"`{path}` is encrypted", hints=["decrypt it first"])
        if method not in (_STORED, _DEFLATED):
            raise UnreadableError(f"`{path}` compresses `{shown(name)}` by method {method}", hints=["store it uncompressed"])
        if size != packed and method == _STORED:
            raise damaged(path, f"the sizes of `{shown(name)}` contradict each other")
        start = _local(path, data, header, raw, flags, method, packed, size)
        yield _Member(name, start, packed, size, method, crc), header
    if at != end:
        raise damaged(path, "its zip directory makes no sense")


def _zip64(extra: bytes, *values: int) -> tuple[int, ...]:
    """``values`` with each that does not fit into 32 bits taken from the zip64 field of ``extra``."""
    if not extra:
        return values
    wide: Iterator[tuple[int]] | None = None
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        at += 4
        if kind == 1:
            if wide is not None:  # programs differ in which of two counts
                raise struct.error("two zip64 fields")
            wide = struct.iter_unpack("<Q", extra[at : at + length // 8 * 8])
        at += length
    wide = wide or iter(())
    return tuple(next(wide, (value,))[0] if value == 0xFFFFFFFF else value for value in values)


def _local(path: Path, data: mmap.mmap, at: int, name: bytes, flags: int, method: int, packed: int, size: int) -> int:
    """Where the member's data start; its local header must agree with the directory, and its data be in the file."""
    if at + _LOCAL.size > len(data):
        raise damaged(path, "a member lies outside the file")
    signature, _, local_flags, local_method, _, _, _, *sizes, n, extra = _LOCAL.unpack_from(data, at)
    start: int = at + _LOCAL.size + n + extra
    if signature != b"PK\x03\x04" or data[at + _LOCAL.size : at + _LOCAL.size + n] != name or local_method != method:
        raise damaged(path, f"the zip directory and the header of `{shown(name.decode('utf-8', 'replace'))}` differ")
    contradicts = sizes[0] not in (packed, 0xFFFFFFFF) or sizes[1] not in (size, 0xFFFFFFFF)
    if (contradicts and not local_flags & _SIZES_FOLLOW) or (local_flags ^ flags) & _ENCRYPTED:
        raise damaged(path, f"the zip directory and the header of `{shown(name.decode('utf-8', 'replace'))}` differ")
    return start


class ZipWriter:
    """Writes stored members into ``file``, each one's data at a multiple of 64 bytes; the same input gives the same bytes.

    Padding is an extra field of the local header, as in PyTorch's own files; dates are 1980-01-01, the earliest there is.
    Checksums stand before the data that they are of, so all are put in their places at the end.
    """

    _limit = 0xFFFFFFFF  # from here on a number needs zip64

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._at, self._entries = file, 0, list[bytes]()
        self._sums = dict[int, int]()  # position → checksum that belongs there

    def add(self, name: str, *parts: bytes | memoryview) -> None:
        """Append a member that consists of ``parts``."""
        self.stream(name, sum(map(len, parts)), (piece for part in parts for piece in pieces(part)))

    def stream(self, name: str, size: int, parts: Iterable[bytes | memoryview]) -> None:
        """Append a member of ``size`` bytes that consists of ``parts``, each of which is used before the next is taken."""
        raw, crc, header = name.encode(), 0, self._at
        big = size >= self._limit
        sizes = (0xFFFFFFFF, 0xFFFFFFFF) if big else (size, size)
        version, flags = 45 if big or header >= self._limit else 20, 0 if name.isascii() else _UTF8
        common = (version, flags, _STORED, 0, 0x21)  # 0x21: 1 January 1980
        extra = struct.pack("<2H2Q", 1, 16, size, size) if big else b""
        padding = -(header + _LOCAL.size + len(raw) + len(extra)) % 64
        if padding:
            padding += 64 if padding < 4 else 0  # the field itself takes four bytes
            extra += struct.pack("<2s H", b"FB", padding - 4) + b"Z" * (padding - 4)
        self._write(_LOCAL.pack(b"PK\x03\x04", *common, 0, *sizes, len(raw), len(extra)) + raw + extra)
        for part in parts:
            crc = zlib.crc32(part, crc)
            self._write(part)
        self._sums[header + _CRC] = crc
        wide = [size, size] * big + [header] * (header >= self._limit)
        extra = struct.pack(f"<2H{len(wide)}Q", 1, 8 * len(wide), *wide) if wide else b""
        short = 0xFFFFFFFF if header >= self._limit else header
        record = _CENTRAL.pack(b"PK\x01\x02", version, *common, crc, *sizes, len(raw), len(extra), 0, 0, 0, 0, short)
        self._entries.append(record + raw + extra)

    def close(self, comment: bytes = b"") -> None:
        """Write the directory and the archive's comment; raises ``UsageError`` when that is longer than zip allows."""
        if len(comment) > 0xFFFF:
            raise UsageError("the metadata are too long for an archive comment", hints=["write `.safetensors` instead"])
        start, count = self._at, len(self._entries)
        for entry in self._entries:
            self._write(entry)
        size, end = self._at - start, self._at
        if start >= self._limit or count >= 0xFFFF:
            self._write(_END64.pack(b"PK\x06\x06", _END64.size - 12, 45, 45, 0, 0, count, count, size, start))
            self._write(_LOCATOR64.pack(b"PK\x06\x07", 0, end, 1))
        short = min(count, 0xFFFF)
        self._write(_END.pack(b"PK\x05\x06", 0, 0, short, short, size, min(start, 0xFFFFFFFF), len(comment)) + comment)
        for at, crc in self._sums.items():
            self._file.seek(at)
            self._file.write(crc.to_bytes(4, "little"))

    def _write(self, part: bytes | memoryview) -> None:
        self._file.write(part)
        self._at += len(part)
