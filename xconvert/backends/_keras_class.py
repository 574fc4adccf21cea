"""What the Keras model classes have in common: checking widths, and activations seen as outputs of named layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from xconvert.backends import Job
from xconvert.backends._graph import refuse_width
from xconvert.model import Array


def load(model: Any, job: Job, title: str) -> None:
    """Load ``job.path``, ``.h5`` or ``.weights.h5``, the way Keras does: by position.

    Raises ``ValueError`` when the class called ``title`` has other widths or layers.
    """
    for layer in job.layers:
        if layer.op in ("conv", "pointwise", "linear"):
            kernels = [w.shape for w in model.get_layer(job.names[layer.name]).weights if len(w.shape) > 1]
            *_, inputs, outputs = job.weights[f"{layer.name}.weight"].shape
            refuse_width(title, layer, "filters", kernels[-1][-1], outputs)
            refuse_width(title, layer, "input channels", kernels[-1][-2], inputs)
    model.load_weights(str(job.path))


def activations(model: Any, job: Job) -> dict[str, Array]:
    """Activations of ``job.taps``, as far as they are outputs of layers, and of the last layer; maps as (N, H, W, C).

    The depthwise half of a ``SeparableConv2D`` is no layer and cannot be seen.
    """
    import keras

    outputs = {tap: layer.output for tap, layer in _visible(model, job).items()}
    outputs[job.layers[-1].name] = model.output
    computed = keras.Model(model.inputs, list(outputs.values()))(job.images.astype(job.dtype), training=False)
    return {name: np.asarray(output) for name, output in zip(outputs, keras.tree.flatten(computed), strict=True)}


def _visible(model: Any, job: Job) -> dict[str, Any]:
    """Tapped layer → Keras layer: by its name there, by ours with underscores, or among the additions by its place."""
    layers = {layer.name: layer for layer in model.layers}
    additions = iter([layer for layer in model.layers if type(layer).__name__ == "Add"])
    found = {}
    for layer in job.layers:
        name = job.names.get(layer.name, layer.name.replace(".", "_"))
        theirs = next(additions) if layer.op == "add" else layers.get(name)
        if theirs is not None and layer.op != "depthwise" and layer.name in job.taps:
            found[layer.name] = theirs
    return found
