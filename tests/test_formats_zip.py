"""Zip archives: an index that refuses what two programs could read differently, and a writer that others can read."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.pickles import archive, deflated, mapped, patched, tensor, zipped
from xconvert.errors import UnreadableError
from xconvert.formats._limits import Limits
from xconvert.formats._zip import ZipWriter, open_zip

PLAIN = archive({"a": tensor()})
CENTRAL = b"PK\x01\x02"  # the last entry is that of data/0, the local header before it as well
BROKEN: dict[str, tuple[bytes, str]] = {
    "names differ": (patched(PLAIN, b"x/data/0", 7, b"9"), "the zip directory and the header of `x/data/9` differ"),
    "sizes differ": (patched(PLAIN, CENTRAL, 20, struct.pack("<2L", 8, 8)), "the header of `x/data/0` differ"),
    "methods differ": (patched(PLAIN, CENTRAL, 10, b"\x08"), "the header of `x/data/0` differ"),
    "stored, but smaller": (patched(PLAIN, CENTRAL, 20, struct.pack("<2L", 8, 16)), "the sizes of `x/data/0` contradict"),
    "encrypted": (patched(PLAIN, CENTRAL, 8, b"\x01"), "is encrypted"),
    "unknown method": (patched(PLAIN, CENTRAL, 10, b"\x0e"), "compresses `x/data/0` by method 14"),
    "outside": (patched(PLAIN, CENTRAL, 42, struct.pack("<L", 2**31)), "a member lies outside the file"),
    "no entries": (patched(PLAIN, CENTRAL, 0, b"PK\x00\x00"), "its zip directory makes no sense"),
    "count": (patched(PLAIN, b"PK\x05\x06", 8, b"\x09\x00\x09\x00"), "its zip directory makes no sense"),
    "moved": (patched(PLAIN, b"PK\x05\x06", 16, b"\x00"), "its zip directory is not where it should be"),
    "bytes before": (b"PK\x03\x04" + PLAIN, "its zip directory is not where it should be"),
    "bytes after": (PLAIN + b"!", "is truncated: the zip directory at its end is missing"),
}


@pytest.mark.parametrize(("data", "message"), BROKEN.values(), ids=BROKEN)
def test_archive_that_contradicts_itself(data: bytes, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        open_zip(Path("x.pth"), mapped(data))


def test_zip64_directory_agrees_with_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ZipWriter, "_limit", 0)
    data = zipped([("a", b"1"), ("b", b"2")])
    assert open_zip(Path("x.pth"), mapped(data)).names == ("a", "b")
    for offset, new in ((8, b"\x01\x00\x01\x00"), (12, b"\x2f\x00\x00\x00"), (16, b"\x00\x00\x00\x00")):
        with pytest.raises(UnreadableError, match=r"its two zip directories differ"):
            open_zip(Path("x.pth"), mapped(patched(data, b"PK\x05\x06", offset, new)))
    with pytest.raises(UnreadableError, match=r"its zip64 directory is missing"):
        open_zip(Path("x.pth"), mapped(patched(data, b"PK\x06\x07", 8, b"\xff" * 8)))


def test_two_zip64_fields_of_one_member_are_refused() -> None:
    file, member = io.BytesIO(), zipfile.ZipInfo("a")
    member.extra = struct.pack("<2HQ", 1, 8, 1) * 2
    with zipfile.ZipFile(file, "w") as target:
        target.writestr(member, b"1")
    with pytest.raises(UnreadableError, match="its zip directory makes no sense"):
        open_zip(Path("x.pth"), mapped(file.getvalue()))


def test_comment_may_look_like_a_directory() -> None:
    file = io.BytesIO()
    writer = ZipWriter(file)
    writer.add("a", b"1")
    writer.close(b"PK\x05\x06, in so many words, and longer than a directory's end is")
    assert open_zip(Path("x.pth"), mapped(file.getvalue())).names == ("a",)


def test_no_name_twice() -> None:
    with pytest.raises(UnreadableError, match=r"it holds `a` twice"):
        open_zip(Path("x.pth"), mapped(zipped([("a", b"first"), ("b", b""), ("a", b"last")])))


def test_no_member_inside_another() -> None:
    outer = zipped([("a", zipped([("b", b"hidden")])), ("b", b"hidden")])
    inside = outer.index(b"PK\x03\x04", 4)
    with pytest.raises(UnreadableError, match=r"its members overlap"):
        open_zip(Path("x.pth"), mapped(patched(outer, CENTRAL, 42, struct.pack("<L", inside))))


def test_deflated_bomb_and_damage() -> None:
    bomb = deflated(bytes(100_000))
    assert open_zip(Path("x"), mapped(bomb)).view("x/data.pkl") == bytes(100_000)
    with pytest.raises(UnreadableError, match=r"would take more memory than it may: it would inflate to 97.7 KiB") as caught:
        open_zip(Path("x.pth"), mapped(bomb), Limits(memory=50_000))
    assert (caught.value.facts, caught.value.hints[0][-17:]) == (("allowed are 48.8 KiB",), "`--max-memory 4G`")
    data = deflated(b"some text that does not repeat")
    at = data.index(b"data.pkl") + 8
    for changed in (data[:at] + b"\xff\xff" + data[at + 2 :], data[: at + 4] + bytes([data[at + 4] ^ 1]) + data[at + 5 :]):
        with pytest.raises(UnreadableError, match=r"`x/data.pkl` (cannot be inflated|does not inflate to what it should be)"):
            open_zip(Path("x.pth"), mapped(changed)).view("x/data.pkl")


@pytest.mark.parametrize("limit", [0xFFFFFFFF, 100])
def test_written_archives_satisfy_another_zip_program(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    monkeypatch.setattr(ZipWriter, "_limit", limit)  # zip64 from 100 bytes on, for want of 4 GiB
    members = {"a": b"", "folder/b": bytes(range(200)), "ä": b"x" * 99, "a" * 61: b"1", "last": b"y" * 1000}
    file = io.BytesIO()
    writer = ZipWriter(file)
    for name, content in members.items():
        writer.add(name, content[:7], memoryview(content)[7:])
    writer.close(b"a comment")
    other = zipfile.ZipFile(file)
    assert other.testzip() is None and other.comment == b"a comment"
    assert {info.filename: other.read(info) for info in other.infolist()} == members
    assert {info.date_time for info in other.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    area = mapped(file.getvalue())
    index = open_zip(Path("x"), area)
    assert {name: bytes(index.view(name)) for name in index.names} == members and index.comment == b"a comment"
    start = np.frombuffer(area, np.uint8).ctypes.data
    assert all((np.frombuffer(index.view(n), np.uint8).ctypes.data - start) % 64 == 0 for n in members if members[n])
