"""What an ONNX graph computes, in the terms of ``Layer``: the inverse of ``xconvert/onnx_graph.py``, and of nothing else.

Layers are taken from the nodes as far as they show, and written again: a node that is not, byte for byte, what its layer is
written as says something that the layer does not. So no attribute, domain or wiring can be overlooked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xconvert import onnx_graph
from xconvert.deferred import np
from xconvert.errors import UnreadableError
from xconvert.formats._arrays import shown
from xconvert.formats._protobuf import Field, block, fields, packed, signed
from xconvert.model import PARAMETERS, Layer, Tensor
from xconvert.tuples import NamedTuple

HINTS = ["ONNX files that xconvert wrote are read; give the checkpoint that this one was exported from"]
_CAST = "Cast"


class Node(NamedTuple):
    """A node as far as a layer shows in it: ``told`` is the ``op`` that the writer put into its ``doc_string``."""

    operator: str
    name: str
    told: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any]
    content: memoryview


def text(value: Field) -> str:
    """A field that holds text; raises ``ValueError`` for anything else."""
    try:
        return bytes(part(value)).decode()
    except UnicodeDecodeError:
        raise ValueError("a name is no text") from None


def part(value: Field) -> memoryview:
    """A field that holds bytes; raises ``ValueError`` for a number."""
    if isinstance(value, int):
        raise ValueError("a field has the wrong type")
    return value


def parse(path: Path, content: memoryview) -> Node:
    """A ``NodeProto``. Raises ``UnreadableError`` unless its operator is one of the writer's, ``ValueError`` for no message."""
    operator = name = told = ""
    inputs, attributes = list[str](), list[memoryview]()
    for field, value in fields(content):
        if field == 1:
            inputs.append(text(value))
        elif field == 3:
            name = text(value)
        elif field == 4:
            operator = text(value)
        elif field == 5:
            attributes.append(part(value))
        elif field == 6:
            told = text(value)
    if operator not in {_CAST, *onnx_graph.OPERATORS.values()}:
        what = f"computes `{shown(operator)}` at `{shown(name)}`, which is no operation of xconvert's"
        raise UnreadableError(f"`{path}` {what}", hints=HINTS)
    if operator != _CAST and onnx_graph.OPERATORS.get(told) != operator:
        raise _otherwise(path, operator, name)
    return Node(operator, name, told, tuple(inputs), dict(map(_attribute, attributes)), content)


def _attribute(data: memoryview) -> tuple[str, Any]:
    """Name and value of a node's attribute: a float, text or whole numbers; None for anything else."""
    name, whole = "", list[int]()
    value: float | str | None = None
    for field, content in fields(data):
        if field == 1:
            name = text(content)
        elif field == 2 and len(part(content)) == 4:
            # written with the digits that the float32 has: 0.001, not 0.0010000000474974513
            value = float(str(np.frombuffer(part(content), "<f4")[0]))
        elif field == 4:
            value = text(content)
        elif field == 8:
            whole += [content] if isinstance(content, int) else packed(content)
    return name, tuple(map(signed, whole)) or value


def program(path: Path, nodes: Sequence[Node], tensors: Mapping[str, Tensor], interface: bytes) -> tuple[Layer, ...]:
    """The layers in order of execution, where ``nodes``, ``interface`` (the fields of the graph's inputs and outputs) and the
    names and ranks of ``tensors`` are what the writer makes of them. Raises ``UnreadableError`` otherwise.
    """
    layers = tuple(_layer(path, node) for node in nodes if node.operator != _CAST)
    _check_wiring(path, layers)
    _check_weights(path, layers, tensors)
    network = onnx_graph.Network(layers, tensors)
    written = [*network.casts(), *map(network.node, layers)]
    for node, expected in zip(nodes, written, strict=False):
        if block(1, bytes(node.content)) != expected:
            raise _otherwise(path, node.operator, node.name)
    if len(nodes) != len(written):
        raise UnreadableError(f"`{path}` has {len(nodes)} nodes for a network of {len(written)}", hints=HINTS)
    values = [onnx_graph.IMAGE, *tensors, *(network.output(layer) for layer in layers)]
    values += [node.name for node in nodes if node.operator == _CAST]
    _check_once(path, values)
    if interface != network.interface():
        raise UnreadableError(f"`{path}` takes or gives something else than `image` and the last layer's output", hints=HINTS)
    return layers


def _otherwise(path: Path, operator: str, name: str) -> UnreadableError:
    return UnreadableError(
        f"`{path}` computes `{operator}` at `{shown(name)}` in a form that is no operation of xconvert's", hints=HINTS
    )


