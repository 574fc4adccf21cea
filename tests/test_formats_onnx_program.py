"""An ONNX file says what it computes: its graph is read as layers, and a graph that xconvert does not write is refused."""

from __future__ import annotations

import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graphs import graph, graph_checkpoint
from tests.narrow import checkpoint, narrow
from xconvert.errors import UnreadableError, UsageError, XconvertError
from xconvert.formats import read
from xconvert.formats._protobuf import block, fields, fixed32, number
from xconvert.formats.onnx import write
from xconvert.model import Depth, Layer, Tensor

Nodes = list[bytes]
HINT = "ONNX files that xconvert wrote are read; give the checkpoint that this one was exported from"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize(
    ("family", "depth", "attributes"),
    [
        ("xception", Depth(3, 2), {"bn_epsilon": 1e-3, "pool_padding": "same_upper", "bn_momentum": 0.99}),
        ("xception", Depth(3, 0), {"bn_epsilon": 1e-5, "pool_padding": "symmetric", "bn_momentum": 0.9}),
        ("xception_aligned", Depth(3, 1), {"bn_epsilon": 1e-3, "exit_dilation": 1, "head_scale": 1.0, "bn_momentum": 0.9997}),
        ("xception_aligned", Depth(5, 1), {"bn_epsilon": 1.001e-5, "exit_dilation": 2, "head_scale": 0.5, "bn_momentum": 0.95}),
        ("xception_preact", Depth(5, 1), {"bn_epsilon": 1e-3}),
        ("xception_paddleclas", Depth(5, 1), {"bn_epsilon": 1e-5}),
    ],
)
def test_the_program_is_the_network(
    family: str, depth: Depth, attributes: dict[str, Any], head: bool, dtype: Any, tmp_path: Path
) -> None:
    model = narrow(depth, family, head, dtype=dtype, **attributes)
    write(tmp_path / "x.onnx", checkpoint(model, "onnx"))
    found = read(tmp_path / "x.onnx")
    assert found.program == tuple(layer._replace(width=0) for layer in model.layers)
    seen = {name: found.evidence[name] for name in attributes if head or name != "head_scale"}
    assert seen == {name: (attributes[name], "graph") for name in seen}
    assert ("head_scale" in found.evidence) == head
    assert {tensor.dtype for tensor in found.tensors.values()} == {np.dtype(dtype).name}


# Injected faults.


