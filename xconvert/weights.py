"""How the tensors of two models differ, and whether folding or rounding explains it: one place for ``verify``, ``diff`` and
the check of what was just written.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from xconvert.errors import XconvertError
from xconvert.model import Array, Checkpoint, DType, Model, Tensor
from xconvert.reconcile import FOLDS, Change, folded_dtype, folds_between
from xconvert.report import Check

ULP = 2  # how many units in the last place a folded weight may be off the float64 value: one rounding each way

# Every kind of difference, from none to no tensor to compare with, in the words of the summary.
KINDS: Mapping[str, str] = {
    "identical": "bit-equal",
    "widened": "the same numbers in another dtype",
    "rounded": "rounded to the narrower dtype",
    "folded": f"as a fold makes them, within {ULP} units in the last place",
    "close": f"within {ULP} units in the last place",
    "different": "different",
    "other shape": "of another shape",
    "only in A": "only in A",
    "only in B": "only in B",
}
_STRIP = 64  # columns that are compared at a time where one of two matrices lies on its side: a third faster than all at once
_ROUNDING = ("rounded", "folded", "close")
_UNEXPLAINED = ("different", "other shape", "only in A", "only in B")


@dataclass(frozen=True, slots=True)
class Difference:
    """How one tensor of B differs from that of A.

    ``kind`` is one of ``KINDS``. ``maximum``: largest absolute difference; ``relative``: relative L2, ||B - A|| / ||A||;
    ``count``: how many of the ``size`` elements differ; all 0 where there is nothing to compare, not a number where
    either side is. ``attribute``: the one whose fold makes B's tensor of A's, to the bit or within ``ULP``; ``through``: the
    dtype that one of them was rounded to before it was folded into a wider one. ``detail``: a clause, such as the dtypes, or
    whose tensor it is.
    """

    name: str
    kind: str
    maximum: float = 0.0
    relative: float = 0.0
    count: int = 0
    size: int = 0
    attribute: str = ""
    detail: str = ""
    through: str = ""

    @property
    def explained(self) -> bool:
        """Whether there is none, or folding or rounding makes it."""
        return self.kind not in _UNEXPLAINED

    @property
    def rounding(self) -> bool:
        """Whether numbers were moved by rounding alone; or were not, where a fold would have moved them by less than that."""
        return self.kind in _ROUNDING or bool(self.attribute)


def differences(a: Model, b: Model) -> list[Difference]:
    """How each tensor of ``b`` differs from that of ``a`` under canonical names: in the order of ``a``'s layers, then what only
    ``b`` has. Tensors of A are read again only to fold them, and to find whose one is that is different.
    """
    names = [name for name in _canonical(a) if name in a.weights]
    more = [name for name in _canonical(b) if name in b.weights and name not in a.weights]
    return [_difference(a, b, name) for name in names] + [Difference(name, "only in B") for name in more]


def _canonical(model: Model) -> list[str]:
    return [f"{layer.name}.{parameter}" for layer in model.layers for parameter in layer.parameters]


def summary(found: Sequence[Difference]) -> str:
    """How many tensors are of each kind, in a line: ``234 bit-equal, 40 differ as folding `bn_epsilon` makes them, …``."""
    told = []
    for kind, words in KINDS.items():
        kin = [difference for difference in found if difference.kind == kind]
        if kind == "folded":
            for attribute in dict.fromkeys(difference.attribute for difference in kin):
                count = sum(difference.attribute == attribute for difference in kin)
                told.append(f"{count} differ as folding `{attribute}` makes them, within {ULP} ulp")
        elif kin and kind in _UNEXPLAINED:
            names = ", ".join(difference.name for difference in kin[:4])
            told.append(f"{len(kin)} {words}: {names}{' …' if len(kin) > 4 else ''}")
        elif kin:
            told.append(f"{len(kin)} {words}")
    return ", ".join(told)


def folded(a: Model, b: Model, found: Sequence[Difference]) -> dict[str, bool]:
    """For each attribute that folding can make up for and in which ``a`` and ``b`` differ: whether every weight of ``b`` that
    its fold rewrites is what the fold makes of that of ``a``.
    """
    made = {difference.name: difference.attribute for difference in found}
    return {
        attribute: all(made.get(name) == attribute for name in fold.weights(a))
        for attribute, fold in FOLDS.items()
        if attribute in a.values and attribute in b.values and a.values[attribute] != b.values[attribute]
    }


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have the same dtype, shape and bytes; so a NaN equals itself and 0 is not -0."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if a.dtype.itemsize not in (1, 2, 4, 8):
        return a.tobytes() == b.tobytes()
    x, y = (array.view(np.dtype(f"u{a.dtype.itemsize}")) for array in (a, b))
    if x.ndim < 2 or x.strides == y.strides:
        return bool((x == y).all())
    starts = range(0, x.shape[-1], _STRIP)
    return all(bool((x[..., at : at + _STRIP] == y[..., at : at + _STRIP]).all()) for at in starts)


def _difference(a: Model, b: Model, name: str) -> Difference:
    if name not in b.weights:
        return Difference(name, "only in A")
    if a.weights[name].shape != b.weights[name].shape:
        return Difference(name, "other shape", detail=f"{a.weights[name].shape} against {b.weights[name].shape}")
    x, y = a.weights[name].read(), b.weights[name].read()
    attribute, through = _fold(a, b, name, y), ""
    if same_bits(x, y):
        return Difference(name, "identical", size=x.size, attribute=attribute)
    exact = _exact(x), _exact(y)
    if not attribute:
        attribute, through = _fold_of_rounded(a, b, name)
    if attribute:
        told = f"{attribute} {a.values[attribute]} → {b.values[attribute]}" + (f", of {through}" if through else "")
        return replace(_measured(name, "folded", *exact, attribute, told), through=through)
    kind, told = _rounded(x, y, *exact)
    return _measured(name, kind, *exact, detail=told or _recognised(a, name, x, y))


def _exact(array: Array) -> Array:
    """The numbers in float64, one layout for both sides."""
    return array.astype(np.float64, order="C")


def _fold(a: Model, b: Model, name: str, found: Array) -> str:
    """The attribute whose fold makes ``found`` of weight ``name`` of ``a``, within ``ULP``; empty where none does."""
    try:
        for attribute, exact in folds_between(a, b, name):
            if _near(exact, _exact(found), _coarser(np.dtype(folded_dtype(a.weights[name].dtype)), found.dtype)):
                return attribute
    except XconvertError:  # a variance that cannot be folded
        return ""
    return ""


def _fold_of_rounded(a: Model, b: Model, name: str) -> tuple[str, str]:
    """The attribute whose fold makes the tensor of one model of that of the other, after this was rounded to a narrower dtype
    that the first one has too, as a half-precision file that was converted has its gammas in float32; and that dtype.
    """
    for one, other in ((a, b), (b, a)):
        for dtype in {tensor.dtype for tensor in other.weights.values() if tensor.dtype.itemsize < 4}:
            if attribute := _fold(as_rounded(one, dtype), other, name, other.weights[name].read()):
                return attribute, dtype
    return "", ""


def as_rounded(model: Model, dtype: DType) -> Model:
    """``model`` with every weight rounded to ``dtype``, in which it is computed when read."""

    def narrower(tensor: Tensor) -> Tensor:
        return Tensor(tensor.shape, dtype, lambda: tensor.read().astype(dtype))

    return model._replace(weights={name: narrower(tensor) for name, tensor in model.weights.items()})


def _near(a: Array, b: Array, dtype: np.dtype[Any]) -> bool:
    """Whether ``b`` is ``a`` within ``ULP`` units in the last place of ``dtype``; both in float64. NaN is near nothing."""
    some = (0,) * (a.ndim - 1)
    with np.errstate(invalid="ignore", over="ignore"):
        for x, y in ((a[some], b[some]), (a, b)):  # the first few tell most others apart
            unit = np.spacing(np.abs(x).astype(dtype)).astype(np.float64)
            if not (np.abs(y - x) <= ULP * unit).all():
                return False
    return True


def _rounded(a: Array, b: Array, x: Array, y: Array) -> tuple[str, str]:
    """The kind of two arrays, ``x`` and ``y`` in float64, that differ in dtype or bits and are of no fold; with it the dtypes,
    where these differ.
    """
    told = f"{a.dtype.name} → {b.dtype.name}" if a.dtype != b.dtype else ""
    if told:
        if same_bits(x, y):
            return "widened", told
        with np.errstate(over="ignore", invalid="ignore"):
            there, back = same_bits(a.astype(b.dtype), b), same_bits(b.astype(a.dtype), a)
        if np.isfinite(x).all() and (there or back):
            return ("rounded", told) if np.isfinite(y).all() else ("different", f"{told}, which overflows")
    return ("close" if _near(x, y, _coarser(a.dtype, b.dtype)) else "different"), told


def _coarser(*dtypes: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype whose numbers lie furthest apart."""
    return max(dtypes, key=lambda dtype: float(np.spacing(np.ones((), dtype))))


