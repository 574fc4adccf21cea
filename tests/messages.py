"""Checkpoints of protocol buffers, written field by field: MindSpore's, ONNX models, and Paddle's networks for inference."""

from __future__ import annotations

import json
import struct
from typing import Any

import numpy as np

from xconvert.formats._protobuf import block, number
from xconvert.model import Layer, Tensor
from xconvert.onnx_graph import OPSETS, Network


def value(tag: str | bytes, dims: tuple[int, ...], kind: str | None, content: bytes) -> bytes:
    """One value of the file, as MindSpore's protocol buffer has it."""
    tensor = b"".join(number(1, d) for d in dims) + (block(2, kind) if kind else b"") + block(3, content)
    return block(1, block(1, tag) + block(2, tensor))


def floats(tag: str, *numbers: float) -> bytes:
    return value(tag, (len(numbers),), "Float32", struct.pack(f"<{len(numbers)}f", *numbers))


def attribute(name: str, value: bytes, kind: int) -> bytes:
    return block(5, block(1, name) + value + number(20, kind))


def ints(*values: int) -> bytes:
    return b"".join(number(8, value) for value in values)


def initializer(name: str, *parts: bytes) -> bytes:
    return block(5, b"".join(parts) + block(8, name))


def model(*graph_fields: bytes) -> bytes:
    return number(1, 8) + block(7, b"".join(graph_fields))


def kept(shape: tuple[int, ...], *parts: bytes) -> bytes:
    """A whole model of one convolution whose weight of ``shape`` is the initializer of ``parts``."""
    layer = Layer("w", "conv", ("image",), kernel=shape[-1])
    network = Network([layer], {"w.weight": Tensor.of(np.zeros(shape, np.float32))})
    graph = network.node(layer) + initializer("w.weight", *parts) + network.interface()
    return number(1, 8) + block(7, graph) + block(8, OPSETS)


def stored(array: np.ndarray, code: int = 5, levels: bytes = struct.pack("<Q", 0)) -> bytes:
    """One tensor, as ``SerializeToStream`` writes it."""
    description = number(1, code) + b"".join(number(2, d) for d in array.shape)
    return bytes(4) + levels + bytes(4) + struct.pack("<i", len(description)) + description + array.tobytes()


def program(shapes: dict[str, Any]) -> str:
    operations: list[Any] = [
        {"#": "p", "A": [0, 1, 1, n], "O": {"%": 1, "TT": {"#": "0.t_dtensor", "D": [{}, s]}}} for n, s in shapes.items()
    ]
    return json.dumps({"program": {"regions": [{"blocks": [{"ops": [*operations, {"#": "1.data", "A": []}]}]}]}})


def description(shapes: dict[str, tuple[int, ...]]) -> bytes:
    """A ProgramDesc with the feed and an intermediate map, which are no parameters."""

    def variable(name: str, shape: tuple[int, ...], kind: int = 7, persistable: bool = True) -> bytes:
        tensor = number(1, 5) + b"".join(number(2, d) for d in shape)
        inner = number(1, kind) + (block(3, block(1, tensor)) if kind == 7 else b"")
        return block(3, block(1, name) + block(2, inner) + number(3, persistable))

    inner = [variable("feed", (), kind=9), variable("map", (2**64 - 1, 3), persistable=False)]
    return block(1, number(1, 0) + b"".join([*inner, *(variable(n, s) for n, s in shapes.items())]))
