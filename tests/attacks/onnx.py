"""ONNX models whose tensors lie, lie elsewhere, or are computed by something else."""

from __future__ import annotations

import struct

from tests.attacks.registry import Contents, attack
from tests.messages import initializer, model
from xconvert.formats._protobuf import block, encoded, head, number

ONE = initializer("w", number(1, 2), number(2, 1), block(9, struct.pack("<2f", 1, 2)))


def _enter(name: str, tries: str, message: str, content: bytes) -> None:
    @attack("onnx", ".onnx", tries, message, name=name)
    def _() -> Contents:
        return content


def _elsewhere(place: str) -> bytes:
    told = block(13, block(1, "location") + block(2, place))
    return model(initializer("w", number(1, 4), number(2, 1), told, number(14, 1)))


_SIZE = "`{path}` is damaged: `w` does not have the size of its shape"
_SHAPE = "`{path}` is damaged: the shape of `w` is impossible"
_OTHER_FILE = "`{path}` keeps the numbers of `w` in another file"
_enter("external-data", "the bytes of `/etc/passwd` as numbers", _OTHER_FILE, _elsewhere("/etc/passwd"))
_enter("external-data-above", "numbers of a file above: `../../README.md`", _OTHER_FILE, _elsewhere("../../README.md"))
_enter(
    "graph-past-the-end",
    "a graph of an exabyte",
    "`{path}` is truncated: a field of 1152921504606846976 bytes goes on past the end",
    number(1, 8) + head(7, 1 << 60),
)
_enter("two-graphs", "two graphs, one for each reader", "`{path}` is damaged: it holds 2 graphs", model(ONE) * 2)
_enter("one-name-twice", "one name twice", "`{path}` is damaged: it holds `w` twice", model(ONE, ONE))
_enter(
    "sparse",
    "a sparse tensor of 2^60 numbers",
    "`{path}` holds sparse tensors, which xconvert does not read",
    model(block(15, block(3, encoded(1 << 60)))),
)
_enter(
    "texts",
    "texts in the place of numbers",
    "`{path}` holds `w` as ONNX type 8, which xconvert does not read",
    model(initializer("w", number(2, 8))),
)
_enter(
    "numbers-twice",
    "numbers in two fields",
    "`{path}` is damaged: `w` is in pieces",
    model(block(5, block(8, "w") + number(2, 1) + block(9, b"1234") + block(4, b"5678"))),
)
_enter(
    "packed-dimensions",
    "15 000 dimensions in one field",
    "`{path}` is damaged: `w` is in pieces",
    model(block(5, block(8, "w") + block(1, b"\x01" * 15_000) + number(2, 1) + block(9, b"1234"))),
)
_enter("negative-dimension", "a dimension of -1", _SHAPE, model(initializer("w", number(1, -1), number(2, 1))))
_enter("shape-overflow", "2^124 numbers", _SHAPE, model(initializer("w", number(1, 1 << 62), number(1, 1 << 62), number(2, 1))))
_enter(
    "shape-larger-than-file",
    "4 TB in 4 bytes",
    _SIZE,
    model(initializer("w", number(1, 1 << 40), number(2, 1), block(9, b"1234"))),
)
_enter(
    "shape-larger-than-varints",
    "2^40 half floats in one byte",
    _SIZE,
    model(initializer("w", number(1, 1 << 40), number(2, 10), block(5, b"\1"))),
)
_enter(
    "doubles-for-floats",
    "doubles that are said to be floats",
    "`{path}` is damaged: `w` cannot be `float32`",
    model(initializer("w", number(1, 1), number(2, 1), block(10, bytes(8)))),
)
_enter(
    "name-with-escape-code",
    "a terminal's escape code in a name",
    r"`{path}` holds a tensor called `\x1b[2J`",
    model(initializer("\x1b[2J", number(2, 1), block(9, b"1234"))),
)
_enter("name-not-utf-8", "a name that is not UTF-8", "`{path}` is damaged: a name is no text", model(block(5, block(8, b"\xff"))))
_enter(
    *(
        "other-operator",
        "a node that runs Python, in another domain",
        "`{path}` computes `PythonOp` at `run`, which is no operation of xconvert's",
    ),
    model(ONE, block(1, block(1, "w") + block(2, "y") + block(3, "run") + block(4, "PythonOp") + block(7, "ai.onnx.contrib"))),
)
_enter(
    *("functions", "a function of its own beside the graph", "`{path}` holds more than a network, in field 25 of the model"),
    model(ONE) + block(25, block(1, "Conv")),
)
