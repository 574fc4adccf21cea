"""Weights that behave like trained ones: every layer's statistics are those of the images that pass through it.

A fresh initialisation (gamma 1, beta 0, mean 0, variance 1) hides most mistakes; here every BatchNorm vector is
distinct, and a quarter of the variances are so small that epsilon matters (shared/facts/semantics.md, 5 and 6). NumPy
alone; same arguments, same weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xconvert.backends._graph import execute
from xconvert.backends.numpy import OPERATIONS, add
from xconvert.model import Array, Layer
from xconvert.probe import images

SMALL = 0.25  # share of channels with a variance of 10^-3 … 10^-2
SPREAD = 3.0  # standard deviation of the logits


def widths(layers: Sequence[Layer], divide: int = 1) -> dict[str, int]:
    """Output channels of every convolution as published, each divided by ``divide``, rounded down."""
    return {layer.name: layer.width // divide for layer in layers if layer.op in ("conv", "pointwise")}


def calibrated(
    layers: Sequence[Layer], width: Mapping[str, int], *, classes: int = 1000, channels: int = 3, seed: int = 0, size: int = 150
) -> dict[str, Array]:
    """``"<layer>.<parameter>"`` → float32 array in canonical axes, for ``layers`` with the output channels ``width``.

    Three probe images of ``size`` pixels run through the graph in float64. Each convolution is rescaled so that the
    variance behind it is the one drawn for its BatchNorm; the stored statistics are a little off, as a running
    average is (mean by 5 % of a standard deviation, variance by up to 10 %). The classifier gives logits with mean
    about 0 and standard deviation about 3.
    """
    rng = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    by_name = {layer.name: layer for layer in layers}

    def step(layer: Layer, inputs: list[Any]) -> Any:
        if layer.op == "add":
            return [add(x, y, layer) for x, y in zip(*inputs, strict=True)]
        maps = inputs[0]
        if layer.op == "batch_norm":
            kernel = by_name[layer.inputs[0]]
            scalable = f"{kernel.name}.weight" in weights  # the sums that pre-activation normalises have no kernel of their own
            drawn, factor = _normalisation(rng, maps, scalable)
            if scalable:
                weights[f"{kernel.name}.weight"] = weights[f"{kernel.name}.weight"] * factor
            maps = [x * factor for x in maps]
        elif layer.op == "linear":
            drawn = _classifier(rng, np.stack(maps), classes)
        else:
            drawn = _convolution(rng, layer, maps[0].shape[-1], width.get(layer.name, 0))
        weights.update({f"{layer.name}.{parameter}": array for parameter, array in drawn.items()})
        return [OPERATIONS[layer.op](x, layer, *(weights[f"{layer.name}.{p}"] for p in layer.parameters)) for x in maps]

    probes = list(images(size, 3, channels, seed).astype(np.float64))
    execute(layers, probes, step, ())
    return {name: array.astype(np.float32) for name, array in weights.items()}


def _convolution(rng: np.random.Generator, layer: Layer, inputs: int, outputs: int) -> dict[str, Array]:
    shape: tuple[int, ...] = {
        "conv": (layer.kernel, layer.kernel, inputs, outputs),
        "depthwise": (layer.kernel, layer.kernel, inputs),
        "pointwise": (inputs, outputs),
    }.get(layer.op, ())
    if not shape:
        return {}
    fan_in = np.prod(shape[:2] if layer.op == "depthwise" else shape[:-1])
    return {"weight": rng.standard_normal(shape) * np.sqrt(2 / fan_in)}  # He et al. 2015


def _normalisation(rng: np.random.Generator, maps: Sequence[Array], free: bool) -> tuple[dict[str, Array], Array]:
    """Parameters of a BatchNorm, and what each channel before it must be multiplied with to have the variance
    drawn; where nothing is ``free`` to be multiplied, the variance is what it is."""
    rows = np.concatenate([x.reshape(-1, x.shape[-1]) for x in maps])
    count = rows.shape[1]
    variance = np.where(rng.random(count) < SMALL, 10 ** rng.uniform(-3, -2, count), rng.uniform(0.3, 2, count))
    variance = variance if free else np.maximum(rows.var(0), 1e-12)
    factor = np.sqrt(variance / np.maximum(rows.var(0), 1e-12))
    return {
        "gamma": rng.uniform(0.5, 1.5, count),
        "beta": rng.normal(0, 0.2, count),
        "mean": rows.mean(0) * factor + 0.05 * np.sqrt(variance) * rng.standard_normal(count),
        "variance": variance * rng.uniform(0.9, 1.1, count),
    }, factor


def _classifier(rng: np.random.Generator, features: Array, classes: int) -> dict[str, Array]:
    weight = rng.standard_normal((features.shape[1], classes))
    centred = (features - features.mean(0)) @ weight
    weight *= SPREAD / centred.std()
    return {"weight": weight, "bias": rng.normal(0, 0.1, classes) - features.mean(0) @ weight}
