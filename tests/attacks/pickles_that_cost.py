"""Pickles that cost memory, time or the stack, or make no sense: as PyTorch archives, some for Paddle."""

from __future__ import annotations

import io
import struct
import zipfile
from typing import Any

from tests.attacks.registry import Contents, attack
from tests.pickles import Raw, archive, call, many, named, opcodes, tensor

NOTHING = "`{path}` holds no state dict"
_CHANGES = "`{path}` gives `NAME` other attributes; nothing was changed"


def _broken(at: int) -> str:
    return f"`{{path}}` is damaged: its pickle makes no sense at byte {at}"


def _enter(name: str, tries: str, message: str, code: bytes) -> None:
    @attack("torch", ".pth", tries, message, name=name)
    def _() -> Contents:
        return archive(Raw(code))


def _packed(root: Any) -> bytes:
    """An archive whose pickle is deflated, for a long one in few bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        contents = {"x/data.pkl": b"\x80\x02" + opcodes(root) + b".", "x/version": b"3\n", "x/data/0": bytes(16)}
        for name, content in contents.items():
            target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 9)
    return file.getvalue()


_LAUGHS = b"]q\x00" + b"".join(b"0](h%ch%ceq%c" % (n, n, n + 1) for n in range(60))
_enter("memo-of-4-gb", "LONG_BINPUT 268435455: a memo of 4 GB", NOTHING, b"Nr\xff\xff\xff\x0f")
_enter(
    "bytes-of-4-eb",
    "BINBYTES8 of 2^62 bytes",
    "`{path}` is truncated: its pickle breaks off at byte 12",
    b"\x8e" + struct.pack("<Q", 1 << 62),
)
_enter("text-of-4-gb", "BINUNICODE of 4 GB", "`{path}` is truncated: its pickle breaks off at byte 8", b"X\xff\xff\xff\xff")
_enter("billion-laughs", "a list of lists with 2^60 paths through it, by the memo", NOTHING, _LAUGHS)
_enter("list-in-itself", "a list that holds itself", NOTHING, b"]q\x00h\x00a")
_enter("extension", "a code of `copyreg`'s registry", _broken(3), b"\x82\x01")
_enter("out-of-band-buffer", "a buffer that another program should bring", _broken(3), b"\x97")
_enter(
    "deep-marks", "5 000 lists, each in the next", "`{path}` is no checkpoint: its pickle nests more than 1000 deep", b"](" * 5000
)
_enter("list-as-key", "a list as the key of a dict", _broken(6), b"}]Ns")
_enter("protocol-6", "a protocol that does not exist", _broken(4), b"\x80\x06N")


@attack("torch", ".pth", "a tuple in 200 000 tuples as the key of a dict: hashing it overflows the stack", _broken(200_006))
def deep_tuple_as_key() -> Contents:
    return _packed(Raw(b"})" + b"\x85" * 200_000 + b"Ns"))


@attack(
    *("paddle", ".pdparams", "a tuple in 200 000 tuples as the key of a dict: hashing it overflows the stack"),
    _broken(200_006),
    kept=False,
)
def deep_tuple_as_key_() -> Contents:
    return b"\x80\x02})" + b"\x85" * 200_000 + b"Ns."


@attack(
    *("torch", ".pth", "an integer of 2 000 bytes, whose digits cost quadratic time"),
    "`{path}` is no checkpoint: its pickle holds an integer of 2000 bytes",
)
def long_integer() -> Contents:
    return archive(Raw(b"\x8b" + struct.pack("<L", 2000) + b"\x7f" * 2000))


@attack("paddle", ".pdparams", "LONG_BINPUT 268435455: a memo of 4 GB", NOTHING)
def memo_of_4_gb() -> Contents:
    return b"\x80\x02Nr\xff\xff\xff\x0f."


@attack("torch", ".pth", "`bytes(10^12)`: a terabyte of zeros", _broken(31))
def bytes_of_a_number() -> Contents:
    return archive(call("builtins.bytes", 10**12))


@attack(
    *("torch", ".pth", "one text of 1 MB encoded 3 000 times"),
    "`{path}` would take more memory than it may: its pickle copies the same data over and over",
)
def copies_of_one_text() -> Contents:
    encoded = opcodes(call("_codecs.encode", Raw(b"h\x00"), "latin1"))
    return _packed(Raw(opcodes("a" * 1_000_000) + b"q\x00" + encoded * 3000))


@attack(
    *("torch", ".pth", "1 200 000 empty lists in 2 kB"),
    "`{path}` is no checkpoint: its pickle has more opcodes than one of its size",
)
def endless_lists() -> Contents:
    return _packed(Raw(b"]" * 1_200_000))


@attack(
    "torch",
    ".pth",
    "other attributes for PyTorch's own function, by BUILD",
    _CHANGES.replace("NAME", "torch._utils._rebuild_tensor_v2"),
)
def build_on_a_function() -> Contents:
    defaults = Raw(opcodes((None, {"__kwdefaults__": {"x": 1}, "__name__": "taken"})))
    return archive(many() | {"more": Raw(opcodes(named("torch._utils._rebuild_tensor_v2")) + defaults.opcodes + b"b")})


@attack(
    "torch",
    ".pth",
    "other attributes for xconvert's own class, by BUILD",
    _CHANGES.replace("NAME", "xconvert.formats._pickle._Machine"),
)
def build_on_xconvert() -> Contents:
    state = opcodes((None, {"handlers": {}, "is_hostile": None}))
    return archive(many() | {"more": Raw(opcodes(named("xconvert.formats._pickle._Machine")) + state + b"b")})


@attack(
    "torch",
    ".pth",
    "a name of 1 000 000 characters",
    "`{path}` holds a tensor called `" + "a" * 200 + "…` … of 1000000 characters",
)
def a_long_name() -> Contents:
    return _packed(many() | {"a" * 1_000_000: tensor()})


@attack(
    "torch",
    ".pth",
    "110 000 names for one tensor",
    "`{path}` is no checkpoint: it has 110000 tensors, more than 100000",
    kept=False,
)
def many_names() -> Contents:
    one = opcodes(tensor()) + b"q\x00"
    names = b"".join(opcodes(f"{n}") + (b"h\x00" if n else one) for n in range(110_000))
    return _packed(Raw(b"}(" + names + b"u"))


def _named(name: str, tries: str, spelled: str, shown: str) -> None:
    @attack("torch", ".pth", tries, f"`{{path}}` holds a tensor called `{shown}`", name=name)
    def _() -> Contents:
        return archive(many() | {spelled: tensor()})


_named("name-with-nul", "a zero byte in a name", "a\x00b", r"a\x00b")
_named("name-with-escape-code", "a terminal's escape code in a name", "a\x1b[2Jb", r"a\x1b[2Jb")
_named("name-written-backwards", "a name that is shown backwards (U+202E)", "a\u202eb", r"a\u202eb")
_named("empty-name", "a name without characters", "", "")
