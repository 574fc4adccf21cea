"""How far apart two sets of activations are, and how far they may be.

The tolerance has no magic number in it. In float64, where nothing was rounded on the way, a relative L2 of 1e-9 decides
(measured between executors: 1e-14; the smallest semantic defect: 1e-4). Where one side computed in float32, or weights were
rounded once more by a fold, each layer may be off by 8 times the rounding that the reference itself shows there between float32
and float64 on the same weights and images (observed between frameworks: at the most 1.7), but no less than 8 units of float32.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

from xconvert.deferred import np
from xconvert.errors import VerificationError
from xconvert.model import Array, Model
from xconvert.report import Activations, Agreement, LayerError

EXACT = 1e-9
ROUNDINGS = 8
CANCELLED = 1e-6  # of a sum of squares: what is left of it when the mean is taken out has lost six digits of sixteen
Maps = Sequence[Array] | Array  # of several images
UNIT = 2.0**-24  # of float32: what rounding one number is off by, relative to it
# Where the reference itself overflows float32 there is no rounding to measure: 4 to 5 times the worst that was observed between
# frameworks, for networks of up to so many batch norms (shared/facts/semantics.md §6).
FALLBACK = {41: 3e-5, 84: 1.5e-4, 132: 3e-4, 10**9: 6e-4}


def relative_l2(reference: Maps, other: Maps) -> float:
    """Largest ||other - reference|| / ||reference - mean|| over the images (axis 0), in float64; NaN stays NaN.

    The mean is taken out so that a shift shared by all logits cannot hide an error; where the reference is constant
    its norm is used.
    """
    return float(np.max([_Image(a).relative(_Image(a).apart(b)) for a, b in zip(reference, other, strict=True)]))


class _Image:
    """The output of a layer for one image, of the reference, to be compared; in as few passes over it as can be."""

    def __init__(self, output: Array) -> None:
        self.flat = np.ascontiguousarray(output, np.float64).ravel()

    @cached_property
    def square(self) -> float:
        """The sum of its squares."""
        return float(np.dot(self.flat, self.flat))

    @cached_property
    def spread(self) -> float:
        """How much its values vary, ||it - mean||; or where they do not, their norm."""
        mean = self.flat.mean()
        varies = self.square - self.flat.size * mean * mean
        if not varies > CANCELLED * self.square:  # too few digits are left
            centred = self.flat - mean
            varies = float(np.dot(centred, centred))
        return math.sqrt(varies) or math.sqrt(self.square)

    def apart(self, other: Array) -> Array:
        """``other`` less it."""
        difference: Array = np.subtract(other.ravel(), self.flat, dtype=np.float64)
        return difference

    def relative(self, difference: Array) -> float:
        """The norm of ``difference`` as a share of the spread."""
        error = math.sqrt(np.dot(difference, difference))
        if error == 0:
            return 0.0
        return error / self.spread if self.spread else error * math.inf

    def cosine(self, difference: Array) -> float:
        """Cosine similarity with what is off by ``difference``; 1 where both are zero."""
        along = float(np.dot(self.flat, difference))
        other = self.square + 2 * along + float(np.dot(difference, difference))
        lengths = math.sqrt(self.square) * math.sqrt(max(other, 0.0))
        return (self.square + along) / lengths if lengths else float(not self.square + other)


def allowed_for(rounding: float, fallback: float = FALLBACK[10**9]) -> float:
    """The tolerance that goes with what ``rounding`` does to the reference; ``fallback`` where that is not finite."""
    return max(EXACT, ROUNDINGS * max(rounding, UNIT)) if math.isfinite(rounding) else fallback


def compare(
    names: Iterable[str],
    size: int,
    reference: Mapping[str, Array],
    other: Mapping[str, Array],
    rounded: Mapping[str, Array] | None = None,
    tolerance: float | None = None,
) -> list[LayerError]:
    """Compare the activations of ``names`` that both sides have, (N, …) each, in the order given.

    ``reference`` is in float64; ``rounded`` is the same network in float32: given, it calibrates the tolerance; else
    ``EXACT`` holds. ``tolerance`` overrides both.
    """
    fallback = fallback_for(reference)
    shown = [name for name in names if name in reference and name in other]
    return [
        compare_layer(name, size, reference[name], other[name], rounded[name] if rounded else None, fallback, tolerance)
        for name in shown
    ]


def fallback_for(names: Iterable[str]) -> float:
    """The tolerance of a network of these layers where float32 overflows."""
    norms = sum(name.endswith(".bn") for name in names)
    return next(share for count, share in FALLBACK.items() if norms <= count)


def compare_layer(
    name: str,
    size: int,
    reference: Maps,
    other: Maps,
    rounded: Maps | None,
    fallback: float,
    tolerance: float | None,
) -> LayerError:
    """Compare the output of one layer for each image; as for ``compare``."""
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite, `check_finite` tells
        scale = float(np.max([max(a.max(), -a.min()) for a in reference]))
        images = [_Image(a) for a in reference]
        single = [] if rounded is None else [a.relative(a.apart(b)) for a, b in zip(images, rounded, strict=True)]
        rounding = float(np.max(single)) if single else 0.0
        allowed = allowed_for(rounding, fallback) if single else EXACT
        held_to = allowed if tolerance is None else tolerance
        if [a.shape for a in reference] != [b.shape for b in other]:
            return LayerError(name, size, math.inf, math.inf, scale, held_to, math.inf, 0.0, rounding)
        apart = [a.apart(b) for a, b in zip(images, other, strict=True)]
        relative = float(np.max([a.relative(d) for a, d in zip(images, apart, strict=True)]))
        if relative == 0:
            return LayerError(name, size, 0.0, 0.0, scale, held_to, 0.0, 1.0, rounding)
        maximum = float(np.max([max(d.max(), -d.min()) for d in apart]))
        rms = math.sqrt(sum(float(np.dot(d, d)) for d in apart) / sum(d.size for d in apart))
        cosine = min(a.cosine(d) for a, d in zip(images, apart, strict=True))
        return LayerError(name, size, relative, maximum, scale, held_to, rms, cosine, rounding)


def agreement(size: int, reference: Array, other: Array) -> Agreement:
    """For how many images the first class, and the set of the first five, is the same in two arrays of logits (N, classes)."""
    ours, theirs = (np.argsort(-logits.astype(np.float64), axis=1, kind="stable")[:, :5] for logits in (reference, other))
    top5 = sum(set(a) == set(b) for a, b in zip(ours.tolist(), theirs.tolist(), strict=True))
    return Agreement(size, len(reference), int((ours[:, 0] == theirs[:, 0]).sum()), top5)


def picture(layer: str, size: int, reference: Array, other: Array) -> Activations | None:
    """What differs most, for a reader to look at: of the image and the channel that are furthest apart; None where the shapes
    differ.
    """
    if reference.shape != other.shape:
        return None
    apart = np.nan_to_num(np.abs(other.astype(np.float64) - reference), nan=math.inf)
    image = int(apart.reshape(len(apart), -1).max(1).argmax())
    if reference.ndim == 2:
        return Activations(layer, size, -1, reference[image], other[image])
    channel = int(apart[image].max((0, 1)).argmax())
    return Activations(layer, size, channel, reference[image, :, :, channel].copy(), other[image, :, :, channel].copy())


def not_finite(model: Model) -> list[str]:
    """Weights that make no network: not finite, or a variance that epsilon does not lift above zero; with what is wrong."""
    found = []
    for layer in model.layers:
        for parameter in layer.parameters:
            array = model.weights[f"{layer.name}.{parameter}"].read()
            if not np.isfinite(array.astype(np.float32 if array.dtype.itemsize < 4 else array.dtype)).all():
                found.append(f"`{layer.name}.{parameter}` is not finite")
            elif parameter == "variance" and (array.astype(np.float64) + layer.epsilon <= 0).any():
                found.append(f"`{layer.name}.{parameter}` is negative, down to {array.min():.3g}")
    return found


def check_finite(model: Model, reference: Mapping[str, Array]) -> None:
    """Raise ``VerificationError`` when the network's own answer is not finite, naming the layer and the weights."""
    for layer in model.layers:
        if layer.name in reference and not np.isfinite(reference[layer.name]).all():
            told = f"the source network's own answer is not finite, from `{layer.name}` on"
            raise VerificationError(told, facts=not_finite(model)[:4])
