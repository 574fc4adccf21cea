"""Our graph as an ONNX model, byte by byte; framework-free, because a format writes it and a backend runs it.

Field numbers are those of onnx/onnx.proto, operators those of version 17 of the standard operator set. Every node tells its
layer's ``op`` in its ``doc_string``: a pointwise and a 1x1 convolution are the same node otherwise. What is written here, and
nothing else, is what ``formats/_onnx_program.py`` reads.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence

from xconvert.errors import UsageError
from xconvert.formats._arrays import contents
from xconvert.formats._protobuf import block, fixed32, head, number
from xconvert.model import Layer, Tensor
from xconvert.tuples import NamedTuple

IR_VERSION, OPSET = 8, 17  # of onnx 1.12 (2022): what every runtime since then knows
LIMIT = 2**31 - 1  # bytes; no reader of protocol buffers takes more
FLOATS = {"float32": 1, "float16": 10, "float64": 11, "bfloat16": 16}  # TensorProto.DataType
# Axes of ONNX' weights where they are not ours.
AXES = {"conv": "O I H W", "depthwise": "C 1 H W", "pointwise": "O I 1 1"}
IMAGE = "image"
COMPUTED = "float32"  # what networks compute in, because every runtime can: ONNX Runtime has no convolution in float64
OPSETS = block(1, "") + number(2, OPSET)  # an OperatorSetIdProto
OPERATORS = {
    "conv": "Conv",
    "depthwise": "Conv",
    "pointwise": "Conv",
    "batch_norm": "BatchNormalization",
    "relu": "Relu",
    "max_pool": "MaxPool",
    "add": "Add",
    "global_average": "ReduceMean",
    "linear": "Gemm",
}

Value = int | float | str | Sequence[int]


def output_name(layers: Sequence[Layer]) -> str:
    """What the network's output is called: ``"logits"``, or ``"features"`` without a head."""
    return "logits" if layers[-1].op == "linear" else "features"


