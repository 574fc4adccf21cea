"""What goes wrong with a single operation: axes, windows, a factor, precision, an activation that is left out."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from xconvert.backends.numpy import OPERATIONS
from xconvert.faults._network import Candidates, Fault, Network, changed, replaced
from xconvert.model import Array, Layer


def kernels(network: Network, layer: Layer, inputs: list[Array], output: Array | None) -> Candidates:
    """A kernel with its axes in another order, turned, or read as if they were."""
    for told, change in (
        ("with height and width exchanged", lambda _, w: w.swapaxes(0, 1) if w.ndim > 2 else w),
        ("with inputs and outputs exchanged", lambda op, w: w.swapaxes(-1, -2) if op != "depthwise" else w),
        ("turned by 180°, as Theano's are,", lambda _, w: w[::-1, ::-1] if w.ndim > 2 else w),
        ("with its axes renamed instead of moved", lambda _, w: _misread(w)),
    ):
        yield from changed(
            network,
            layer,
            "transposed",
            f"{{other}} has the kernel {told} in {{where}}",
            lambda each, own, change=change: {"weight": change(each.op, own["weight"])},  # type: ignore[misc]
        )


def _misread(weight: Array) -> Array:
    """The numbers of O I H W (C H W, O I) in their order, taken for H W I O (H W C, I O)."""
    order = {4: (3, 2, 0, 1), 3: (2, 0, 1), 2: (1, 0)}[weight.ndim]
    return weight.transpose(order).reshape(weight.shape)


def windows(network: Network, layer: Layer, inputs: list[Array], output: Array | None) -> Candidates:
    """A window that lies elsewhere: other padding, another dilation."""
    if layer.kernel == 1:
        return
    for padding in (layer.dilation, "same_upper", 0):
        if padding != layer.padding:
            told = f"{{other}} pads {PADDED[padding]}, {{reference}} {PADDED[layer.padding]}, in {{where}}"
            yield from replaced(network, layer, "padding", told, lambda each, padding=padding: each._replace(padding=padding))  # type: ignore[misc]
    if layer.op == "max_pool":
        told = "{other} pads with zeros instead of minus infinity, in {where}"
        yield from replaced(network, layer, "padding", told, lambda each: each._replace(op="max_pool_over_zeros"))
        return
    for dilation in (1, 2):
        if dilation != layer.dilation:
            centred = layer.padding == layer.dilation * (layer.kernel // 2)
            padding = dilation * (layer.kernel // 2) if centred else layer.padding
            told = f"{{other}} looks {APART[dilation]}, {{reference}} {APART[layer.dilation]}, in {{where}}"
            alone = layer._replace(dilation=dilation, padding=padding)
            block = {
                each.name: each._replace(dilation=dilation, padding=padding)
                for each in network.alike(layer)
                if (each.dilation, each.padding, _block(each)) == (layer.dilation, layer.padding, _block(layer))
            }
            yield Fault("dilation", told.replace("{where}", f"`{_block(layer)}`"), layers=block)
            yield Fault("dilation", told.replace("{where}", f"`{layer.name}`"), layers={layer.name: alone})


def _block(layer: Layer) -> str:
    """What a layer of a separable convolution is in: `exit.block2` of `exit.block2.sepconv1.depthwise`."""
    return layer.name.rpartition(".sepconv")[0]


PADDED = {0: "nothing", 1: "one pixel on each side", 2: "two pixels on each side", "same_upper": "the odd pixel at the end"}
APART = {1: "at neighbouring pixels", 2: "at every other pixel"}


def scale(network: Network, layer: Layer, inputs: list[Array], output: Array | None) -> Candidates:
    """Zeros, or the same result times a number, before a bias is added."""
    yield Fault("missing", f"{{other}} has zeros for the kernel of `{layer.name}`", weights=_scaled(network, layer, 0.0))
    if output is None:
        return
    ours = np.stack([OPERATIONS[layer.op](x, layer, *network.of(layer).values()) for x in inputs[0]])
    bias = network.of(layer).get("bias", 0)
    ours, theirs = ours - bias, output - bias
    if ours.shape != theirs.shape or not np.square(ours).sum() > 0:
        return
    factor = float(f"{np.sum(ours * theirs) / np.sum(ours * ours):.5g}")
    if np.isfinite(factor) and factor != 0 and abs(factor - 1) > 1e-4:
        told = f"{{other}} multiplies with {factor:g} what {{reference}} takes as it is, in `{layer.name}`"
        yield Fault("scale", told, weights=_scaled(network, layer, factor))


def _scaled(network: Network, layer: Layer, factor: float) -> dict[str, Array]:
    return {f"{layer.name}.weight": network.weights[f"{layer.name}.weight"] * factor}


def precision(network: Network, layer: Layer, inputs: list[Array], output: Array | None) -> Candidates:
    """Weights that were once rounded to half precision; but those that it cannot hold, which are told as what they become."""
    for dtype in (np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)):
        most = float(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
        rounded = {
            name: array.astype(dtype).astype(np.float64) if np.abs(array).max() <= most else array
            for name, array in network.weights.items()
        }
        told = f"{{other}} has weights that were rounded to {dtype.name}"
        yield Fault("precision", told, weights=rounded)
        own = {f"{layer.name}.{p}": rounded[f"{layer.name}.{p}"] for p in layer.parameters}
        yield Fault("precision", f"{told}, in `{layer.name}`", weights=own)


def activations(network: Network, layer: Layer, inputs: list[Array], output: Array | None) -> Candidates:
    """A ReLU that is missing, or one side of an addition."""
    if layer.op == "relu":
        told = "{other} leaves out the ReLU, in {where}"
        yield from replaced(network, layer, "activation", told, lambda each: each._replace(op="none"))
    for op, which in (("first", layer.inputs[-1]), ("second", layer.inputs[0])) if layer.op == "add" else ():
        yield Fault("activation", f"{{other}} leaves out `{which}` in `{layer.name}`", layers={layer.name: layer._replace(op=op)})
