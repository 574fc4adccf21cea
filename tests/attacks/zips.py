"""Zip archives that two programs read differently, or that grow: as PyTorch's."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from tests.attacks.registry import MARKER, Contents, attack
from tests.pickles import archive, many, opcodes, patched, tensor, zipped

CENTRAL = b"PK\x01\x02"  # the last entry is that of data/0, the local header before it as well
END = b"PK\x05\x06"


def plain() -> bytes:
    return archive({"a": tensor()}, **{"data/0": b"\x00\x01\x02\x03" * 4})


def _enter(name: str, tries: str, message: str, find: bytes, offset: int, new: bytes, *, last: bool = True) -> None:
    @attack("torch", ".pth", tries, message, name=f"zip-{name}")
    def _() -> Contents:
        return patched(archive({"a": tensor()}), find, offset, new, last=last)


_DIFFER = "`{path}` is damaged: the zip directory and the header of `x/data/0` differ"
_SENSELESS = "`{path}` is damaged: its zip directory makes no sense"
_enter("local-name", "another name in the header than in the directory", _DIFFER, b"x/data/0", 7, b"1", last=False)
_enter("local-size", "another size in the header than in the directory", _DIFFER, b"PK\x03\x04", 18, struct.pack("<2L", 8, 8))
_enter("local-method", "compressed by the header, stored by the directory", _DIFFER, b"PK\x03\x04", 8, b"\x08")
_enter("encrypted", "a flag that the member is encrypted", "`{path}` is encrypted", CENTRAL, 8, b"\x01")
_enter("method-14", "a method that few programs know", "`{path}` compresses `x/data/0` by method 14", CENTRAL, 10, b"\x0e")
_enter(
    "outside",
    "a member behind the end",
    "`{path}` is damaged: a member lies outside the file",
    CENTRAL,
    42,
    struct.pack("<L", 2**31),
)
_enter("count", "a directory of 9 members that has 2", _SENSELESS, END, 8, b"\x09\x00\x09\x00")
_enter(
    *("moved", "a directory that is elsewhere", "`{path}` is damaged: its zip directory is not where it should be"),
    *(END, 16, b"\x00"),
)


@attack(
    "torch",
    ".pth",
    "one name twice: PyTorch takes the first, Python the last",
    "`{path}` is damaged: it holds `x/data.pkl` twice",
)
def zip_one_name_twice() -> Contents:
    inner = [("x/data.pkl", b"\x80\x02" + opcodes({"a": name}) + b".") for name in ("first", "last")]
    return zipped([*inner, ("x/version", b"3\n")])


@attack("torch", ".pth", "a member inside another", "`{path}` is damaged: its members overlap")
def zip_members_overlap() -> Contents:
    outer = zipped([("x/data.pkl", b"\x80\x02N."), ("x/note", zipped([("x/data/0", bytes(16))])), ("x/data/0", bytes(16))])
    inside = outer.index(b"PK\x03\x04", outer.index(b"x/note"))
    return patched(outer, CENTRAL, 42, struct.pack("<L", inside))


@attack("torch", ".pth", "100 members that are one and the same", "`{path}` is damaged: its members overlap")
def zip_one_member_for_all() -> Contents:
    """As a bomb does: each entry of the directory says that the members' bytes are its own."""
    names = ["x/data.pkl", *(f"x/data/{n:03}" for n in range(1, 100))]
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0x21, 0, 16, 16, 10, 0)
    body = b"".join(local + name.encode() for name in names) + bytes(16)
    entries, at = b"", 0
    for name in names:
        size = len(body) - at - 40
        fields = (20, 20, 0, 0, 0, 0x21, 0, size, size, 10, 0, 0, 0, 0, 0, at)
        body = body[: at + 18] + struct.pack("<2L", size, size) + body[at + 26 :]
        entries += struct.pack("<4s6H3L5H2L", CENTRAL, *fields) + name.encode()
        at += 40
    return body + entries + struct.pack("<4s4H2LH", END, 0, 0, 100, 100, len(entries), len(body), 0)


