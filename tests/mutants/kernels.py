"""Kernels with their axes in another order, or of other numbers; the classifier."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tests.mutations import Mutant, Subject, fault
from tests.narrow import narrow
from xconvert.model import Array, Depth

ALL = "in all "


def kernels(s: Subject, layers: list[str], edit: Callable[[Array], Array], kind: str, *told: str, **options: Any) -> Mutant:
    return Mutant(s.edited([f"{name}.weight" for name in layers], edit), layers[0], kind, told, **options)


def inner(s: Subject) -> list[str]:
    """Every depthwise convolution, which the strided ones are among."""
    return s.names("depthwise")


@fault("a square pointwise kernel transposed")
def _(s: Subject) -> Mutant:
    one = s.middle("pointwise", 2, 1)
    return kernels(s, [one], np.transpose, "transposed", "inputs and outputs", f"in `{one}`")


@fault("a depthwise kernel with height and width exchanged")
def _(s: Subject) -> Mutant:
    one = s.middle("depthwise", 3, 1)
    return kernels(s, [one], lambda w: w.transpose(1, 0, 2), "transposed", "height and width", f"in `{one}`")


@fault("all depthwise kernels with height and width exchanged")
def _(s: Subject) -> Mutant:
    return kernels(s, inner(s), lambda w: w.transpose(1, 0, 2), "transposed", "height and width", ALL)


@fault("a depthwise kernel turned by 180°")
def _(s: Subject) -> Mutant:
    one = s.middle("depthwise", 2, 0)
    return kernels(s, [one], lambda w: w[::-1, ::-1], "transposed", "180°", f"in `{one}`")


@fault("all kernels turned by 180°, as Theano's are")
def _(s: Subject) -> Mutant:
    wide = [name for name in (*s.names("conv"), *inner(s)) if s.layers[name].kernel > 1]
    return kernels(s, wide, lambda w: w[::-1, ::-1], "transposed", "180°", ALL)


@fault("the first kernel's axes renamed, not moved")
def _(s: Subject) -> Mutant:
    first = s.names("conv")[0]
    return kernels(s, [first], lambda w: w.transpose(3, 2, 0, 1).reshape(w.shape), "transposed", "renamed")


@fault("all depthwise kernels' axes renamed, not moved")
def _(s: Subject) -> Mutant:
    return kernels(s, inner(s), lambda w: w.transpose(2, 0, 1).reshape(w.shape), "transposed", "renamed", ALL)


@fault("all pointwise kernels' axes renamed, not moved")
def _(s: Subject) -> Mutant:
    return kernels(s, s.names("pointwise"), lambda w: w.T.reshape(w.shape), "transposed", "renamed", ALL)


@fault("all kernels' axes renamed, not moved")
def _(s: Subject) -> Mutant:
    order = {4: (3, 2, 0, 1), 3: (2, 0, 1), 2: (1, 0)}
    every = [name for name, layer in s.layers.items() if "weight" in layer.parameters]
    return kernels(
        s, every, lambda w: w.transpose(order[w.ndim]).reshape(w.shape), "transposed", "renamed", f"all {len(every)} kernels"
    )


@fault("the classifier's kernel reshaped, not transposed")
def _(s: Subject) -> Mutant:
    return kernels(s, ["predictions"], lambda w: w.T.reshape(w.shape), "transposed", "renamed")


@fault("two depthwise filters exchanged")
def _(s: Subject) -> Mutant:
    one = s.middle("depthwise", 2, 2)
    return kernels(s, [one], lambda w: w[..., [1, 0, *range(2, w.shape[2])]], "weights", "18 of 405 numbers", last=False)


@fault("a pointwise kernel of zeros")
def _(s: Subject) -> Mutant:
    return kernels(s, [s.middle("pointwise", 2, 0)], np.zeros_like, "missing", "zeros")


@fault("a depthwise kernel of zeros")
def _(s: Subject) -> Mutant:
    return kernels(s, [s.middle("depthwise", 1, 0)], np.zeros_like, "missing", "zeros")


@fault("a kernel times two")
def _(s: Subject) -> Mutant:
    return kernels(s, [s.middle("pointwise", 3, 1)], lambda w: w * 2, "scale", "multiplies with 2 ")


# The classifier.


def head(s: Subject, edit: Callable[[Array], Array], kind: str, *told: str) -> Mutant:
    return Mutant(s.edited(["predictions.weight", "predictions.bias"], edit), "predictions", kind, told)


@fault("every class one place later")
def _(s: Subject) -> Mutant:
    return head(s, lambda array: np.roll(array, 1, -1), "classes", "one place later")


@fault("every class one place earlier")
def _(s: Subject) -> Mutant:
    return head(s, lambda array: np.roll(array, -1, -1), "classes", "one place earlier")


@fault("the classes shifted in the kernel, not in the bias")
def _(s: Subject) -> Mutant:
    return kernels(s, ["predictions"], lambda w: np.roll(w, 1, 1), "classes", "one place later", "not in its bias")


@fault("the classes in another order")
def _(s: Subject) -> Mutant:
    order = np.random.default_rng(7).permutation(10)
    return head(s, lambda array: array[..., order], "classes", "in another order")


@fault("the classifier's bias dropped")
def _(s: Subject) -> Mutant:
    return Mutant(s.edited(["predictions.bias"], np.zeros_like), "predictions", "missing", ("no bias",))


@fault("the classifier's kernel of zeros")
def _(s: Subject) -> Mutant:
    return kernels(s, ["predictions"], np.zeros_like, "missing", "zeros")


@fault("the classifier's scale not folded", "xception_aligned")
def _(s: Subject) -> Mutant:
    return Mutant(s.given({}), "predictions", "scale", ("multiplies with 2 ",), reference=s.given({}, head_scale=0.5))


@fault("the classifier's scale folded twice", "xception_aligned")
def _(s: Subject) -> Mutant:
    twice = s.edited(["predictions.weight"], lambda w: w * 0.25)
    return Mutant(twice, "predictions", "scale", ("multiplies with 0.5 ",), reference=s.given({}, head_scale=0.5))


@fault("a class more")
def _(s: Subject) -> Mutant:
    return Mutant(narrow(Depth(3, 3), s.family, classes=11), "predictions", "classes", ("a class more",), False, check="shapes")


@fault("no classifier")
def _(s: Subject) -> Mutant:
    return Mutant(narrow(Depth(3, 3), s.family, head=False), "predictions", "missing", ("alone",), False, check="names")
