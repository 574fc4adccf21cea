"""Faults that are known from the field, as changes to a network: injected into the reference, they give what the other side
computes, if they are what is wrong with it.

Each function of the modules here makes candidates for one kind of operation; `diagnosis.py` tries them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from xconvert.faults._exchanges import classes, exchanged, tensors
from xconvert.faults._images import images
from xconvert.faults._kernels import activations, kernels, precision, scale, windows
from xconvert.faults._network import Candidates, Fault, Network, runs
from xconvert.faults._norms import epsilon, statistics
from xconvert.model import Array, Layer

__all__ = ["Fault", "Network", "candidates", "runs"]

Guess = Callable[[Network, Layer, list[Array], "Array | None"], Candidates]
GUESSES: Mapping[str, tuple[Guess, ...]] = {
    "batch_norm": (epsilon, statistics, exchanged, tensors, precision),
    "conv": (images, windows, kernels, exchanged, scale, precision),
    "depthwise": (windows, kernels, exchanged, scale, precision),
    "pointwise": (kernels, exchanged, scale, precision),
    "linear": (classes, scale, kernels, exchanged, precision),
    "max_pool": (windows,),
    "relu": (activations,),
    "add": (activations,),
}


def candidates(network: Network, layer: Layer, inputs: list[Array], output: Array | None) -> Candidates:
    """Faults of ``layer`` that may give the ``output`` of the other side from ``inputs``, (N, H, W, C) or (N, C), the more
    telling first. ``output`` is None where what is seen is not this layer's.
    """
    if layer.op in GUESSES:
        for guess in GUESSES[layer.op]:
            yield from guess(network, layer, inputs, output)
