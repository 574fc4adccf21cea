"""Narrow networks of every family with random weights, for what runs or writes a graph whatever it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from xconvert.architectures import families
from xconvert.axes import rearrange
from xconvert.mappings import library
from xconvert.model import Array, Attribute, Checkpoint, Depth, Graph, Layer, Model, Tensor

# Name → family, depth, whether there is a head, attributes.
GRAPHS: dict[str, tuple[str, Depth, bool, dict[str, Any]]] = {
    "xception.same": ("xception", Depth(3, 1), True, {"pool_padding": "same_upper"}),
    "xception.symmetric": ("xception", Depth(3, 1), True, {"pool_padding": "symmetric", "bn_epsilon": 1e-5}),
    "xception.headless": ("xception", Depth(3, 0), False, {}),
    "aligned": ("xception_aligned", Depth(3, 1), True, {}),
    "aligned.dilated": ("xception_aligned", Depth(3, 1), True, {"exit_dilation": 2, "head_scale": 0.5}),
    "aligned.headless": ("xception_aligned", Depth(5, 1), False, {}),
    "preact": ("xception_preact", Depth(3, 1), True, {}),
    "paddleclas": ("xception_paddleclas", Depth(5, 1), True, {}),
}
CLASSES, DIVIDE = 7, 16


@cache
def graph(name: str) -> tuple[tuple[Layer, ...], dict[str, Array]]:
    """The layers, and float32 weights in canonical axes."""
    family, depth, head, attributes = GRAPHS[name]
    found = families()[family]
    layers = found.build(depth, head, {**found.attributes, **attributes})
    return layers, random_weights(layers, DIVIDE)


def random_weights(
    layers: Sequence[Layer], divide: int, classes: int = CLASSES, channels: int = 3, seed: int = 0
) -> dict[str, Array]:
    """Weights for widths of 1/``divide`` that keep every activation in a sane range."""
    rng = np.random.default_rng(seed)
    width = {"image": channels}
    weights: dict[str, Array] = {}
    for layer in layers:
        inputs = width[layer.inputs[0]]
        outputs = classes if layer.op == "linear" else max(layer.width // divide, 2) if layer.width else inputs
        sizes = {"H": layer.kernel, "W": layer.kernel, "I": inputs, "O": outputs, "C": inputs}
        for parameter, axes in layer.parameters.items():
            shape = [sizes[axis] for axis in axes.split()]
            fan_in = np.prod([sizes[axis] for axis in axes.split() if axis not in "OC"])
            drawn = rng.uniform(0.5, 1.5, shape) if parameter in ("gamma", "variance") else rng.standard_normal(shape)
            spread = np.sqrt(2 / fan_in) if parameter == "weight" else 1 if parameter in ("gamma", "variance") else 0.1
            weights[f"{layer.name}.{parameter}"] = (drawn * spread).astype(np.float32)
        width[layer.name] = outputs
    return weights


def model(name: str, implementation: str, depth: Depth, *, head: bool = True, divide: int = 1, **sizes: int) -> Model:
    """A network of family ``name`` as ``implementation`` has it at ``depth``, with random weights."""
    family = families()[name]
    found = library().find(implementation, family, depth)
    assert found is not None
    told = {key: Attribute(value, "test") for key, value in found.attributes.items()}
    weights = random_weights(family.build(depth, head, found.attributes), divide, **sizes)
    own = {key: Tensor.of(array) for key, array in weights.items()}
    return Model(family, depth, head, told, own, found.preprocessing, implementation)


ONNX = {"conv": "O I H W", "depthwise": "C 1 H W", "pointwise": "O I 1 1"}
KERAS = {"depthwise": "H W C 1", "pointwise": "1 1 I O"}
STEMS = {"conv": "conv2d", "depthwise": "depthwise_conv2d", "pointwise": "conv2d", "batch_norm": "batch_normalization"}


def graph_checkpoint(
    layers: tuple[Layer, ...], weights: dict[str, Array], *, numbered: bool = False, metadata: dict[str, str] | None = None
) -> Checkpoint:
    """What is to be written of a graph under its own names: as ONNX lays weights out, or ``numbered`` as Keras 3 does, with
    depthwise and pointwise convolutions apart."""
    tensors: dict[str, Tensor] = {}
    count: Counter[str] = Counter()
    for layer in layers:
        stem = STEMS.get(layer.op, "dense")
        number = f"{stem}_{count[stem]}" if count[stem] else stem
        count[stem] += bool(layer.parameters)
        for i, (parameter, axes) in enumerate(layer.parameters.items()):
            theirs = (KERAS if numbered else ONNX).get(layer.op, axes) if parameter == "weight" else axes
            array = np.ascontiguousarray(rearrange(weights[f"{layer.name}.{parameter}"], axes, theirs))
            tensors[f"{number}/{i}" if numbered else f"{layer.name}.{parameter}"] = Tensor.of(array)
    names = {layer.name: layer.name.replace(".", "_") if numbered else layer.name for layer in layers if layer.parameters}
    own = {name: Tensor.of(array) for name, array in weights.items()}
    return Checkpoint(tensors, metadata or {}, dialect="onnx", graph=Graph(layers, names, own))
