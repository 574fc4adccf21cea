"""Models inside models: the names of their layers, in the order Keras gave them, and which model is meant."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from xconvert.errors import AmbiguousError, UnreadableError
from xconvert.formats._arrays import shown
from xconvert.model import Tensor
from xconvert.tuples import NamedTuple

_NUMBERED = re.compile(r"(.+)_([0-9]{1,9})")


class Weight(NamedTuple):
    """One tensor of ``layer``; ``model`` is the path of the nested model that the layer is part of, empty for the outer one."""

    model: str
    layer: str
    name: str
    tensor: Tensor


def natural_order(layers: Iterable[str]) -> list[str]:
    """``layers``, where those that differ only in a number trade places so that they count up: conv2d, conv2d_1, conv2d_10.

    Every stem keeps the places it had.
    """
    layers = list(layers)
    kin: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for layer in layers:
        stem, number = _numbered(layer)
        kin[stem].append((number, layer))
    counting = {stem: iter(sorted(found)) for stem, found in kin.items()}
    return [next(counting[_numbered(layer)[0]])[1] for layer in layers]


def stem(layer: str) -> str:
    """The name of ``layer`` without the number at its end."""
    return _numbered(layer)[0]


def _numbered(layer: str) -> tuple[str, int]:
    match = _NUMBERED.fullmatch(layer)
    return (match[1], int(match[2])) if match else (layer, 0)


def unwrap(path: Path, weights: Sequence[Weight], key: str | None) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors as ``<layer>/<name>``, the outer model's and those of the models nested in it, with notes on these.

    ``key`` is the path of the nested model that is meant: it and the models in it, and nothing around it. Raises
    ``AmbiguousError`` when two models have layers of the same name, ``UnreadableError`` when there is no model ``key`` or a name
    comes twice.
    """
    notes = []
    if key is not None:
        chosen = _chosen(path, weights, key)
        if around := _around(weights, key):
            notes.append(f"left out {len(weights) - len(chosen)} tensors outside the nested model `{key}`: {around}")
        weights = chosen
    _check_names(path, weights)
    tensors: dict[str, Tensor] = {}
    for weight in weights:
        name = f"{weight.layer}/{weight.name}"
        if name in tensors:
            raise UnreadableError(f"`{path}` is damaged: it holds `{shown(name)}` twice")
        tensors[name] = weight.tensor
    return tensors, [f"unwrapped the nested model `{model}`" for model in _models(weights)] + notes


def _models(weights: Iterable[Weight]) -> dict[str, int]:
    """Nested models and how many tensors they have."""
    models: dict[str, int] = defaultdict(int)
    for weight in weights:
        if weight.model:
            models[weight.model] += 1
    return dict(models)


def within(model: str, outer: str) -> bool:
    """Whether ``model`` is ``outer`` or nested in it, both as paths."""
    return model == outer or not outer or model.startswith(f"{outer}/")


def _around(weights: Sequence[Weight], key: str, most: int = 8) -> str:
    """The layers outside the nested model ``key``, and the other nested models, each as a whole."""
    outside = [w for w in weights if not within(w.model, key)]
    # A model around the one that is meant is no whole: its layers are named one by one.
    names = dict.fromkeys(f"`{w.layer if within(key, w.model) else w.model}`" for w in outside)
    more = [f"and {len(names) - most} more"] if len(names) > most else []
    return ", ".join([*list(names)[:most], *more])


def _chosen(path: Path, weights: Sequence[Weight], key: str) -> list[Weight]:
    if key not in _models(weights):
        raise UnreadableError(
            f"`{path}` holds no nested model `{shown(key)}`",
            facts=_listed(_models(weights)),
            hints=[f"pass `--key {model}`" for model in _models(weights)] or ["leave `--key` away"],
        )
    return [weight for weight in weights if within(weight.model, key)]


def _check_names(path: Path, weights: Sequence[Weight]) -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for weight in weights:
        owners[weight.layer].add(weight.model)
    clashing = {layer: models for layer, models in owners.items() if len(models) > 1}
    if not clashing:
        return
    involved = {model for models in clashing.values() for model in models}
    candidates = {model: count for model, count in _models(weights).items() if model in involved}
    raise AmbiguousError(
        f"`{path}` holds several models with layers of the same names",
        facts=[*_listed(candidates), f"in more than one: {', '.join(f'`{layer}`' for layer in list(clashing)[:3])}"],
        hints=[f"`--key {model}` takes that model alone, without {_around(weights, model)}" for model in candidates],
    )


def _listed(models: dict[str, int]) -> list[str]:
    return [f"`{model}` ({count} tensors)" for model, count in models.items()]
