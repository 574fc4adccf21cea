"""Files that are no such network: refused when they are read."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.mutations import Mutant, Subject, fault, file_of
from tests.narrow import checkpoint, narrow
from xconvert.model import Depth, Tensor


def file(s: Subject, edit: Callable[[dict[str, Tensor]], str], kind: str) -> Mutant:
    whole = file_of(narrow(Depth(3, 8) if s.family != "xception_preact" else Depth(3, 16), s.family))  # as published
    tensors = dict(whole.tensors)
    return Mutant(whole._replace(tensors=tensors), edit(tensors), kind)


@fault("a tensor missing from the file")
def _(s: Subject) -> Mutant:
    def remove(tensors: dict[str, Tensor]) -> str:
        name = [name for name in tensors if not name.endswith("num_batches_tracked")][40]
        del tensors[name]
        return name

    return file(s, remove, "MISSING (1)")


@fault("a tensor of another shape in the file")
def _(s: Subject) -> Mutant:
    def cut(tensors: dict[str, Tensor]) -> str:
        name = next(name for name, tensor in tensors.items() if tensor.shape == (45,))
        tensors[name] = Tensor.of(np.zeros(44, np.float32))
        return name

    return file(s, cut, "MISMATCH (")


@fault("a tensor too many in the file")
def _(s: Subject) -> Mutant:
    def add(tensors: dict[str, Tensor]) -> str:
        name = [*tensors][40] + ".more"
        tensors[name] = Tensor.of(np.zeros(3, np.float32))
        return name

    return file(s, add, "UNEXPECTED (1)")


@fault("no statistics in the file")
def _(s: Subject) -> Mutant:
    def remove(tensors: dict[str, Tensor]) -> str:
        spelled = ("running_mean", "running_var", "moving_mean", "moving_variance", "_mean", "_variance")
        for name in [name for name in tensors if name.endswith(spelled)]:
            del tensors[name]
        return "save `state_dict()`, not `named_parameters()`"

    return file(s, remove, "the batch norms' statistics are missing")


@fault("some weights without their moving average")
def _(s: Subject) -> Mutant:
    whole = checkpoint(s.model, "tensorflow")
    trained = [name for name in whole.tensors if not name.endswith(("moving_mean", "moving_variance"))]
    averages = {f"{name}/ExponentialMovingAverage": whole.tensors[name] for name in trained[::2]}
    mixed = whole._replace(tensors={**whole.tensors, **averages})
    return Mutant(mixed, trained[1], "lacks the moving average of some weights", ema=True)