def model(
    layers: Sequence[Layer],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> Iterator[bytes | memoryview]:
    """A ``ModelProto`` in pieces, each to be used before the next; no more of the tensors is in memory than one of them.

    ``tensors``: every initializer, ``"<layer>.<parameter>"`` in ONNX' axes. The input ``image`` is (N, channels, height,
    width) of any batch and size. Every node has the name of its layer, and so has its output but for the last one's.
    Numbers are computed in float32; floats of other sizes stay as they are stored and are cast where they are used, because
    no operator takes two types: exactly where they are smaller, rounded once where they are float64. Raises ``UsageError``
    for tensors that are no such floats and for networks beyond protobuf's 2 GB.
    """
    network = Network.of(layers, tensors)
    before = b"".join([*network.casts(), *map(network.node, layers), block(2, "xconvert")])
    described = [(name, tensor, _tensor_head(name, tensor)) for name, tensor in tensors.items()]
    sizes = {name: len(start) + tensor.nbytes for name, tensor, start in described}
    after = network.interface()
    total = len(before) + len(after) + sum(len(head(5, size)) + size for size in sizes.values())
    if total + sum(len(key) + len(text) + 64 for key, text in (metadata or {}).items()) > LIMIT - 64:
        raise UsageError("a network of more than 2 GB does not fit into one `.onnx` file", hints=["write `.safetensors` instead"])
    yield number(1, IR_VERSION) + block(2, "xconvert") + head(7, total) + before
    for name, tensor, start in described:
        yield head(5, sizes[name]) + start
        yield from contents(name, tensor)
    entries = b"".join(block(14, block(1, key) + block(2, text)) for key, text in (metadata or {}).items())
    yield after + block(8, OPSETS) + entries


def more_outputs(names: Iterable[str]) -> bytes:
    """What appended to a model makes these values outputs too: a second ``graph``, which protobuf merges with the first."""
    return block(7, b"".join(block(12, block(1, name)) for name in names))


class Network(NamedTuple):
    """The parts of a ``GraphProto`` that say what is computed."""

    layers: Sequence[Layer]
    tensors: Mapping[str, Tensor]

    @classmethod
    def of(cls, layers: Sequence[Layer], tensors: Mapping[str, Tensor]) -> Network:
        """A network that computes with ``tensors``; raises ``UsageError`` for those that are no floats."""
        for name, tensor in tensors.items():
            if tensor.dtype not in FLOATS:
                raise UsageError(f"`.onnx` networks cannot compute with `{name}` of dtype `{tensor.dtype}`")
        return cls(layers, tensors)

    def used(self, layer: Layer, parameter: str) -> str:
        """The value that an operator takes: an initializer, or what it is cast to."""
        name = f"{layer.name}.{parameter}"
        return name if self.tensors[name].dtype == COMPUTED else f"{name}.{COMPUTED}"

    def casts(self) -> Iterator[bytes]:
        """Nodes that make float32 of what is stored otherwise."""
        for layer in self.layers:
            for parameter in layer.parameters:
                used = self.used(layer, parameter)
                if used != f"{layer.name}.{parameter}":
                    yield _node("Cast", [f"{layer.name}.{parameter}"], used, used, {"to": FLOATS[COMPUTED]})

    def node(self, layer: Layer) -> bytes:
        """The operator of a layer."""
        attributes: dict[str, Value] = {}
        if layer.op in ("conv", "depthwise", "pointwise", "max_pool"):
            attributes = {"kernel_shape": (layer.kernel,) * 2, "strides": (layer.stride,) * 2, **_padding(layer)}
        if layer.op in ("conv", "depthwise", "pointwise"):
            attributes["dilations"] = (layer.dilation,) * 2
            attributes["group"] = self.channels(layer) if layer.op == "depthwise" else 1
        elif layer.op == "batch_norm":
            attributes = {"epsilon": layer.epsilon, **({"momentum": layer.momentum} if layer.momentum else {})}
        elif layer.op == "global_average":
            attributes = {"axes": (2, 3), "keepdims": 0}
        elif layer.op == "linear" and layer.scale != 1:
            attributes = {"alpha": float(layer.scale)}
        inputs = [*layer.inputs, *(self.used(layer, parameter) for parameter in layer.parameters)]
        return _node(OPERATORS[layer.op], inputs, self.output(layer), layer.name, attributes, layer.op)

    def output(self, layer: Layer) -> str:
        """What the value that a layer gives is called."""
        return output_name(self.layers) if layer is self.layers[-1] else layer.name

    def channels(self, layer: Layer) -> int:
        """How many channels, or classes, a layer with parameters gives."""
        parameter = "bias" if layer.op == "linear" else next(iter(layer.parameters))
        return self.tensors[f"{layer.name}.{parameter}"].shape[0]

    def interface(self) -> bytes:
        """The graph's input and output."""
        kind, by_name = FLOATS[COMPUTED], {layer.name: layer for layer in self.layers}
        first, last = self.layers[0], self.layers[-1]
        channels = self.tensors[f"{first.name}.weight"].shape[1]
        image = _value(IMAGE, kind, ("batch", channels, "height", "width"))
        while not last.parameters:
            last = by_name[last.inputs[0]]
        output = output_name(self.layers)
        sizes = () if output == "logits" else ("", "")
        return block(11, image) + block(12, _value(output, kind, ("batch", self.channels(last), *sizes)))


def _padding(layer: Layer) -> dict[str, Value]:
    if isinstance(layer.padding, int):
        return {"pads": (layer.padding,) * 4}
    return {"auto_pad": layer.padding.upper()}


def _node(operator: str, inputs: Sequence[str], output: str, name: str, attributes: Mapping[str, Value], told: str = "") -> bytes:
    """A field of a graph: one node. Fields stand in the order of their numbers, as onnx writes them too."""
    parts = [block(1, i) for i in inputs] + [block(2, output), block(3, name), block(4, operator)]
    parts += [block(5, _attribute(key, attributes[key])) for key in sorted(attributes)]
    return block(1, b"".join(parts + [block(6, told)] * bool(told)))


def _attribute(name: str, value: Value) -> bytes:
    """An ``AttributeProto``; field 20 is its type."""
    if isinstance(value, float):
        return block(1, name) + fixed32(2, int.from_bytes(struct.pack("<f", value), "little")) + number(20, 1)
    if isinstance(value, int):
        return block(1, name) + number(3, value) + number(20, 2)
    if isinstance(value, str):
        return block(1, name) + block(4, value) + number(20, 3)
    return block(1, name) + b"".join(number(8, item) for item in value) + number(20, 7)


def _tensor_head(name: str, tensor: Tensor) -> bytes:
    """A ``TensorProto`` up to its raw data."""
    dims = b"".join(number(1, size) for size in tensor.shape)
    return dims + number(2, FLOATS[tensor.dtype]) + block(8, name) + head(9, tensor.nbytes)


def _value(name: str, kind: int, shape: Sequence[int | str]) -> bytes:
    """A ``ValueInfoProto``: a number is a fixed dimension, a text names a free one."""
    dims = [number(1, size) if isinstance(size, int) else block(2, size) if size else b"" for size in shape]
    tensor = number(1, kind) + block(2, b"".join(block(1, dim) for dim in dims))
    return block(1, name) + block(2, block(1, tensor))