def content(name: str, dtype: type = np.float32) -> bytes:
    layers, weights = graph(name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.onnx"
        write(path, graph_checkpoint(layers, {key: array.astype(dtype) for key, array in weights.items()}))
        return path.read_bytes()


def parts(message: bytes) -> list[tuple[int, bytes | int]]:
    return [(f, v if isinstance(v, int) else bytes(v)) for f, v in fields(memoryview(message))]


def joined(found: list[tuple[int, bytes | int]]) -> bytes:
    return b"".join(number(f, v) if isinstance(v, int) else block(f, v) for f, v in found)


def edited(model: bytes, edit: Callable[[Nodes], Nodes]) -> bytes:
    """``model`` with its nodes edited, each the bytes of a ``NodeProto``."""
    whole = parts(model)
    at = [f for f, _ in whole].index(7)
    inner = parts(whole[at][1])
    nodes = edit([v for f, v in inner if f == 1 and isinstance(v, bytes)])
    whole[at] = (7, joined([(1, node) for node in nodes] + [(f, v) for f, v in inner if f != 1]))
    return joined(whole)


def at(name: str, edit: Callable[[bytes], bytes]) -> Callable[[Nodes], Nodes]:
    """Edits the node called ``name``, which must change."""

    def one(nodes: Nodes) -> Nodes:
        new = [edit(node) if (3, name.encode()) in parts(node) else node for node in nodes]
        assert new != nodes
        return new

    return one


def swap(*pairs: tuple[bytes, bytes]) -> Callable[[bytes], bytes]:
    def edit(node: bytes) -> bytes:
        fields_ = parts(node)
        for old, new in pairs:
            fields_ = [(f, v.replace(old, new) if isinstance(v, bytes) and f != 3 else v) for f, v in fields_]
        return joined(fields_)

    return edit


def attribute(name: str, *values: int) -> bytes:
    return block(1, name) + b"".join(number(8, value) for value in values) + number(20, 7)


def real(name: str, value: float) -> bytes:
    return block(1, name) + fixed32(2, int.from_bytes(struct.pack("<f", value), "little")) + number(20, 1)


def without(name: str) -> Callable[[Nodes], Nodes]:
    return lambda nodes: [node for node in nodes if (3, name.encode()) not in parts(node)]


def more(field: int, value: bytes) -> Callable[[bytes], bytes]:
    return lambda node: node + block(field, value)


def padded(nodes: Nodes) -> Nodes:
    pad = block(1, "block2.sepconv2.bn") + block(2, "p") + block(3, "p") + block(4, "Pad")
    where = next(i for i, node in enumerate(nodes) if (3, b"block2.pool") in parts(node))
    return [*nodes[:where], pad, swap((b"block2.sepconv2.bn", b"p"))(nodes[where]), *nodes[where + 1 :]]


def inputs_swapped(node: bytes) -> bytes:
    a, b, *others = parts(node)
    return joined([b, a, *others])


OTHERWISE = "in a form that is no operation of xconvert's"
REFUSED = [
    (
        at("block2.sepconv2.act", swap((b"Relu", b"Sigmoid"))),
        "computes `Sigmoid` at `block2.sepconv2.act`, which is no operation",
    ),
    (at("block2.sepconv2.act", swap((b"relu", b"add"))), f"computes `Relu` at `block2.sepconv2.act` {OTHERWISE}"),
    (at("block2.sepconv2.act", swap((b"relu", b""))), f"computes `Relu` at `block2.sepconv2.act` {OTHERWISE}"),
    (at("block2.sepconv2.act", more(7, b"com.evil")), f"computes `Relu` at `block2.sepconv2.act` {OTHERWISE}"),
    (at("block2.sepconv2.act", more(2, b"second")), f"computes `Relu` at `block2.sepconv2.act` {OTHERWISE}"),
    (at("block2.sepconv2.act", more(1, b"image")), f"computes `Relu` at `block2.sepconv2.act` {OTHERWISE}"),
    (at("block2.pool", more(5, attribute("dilations", 2, 2))), f"computes `MaxPool` at `block2.pool` {OTHERWISE}"),
    (at("block2.pool", swap((b"SAME_UPPER", b"SAME_LOWER"))), f"computes `MaxPool` at `block2.pool` {OTHERWISE}"),
    (padded, "computes `Pad` at `p`, which is no operation"),
    (
        at("block1.conv2", swap((attribute("dilations", 1, 1), attribute("dilations", 2, 1)))),
        f"computes `Conv` at `block1.conv2` {OTHERWISE}",
    ),
    (
        at("block1.conv2", swap((attribute("pads", 0, 0, 0, 0), attribute("pads", 0, 0, 1, 1)))),
        f"computes `Conv` at `block1.conv2` {OTHERWISE}",
    ),
    (
        at("block1.conv2", swap((attribute("kernel_shape", 3, 3), attribute("kernel_shape", 5, 5)))),
        "holds `block1.conv2.weight` in a shape that its node does not take",
    ),
    (at("predictions", more(5, real("beta", 2))), f"computes `Gemm` at `predictions` {OTHERWISE}"),
    (
        at("block1.conv2.bn", swap((b"block1.conv2.bn.gamma", b"block1.conv1.bn.gamma"))),
        f"computes `BatchNormalization` at `block1.conv2.bn` {OTHERWISE}",
    ),
    (without("block1.conv1.act"), "computes `block1.conv2` of `block1.conv1.act`, which no layer before it gives"),
    (without("block1.conv1"), "has no network that starts with a convolution of `image`"),
    (without("predictions"), "holds weights that no node takes: `predictions.bias`"),
    (lambda nodes: [*nodes[:2], nodes[1], *nodes[2:]], "has 2 values called `block1.conv1.bn`"),
    (lambda nodes: [], "has no network that starts with a convolution of `image`"),
]


@pytest.mark.parametrize(("edit", "message"), REFUSED, ids=range(len(REFUSED)))
def test_another_graph_is_refused(edit: Callable[[Nodes], Nodes], message: str, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(edited(content("xception.same"), edit))
    with pytest.raises(UnreadableError) as caught:
        read(tmp_path / "x.onnx")
    assert f"`{tmp_path / 'x.onnx'}` {message}" in caught.value.message
    assert caught.value.hints == (HINT,)


SHOWN = [
    (
        "block2.sepconv1.depthwise",
        swap((attribute("dilations", 1, 1), attribute("dilations", 2, 2))),
        {"dilation": 2},
    ),
    ("block1.conv1", swap((attribute("strides", 2, 2), attribute("strides", 1, 1))), {"stride": 1}),
    ("block2.sepconv1.depthwise", swap((attribute("pads", 1, 1, 1, 1), attribute("pads", 0, 0, 0, 0))), {"padding": 0}),
    ("block2.sepconv1.bn", swap((real("epsilon", 1e-3), real("epsilon", 1e-5))), {"epsilon": 1e-5}),
    ("block2.sepconv1.bn", swap((real("momentum", 0.99), real("momentum", 0.9))), {"momentum": 0.9}),
    ("block2.sepconv1.pointwise", swap((b"pointwise", b"conv"), (b"conv.weight", b"pointwise.weight")), None),
    ("block2.add", inputs_swapped, {"inputs": ("block2.shortcut.bn", "block2.pool")}),
    ("block3.sepconv1.act", swap((b"block2.add", b"block2.pool")), {"inputs": ("block2.pool",)}),
]


@pytest.mark.parametrize(("name", "edit", "changes"), SHOWN, ids=range(len(SHOWN)))
def test_another_network_is_another_program(
    name: str, edit: Callable[[bytes], bytes], changes: dict[str, Any] | None, tmp_path: Path
) -> None:
    (tmp_path / "x.onnx").write_bytes(edited(content("xception.same"), at(name, edit)))
    if changes is None:
        with pytest.raises(UnreadableError):
            read(tmp_path / "x.onnx")
        return
    expected = [layer._replace(width=0) for layer in graph("xception.same")[0]]
    expected = [layer._replace(**changes) if layer.name == name else layer for layer in expected]
    assert read(tmp_path / "x.onnx").program == tuple(expected)


def test_a_scaled_head_is_another_program(tmp_path: Path) -> None:
    def halve(node: bytes) -> bytes:
        *others, told = parts(node)
        return joined([*others, (5, real("alpha", 0.5)), told])

    (tmp_path / "x.onnx").write_bytes(edited(content("xception.same"), at("predictions", halve)))
    found = read(tmp_path / "x.onnx")
    assert found.program and found.program[-1] == Layer("predictions", "linear", ("avg_pool",), scale=0.5)
    assert found.evidence["head_scale"] == (0.5, "graph")


def test_evidence_is_what_all_layers_say(tmp_path: Path) -> None:
    edit = swap((real("epsilon", 1e-3), real("epsilon", 1e-5)))
    (tmp_path / "x.onnx").write_bytes(edited(content("xception.same"), at("block2.sepconv1.bn", edit)))
    told = {"pool_padding": "same_upper", "head_scale": 1.0, "bn_momentum": 0.99}
    assert read(tmp_path / "x.onnx").evidence == {name: (value, "graph") for name, value in told.items()}


def test_casts_are_the_writers_own(tmp_path: Path) -> None:
    half = content("xception.headless", np.float16)
    for edit in (without("block1.conv1.weight.float32"), lambda nodes: nodes[::-1], lambda nodes: [nodes[0], *nodes]):
        (tmp_path / "x.onnx").write_bytes(edited(half, edit))
        with pytest.raises(UnreadableError):
            read(tmp_path / "x.onnx")
    to = at("block1.conv1.weight.float32", swap((block(1, "to") + number(3, 1), block(1, "to") + number(3, 10))))
    (tmp_path / "x.onnx").write_bytes(edited(half, to))
    with pytest.raises(UnreadableError, match=f"computes `Cast` at `block1.conv1.weight.float32` {OTHERWISE}"):
        read(tmp_path / "x.onnx")


MODELS = [
    (block(25, b""), "holds more than a network, in field 25 of the model"),
    (block(8, block(1, "") + number(2, 18)), "uses operators that are not those of version 17"),
    (block(8, block(1, "com.evil") + number(2, 1)), "uses operators that are not those of version 17"),
]


@pytest.mark.parametrize(("added", "message"), MODELS, ids=range(len(MODELS)))
def test_other_meanings_of_the_operators_are_refused(added: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(content("xception.headless") + added)
    with pytest.raises(UnreadableError, match=message):
        read(tmp_path / "x.onnx")


@pytest.mark.parametrize("field", [11, 12])
def test_the_input_and_the_output_are_the_networks(field: int, tmp_path: Path) -> None:
    whole = parts(content("xception.headless"))
    graph_at = [f for f, _ in whole].index(7)
    other = {11: (b"image", b"imags"), 12: (b"features", b"block1.conv1")}[field]
    inner = [(f, v.replace(*other) if f == field else v) for f, v in parts(whole[graph_at][1])]
    whole[graph_at] = (7, joined(inner))
    (tmp_path / "x.onnx").write_bytes(joined(whole))
    with pytest.raises(UnreadableError, match="takes or gives something else than `image` and the last layer's output"):
        read(tmp_path / "x.onnx")


def test_names_that_are_not_the_layers_are_not_written(tmp_path: Path) -> None:
    layers, weights = graph("xception.headless")
    given = graph_checkpoint(layers, weights)
    tensors: dict[str, Tensor] = {name.replace("block1.conv1.w", "stem.w"): tensor for name, tensor in given.tensors.items()}
    with pytest.raises(UsageError, match=r"has xconvert's own names, and `block1\.conv1\.weight` differs"):
        write(tmp_path / "x.onnx", given._replace(tensors=tensors))


SMALL = content("xception.headless", np.float16)
NODES_END = SMALL.index(b"xconvert", 20) - 2  # before the tag and the length of the graph's name


@pytest.mark.slow
@given(at=st.integers(0, NODES_END - 1), bits=st.integers(1, 255))
def test_no_damaged_node_passes_for_the_network(tmp_path_factory: pytest.TempPathFactory, at: int, bits: int) -> None:
    """Every byte of a node means something: changed, it is refused or it is another program."""
    path = tmp_path_factory.mktemp("x") / "x.onnx"
    damaged = bytearray(SMALL)
    damaged[at] ^= bits
    path.write_bytes(damaged)
    try:
        found = read(path)
    except XconvertError:
        return
    if at >= 30:  # before it stand the version of the format and the writer's name
        assert found.program != tuple(layer._replace(width=0) for layer in graph("xception.headless")[0])
