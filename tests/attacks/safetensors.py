"""safetensors files whose header lies."""

from __future__ import annotations

import json
import struct
from typing import Any

from tests.attacks.registry import Contents, attack
from tests.headers import entry, packed


def _enter(name: str, tries: str, message: str, header: Any, data: bytes = bytes(8)) -> None:
    @attack("safetensors", ".safetensors", tries, message, name=name)
    def _() -> Contents:
        return packed(header, data)


ONE = json.dumps(entry()).encode()
_SIZE = "`{path}` is damaged: `a` does not have the size of its shape"
_SHAPE = "`{path}` is damaged: the shape of `a` is impossible"
_JSON = "`{path}` is damaged: its header is not JSON"
_enter(
    "two-tensors-overlap",
    "two tensors of the same bytes",
    "`{path}` is damaged: its tensors overlap",
    {"a": entry(), "b": entry()},
)
_enter(
    "hole", "bytes that belong to nothing", "`{path}` is damaged: nothing lies at byte 0 of its data", {"a": entry(4, 8, (1,))}
)
_enter(
    *("uncovered-tail", "bytes behind the last tensor", "`{path}` is damaged: 4 bytes after its last tensor belong to nothing"),
    {"a": entry(0, 4, (1,))},
)
_enter(
    *("one-name-twice", "one name twice: readers take one or the other", "`{path}` is damaged: its header holds `a` twice"),
    b'{"a":' + ONE + b',"a":' + ONE + b"}",
)
_enter("size-lie", "3 numbers in the bytes of 2", _SIZE, {"a": entry(0, 8, (3,))})
_enter("offsets-turned-around", "an end before the start", _SIZE, {"a": entry(8, 0, (2,))})
_enter("offset-before-the-data", "an offset of -8, in the header", _SIZE, {"a": entry(-8, 0, (2,))})
_enter(
    "past-the-end",
    "4 TB in 8 bytes",
    "`{path}` is truncated: `a` goes on to byte 4398046511104 of 8",
    {"a": entry(0, 2**42, (2**40,))},
)
_enter("negative-dimension", "a dimension of -2", _SHAPE, {"a": entry(0, 8, (-2,))})
_enter("shape-overflow", "2^128 numbers: 0 in 64 bits", _SHAPE, {"a": entry(0, 0, (2**64, 2**64))}, b"")
_enter("shape-with-nan", "a dimension that is NaN", _SHAPE, {"a": entry(0, 8, (float("nan"),))})
_enter("fraction-as-dimension", "a dimension of 2.0", _SHAPE, {"a": entry(0, 8, (2.0,))})
_enter(
    "metadata-not-text",
    "metadata that are a number",
    "`{path}` is damaged: its metadata are not text",
    {"a": entry(), "__metadata__": {"format": 1}},
)
_enter(
    "unknown-dtype",
    "the dtype `F4`",
    "`{path}` holds `a` as `F4`, which is no dtype that xconvert reads",
    {"a": entry(dtype="F4")},
)
_enter(
    "no-offsets",
    "an entry without a place",
    "`{path}` is damaged: the entry of `a` is incomplete",
    {"a": {"dtype": "F32", "shape": [2]}},
)
_enter("deep-nesting", "10 000 lists, each in the next", _JSON, b'{"a":' + b"[" * 10_000)
_enter("long-integer", "a dimension of 4 301 digits", _JSON, b'{"a":' + b"9" * 4301 + b"}")
_enter("header-not-utf-8", "a name that is not UTF-8", _JSON, b'{"\xff":' + ONE + b"}")
_enter(
    "name-with-escape-code",
    "a terminal's escape code in a name",
    r"`{path}` holds a tensor called `a\x1b[31m`",
    {"a\x1b[31m": entry()},
)
_enter("name-with-nul", "a zero byte in a name", r"`{path}` holds a tensor called `a\x00b`", {"a\x00b": entry()})
_enter(
    "half-a-character",
    "half of a surrogate pair as a name",
    r"`{path}` holds a tensor called `\ud800`",
    b'{"\\ud800":' + ONE + b"}",
)


@attack(
    "safetensors",
    ".safetensors",
    "a header of 99 MB that is not there",
    "`{path}` is truncated: its header goes on to byte 99000008",
)
def header_past_the_end() -> Contents:
    return struct.pack("<Q", 99_000_000) + b'{"a":' + ONE + b"}"


@attack("safetensors", ".safetensors", "a header of 2^63 bytes", "`{path}` is not a checkpoint that xconvert can read")
def header_of_8_eb() -> Contents:
    return struct.pack("<Q", 1 << 63) + b'{"a":' + ONE + b"}"


@attack(
    *("safetensors", ".safetensors", "120 000 names for no numbers"),
    "`{path}` would take more memory than it may: its header has 7.22 MiB",
    kept=False,
)
def many_names() -> Contents:
    one = json.dumps(entry(0, 0, (0,)))
    return packed(("{" + ",".join(f'"{n}":{one}' for n in range(120_000)) + "}").encode(), b"")
