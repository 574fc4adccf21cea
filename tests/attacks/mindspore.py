"""MindSpore's checkpoints whose values are not what they say."""

from __future__ import annotations

import zlib

from tests.attacks.registry import Contents, attack
from tests.messages import floats, value
from xconvert.formats._protobuf import block, encoded, head, number


def _enter(name: str, tries: str, message: str, content: bytes) -> None:
    @attack("mindspore", ".ckpt", tries, message, name=name)
    def _() -> Contents:
        return content


_NO_LIST = "`{path}` is damaged: it is no whole list of MindSpore's values; its end may be missing"
_TWICE = "`{path}` is damaged: it holds `a` twice"
_SHAPE = "`{path}` is damaged: the shape of `a` is impossible"
_enter("one-name-twice", "one name twice, which MindSpore joins", _TWICE, floats("a", 1) + floats("a", 1))
_enter(
    "one-name-twice-apart",
    "one name twice, of which MindSpore takes the last",
    _TWICE,
    floats("a", 1) + floats("b", 1) + floats("a", 2),
)
_enter(
    *("pieces-of-two-dtypes", "a tensor whose halves have two dtypes", _TWICE),
    value("a", (2,), "Float32", bytes(4)) + value("a", (2,), "Int32", bytes(4)),
)
_enter(
    "size-lie",
    "7 bytes for 2 numbers",
    "`{path}` is damaged: `a` has 7 bytes, its shape (2,) takes 8",
    value("a", (2,), "Float32", bytes(7)),
)
_enter(
    *(
        "shape-larger-than-file",
        "4 TB in 8 bytes",
        "`{path}` is damaged: `a` has 8 bytes, its shape (1048576, 1048576) takes 4398046511104",
    ),
    value("a", (2**20, 2**20), "Float32", bytes(8)),
)
_enter("negative-dimension", "a dimension of -2", _SHAPE, value("a", (2**64 - 2,), "Float32", bytes(8)))
_enter("shape-overflow", "2^120 numbers, and none", _SHAPE, value("a", (2**60, 2**60, 0), "Float32", b""))
_enter("fifty-dimensions", "50 dimensions", _NO_LIST, value("a", (1,) * 50, "Float32", bytes(4)))
_PACKED = block(1, b"\x01" * 15_000) + block(2, "Float32") + block(3, bytes(4))
_enter("packed-dimensions", "15 000 dimensions in one field", _SHAPE, block(1, block(1, "a") + block(2, _PACKED)))
_enter(
    "unknown-dtype",
    "numbers of 4 bits",
    "`{path}` holds `a` as `Int4`, which is no dtype that xconvert reads",
    value("a", (2,), "Int4", bytes(1)),
)
_enter("no-dtype", "numbers of no dtype", _NO_LIST, value("a", (1,), None, bytes(4)))
_enter(
    "name-with-newline",
    "a line's end in a name",
    r"`{path}` holds a tensor called `a\n`",
    value("a\n", (1,), "Float32", bytes(4)),
)
_enter(
    "name-with-escape-code",
    "a terminal's escape code in a name",
    r"`{path}` holds a tensor called `a\x1b[2J`",
    value("a\x1b[2J", (1,), "Float32", bytes(4)),
)
_enter("name-not-utf-8", "a name that is not UTF-8", _NO_LIST, value(b"\xff", (1,), "Float32", bytes(4)))
_enter("value-past-the-end", "a value longer than the file", _NO_LIST, floats("a", 1) + head(1, 1 << 40))
_enter("varint-of-11-bytes", "a length of 11 bytes", _NO_LIST, floats("a", 1) + b"\x0a" + b"\xff" * 10 + b"\x01")
_enter(
    "content-that-is-a-number",
    "a number in the place of a tensor",
    _NO_LIST,
    floats("a", 1) + block(1, block(1, "b") + number(2, 3)),
)
_enter(
    "text-that-is-none",
    "a text of 3 bytes",
    "`{path}` is damaged: the text of `note` is none",
    floats("a", 1) + value("note", (0,), "str", b"abc"),
)
_enter(
    *("wrong-checksum", "numbers that differ from the checksum", "`{path}` is damaged: its checksum is not that of its content"),
    floats("a", 2) + b"crc_num" + zlib.crc32(floats("a", 1)).to_bytes(10, "big"),
)
_enter("encrypted", "an encrypted file", "`{path}` is encrypted", bytes.fromhex("d95e3a7fa8020000") + bytes(99))
_enter(
    "nested-groups",
    "5 000 groups, each in the next, in an unknown field",
    _NO_LIST,
    floats("a", 1) + (encoded(7 << 3 | 3) * 5000),
)
