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


def own_dtype(weights: Mapping[str, Array]) -> str:
    """``"float64"`` when a weight has that precision, else ``"float32"``: half floats are widened, which is exact."""
    return "float64" if any(array.dtype == np.float64 for array in weights.values()) else "float32"


def refuse_width(model: str, layer: Layer, what: str, theirs: int, ours: int) -> None:
    """Raise ``ValueError`` when a model class has ``theirs`` of ``what`` (filters, input channels) and the checkpoint
    ``ours``.
    """
    if theirs != ours:
        raise ValueError(f"{model} has fixed widths: `{layer.name}` has {theirs} {what}, the checkpoint {ours}")
