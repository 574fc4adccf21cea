"""Walking the graph, the same for every framework that executes it layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from xconvert.model import Array, Layer

Step = Callable[[Layer, list[Any]], Any]
STATISTICS = ("mean", "variance")  # the parameters of a batch norm that no gradient moves


def execute(layers: Sequence[Layer], image: Any, step: Step, wanted: Collection[str]) -> dict[str, Any]:
    """Outputs of the ``wanted`` layers by name: ``step(layer, inputs)`` computes one layer.

    ``image`` and the outputs are whatever the framework calls a map. An output is let go after its last use.
    """
    last_use = {name: layer.name for layer in layers for name in layer.inputs}
    live: dict[str, Any] = {"image": image}
    kept: dict[str, Any] = {}
    for layer in layers:
        live[layer.name] = step(layer, [live[name] for name in layer.inputs])
        if layer.name in wanted:
            kept[layer.name] = live[layer.name]
        for name in set(layer.inputs):
            if last_use[name] == layer.name:
                del live[name]
    return kept


class Walk:
    """What a network of a graph is in any framework of modules: ``graph``, its layers, and ``places``, the path of the module of
    each. Whatever inherits from it computes one layer in ``_step``.
    """

    graph: tuple[Layer, ...]
    places: dict[str, str]
    _step: Step

    def activations(self, images: Any, wanted: Collection[str]) -> dict[str, Any]:
        """Outputs of the ``wanted`` layers by name, maps as (N, C, H, W)."""
        return execute(self.graph, images, self._step, wanted)

    def answer(self, images: Any) -> Any:
        """Logits (N, classes), or the last map of a headless graph."""
        last = self.graph[-1].name
        return self.activations(images, [last])[last]


def convolution(layer: Layer, weight: Array) -> tuple[int, int, int, int]:
    """Input channels, output channels, padding and groups of the module for a convolution with ``weight`` in canonical axes;
    padding that depends on the size of the map is left to whoever computes it.
    """
    inputs, outputs = weight.shape[-2:] if layer.op != "depthwise" else weight.shape[-1:] * 2
    padding = layer.padding if isinstance(layer.padding, int) else 0
    return inputs, outputs, padding, inputs if layer.op == "depthwise" else 1


def channels_first(images: Array, dtype: str) -> Array:
    """Images (N, H, W, C) as (N, C, H, W) in ``dtype``."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype)


def channels_last(output: Array) -> Array:
    """A map (N, C, H, W) as (N, H, W, C); anything else as it is."""
    return np.ascontiguousarray(output.transpose(0, 2, 3, 1)) if output.ndim == 4 else output


def own_dtype(weights: Mapping[str, Array]) -> str:
    """``"float64"`` when a weight has that precision, else ``"float32"``: half floats are widened, which is exact."""
    return "float64" if any(array.dtype == np.float64 for array in weights.values()) else "float32"


def refuse_width(model: str, layer: Layer, what: str, theirs: int, ours: int) -> None:
    """Raise ``ValueError`` when a model class has ``theirs`` of ``what`` (filters, input channels) and the checkpoint
    ``ours``.
    """
    if theirs != ours:
        raise ValueError(f"{model} has fixed widths: `{layer.name}` has {theirs} {what}, the checkpoint {ours}")
