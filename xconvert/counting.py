"""How large a network is as published: parameters and multiply-adds, from the graph and its widths alone."""

from __future__ import annotations

from collections.abc import Sequence

from xconvert.model import Layer
from xconvert.padding import output_size
from xconvert.probe import NATIVE
from xconvert.tuples import NamedTuple


class Size(NamedTuple):
    """``trained`` parameters, ``stored`` statistics of batch norms, ``normalised`` elements that go through them, and the
    ``multiply_adds`` of convolutions and classifier, each product with its addition counted once.
    """

    trained: int
    stored: int
    normalised: int
    multiply_adds: int

    @property
    def parameters(self) -> int:
        """Everything that a checkpoint of the network holds."""
        return self.trained + self.stored


def count(layers: Sequence[Layer], classes: int, size: int = NATIVE, channels: int = 3) -> Size:
    """The size of a graph of published widths with ``classes`` outputs, for square images of ``size`` pixels."""
    width, pixels = {"image": channels}, {"image": size}
    trained = stored = normalised = products = 0
    for layer in layers:
        inputs, before = width[layer.inputs[0]], pixels[layer.inputs[0]]
        outputs = width[layer.name] = classes if layer.op == "linear" else layer.width or inputs
        after = pixels[layer.name] = 1 if layer.op in ("global_average", "linear") else output_size(before, layer)
        weights = {
            "conv": layer.kernel**2 * inputs * outputs,
            "depthwise": layer.kernel**2 * inputs,
            "pointwise": inputs * outputs,
            "linear": inputs * outputs,
        }.get(layer.op, 0)
        products += weights * after**2
        trained += weights + (outputs if layer.op == "linear" else 0)
        if layer.op == "batch_norm":
            trained += 2 * outputs
            stored += 2 * outputs
            normalised += outputs * after**2
    return Size(trained, stored, normalised, products)
