"""The same network, computed in another way, or made for other images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.mutants.kernels import ALL, kernels
from tests.mutants.norms import other_epsilon
from tests.mutations import Computed, Mutant, Subject, fault
from xconvert.model import Array, Layer


def computed(s: Subject, layers: list[str], options: Mapping[str, Any], kind: str, *told: str, **expected: Any) -> Mutant:
    """Some layers with other options."""
    changed = {name: s.layers[name]._replace(**options) for name in layers}
    return Mutant(Computed(s.model, changed, {}), layers[0], kind, told, **expected)


def done(s: Subject, layers: list[str], operation: Callable[..., Array], kind: str, *told: str, **expected: Any) -> Mutant:
    """Some layers that do something else."""
    return Mutant(Computed(s.model, {}, dict.fromkeys(layers, operation)), layers[0], kind, told, **expected)


@fault("epsilon wrong in one late batch norm")
def _(s: Subject) -> Mutant:
    return computed(s, [s.late], {"epsilon": other_epsilon(s)}, "epsilon", f"in `{s.late}`")


@fault("pools that pad otherwise", "xception", "xception_paddleclas")
def _(s: Subject) -> Mutant:
    pools = s.names("max_pool")
    if s.family == "xception":  # the pool of block 2 sees an odd map, for which both paddings are one
        return Mutant(s.given({}, pool_padding="symmetric"), pools[1], "padding", ("one pixel on each side", f"all {len(pools)}"))
    return computed(s, pools, {"padding": "same_upper"}, "padding", "the odd pixel at the end", f"all {len(pools)}")


@fault("pools over zeros", "xception", "xception_paddleclas")
def _(s: Subject) -> Mutant:
    def over_zeros(x: Array, layer: Layer) -> Array:
        one = 0 if layer.padding == "same_upper" and x.shape[1] % 2 == 0 else 1
        x = np.pad(x, ((0, 0), (one, 1), (one, 1), (0, 0)))
        size = (x.shape[1] - 3) // 2 + 1
        views = [x[:, i : i + 2 * size - 1 : 2, j : j + 2 * size - 1 : 2] for i in range(3) for j in range(3)]
        return np.max(views, axis=0)

    pools = s.names("max_pool")
    return done(s, pools, over_zeros, "padding", "zeros instead of minus infinity", f"all {len(pools)}")


@fault("the first convolution pads otherwise")
def _(s: Subject) -> Mutant:
    return computed(s, s.names("conv")[:1], {"padding": "same_upper"}, "padding", "the odd pixel at the end", size=96)


@fault("strided depthwise convolutions pad otherwise", "xception_aligned", "xception_preact")
def _(s: Subject) -> Mutant:
    strided = s.names("depthwise", stride=2)
    return computed(s, strided, {"padding": "same_upper"}, "padding", "the odd pixel at the end", ALL)


@fault("dilation in the last block")
def _(s: Subject) -> Mutant:
    last = [name for name in s.names("depthwise") if name.startswith(("exit.block2", "block9"))]
    told = ("every other pixel", "neighbouring pixels")
    if "exit_dilation" in s.model.attributes:
        return Mutant(s.given({}, exit_dilation=2), last[0], "dilation", told)
    return computed(s, last, {"dilation": 2, "padding": 2}, "dilation", *told)


@fault("dilation in one convolution")
def _(s: Subject) -> Mutant:
    one = s.middle("depthwise", 2, 1)
    return computed(s, [one], {"dilation": 2, "padding": 2}, "dilation", "every other pixel", f"`{one}`")


def unchanged(x: Array, layer: Layer) -> Array:
    return x


@fault("one ReLU missing")
def _(s: Subject) -> Mutant:
    one = s.middle("relu", 2, 1)
    return done(s, [one], unchanged, "activation", "leaves out the ReLU", f"in `{one}`")


@fault("all ReLUs missing")
def _(s: Subject) -> Mutant:
    return done(s, s.names("relu"), unchanged, "activation", "leaves out the ReLU", ALL)


@fault("a shortcut left out")
def _(s: Subject) -> Mutant:
    one = s.middle("add", 2)
    return done(s, [one], lambda x, y, layer: x, "activation", f"leaves out `{s.layers[one].inputs[1]}`")


def of_the_batch(x: Array, layer: Layer, gamma: Array, beta: Array, mean: Array, variance: Array) -> Array:
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    return gamma * (x - mean) / np.sqrt(variance + layer.epsilon) + beta


@fault("training mode")
def _(s: Subject) -> Mutant:
    return done(s, s.names("batch_norm"), of_the_batch, "statistics", "as in training", ALL)


@fault("one batch norm in training mode")
def _(s: Subject) -> Mutant:
    return done(s, [s.late], of_the_batch, "statistics", "as in training", f"in `{s.late}`")


# Made for other images.


@fault("images in BGR")
def _(s: Subject) -> Mutant:
    return kernels(s, s.names("conv")[:1], lambda w: w[:, :, ::-1], "preprocessing", "BGR")


def normalised(s: Subject, mean: Any, std: Any, *told: str) -> Mutant:
    """The network for images y = (p - mean) / std of pixels p from 0 to 1, in the place of its own x = (p - m) / s: it multiplies
    y with std / s in the kernel, and what is constant in x, (mean - m) / s, goes through the kernel into the mean behind it.
    """
    own, spread = (np.array(s.model.preprocessing[key], np.float64) for key in ("mean", "std"))
    first, norm = s.names("conv")[0], s.names("batch_norm")[0]
    weight, shift = s.read(f"{first}.weight"), (np.array(mean) - own) / spread
    scaled = (weight * (np.array(std) / spread)[:, None]).astype(np.float32)
    behind = s.read(f"{norm}.mean") - (weight * shift[:, None]).sum((0, 1, 2))
    other = s.given({f"{first}.weight": scaled, f"{norm}.mean": behind.astype(np.float32)})
    return Mutant(other, first, "preprocessing", ("made for images", *told))


IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
HALF = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@fault("made for another zoo's normalisation")
def _(s: Subject) -> Mutant:
    other = HALF if np.allclose(s.model.preprocessing["mean"], IMAGENET[0]) else IMAGENET
    return normalised(s, *other)


@fault("made for images from 0 to 1")
def _(s: Subject) -> Mutant:
    return normalised(s, [0, 0, 0], [1, 1, 1], "from 0 to 1")


@fault("made for images from 0 to 255")
def _(s: Subject) -> Mutant:
    return normalised(s, [0, 0, 0], [1 / 255] * 3, "from 0 to 255")


@fault("made for images 127.5 times as large")
def _(s: Subject) -> Mutant:
    return kernels(s, s.names("conv")[:1], lambda w: w / 127.5, "preprocessing", "127.5 / 127.5 / 127.5 times as large")
