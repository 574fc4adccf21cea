"""How far apart two sets of activations are, and how far they may be.

The tolerance has no magic number in it: float64 decides at a relative L2 of 1e-9 where nothing was rounded on the way
(measured between executors: 1e-14; the smallest semantic defect: 1e-4). Where one side computed in float32, or a fold
rounded weights once more, the error may be 8 times the rounding that the reference itself shows between float32 and
float64 on the same weights and images (observed between frameworks: at the most 1.7).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from xconvert.errors import VerificationError
from xconvert.model import Array, Model
from xconvert.report import LayerError

EXACT = 1e-9
ROUNDINGS = 8


def relative_l2(reference: Array, other: Array) -> float:
    """Largest ||other - reference|| / ||reference - mean|| over the images (axis 0), in float64; NaN stays NaN.

    The mean is taken out so that a shift shared by all logits cannot hide an error; where the reference is constant
    its norm is used.
    """
    a = reference.astype(np.float64).reshape(len(reference), -1)
    b = other.astype(np.float64).reshape(len(other), -1)
    spread = np.linalg.norm(a - a.mean(1, keepdims=True), axis=1)
    spread = np.where(spread > 0, spread, np.linalg.norm(a, axis=1))
    error = np.linalg.norm(b - a, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(error == 0, 0.0, error / spread)
    return float(ratio.max()) if not np.isnan(ratio).any() else float("nan")


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
    errors = []
    for name in names:
        if name not in reference or name not in other:
            continue
        a, b = reference[name], other[name]
        if a.shape != b.shape:
            errors.append(LayerError(name, size, float("inf"), float("inf"), float(np.abs(a).max()), EXACT))
            continue
        allowed = EXACT if rounded is None else max(EXACT, ROUNDINGS * relative_l2(a, rounded[name]))
        maximum, scale = float(np.abs(b.astype(np.float64) - a).max()), float(np.abs(a).max())
        errors.append(LayerError(name, size, relative_l2(a, b), maximum, scale, allowed if tolerance is None else tolerance))
    return errors


def check_finite(model: Model, reference: Mapping[str, Array]) -> None:
    """Raise ``VerificationError`` when the network's own answer is not finite, naming the layer and the weights."""
    for layer in model.layers:
        if layer.name in reference and not np.isfinite(reference[layer.name]).all():
            bad = [name for name, tensor in model.weights.items() if not np.isfinite(tensor.read().astype(np.float64)).all()]
            negative = [
                n for n, t in model.weights.items() if n.endswith(".variance") and (t.read().astype(np.float64) < 0).any()
            ]
            facts = [f"not finite: {', '.join(bad[:4])}"] if bad else []
            facts += [f"negative variance: {', '.join(negative[:4])}"] if negative else []
            raise VerificationError(f"the source network's own answer is not finite, from `{layer.name}` on", facts=facts)
