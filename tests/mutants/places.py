"""Layers, blocks and tensors in each other's place."""

from __future__ import annotations

import numpy as np

from tests.mutations import Mutant, Subject, fault
from xconvert.model import Array, Model


def under(s: Subject, place: str) -> dict[str, Array]:
    """The weights of a layer, or of all layers of a block."""
    own = [f"{place}.{parameter}" for parameter in s.layers[place].parameters] if place in s.layers else None
    return {name.removeprefix(place): s.read(name) for name in own or s.model.weights if name.startswith(place + ".")}


def swap(s: Subject, one: str, two: str) -> Model:
    ours, theirs = under(s, one), under(s, two)
    return s.given({one + n: a for n, a in theirs.items()} | {two + n: a for n, a in ours.items()})


def swapped(s: Subject, one: str, two: str, layer: str = "") -> Mutant:
    return Mutant(swap(s, one, two), layer or one, "swapped", (f"`{one}`", f"`{two}`"))


@fault("two middle blocks swapped, neighbours")
def _(s: Subject) -> Mutant:
    return swapped(s, s.block(1), s.block(2), s.start(s.block(1)))


@fault("two middle blocks swapped, far apart")
def _(s: Subject) -> Mutant:
    return swapped(s, s.block(1), s.block(3), s.start(s.block(1)))


@fault("two batch norms of equal width swapped")
def _(s: Subject) -> Mutant:
    return swapped(s, s.middle("batch_norm", 1, 1), s.middle("batch_norm", 3, 0))


@fault("two pointwise kernels of one block swapped")
def _(s: Subject) -> Mutant:
    return swapped(s, s.middle("pointwise", 2, 0), s.middle("pointwise", 2, 1))


@fault("two depthwise kernels swapped")
def _(s: Subject) -> Mutant:
    return swapped(s, s.middle("depthwise", 1, 2), s.middle("depthwise", 2, 1))


def vectors(s: Subject, one: str, two: str) -> Mutant:
    other = s.given({one: s.read(two), two: s.read(one)})
    return Mutant(other, one.rpartition(".")[0], "swapped", (f"`{one}`", f"`{two}`"))


@fault("gamma and beta of one batch norm exchanged")
def _(s: Subject) -> Mutant:
    norm = s.middle("batch_norm", 2)
    return vectors(s, f"{norm}.gamma", f"{norm}.beta")


@fault("the gammas of two batch norms exchanged")
def _(s: Subject) -> Mutant:
    return vectors(s, f"{s.middle('batch_norm', 1)}.gamma", f"{s.middle('batch_norm', 2)}.gamma")


@fault("mean and variance of one batch norm exchanged")
def _(s: Subject) -> Mutant:
    norm = s.middle("batch_norm", 1, 1)
    positive = s.edited([f"{norm}.mean"], np.abs)  # else its root would be no number
    reference = s.given({f"{norm}.mean": positive.weights[f"{norm}.mean"].read()})
    other = s.given({f"{norm}.mean": s.read(f"{norm}.variance"), f"{norm}.variance": np.abs(s.read(f"{norm}.mean"))})
    return Mutant(other, norm, "swapped", (f"`{norm}.mean`", f"`{norm}.variance`"), reference=reference)


@fault("every block with the weights of the next")
def _(s: Subject) -> Mutant:
    moved = {s.block(n) + name: array for n in (1, 2) for name, array in under(s, s.block(n + 1)).items()}
    return Mutant(s.given(moved), s.start(s.block(1)), "moved", ("1 after it", f"`{s.block(1)}`"))


@fault("every block with the weights of the one before")
def _(s: Subject) -> Mutant:
    moved = {s.block(n) + name: array for n in (2, 3) for name, array in under(s, s.block(n - 1)).items()}
    return Mutant(s.given(moved), s.start(s.block(2)), "moved", ("1 before it", f"`{s.block(2)}`"))


@fault("every block with the weights of the next, cyclic")
def _(s: Subject) -> Mutant:
    moved = {s.block(n) + name: array for n in (1, 2, 3) for name, array in under(s, s.block(n % 3 + 1)).items()}
    return Mutant(s.given(moved), s.start(s.block(1)), "moved", ("1 after it", f"`{s.block(1)}`"))


@fault("a block twice")
def _(s: Subject) -> Mutant:
    moved = {s.block(3) + name: array for name, array in under(s, s.block(1)).items()}
    return Mutant(s.given(moved), s.start(s.block(3)), "moved", (f"`{s.block(1)}` in `{s.block(3)}`",))


@fault("a kernel twice")
def _(s: Subject) -> Mutant:
    one, two = s.middle("pointwise", 1, 2), s.middle("pointwise", 3, 0)
    return Mutant(s.given({f"{two}.weight": s.read(f"{one}.weight")}), two, "moved", (f"`{one}`", f"`{two}`"))
