"""Bring a model to the attributes of a target: fold what weights can express exactly, and say what they cannot."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from xconvert.errors import XconvertError
from xconvert.model import Array, Attribute, Model, Tensor


@dataclass(frozen=True, slots=True)
class Change:
    """What became of an attribute whose value differs: folded into weights, accepted as a difference, or refused."""

    attribute: str
    source: Any
    target: Any
    action: Literal["folded", "accepted", "refused"]
    weights: tuple[str, ...] = ()  # those that a fold rewrote


def reconcile(model: Model, wanted: Mapping[str, Any], accept: Collection[str] = ()) -> tuple[Model, tuple[Change, ...]]:
    """``model`` with the attributes in ``wanted``; those not named there are carried.

    An attribute with a fold (``bn_epsilon``) leaves the function as it was, up to one rounding of the rewritten
    weights; any other difference is in the changes as accepted, if it is in ``accept``, or refused: then the returned
    model computes another function.
    """
    changes = []
    for name, target in wanted.items():
        source = model.values[name]
        if source == target:
            continue
        if fold := FOLDS.get(name):
            rewritten = fold(model, source, target)
            model = replace(model, weights={**model.weights, **rewritten})
            changes.append(Change(name, source, target, "folded", tuple(rewritten)))
        else:
            changes.append(Change(name, source, target, "accepted" if name in accept else "refused"))
        model = replace(model, attributes={**model.attributes, name: Attribute(target, changes[-1].action)})
    return model, tuple(changes)


def folded_gamma(gamma: Array, variance: Array, source: float, target: float) -> Array:
    """The gamma (C,) that with epsilon ``target`` gives what ``gamma`` gives with ``source``: computed in float64,
    rounded once.

    gamma·sqrt((variance+target)/(variance+source)). It is accurate to rounding for any variance, while moving the
    variance instead loses digits and can make it negative. Raises ``ValueError`` where variance + epsilon is not
    positive.
    """
    exact = variance.astype(np.float64)
    if not ((exact + source > 0).all() and (exact + target > 0).all()):
        raise ValueError(f"variance + epsilon is {(exact + min(source, target)).min():g}")
    folded = gamma.astype(np.float64) * np.sqrt((exact + target) / (exact + source))
    return folded.astype(folded_dtype(gamma.dtype))


def folded_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype of a folded weight: that of the original, but never below float32.

    Half precision would round it by 5e-4, more than the smallest defect worth catching; 40 short vectors cost nothing.
    """
    return np.promote_types(dtype, np.float32)


def _fold_epsilon(model: Model, source: float, target: float) -> dict[str, Tensor]:
    folded = {}
    for layer in model.layers:
        if layer.op == "batch_norm":
            name = f"{layer.name}.gamma"
            folded[name] = _folded(model.weights[name], model.weights[f"{layer.name}.variance"], source, target, layer.name)
    return folded


def _folded(gamma: Tensor, variance: Tensor, source: float, target: float, layer: str) -> Tensor:
    def read() -> Array:
        try:
            return folded_gamma(gamma.read(), variance.read(), source, target)
        except ValueError as error:
            raise XconvertError(f"the epsilon of `{layer}` cannot be folded: {error}") from None

    return Tensor(gamma.shape, folded_dtype(gamma.dtype), read)


FOLDS: Mapping[str, Callable[[Model, Any, Any], dict[str, Tensor]]] = {"bn_epsilon": _fold_epsilon}