def _check_once(path: Path, names: Sequence[str]) -> None:
    ((name, count),) = Counter(names).most_common(1)
    if count > 1:
        raise UnreadableError(f"`{path}` has {count} values called `{shown(name)}`", hints=HINTS)


def _layer(path: Path, node: Node) -> Layer:
    """The layer that ``node`` may be."""

    def first(attribute: str, default: int) -> int:
        value = node.attributes.get(attribute)
        return value[0] if isinstance(value, tuple) else default

    def decimal(attribute: str, default: float) -> float:
        value = node.attributes.get(attribute)
        return value if isinstance(value, float) else default

    automatic = node.attributes.get("auto_pad") == "SAME_UPPER"
    values = len(node.inputs) - len(PARAMETERS.get(node.told, ()))
    if values != (2 if node.told == "add" else 1):
        raise _otherwise(path, node.operator, node.name)
    return Layer(
        node.name,
        node.told,
        node.inputs[:values],
        kernel=first("kernel_shape", 1),
        stride=first("strides", 1),
        padding="same_upper" if automatic else first("pads", 0),
        epsilon=decimal("epsilon", 0.0),
        dilation=first("dilations", 1),
        scale=decimal("alpha", 1.0),
        momentum=decimal("momentum", 0.0),
    )


def _check_wiring(path: Path, layers: Sequence[Layer]) -> None:
    """The image goes into a convolution, and every other layer takes what layers before it give."""
    if not layers or layers[0].op != "conv" or layers[0].inputs != (onnx_graph.IMAGE,):
        raise UnreadableError(f"`{path}` has no network that starts with a convolution of `image`", hints=HINTS)
    _check_once(path, [layer.name for layer in layers])
    known = {layers[0].name}
    for layer in layers[1:]:
        if unknown := [name for name in layer.inputs if name not in known]:
            what = f"computes `{shown(layer.name)}` of `{shown(unknown[0])}`, which no layer before it gives"
            raise UnreadableError(f"`{path}` {what}", hints=HINTS)
        known.add(layer.name)


def _check_weights(path: Path, layers: Sequence[Layer], tensors: Mapping[str, Tensor]) -> None:
    """Every parameter has an initializer, as ONNX lays it out, and every initializer is one."""
    ranks = dict[str, int]()
    for layer in layers:
        for parameter, axes in layer.parameters.items():
            theirs = onnx_graph.AXES.get(layer.op, axes) if parameter == "weight" else axes
            ranks[f"{layer.name}.{parameter}"] = len(theirs.split())
    if differing := sorted(ranks.keys() ^ tensors.keys()):
        which = "lacks" if differing[0] in ranks else "holds weights that no node takes:"
        raise UnreadableError(f"`{path}` {which} `{shown(differing[0])}`", hints=HINTS)
    for layer in layers:
        for parameter in layer.parameters:
            name = f"{layer.name}.{parameter}"
            shape, spatial = tensors[name].shape, (layer.kernel, layer.kernel)
            window = shape[1:] == (1, *spatial) if layer.op == "depthwise" else shape[2:] == spatial
            if len(shape) != ranks[name] or (len(shape) == 4 and not window):
                raise UnreadableError(f"`{path}` holds `{shown(name)}` in a shape that its node does not take", hints=HINTS)


def evidence(layers: Sequence[Layer]) -> dict[str, tuple[Any, str]]:
    """The attributes that ``layers`` have, where all that show one agree, as attribute → (value, ``"graph"``)."""
    last = [layer for layer in layers if layer.op == "depthwise" and layer.name.startswith("exit.block2.")]
    found: dict[str, list[Any]] = {
        "bn_epsilon": [layer.epsilon for layer in layers if layer.op == "batch_norm"],
        "pool_padding": ["symmetric" if layer.padding == 1 else layer.padding for layer in layers if layer.op == "max_pool"],
        "exit_dilation": [layer.dilation for layer in last],
        "head_scale": [layer.scale for layer in layers if layer.op == "linear"],
        "bn_momentum": [layer.momentum for layer in layers if layer.op == "batch_norm" and 0 < layer.momentum < 1],
    }
    agreed = {name: values[0] for name, values in found.items() if values and all(value == values[0] for value in values)}
    if isinstance(agreed.get("pool_padding"), int):
        del agreed["pool_padding"]  # a border that no network has
    return {name: (value, "graph") for name, value in agreed.items()}
