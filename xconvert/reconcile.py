"""Bring a model to the attributes of a target: fold what weights can express exactly, and say what they cannot."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, Literal

from xconvert.attributes import in_training
from xconvert.deferred import np
from xconvert.errors import UsageError, XconvertError
from xconvert.model import Array, Attribute, DType, Model, Tensor
from xconvert.tuples import NamedTuple


class Change(NamedTuple):
    """What became of an attribute whose value differs: folded into weights, accepted as a difference, refused, or, where it
    matters in ``"training"`` alone, that of the target, by which no answer changes. Also what was asked for beside them: of the
    ``"background"`` class, or of the ``"head"``, that it was dropped or added, or is ``"new"``.
    """

    attribute: str
    source: Any
    target: Any
    action: Literal["folded", "accepted", "refused", "training", "dropped", "added", "new"]
    weights: tuple[str, ...] = ()  # those that a fold rewrote

    def told(self) -> dict[str, Any]:
        """The change as JSON types, with the number of rewritten weights, and where they are, for their names."""
        count, fold = len(self.weights), FOLDS.get(self.attribute)
        plain = {name: value for name, value in self._asdict().items() if name != "weights"}
        return {**plain, "count": count, "where": fold.where.format(count) if fold else ""}


Exact = Callable[[str], Array]  # a weight by its name, in float64


class Fold(NamedTuple):
    """How weights make up for an attribute: ``weights(model)`` are those it rewrites, ``rewrite(name, read, source, target)``
    gives one of them in float64. ``where``: what they belong to, in words, with their number as ``{}``.
    """

    where: str
    weights: Callable[[Model], tuple[str, ...]]
    rewrite: Callable[[str, Exact, Any, Any], Array]


def reconcile(model: Model, wanted: Mapping[str, Any], accept: Collection[str] = ()) -> tuple[Model, tuple[Change, ...]]:
    """``model`` with the attributes in ``wanted``; those not named there are carried.

    An attribute with a fold (``bn_epsilon``, ``head_scale``) leaves the function as it was, up to one rounding of the
    rewritten weights; one that matters in training alone (``bn_momentum``) leaves it to the bit. Any other difference is in the
    changes as accepted, if it is in ``accept``, or refused: then the returned model computes another function.
    """
    changes = []
    for name, target in wanted.items():
        source = model.values[name]
        if source == target:
            continue
        if fold := FOLDS.get(name):
            rewritten = {weight: _folded(model, fold, weight, source, target) for weight in fold.weights(model)}
            model = model._replace(weights={**model.weights, **rewritten})
            changes.append(Change(name, source, target, "folded", tuple(rewritten)))
        elif in_training(name):
            changes.append(Change(name, source, target, "training"))
        else:
            changes.append(Change(name, source, target, "accepted" if name in accept else "refused"))
        model = model._replace(attributes={**model.attributes, name: Attribute(target, changes[-1].action)})
    return model, tuple(changes)


def folds_between(a: Model, b: Model, weight: str) -> Iterator[tuple[str, Array]]:
    """The attributes in which ``b`` differs from ``a`` and that rewrite ``weight``, with what each makes of it, in float64."""
    for name, fold in FOLDS.items():
        if name in a.values and a.values[name] != b.values[name] and weight in fold.weights(a):
            yield name, fold.rewrite(weight, _exact(a), a.values[name], b.values[name])


def folded_dtype(dtype: DType) -> DType:
    """The dtype of a folded weight: that of the original, but never below float32.

    Half precision would round it by 5e-4, more than the smallest defect worth catching; 40 short vectors cost nothing.
    """
    return DType(np.promote_types(dtype, np.float32).name)


def _folded(model: Model, fold: Fold, weight: str, source: Any, target: Any) -> Tensor:
    tensor = model.weights[weight]
    dtype = folded_dtype(tensor.dtype)
    return Tensor(tensor.shape, dtype, lambda: fold.rewrite(weight, _exact(model), source, target).astype(dtype))


def _exact(model: Model) -> Exact:
    return lambda name: model.weights[name].read().astype(np.float64)


def _gammas(model: Model) -> tuple[str, ...]:
    return tuple(name for name in model.weights if name.endswith(".gamma"))


def fold_epsilon(weight: str, read: Exact, source: float, target: float) -> Array:
    """The gamma (C,) that with epsilon ``target`` gives what it gives with ``source``.

    gamma·sqrt((variance+target)/(variance+source)). It is accurate to rounding for any variance, while moving the
    variance instead loses digits and can make it negative. Raises ``XconvertError`` where variance + epsilon is not
    positive.
    """
    layer = weight.removesuffix(".gamma")
    variance = read(f"{layer}.variance")
    if not ((variance + source > 0).all() and (variance + target > 0).all()):
        least = (variance + min(source, target)).min()
        raise XconvertError(f"the epsilon of `{layer}` cannot be folded: variance + epsilon is {least:g}")
    folded: Array = read(weight) * np.sqrt((variance + target) / (variance + source))
    return folded


def _classifier(model: Model) -> tuple[str, ...]:
    return tuple(f"{name}.weight" for name in (n.removesuffix(".bias") for n in model.weights if n.endswith(".bias")))


def _fold_scale(weight: str, read: Exact, source: float, target: float) -> Array:
    """The classifier (I, O) that takes over from its input what ``target`` no longer multiplies it with."""
    folded: Array = read(weight) * (source / target)
    return folded


FOLDS: Mapping[str, Fold] = {
    "bn_epsilon": Fold("{} batch norms", _gammas, fold_epsilon),
    "head_scale": Fold("the classifier", _classifier, _fold_scale),
}

CLASSES = 1000  # of ImageNet; TensorFlow's checkpoints have one more, the first, for background
NEVER = -1e4  # the bias of a class that never wins: exp(-1e4) is 0, and half precision can hold it


def without_background(model: Model) -> Model:
    """``model`` without its first class. Raises ``UsageError`` for a model with no head, or of ImageNet's 1000 classes."""
    count = classes(model)
    if count in (0, 1, CLASSES):
        found = f"it has {count} classes" if count else "it has no head"
        raise UsageError(f"there is no background class to drop: {found}", hints=["leave `--drop-background` away"])
    told = f"left out the first of {count} classes, background: row 0 of the classifier; what was class 1 is class 0"
    return _reclassed(model, lambda array: array[..., 1:], -1, told)


def with_background(model: Model) -> Model:
    """``model`` with a first class that never wins: weights 0, bias ``NEVER``. Raises ``UsageError`` for one with no head."""
    if not model.head:
        raise UsageError("a model without a head has no classes", hints=["leave `--add-background` away"])

    def widened(array: Array) -> Array:
        first = np.full((*array.shape[:-1], 1), 0 if array.ndim == 2 else NEVER, array.dtype)
        return np.concatenate([first, array], -1)

    return _reclassed(model, widened, 1, "added a first class, background, that never wins: what was class 0 is class 1")


def classes(model: Model) -> int:
    """How many classes a model tells apart; 0 without a head."""
    return model.weights["predictions.bias"].shape[0] if model.head else 0


def _reclassed(model: Model, change: Callable[[Array], Array], more: int, told: str) -> Model:
    changed = {}
    for name in ("predictions.weight", "predictions.bias"):
        tensor = model.weights[name]
        shape = (*tensor.shape[:-1], tensor.shape[-1] + more)
        changed[name] = Tensor(shape, tensor.dtype, lambda tensor=tensor: np.ascontiguousarray(change(tensor.read())))  # type: ignore[misc]
    return model._replace(weights={**model.weights, **changed}, notes=(*model.notes, told))
