"""A network to be changed, and the changes: what every fault is made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from xconvert.backends.numpy import OPERATIONS
from xconvert.model import PARAMETERS, Array, DType, Layer
from xconvert.padding import output_size, pads
from xconvert.tuples import NamedTuple


class Fault(NamedTuple):
    """What the other side does differently: layers and weights to put in the place of the reference's.

    ``kind``: one of ``report.KINDS``. ``told``: a clause whose subject is the other side, ``{other}``; ``{reference}`` is ours.
    """

    kind: str
    told: str
    layers: Mapping[str, Layer] = {}
    weights: Mapping[str, Array] = {}

    @property
    def touched(self) -> set[str]:
        """The layers that compute something else with it."""
        return {*self.layers, *(name.rpartition(".")[0] for name in self.weights)}


class Network(NamedTuple):
    """The reference, to be changed: ``layers`` by name in order of execution, ``weights`` in float64, ``dtypes`` those of its
    file. ``normalised``: mean and standard deviation of its images, three each; None where they are not known. ``known``: those
    of others, by a name.
    """

    layers: Mapping[str, Layer]
    weights: Mapping[str, Array]
    dtypes: Mapping[str, DType]
    normalised: tuple[Array, Array] | None = None
    known: Mapping[str, tuple[Array, Array]] = {}

    def faulty(self, fault: Fault) -> Network:
        """The network with ``fault`` in it, as a file with the reference's precision would hold it."""
        with np.errstate(over="ignore"):
            stored = {name: array.astype(self.dtypes[name]).astype(np.float64) for name, array in fault.weights.items()}
        return self._replace(layers={**self.layers, **fault.layers}, weights={**self.weights, **stored})

    def of(self, layer: Layer) -> dict[str, Array]:
        """The weights of one layer by parameter."""
        return {parameter: self.weights[f"{layer.name}.{parameter}"] for parameter in layer.parameters}

    def alike(self, layer: Layer) -> list[Layer]:
        """All layers that do what ``layer`` does: its operation, with its kernel and stride."""
        shape = (layer.op, layer.kernel, layer.stride)
        return [other for other in self.layers.values() if (other.op, other.kernel, other.stride) == shape]


def _same(x: Array, layer: Layer) -> Array:
    return x


def _pool_over_zeros(x: Array, layer: Layer) -> Array:
    padded = np.pad(x, (pads(x.shape[0], layer), pads(x.shape[1], layer), (0, 0)))
    return OPERATIONS["max_pool"](padded, layer._replace(op="max_pool", padding=0))


def _of_the_batch(x: Array, layer: Layer, gamma: Array, beta: Array, mean: Array, variance: Array) -> Array:
    axes = tuple(range(x.ndim - 1))
    return OPERATIONS["batch_norm"](x, layer, gamma, beta, x.mean(axes), x.var(axes))


# What a network may do in the place of one of its operations: what has no weights stands for itself.
MISTAKEN: Mapping[str, Callable[..., Array]] = {
    **OPERATIONS,
    "none": _same,
    "first": lambda x, y, layer: x,
    "second": lambda x, y, layer: y,
    "max_pool_over_zeros": _pool_over_zeros,
}

# The same for what takes all images at once, (N, …), and has the parameters of a batch norm.
TRAINING = "batch_norm in training"
TOGETHER: Mapping[str, Callable[..., Array]] = {TRAINING: _of_the_batch}

Candidates = Iterator[Fault]


def _places(network: Network, layer: Layer) -> list[tuple[list[Layer], str]]:
    """Every layer like ``layer``, and it alone, each with a name for where that is."""
    everywhere = network.alike(layer)
    alone = ([layer], f"`{layer.name}`")
    return [(everywhere, f"all {len(everywhere)} {PLURALS[layer.op]}"), alone] if len(everywhere) > 1 else [alone]


def _kin(network: Network, layer: Layer) -> list[tuple[list[Layer], str]]:
    """Layers with weights like those of ``layer``, from all of them to it alone, each with a name for where that is: one script
    writes all kernels, or all of one kind.
    """
    every = list(network.layers.values())
    kernels = [each for each in every if "weight" in each.parameters]
    large = [each for each in kernels if each.kernel > 1]
    same = [each for each in every if (each.op, each.kernel) == (layer.op, layer.kernel)]
    wider = [(kernels, "kernels"), (large, "kernels larger than a pixel"), (same, PLURALS.get(layer.op, ""))]
    return [
        *((kin, f"all {len(kin)} {what}") for kin, what in wider if layer in kin and len(kin) > 1),
        ([layer], f"`{layer.name}`"),
    ]


PLURALS = {
    "batch_norm": "batch norms",
    "conv": "such convolutions",
    "depthwise": "such depthwise convolutions",
    "pointwise": "pointwise convolutions",
    "max_pool": "such pools",
    "relu": "ReLUs",
}


def changed(
    network: Network, layer: Layer, kind: str, told: str, change: Callable[[Layer, dict[str, Array]], Mapping[str, Array]]
) -> Candidates:
    """The same change of weights in every layer like ``layer``, in those of a kind with it, and in it alone; ``told`` has
    ``{where}`` for which. Of two that come to the same, the one that says it more closely.
    """
    made: dict[str, Array] = {}
    for each in _kin(network, layer)[0][0]:
        for parameter, array in change(each, own := network.of(each)).items():
            if array.shape == own[parameter].shape and not np.array_equal(array, own[parameter]):
                made[f"{each.name}.{parameter}"] = np.ascontiguousarray(array)
    found = {}
    for layers, where in _kin(network, layer):
        names = {each.name for each in layers}
        weights = {name: array for name, array in made.items() if name.rpartition(".")[0] in names}
        found[tuple(weights)] = Fault(kind, told.replace("{where}", where), weights=weights)
    yield from (fault for fault in found.values() if layer.name in fault.touched)


def replaced(network: Network, layer: Layer, kind: str, told: str, change: Callable[[Layer], Layer]) -> Candidates:
    """The same change in every layer like ``layer``, and in it alone."""
    for layers, where in _places(network, layer):
        changed = {each.name: new for each in layers if (new := change(each)) != each}
        if changed:
            yield Fault(kind, told.replace("{where}", where), layers=changed)


def runs(layer: Layer, inputs: list[Array], weights: Mapping[str, Array]) -> Array | None:
    """The output of one layer, mistaken or not, for (N, …) inputs; None where its window does not fit into them, or they do not
    fit each other.
    """
    if len({x.shape for x in inputs}) > 1:
        return None
    if layer.kernel > 1 and output_size(min(inputs[0].shape[1:3]), layer._replace(op="conv")) < 1:
        return None
    parameters = PARAMETERS["batch_norm"] if layer.op in TOGETHER else layer.parameters
    own = [weights[f"{layer.name}.{parameter}"] for parameter in parameters]
    if layer.op in TOGETHER:
        return TOGETHER[layer.op](*inputs, layer, *own)
    return np.stack([MISTAKEN[layer.op](*images, layer, *own) for images in zip(*inputs, strict=True)])
