"""What goes wrong with batch norms: their epsilon, and statistics that are missing or of another kind."""

from __future__ import annotations

import numpy as np

from xconvert.faults._network import TRAINING, Candidates, Network, changed, replaced
from xconvert.model import Array, Layer

EPSILONS = (1e-5, 1e-3, 1e-4, 1e-6, 1e-2, 1e-7, 1e-12, 0.0)


def epsilon(network: Network, layer: Layer, inputs: list[Array], output: Array | None) -> Candidates:
    """Another epsilon: one that is in use somewhere, or the one that ``output`` shows."""
    tried = [*EPSILONS]
    if output is not None and (found := _epsilon_of(network, layer, inputs[0], output)):
        tried.insert(0, found)
    for value in tried:
        if value != layer.epsilon:
            told = f"{{other}} adds {value:g} to the variance where {{reference}} adds {layer.epsilon:g}, in {{where}}"
            yield from replaced(network, layer, "epsilon", told, lambda each, value=value: each._replace(epsilon=value))  # type: ignore[misc]


def _epsilon_of(network: Network, layer: Layer, x: Array, output: Array) -> float | None:
    """The epsilon with which a batch norm makes ``output`` of ``x``, to three digits; None where no one epsilon does."""
    axes = tuple(range(x.ndim - 1))
    centred = x - x.mean(axes)
    spread = np.square(centred).sum(axes)
    if output.shape != x.shape or not (spread > 0).any():
        return None
    seen = spread > 0
    slope = (centred * (output - output.mean(axes))).sum(axes)[seen] / spread[seen]
    own = network.of(layer)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(np.median(np.square(own["gamma"][seen] / slope) - own["variance"][seen]))
    return float(f"{value:.2e}") if np.isfinite(value) and value > 0 else None


def statistics(network: Network, layer: Layer, inputs: list[Array], output: Array | None) -> Candidates:
    """Statistics that were never loaded, are a standard deviation's, or are those of the batch, as in training."""
    spread = "{other} has a standard deviation where the variance belongs, in {where}"
    yield from changed(network, layer, "statistics", spread, lambda _, own: {"variance": np.sqrt(np.abs(own["variance"]))})
    square = "{other} has the variance where {reference} has its root, a standard deviation, in {where}"
    yield from changed(network, layer, "statistics", square, lambda _, own: {"variance": np.square(own["variance"])})
    fresh = {"mean": np.zeros_like, "variance": np.ones_like, "gamma": np.ones_like, "beta": np.zeros_like}
    for parts, kind, words in (
        (("mean", "variance"), "statistics", "has no running statistics (mean 0, variance 1)"),
        (("mean",), "statistics", "has no running mean (it is 0)"),
        (("variance",), "statistics", "has no running variance (it is 1)"),
        (("gamma", "beta"), "missing", "has no gamma and beta (they are 1 and 0)"),
        (("gamma",), "missing", "has no gamma (it is 1)"),
        (("beta",), "missing", "has no beta (it is 0)"),
        (("gamma", "beta", "mean", "variance"), "missing", "was never loaded (it is as initialised)"),
    ):
        told = f"{{other}} {words}, in {{where}}"
        yield from changed(network, layer, kind, told, lambda _, own, parts=parts: {p: fresh[p](own[p]) for p in parts})  # type: ignore[misc]
    told = "{other} normalises by the statistics of the batch, as in training, in {where}"
    yield from replaced(network, layer, "statistics", told, lambda each: each._replace(op=TRAINING))
