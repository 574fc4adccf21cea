"""Checkpoints of different precision: what rounding to the narrower one is answerable for, and what not.

A half-precision file computes what its source does only as well as its weights are rounded. Weights that are proven, bit by bit,
to be those of the source rounded are given to both sides, so that the comparison sees everything else as sharply as between
full-precision files. What the rounding itself does to the output is measured apart, and held to 8 times what rounding every
such weight to as many significant bits does, whatever its size: so a weight that overflows, or that is so small that
half precision has no digits for it, is found where it matters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import ml_dtypes
import numpy as np

from xconvert.backends import forward
from xconvert.compare import ROUNDINGS, relative_l2
from xconvert.model import Array, DType, Model, Tensor
from xconvert.parity import probe
from xconvert.probe import SIZES
from xconvert.reconcile import folds_between
from xconvert.report import Check, Diagnosis
from xconvert.tuples import NamedTuple
from xconvert.weights import Difference, folded

SINGLE = 24  # significant bits of float32; what has as many is no half precision


class Rounded(NamedTuple):
    """A weight of a model that the other side has with fewer bits: ``full`` as it is, ``rounded`` to ``dtype``, and which of the
    two the model is ``given`` for the comparison.
    """

    full: Tensor
    rounded: Tensor
    given: Tensor
    dtype: DType

    @property
    def ideal(self) -> Array:
        """The weight with as many significant bits as ``dtype`` has, whatever its size."""
        return significant(self.full.read(), _bits(self.dtype))


class Leveled(NamedTuple):
    """Two networks, ``a`` and ``b``, of one precision: ``settled`` are the weights that were made the same, ``checks`` what the
    rounding does, and ``why`` the weight that loses most where that is too much.
    """

    a: Model
    b: Model
    checks: tuple[Check, ...]
    why: tuple[Diagnosis, ...]
    settled: frozenset[str]


def common_precision(a: Model, b: Model, found: Sequence[Difference], names: tuple[str, str]) -> Leveled:
    """Both networks with the weights of either that are rounded to half precision in both. Where they differ in anything that
    rounding and folding do not explain, all that these do is settled so: then the comparison sees nothing but the rest.
    ``names``: of the two as they stand in a sentence.
    """
    sharp = not all(difference.explained for difference in found) or not all(folded(a, b, found).values())
    given: list[Model] = []
    checks: list[Check] = []
    why: list[Diagnosis] = []
    settled: set[str] = set()
    for model, other, name in ((a, b, names[1]), (b, a, names[0])):
        rounded = dict(_rounded(model, other, found, model is a, sharp))
        given.append(model._replace(weights={**model.weights, **{n: r.given for n, r in rounded.items()}}))
        settled |= rounded.keys()
        if halves := {n: each for n, each in rounded.items() if _bits(each.dtype) < SINGLE}:
            checks.append(_cost(model, halves))
            why += [] if checks[-1].ok else [_most_lost(halves, name)]
    return Leveled(given[0], given[1], tuple(checks), tuple(why), frozenset(settled))


def _rounded(model: Model, other: Model, found: Sequence[Difference], first: bool, sharp: bool) -> Iterator[tuple[str, Rounded]]:
    """The weights that ``model`` has with more bits than ``other``, and of two with as many the second's; those that were folded
    between them besides, folded back.
    """
    for difference in found:
        name = difference.name
        if not difference.rounding:
            continue
        own, theirs = model.weights[name], other.weights[name]
        dtype = _coarsest(theirs, difference, other)
        mine, bits = _bits(_coarsest(own, difference, model)), _bits(dtype)
        if mine < bits or (mine == bits and first) or (bits >= SINGLE and not sharp):
            continue
        if mine == bits < SINGLE and difference.kind == "close":  # nothing known moves half precision by its last digits
            continue
        there = next((Tensor.of(exact) for _, exact in folds_between(other, model, name)), theirs)
        # with as few bits on both sides, what was folded is rounded twice: the fold itself is the unrounded one
        yield name, Rounded(there, own, there, dtype) if mine == bits else Rounded(own, there, there, dtype)


def _cost(model: Model, rounded: Mapping[str, Rounded]) -> Check:
    """What the rounding does to the output of ``model``, against what rounding to so many bits does by itself."""
    images, last = probe(model, SIZES[0]), model.layers[-1].name
    exact, actual, least = (
        forward(model._replace(weights={**model.weights, **weights}), images, dtype="float64")[last]
        for weights in (
            {name: each.full for name, each in rounded.items()},
            {name: each.rounded for name, each in rounded.items()},
            {name: Tensor.of(each.ideal) for name, each in rounded.items()},
        )
    )
    moved, allowed = relative_l2(exact, actual), ROUNDINGS * relative_l2(exact, least)
    kinds = "/".join(sorted({each.dtype for each in rounded.values()}))
    output = "logits" if model.head else "features"
    told = f"{len(rounded)} weights rounded to {kinds} move the {output} by {moved:.1e} of {allowed:.1e} allowed (relative L2)"
    return Check("precision", moved <= allowed, told)


def _most_lost(rounded: Mapping[str, Rounded], who: str) -> Diagnosis:
    """The weight that rounding does most to beyond what its number of bits does by itself: only what is too small for the dtype,
    or all but too small, can make the check fail. ``who`` has it.
    """

    def beyond(name: str) -> float:
        best = rounded[name].ideal
        off = float(np.linalg.norm(rounded[name].rounded.read().astype(np.float64) - best))
        return off / max(float(np.linalg.norm(best)), np.finfo(np.float64).tiny)

    worst = max(rounded, key=beyond)
    least, dtype = np.abs(rounded[worst].full.read().astype(np.float64)).min(), rounded[worst].dtype
    told = f"{who} has too small numbers for {dtype} in `{worst}`, down to {least:.1e}"
    smallest = float(ml_dtypes.finfo(dtype).smallest_normal)  # type: ignore[no-untyped-call]
    hint = f"keep the batch norms in float32, or the whole network: {dtype} has full precision above {smallest:.1e}"
    return Diagnosis("precision", worst.rpartition(".")[0], told, hint)


def _coarsest(tensor: Tensor, difference: Difference, model: Model) -> DType:
    """The dtype of a weight; or, where it was folded into a wider one, that from which it was, which its model still has."""
    if not difference.through:
        return tensor.dtype
    kinds = {other.dtype for other in model.weights.values()}
    return min({tensor.dtype, *(dtype for dtype in kinds if dtype == difference.through)}, key=_bits)


def _bits(dtype: DType) -> int:
    """Significant bits, the leading one included: 11 of float16, 8 of bfloat16, 24 of float32."""
    return int(ml_dtypes.finfo(dtype).nmant) + 1  # type: ignore[no-untyped-call]


def significant(array: Array, bits: int) -> Array:
    """``array`` in float64, rounded to so many significant bits, as a format with exponents of any size would."""
    fraction, exponent = np.frexp(array.astype(np.float64))
    rounded: Array = np.ldexp(np.rint(np.ldexp(fraction, bits)), exponent - bits)
    return rounded
