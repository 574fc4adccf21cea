"""First convolutions made for other images."""

from __future__ import annotations

import numpy as np

from xconvert.backends.numpy import OPERATIONS
from xconvert.faults._network import Candidates, Fault, Network
from xconvert.model import Array, Layer


def images(network: Network, layer: Layer, inputs: list[Array], output: Array | None) -> Candidates:
    """A first convolution made for images with other values, or another order of channels."""
    if layer.inputs != ("image",):
        return
    weight = network.weights[f"{layer.name}.weight"]
    backwards = {f"{layer.name}.weight": np.ascontiguousarray(weight[:, :, ::-1])}
    yield Fault("preprocessing", "{other} takes the channels of images the other way round, BGR for RGB", weights=backwards)
    yield from _normalisations(network, layer, weight)
    if output is None:
        return
    columns = []
    for i in range(weight.shape[2]):
        only = np.zeros_like(weight)
        only[:, :, i] = weight[:, :, i]
        columns.append(np.stack([OPERATIONS["conv"](x, layer, only) for x in inputs[0]]).ravel())
    if columns[0].shape != output.ravel().shape:
        return
    factors = np.linalg.lstsq(np.stack(columns, 1), output.ravel(), rcond=None)[0]
    if np.abs(factors - 1).max() > 1e-4:
        told = f"{{other}} is made for images whose values are {' / '.join(f'{1 / f:.4g}' for f in factors)} times as large"
        yield Fault("preprocessing", told, weights={f"{layer.name}.weight": weight * factors[:, None]})


def _normalisations(network: Network, layer: Layer, weight: Array) -> Candidates:
    """The first convolution, and the mean of the batch norm behind it, made for images normalised as by another zoo: what was
    (p - mean) / std of a pixel p from 0 to 1 is now (p - theirs) / their std.
    """
    behind = next((each for each in network.layers.values() if each.inputs == (layer.name,) and each.op == "batch_norm"), None)
    if network.normalised is None or behind is None or weight.shape[2] != len(network.normalised[0]):
        return
    mean, std = network.normalised
    for name, (theirs, spread) in network.known.items():
        if np.allclose(theirs, mean) and np.allclose(spread, std):
            continue
        kernel = weight * (spread / std)[:, None]
        shift = np.einsum("hwio,i->o", weight, (theirs - mean) / std)
        told = f"{{other}} is made for images normalised as {name}"
        changed = {f"{layer.name}.weight": kernel, f"{behind.name}.mean": network.weights[f"{behind.name}.mean"] - shift}
        yield Fault("preprocessing", told, weights=changed)
