"""Weights that stand in the place of others: layers, blocks, vectors, classes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import numpy as np

from xconvert.backends.numpy import OPERATIONS
from xconvert.faults._network import Candidates, Fault, Network
from xconvert.model import Array, Layer


def exchanged(network: Network, layer: Layer, inputs: list[Array], output: Array | None) -> Candidates:
    """The weights of another layer: of it alone, exchanged with it, with all that belongs to both, or blocks counted from
    elsewhere.
    """
    shapes = {p: array.shape for p, array in network.of(layer).items()}
    for other in network.layers.values():
        if other.name == layer.name or other.op != layer.op or {p: a.shape for p, a in network.of(other).items()} != shapes:
            continue
        pairs = [(layer.name, other.name, {*shapes}), *((one, two, None) for one, two in _levels(layer.name, other.name))]
        before: set[str] = set()
        for one, two, only in pairs:
            ours, theirs = _under(network, one, only), _under(network, two, only)
            if not _fits(ours, theirs):
                break
            if ours.keys() == before:
                continue
            before = {*ours}
            taken = {one + name: array for name, array in theirs.items()}
            yield Fault("moved", f"{{other}} has the weights of `{two}` in `{one}` too", weights=taken)
            both = taken | {two + name: array for name, array in ours.items()}
            yield Fault("swapped", f"{{other}} has `{one}` and `{two}` in each other's place", weights=both)
            yield from _counted(network, one, two)


def _levels(one: str, two: str) -> Iterator[tuple[str, str]]:
    """Two layers, and what both are parts of as long as they are the same part of it."""
    a, b = one.split("."), two.split(".")
    yield one, two
    while len(a) > 1 and len(b) > 1 and a.pop() == b.pop() and a != b:
        yield ".".join(a), ".".join(b)


def _under(network: Network, place: str, only: set[str] | None = None) -> dict[str, Array]:
    """The weights of ``place``, a layer or what has layers, by what follows its name; ``only``: its own of these parameters, for
    a batch norm may be called as what belongs to its convolution.
    """
    found = {n.removeprefix(place): array for n, array in network.weights.items() if n.startswith(place + ".")}
    return {name: array for name, array in found.items() if only is None or name[1:] in only}


def _fits(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return a.keys() == b.keys() and all(array.shape == b[name].shape for name, array in a.items())


def _number(place: str) -> tuple[str, int]:
    stem = place.rstrip("0123456789")
    return stem, int(place[len(stem) :] or 0)


def _counted(network: Network, one: str, two: str) -> Candidates:
    """Every block with the weights of the one that is as far from it as ``two`` from ``one``; the last ones, where there is no
    such block, with their own or with those of the first.
    """
    (stem, number), (other, there) = _number(one), _number(two)
    if stem != other or not stem.endswith("block"):
        return
    numbers = sorted({int(found[1]) for name in network.layers if (found := re.match(rf"{re.escape(stem)}(\d+)\.", name))})
    chain = [n for n in numbers if _fits(_under(network, f"{stem}{n}"), _under(network, one))]
    far = chain.index(there) - chain.index(number)
    told = (
        f"{{other}} has in every block the weights of the block {abs(far)} {'after' if far > 0 else 'before'} it, from `{one}` on"
    )
    for wraps in (False, True):
        moved: dict[str, Array] = {}
        for i, n in enumerate(chain):
            if wraps or 0 <= i + far < len(chain):
                source = _under(network, f"{stem}{chain[(i + far) % len(chain)]}")
                moved |= {f"{stem}{n}{name}": array for name, array in source.items()}
        yield Fault("moved", told, weights=moved)


def tensors(network: Network, layer: Layer, inputs: list[Array], output: Array | None) -> Candidates:
    """One vector of a batch norm that is another vector of the network, or is exchanged with it."""
    for parameter, own in network.of(layer).items():
        name = f"{layer.name}.{parameter}"
        for other, array in network.weights.items():
            if other != name and array.shape == own.shape and not np.array_equal(array, own):
                yield Fault(
                    "swapped", f"{{other}} has `{name}` and `{other}` in each other's place", weights={name: array, other: own}
                )
                yield Fault("moved", f"{{other}} has `{other}` in the place of `{name}`", weights={name: array})


def classes(network: Network, layer: Layer, inputs: list[Array], output: Array | None) -> Candidates:
    """Classes that stand elsewhere, and a bias that is missing."""
    own = network.of(layer)
    for by in (1, -1):
        told = f"{{other}} has every class one place {'later' if by > 0 else 'earlier'}"
        weights = {f"{layer.name}.{p}": np.roll(array, by, -1) for p, array in own.items()}
        yield Fault("classes", told, weights=weights)
        only = {f"{layer.name}.weight": weights[f"{layer.name}.weight"]}
        yield Fault("classes", told + " in the classifier's kernel, but not in its bias", weights=only)
    yield Fault("missing", "{other} has no bias in the classifier", weights={f"{layer.name}.bias": np.zeros_like(own["bias"])})
    if output is not None and output.shape[-1] == own["bias"].shape[0] and len(output) > 1:
        ours = np.stack([OPERATIONS[layer.op](x, layer, *own.values()) for x in inputs[0]])
        order = np.empty(ours.shape[1], int)
        order[np.lexsort(np.round(output, 9))] = np.lexsort(np.round(ours, 9))
        moved = {f"{layer.name}.{p}": array[..., order] for p, array in own.items()}
        yield Fault("classes", "{other} has the classes in another order", weights=moved)
