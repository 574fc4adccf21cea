"""Paddle's pickles and networks for inference that are not what they say."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from tests.attacks.registry import Contents, attack
from tests.messages import program, stored
from tests.pickles import Raw, call, named, opcodes
from xconvert.formats._protobuf import number

ARRAY = np.zeros(2, "<f4")


def array(shape: tuple[int, ...] = (2,), raw: Any = bytes(8), code: str = "f4", order: str = "<") -> Raw:
    """The opcodes of a NumPy array, as Paddle's pickles hold it."""
    octets = Raw(b"C" + bytes([len(raw)]) + raw) if isinstance(raw, bytes) else raw
    kind = Raw(opcodes(call("numpy.dtype", code, False, True)) + opcodes((3, order, None, None, None, -1, -1, 0)) + b"b")
    empty = call("numpy.core.multiarray._reconstruct", named("numpy.ndarray"), (0,), Raw(b"C\x01b"))
    return Raw(empty.opcodes + opcodes((1, shape, kind, False, octets)) + b"b")


def _enter(name: str, tries: str, message: str, root: Any) -> None:
    @attack("paddle", ".pdparams", tries, message, name=name)
    def _() -> Contents:
        return b"\x80\x03" + opcodes(root) + b"."


_enter(
    *("shape-larger-than-bytes", "an array of 2^40 numbers in 8 bytes"),
    "`{path}` is damaged: `a` does not have the size of its shape",
    {"a": array((2**40,))},
)
_enter(
    "impossible-shape",
    "an array of 2^124 numbers",
    "`{path}` is damaged: the shape of `a` is impossible",
    {"a": array((2**62, 2**62))},
)
_enter(
    "objects",
    "an array of Python objects",
    "`{path}` holds `a` as an array of `O8`",
    {"a": array(code="O8", raw=[None, None], order="|")},
)
_enter(
    "no-dtype",
    "an array whose dtype is the call of a function",
    "`{path}` holds `a` as an array of no dtype",
    {
        "a": Raw(
            opcodes(call("numpy.core.multiarray._reconstruct", named("numpy.ndarray"), (0,), Raw(b"C\x01b")))
            + opcodes((1, (2,), call("numpy.zeros", 2), False, Raw(b"C\x08" + bytes(8))))
            + b"b"
        )
    },
)
_enter(
    *("name-with-escape-code", "a terminal's escape code in a name"),
    r"`{path}` holds a tensor called `a\x1b[2Jb`",
    {"a\x1b[2Jb": array()},
)
_enter(
    *("pieces-that-do-not-fit", "pieces of an array that make less than it"),
    "`{path}` is damaged: the pieces of `a` do not make up its shape",
    {"a@@.0": array(), "UnpackBigParamInfor@@": {"a": {"OriginShape": (2**40,), "slices": ["a@@.0"]}}},
)
_enter(
    *("one-piece-twice", "an array of one piece, a thousand times"),
    "`{path}` is damaged: the pieces of `a` do not make up its shape",
    {"a@@.0": array(), "UnpackBigParamInfor@@": {"a": {"OriginShape": (2000,), "slices": ["a@@.0"] * 1000}}},
)
_enter(
    *("names-that-are-none", "a table of names that holds calls"),
    "`{path}` is damaged: its `StructuredToParameterName@@` is no table of names",
    {"a": array(), "StructuredToParameterName@@": {"a": call("collections.OrderedDict")}},
)


@attack("paddle", ".pdparams", "a text array in the place of bytes", "`{path}` is damaged: the numbers of `a` are text")
def numbers_that_are_text() -> Contents:
    return b"\x80\x02" + opcodes({"a": array(raw=Raw(opcodes("\u0100" * 8)))}) + b"."


# --- networks for inference


def network(**changed: bytes) -> dict[str, bytes]:
    """A network of one tensor and its program, with some files ``changed``."""
    files = {".pdiparams": stored(ARRAY), ".json": program({"w": (2,)}).encode()}
    return files | {f".{suffix}": content for suffix, content in changed.items()}


def _tensor(description: bytes, data: bytes = bytes(8)) -> bytes:
    return bytes(16) + struct.pack("<i", len(description)) + description + data


def _network(name: str, tries: str, message: str, **changed: bytes) -> None:
    @attack("paddle-inference", ".pdiparams", tries, message, name=name)
    def _() -> Contents:
        return network(**changed)


_network(
    *("shape-larger-than-file", "a tensor of 2^40 numbers in 8 bytes"),
    "`{path}` is truncated: tensor 0 goes on to byte 4398046511133 of 37",
    pdiparams=_tensor(number(1, 5) + number(2, 2**40)),
)
_network(
    *("negative-dimension", "a dimension of -2"),
    "`{path}` is damaged: the shape of `tensor 0` is impossible",
    pdiparams=_tensor(number(1, 5) + number(2, -2)),
)
_network(
    *("description-cut-off", "a description that goes on past its end"),
    "`{path}` is damaged: the description of tensor 0 makes no sense",
    pdiparams=_tensor(b"\x08\x05\x12\xff\xff\xff\x7f"),
)
_network(
    *("levels-of-2-64-bytes", "a level of detail of 2^64 - 1 bytes"),
    "`{path}` is truncated: tensor 1 goes on to byte 18446744073709551667 of 72",
    pdiparams=stored(ARRAY) + bytes(4) + struct.pack("<2Q", 1, 2**64 - 1) + bytes(20),
)
_network(
    *("more-tensors-than-names", "a tensor that the program does not know"),
    "`{path}` holds 2 tensors, the program beside it names 1",
    pdiparams=stored(ARRAY) * 2,
)


@attack("paddle-inference", ".pdiparams", "no program, so no names", "`{path}` holds tensors without names")
def no_program() -> Contents:
    return stored(ARRAY)
