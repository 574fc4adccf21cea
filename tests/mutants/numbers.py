"""Numbers that are none, too few digits, and other weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np

from tests.mutants.kernels import kernels
from tests.mutants.places import swapped
from tests.mutations import Mutant, Subject, fault
from tests.narrow import narrow
from xconvert.model import Array, Depth, Model, Tensor


def broken(s: Subject, weight: str, value: float) -> Mutant:
    other = s.edited([weight], lambda array: np.where(np.arange(array.size).reshape(array.shape) == 3, value, array))
    told = "negative" if np.isfinite(value) else "not finite"
    return Mutant(other, weight.rpartition(".")[0], "not finite", (f"`{weight}` is {told}",), last=False, check="finite")


@fault("one mean not a number")
def _(s: Subject) -> Mutant:
    return broken(s, f"{s.middle('batch_norm', 1)}.mean", np.nan)


@fault("one weight infinite")
def _(s: Subject) -> Mutant:
    return broken(s, f"{s.middle('pointwise', 2)}.weight", np.inf)


@fault("a negative variance")
def _(s: Subject) -> Mutant:
    return broken(s, f"{s.middle('batch_norm', 3)}.variance", -0.5)


def halved(model: Model) -> Model:
    with np.errstate(over="ignore"):
        half = {name: Tensor.of(tensor.read().astype(np.float16)) for name, tensor in model.weights.items()}
    return model._replace(weights=half)


@fault("a weight that half precision cannot hold")
def _(s: Subject) -> Mutant:
    one = s.middle("batch_norm", 2)
    large = s.edited([f"{one}.variance"], lambda array: np.where(np.arange(array.size) == 5, 1e5, array))
    told = (f"`{one}.variance` is not finite",)
    return Mutant(halved(large), one, "not finite", told, last=False, check="finite", reference=large)


@fault("variances too small for half precision")
def _(s: Subject) -> Mutant:
    """A channel of 1e-8 behind a kernel as small is as good as any while epsilon is as small; half precision makes it 0."""
    one = s.middle("batch_norm", 2, 1)
    scaled = {f"{s.layers[one].inputs[0]}.weight": 1e-4, f"{one}.mean": 1e-4, f"{one}.variance": 1e-8}
    small = s.given({name: s.read(name) * np.float32(factor) for name, factor in scaled.items()}, bn_epsilon=1e-12)
    told = (f"too small numbers for float16 in `{one}.variance`",)
    return Mutant(halved(small), one, "precision", told, check="precision", reference=small)


def rounded(s: Subject, dtype: Any) -> Mutant:
    other = s.edited([*s.model.weights], lambda array: array.astype(dtype).astype(np.float32))
    return Mutant(other, s.names("conv")[0], "precision", (f"rounded to {np.dtype(dtype).name}",))


@fault("rounded to bfloat16 in a float32 file")
def _(s: Subject) -> Mutant:
    return rounded(s, ml_dtypes.bfloat16)


@fault("rounded to float16 in a float32 file")
def _(s: Subject) -> Mutant:
    return rounded(s, np.float16)


@fault("one layer rounded to float16 in a float32 file")
def _(s: Subject) -> Mutant:
    return kernels(
        s, [s.middle("pointwise", 1)], lambda w: w.astype(np.float16), "precision", "float16", f"in `{s.middle('pointwise', 1)}`"
    )


# Other weights.


@fault("one weight off by one part in a million")
def _(s: Subject) -> Mutant:
    one = [s.middle("pointwise", 3, 2)]
    return kernels(s, one, lambda w: off(w, lambda x: x * np.float32(1 + 1e-6)), "weights", "1 of 2025 numbers", last=False)


@fault("one bit of a mantissa flipped")
def _(s: Subject) -> Mutant:
    flip = lambda w: off(w, lambda x: (x.view(np.uint32) ^ np.uint32(1 << 22)).view(np.float32))  # noqa: E731
    return kernels(s, [s.middle("depthwise", 2, 1)], flip, "weights", "1 of 405 numbers", last=False)


@fault("one sign flipped")
def _(s: Subject) -> Mutant:
    weight = f"{s.middle('batch_norm', 1, 1)}.beta"
    other = s.edited([weight], lambda array: off(array, np.negative))
    return Mutant(other, weight.rpartition(".")[0], "weights", (f"`{weight}`", "1 of 45 numbers"), False)


def off(array: Array, edit: Callable[[Array], Array]) -> Array:
    """``array`` with one of its numbers changed."""
    array = array.copy()
    array.reshape(-1)[7] = edit(array.reshape(-1)[7:8])[0]
    return array


@fault("half of the layers from another step of training")
def _(s: Subject) -> Mutant:
    rng = np.random.default_rng(5)
    later = [name for name, layer in s.layers.items() if layer.parameters][1::2]
    names = [name for name in s.model.weights if name.rpartition(".")[0] in later]
    drift = lambda array: (array * (1 + 1e-3 * rng.standard_normal(array.shape))).astype(np.float32)  # noqa: E731
    return Mutant(s.edited(names, drift), later[0], "weights", ("numbers differ",), False)


@fault("another run of training")
def _(s: Subject) -> Mutant:
    return Mutant(narrow(Depth(3, 3), s.family, seed=9), s.names("conv")[0], "weights", (), False)


@fault("two faults: blocks swapped, bias dropped")
def _(s: Subject) -> Mutant:
    one, two = swapped(s, s.block(1), s.block(3), s.start(s.block(1))), s.edited(["predictions.bias"], np.zeros_like)
    assert isinstance(one.other, Model)
    weights = {**one.other.weights, "predictions.bias": two.weights["predictions.bias"]}
    return replace(one, other=s.model._replace(weights=weights), more=("missing",))