def _measured(name: str, kind: str, x: Array, y: Array, attribute: str = "", detail: str = "") -> Difference:
    if kind == "widened":
        return Difference(name, kind, size=x.size, detail=detail)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = y - x
        norm, error = float(np.linalg.norm(x)), float(np.linalg.norm(apart))
        relative = error / norm if norm else float("inf") if error else 0.0
    return Difference(name, kind, float(np.abs(apart).max()), relative, int((apart != 0).sum()), x.size, attribute, detail)


def _recognised(a: Model, name: str, x: Array, y: Array) -> str:
    """What ``y`` is, where ``x`` of ``a`` is called ``name``: a constant, ``x`` with its axes changed, or another of ``a``'s
    tensors; empty where it is none of these.
    """
    if y.size > 1 and (y == y.flat[0]).all():
        return f"all {y.flat[0]:g}"
    for told, turned in _turned(x):
        if turned.shape == y.shape and np.array_equal(turned, y):
            return told
    for other, tensor in a.weights.items():
        if other != name and tensor.shape == y.shape and _same_numbers(tensor, y):
            return f"is `{other}` of A"
    return ""


def _same_numbers(tensor: Tensor, y: Array) -> bool:
    """Whether ``tensor`` has the numbers ``y``; its first ones tell most others apart."""
    found = tensor.read()
    first = (0,) * (y.ndim - 1)
    return np.array_equal(found[first], y[first]) and np.array_equal(found, y)


