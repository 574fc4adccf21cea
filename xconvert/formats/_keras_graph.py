"""The configuration of a functional Keras model for a graph: what Keras 3 makes the layers of before it loads weights.

Only what differs from the defaults of a layer is said. Keras itself builds the same in ``xconvert/backends/keras.py``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from xconvert.model import Graph, Layer

_CLASSES = {
    "conv": "Conv2D",
    "depthwise": "DepthwiseConv2D",
    "pointwise": "Conv2D",
    "batch_norm": "BatchNormalization",
    "relu": "Activation",
    "max_pool": "MaxPooling2D",
    "add": "Add",
    "global_average": "GlobalAveragePooling2D",
    "linear": "Dense",
}
_OURS = {"module": "xconvert.backends.keras", "registered_name": "xconvert>SymmetricMaxPooling2D"}


def configuration(graph: Graph) -> str:
    """``config.json`` for ``graph``: a model that takes (N, H, W, channels) of any size.

    Layers have their canonical names with underscores for dots, which are those of ``keras.applications``: the file
    numbers their weights by class. A depthwise and a pointwise convolution with one name in it are a ``SeparableConv2D``.
    Variables are float32, or float64 if a weight is.
    """
    model = _Model(graph)
    layers = list(model.layers())
    inner = {
        "name": "xception",
        "trainable": True,
        "layers": layers,
        "input_layers": ["image", 0, 0],
        "output_layers": [layers[-1]["name"], 0, 0],
    }
    whole = {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "config": inner,
        "registered_name": "Functional",
    }
    return json.dumps(whole, separators=(",", ":"))


@dataclass
class _Model:
    """``made``: our layer → the name of Keras' layer that has its output, and the channels of that."""

    graph: Graph
    made: dict[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def dtype(self) -> str:
        return "float64" if any(tensor.dtype == "float64" for tensor in self.graph.weights.values()) else "float32"

    def layers(self) -> Iterator[dict[str, Any]]:
        """Every layer's entry, in the order of execution."""
        channels = self.graph.weights[f"{self.graph.layers[0].name}.weight"].shape[2]
        self.made["image"] = ("image", channels)
        image = {"name": "image", "batch_shape": [None, None, None, channels], "dtype": self.dtype}
        yield self.entry("InputLayer", image, [])
        before: dict[str, Layer] = {}  # depthwise halves of separable convolutions
        for layer in self.graph.layers:
            source = layer.inputs[0]
            if layer.op == "depthwise" and self.separable(layer):
                before[layer.name], self.made[layer.name] = layer, self.made[source]
            else:
                yield from self.layer(layer, before.get(source))

    def separable(self, depthwise: Layer) -> bool:
        """Whether the pointwise convolution behind it has the same name."""
        names = self.graph.names
        behind = [layer for layer in self.graph.layers if depthwise.name in layer.inputs]
        return [names[layer.name] for layer in behind if layer.op == "pointwise"] == [names[depthwise.name]]

    def layer(self, layer: Layer, first: Layer | None) -> Iterator[dict[str, Any]]:
        """The entry of a layer, which with ``first`` is a separable convolution, and of what its class leaves out."""
        name = (layer.name.rpartition(".")[0] if first else layer.name).replace(".", "_")
        inputs = [self.made[source] for source in layer.inputs]
        rank = 2 if layer.op == "linear" else 4
        if prepares := _preparing(first or layer):
            kind, options = prepares
            yield self.entry(kind, {"name": f"{name}_input", "dtype": self.dtype, **options}, inputs, rank)
            inputs = [(f"{name}_input", inputs[0][1])]
        kind, options = _options(first or layer)
        if layer.op in ("conv", "pointwise", "linear"):
            options["units" if layer.op == "linear" else "filters"] = self.channels(layer)
        kind = "SeparableConv2D" if first else kind
        yield self.entry(kind, {"name": name, "dtype": self.dtype, **options}, inputs, rank)
        self.made[layer.name] = (name, self.channels(layer) or inputs[0][1])

    def channels(self, layer: Layer) -> int:
        """Those that a layer's weights give it; 0 where it has none."""
        return next((self.graph.weights[f"{layer.name}.{p}"].shape[-1] for p in layer.parameters), 0)

    def entry(self, kind: str, options: dict[str, Any], inputs: list[tuple[str, int]], rank: int = 4) -> dict[str, Any]:
        """A layer of the model, called once on ``inputs``: (layer, channels), maps unless ``rank`` is 2."""
        tensors = [
            {
                "class_name": "__keras_tensor__",
                "config": {
                    "shape": [None] * (rank - 1) + [channels],
                    "dtype": self.dtype,
                    "keras_history": [name, 0, 0],
                },
            }
            for name, channels in inputs
        ]
        ours = kind == "SymmetricMaxPooling2D"
        return {
            **(_OURS if ours else {"module": "keras.layers", "registered_name": None}),
            "class_name": kind,
            "name": options["name"],
            "config": options,
            "inbound_nodes": [{"args": [tensors] if kind == "Add" else tensors, "kwargs": {}}] if tensors else [],
        }


def _preparing(layer: Layer) -> tuple[str, dict[str, Any]] | None:
    """Class and options of a layer that does beforehand what Keras' class for ``layer`` does not."""
    if layer.scale != 1:
        return "Rescaling", {"scale": layer.scale, "offset": 0.0}
    if layer.op in ("conv", "depthwise", "pointwise") and _padding(layer) == "valid" and layer.padding:
        return "ZeroPadding2D", {"padding": [[layer.padding] * 2] * 2}
    return None


def _options(layer: Layer) -> tuple[str, dict[str, Any]]:
    """Keras' class for a layer, and the options that its operation decides."""
    if layer.op == "max_pool" and isinstance(layer.padding, int):
        return "SymmetricMaxPooling2D", {"pool_size": layer.kernel, "strides": layer.stride, "padding": layer.padding}
    options: dict[str, Any] = {}
    if layer.op == "max_pool":
        options = {"pool_size": [layer.kernel] * 2, "strides": [layer.stride] * 2, "padding": "same"}
    elif layer.op in ("conv", "depthwise", "pointwise"):
        options = {"kernel_size": [layer.kernel] * 2, "strides": [layer.stride] * 2, "padding": _padding(layer)}
        options |= {"dilation_rate": [layer.dilation] * 2, "use_bias": False}
    elif layer.op == "batch_norm":
        options = {"epsilon": layer.epsilon, "momentum": layer.momentum}
    elif layer.op == "relu":
        options = {"activation": "relu"}
    return _CLASSES[layer.op], options


def _padding(layer: Layer) -> str:
    """Keras' word for the padding of a convolution; ``"valid"`` also where zeros must be put around its input before."""
    centred = layer.stride == 1 and isinstance(layer.padding, int) and layer.padding * 2 == (layer.kernel - 1) * layer.dilation
    return "same" if layer.padding == "same_upper" or (centred and layer.padding) else "valid"
