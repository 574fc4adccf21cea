"""Batch norms whose parameters are missing, or are something else; another epsilon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.mutants.kernels import ALL
from tests.mutations import Mutant, Subject, fault
from xconvert.model import Array

STATISTICS = {"mean": np.zeros_like, "variance": np.ones_like}
FRESH = {**STATISTICS, "gamma": np.ones_like, "beta": np.zeros_like}


def norms(
    s: Subject, layers: list[str], edits: Mapping[str, Callable[[Array], Array]], kind: str, *told: str, **options: Any
) -> Mutant:
    weights = {f"{name}.{p}": edit(s.read(f"{name}.{p}")) for name in layers for p, edit in edits.items()}
    return Mutant(s.given(weights), layers[0], kind, (*told, ALL if len(layers) > 1 else f"in `{layers[0]}`"), **options)


@fault("no running statistics anywhere")
def _(s: Subject) -> Mutant:
    return norms(s, s.names("batch_norm"), STATISTICS, "statistics", "no running statistics")


@fault("no running statistics in one batch norm")
def _(s: Subject) -> Mutant:
    return norms(s, [s.middle("batch_norm", 2, 1)], STATISTICS, "statistics", "no running statistics")


@fault("no running mean anywhere")
def _(s: Subject) -> Mutant:
    return norms(s, s.names("batch_norm"), {"mean": np.zeros_like}, "statistics", "no running mean")


@fault("no running variance anywhere")
def _(s: Subject) -> Mutant:
    return norms(s, s.names("batch_norm"), {"variance": np.ones_like}, "statistics", "no running variance")


@fault("standard deviation stored as variance, everywhere")
def _(s: Subject) -> Mutant:
    return norms(s, s.names("batch_norm"), {"variance": np.sqrt}, "statistics", "a standard deviation where")


@fault("standard deviation stored as variance, once")
def _(s: Subject) -> Mutant:
    return norms(s, [s.middle("batch_norm", 1)], {"variance": np.sqrt}, "statistics", "a standard deviation where")


@fault("variance stored as standard deviation")
def _(s: Subject) -> Mutant:
    return norms(s, s.names("batch_norm"), {"variance": np.square}, "statistics", "has the variance where")


@fault("gamma never loaded")
def _(s: Subject) -> Mutant:
    return norms(s, s.names("batch_norm"), {"gamma": np.ones_like}, "missing", "no gamma (")


@fault("beta never loaded")
def _(s: Subject) -> Mutant:
    return norms(s, s.names("batch_norm"), {"beta": np.zeros_like}, "missing", "no beta (")


@fault("gamma and beta never loaded")
def _(s: Subject) -> Mutant:
    return norms(s, s.names("batch_norm"), {p: FRESH[p] for p in ("gamma", "beta")}, "missing", "no gamma and beta")


@fault("one batch norm as initialised")
def _(s: Subject) -> Mutant:
    return norms(s, [s.late], FRESH, "missing", "never loaded")


@fault("all batch norms as initialised")
def _(s: Subject) -> Mutant:
    return norms(s, s.names("batch_norm"), FRESH, "missing", "never loaded")


def other_epsilon(s: Subject) -> float:
    return 1e-5 if s.model.values["bn_epsilon"] == 1e-3 else 1e-3


@fault("epsilon wrong everywhere")
def _(s: Subject) -> Mutant:
    value = other_epsilon(s)
    first = s.names("batch_norm")[0]
    return Mutant(s.given({}, bn_epsilon=value), first, "epsilon", (f"adds {value:g} ", f"all {s.norms} batch norms"))


@fault("an epsilon that nobody uses")
def _(s: Subject) -> Mutant:
    return Mutant(s.given({}, bn_epsilon=3e-4), s.names("batch_norm")[0], "epsilon", ("adds 0.0003 ", ALL))


@fault("epsilon not folded in one late batch norm")
def _(s: Subject) -> Mutant:
    ours, theirs = s.model.values["bn_epsilon"], other_epsilon(s)
    weights = {}
    for name in s.names("batch_norm"):
        gamma, variance = (s.read(f"{name}.{p}").astype(np.float64) for p in ("gamma", "variance"))
        if name != s.late:
            weights[f"{name}.gamma"] = (gamma * np.sqrt((variance + theirs) / (variance + ours))).astype(np.float32)
    return Mutant(s.given(weights, bn_epsilon=theirs), s.late, "epsilon", (f"in `{s.late}`",))