def _turned(x: Array) -> Iterator[tuple[str, Array]]:
    """The ways in which frameworks and conversions turn a weight with canonical axes: (H, W, …), (…, I, O), (H, W, I, O)."""
    if x.ndim >= 3:
        yield "transposed: height and width are swapped", x.swapaxes(0, 1)
        yield "flipped in height and width, as Theano stores kernels", x[::-1, ::-1]
    if x.ndim in (2, 4):
        yield "transposed: inputs and outputs are swapped", x.swapaxes(-1, -2)
    if x.ndim == 4:
        yield "its input channels are in reverse order, as for BGR images", x[:, :, ::-1]
        yield "transposed: all of its axes are swapped", x.swapaxes(0, 1).swapaxes(-1, -2)
    if x.ndim == 1:
        with np.errstate(invalid="ignore"):
            yield "the square root of A's: standard deviations", np.sqrt(x)
            yield "the square of A's", np.square(x)


def sharing(a: Model, b: Model, found: Sequence[Difference]) -> Model:
    """``b`` with the tensors of ``a`` in the places of its own that are ``found`` to be the same to the bit: whoever computes
    both reads and copies these once.
    """
    same = {difference.name: a.weights[difference.name] for difference in found if difference.kind == "identical"}
    return b._replace(weights={**b.weights, **same})


def check_written(
    written: Checkpoint,
    found: Checkpoint,
    intended: Model,
    changes: Sequence[Change],
    again: Model,
    apart: Sequence[Difference],
) -> list[Check]:
    """Whether ``found`` in the file, and the model ``again`` in it, are what was ``written`` and meant: names, shapes and
    dtypes; values bit-equal, or within ``ULP`` of the fold, by how they are ``apart`` from the source; attributes.
    """
    names = list(found.tensors) == list(written.tensors) or sorted(found.tensors) == sorted(written.tensors)
    unlike = [n for n, t in written.tensors.items() if n in found.tensors and found.tensors[n].shape != t.shape]
    retyped = [n for n, t in written.tensors.items() if n in found.tensors and found.tensors[n].dtype != t.dtype]
    folded = {name for change in changes for name in change.weights}
    kinds = {difference.name: difference.kind for difference in apart if not difference.through}
    wrong = [name for name in intended.weights if name not in folded and kinds.get(name) != "identical"]
    wrong += [name for name in folded if kinds.get(name) not in ("folded", "identical")]
    kept = again.values == intended.values
    moved = len(intended.weights) - len(folded)
    told = f"{moved} bit-equal" + (f", {len(folded)} folded within {ULP} ulp" if folded else "")
    return [
        Check("names", names, f"{len(written.tensors)} tensors"),
        Check("shapes", not unlike, ", ".join(unlike[:4])),
        Check("dtypes", not retyped, ", ".join(retyped[:4])),
        Check("values", not wrong, told if not wrong else "not as meant: " + ", ".join(wrong[:4])),
        Check("attributes", kept, "" if kept else f"{again.values}, meant {intended.values}"),
    ]