@attack(
    *("torch", ".pth", "8 MB of zeros in 8 kB, 2 GB says the directory"),
    "`{path}` would take more memory than it may: it would inflate to 2 GiB",
)
def zip_bomb() -> Contents:
    """The member says 2 GB; its deflated bytes make as much as fit into a few kB, which nobody has to find out."""
    squeezed = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = squeezed.compress(bytes(8 << 20)) + squeezed.flush()
    pickled = b"\x80\x02" + opcodes({"a": tensor(kind="ByteStorage", count=2**31, shape=(2**31,))}) + b"."
    start = _member(b"x/data.pkl", pickled, 0, len(pickled), 0)
    bomb = _member(b"x/data/0", data, 8, 1 << 31, len(start[0]))
    entries = start[1] + bomb[1]
    ending = struct.pack("<4s4H2LH", END, 0, 0, 2, 2, len(entries), len(start[0] + bomb[0]), 0)
    return start[0] + bomb[0] + entries + ending


def _member(name: bytes, data: bytes, method: int, size: int, at: int) -> tuple[bytes, bytes]:
    """(header and data, entry of the directory) of a member at ``at`` that says it has ``size`` bytes."""
    common = (20, 0, method, 0, 0x21, zlib.crc32(data), len(data), size, len(name))
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", *common, 0) + name + data
    return local, struct.pack("<4s6H3L5H2L", CENTRAL, 20, *common, 0, 0, 0, 0, 0, at) + name


@attack(
    "torch",
    ".pth",
    "a deflated member of more bytes than it says",
    "`{path}` is damaged: `x/data/0` does not inflate to what it should be",
)
def zip_inflates_to_more() -> Contents:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name, content in (
            ("x/data.pkl", b"\x80\x02" + opcodes(many()) + b"."),
            ("x/version", b"3\n"),
            ("x/data/0", bytes(4000)),
        ):
            target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    data = patched(file.getvalue(), CENTRAL, 24, struct.pack("<L", 16))
    return patched(data, b"PK\x03\x04", 22, struct.pack("<L", 16))


@attack(
    "torch",
    ".pth",
    "numbers that differ from their checksum, with `--verify-checksums`",
    "`{path}` is damaged: `x/data/0` does not have its checksum",
    checksums=True,
)
def zip_wrong_checksum() -> Contents:
    return patched(plain(), b"\x00\x01\x02\x03", 0, b"\x40")


@attack("torch", ".pth", "200 000 members, says zip64", "`{path}` is no checkpoint: it has 200000 members, more than 100010")
def zip64_many_members() -> Contents:
    return _zip64(archive({"a": tensor()}), 200_000)


@attack("torch", ".pth", "two directories, of zip and of zip64", "`{path}` is damaged: its two zip directories differ")
def zip64_another_directory() -> Contents:
    return _zip64(archive({"a": tensor()}), 2, short=1)


@attack("torch", ".pth", "a zip64 directory behind the end", "`{path}` is damaged: its zip64 directory is missing")
def zip64_elsewhere() -> Contents:
    return patched(_zip64(archive({"a": tensor()}), 2), b"PK\x06\x07", 8, b"\xff" * 8)


def _zip64(data: bytes, count: int, short: int = 0xFFFF) -> bytes:
    """``data`` with a zip64 directory that tells of ``count`` members, and the usual one of ``short``."""
    end = data.rfind(END)
    size, start = struct.unpack_from("<2L", data, end + 12)
    wide = struct.pack("<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\x06\x07", 0, end, 1)
    return data[:end] + wide + locator + struct.pack("<4s4H2LH", END, 0, 0, short, short, size, start, 0)


@attack("torch", ".pth", "a member of 2^60 bytes, says zip64", "`{path}` is damaged: its members overlap")
def zip64_member_of_an_exabyte() -> Contents:
    data = archive({"a": tensor()})
    end, last = data.rfind(END), data.rfind(CENTRAL)
    extra = struct.pack("<2H2Q", 1, 16, 1 << 60, 1 << 60)
    entry = bytearray(data[last:end] + extra)
    struct.pack_into("<2L", entry, 20, 0xFFFFFFFF, 0xFFFFFFFF)
    struct.pack_into("<H", entry, 30, len(extra))
    local = data.rfind(b"PK\x03\x04", 0, last)
    data = data[: local + 18] + b"\xff" * 8 + data[local + 26 :]
    ending = bytearray(data[end:])
    struct.pack_into("<L", ending, 12, struct.unpack_from("<L", ending, 12)[0] + len(extra))
    return data[:last] + bytes(entry) + bytes(ending)


@attack("torch", ".pth", "a program of the shell before the archive", "`{path}` is not a checkpoint that xconvert can read")
def zip_behind_something() -> Contents:
    return f"#!/bin/sh\ntouch {MARKER}; exit\n".encode() + archive({"a": tensor()})
