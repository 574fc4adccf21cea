"""What a Keras model configuration says about attributes that are not in the weights. It is data here, and never run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from xconvert.formats._arrays import shown

_BATCH_NORMS = {"BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization"}
_OURS = "xconvert>"  # the package under which xconvert registers its own layers with Keras
_SYMMETRIC_POOL = "SymmetricMaxPooling2D"

Evidence = dict[str, tuple[Any, str]]


def evidence(text: str | bytes, source: str) -> tuple[Evidence, list[str]]:
    """``bn_epsilon`` and ``pool_padding`` as the JSON ``text`` states them, as attribute → (value, ``source``), and notes.

    Keras 1, 2 and 3, nested models included. Nothing is given for an attribute on which layers disagree, or for
    pools that no Xception has; a note says so.
    """
    try:
        layers = list(_layers(json.loads(text)))
    except (ValueError, RecursionError):
        return {}, [f"the {source} is not JSON and was not looked at"]
    found: Evidence = {}
    notes = []
    for attribute, what, values in (
        ("bn_epsilon", "batch norms have different epsilons", _epsilons(layers)),
        ("pool_padding", "max-pools have different paddings", _paddings(layers)),
    ):
        if len(values) == 1:
            found[attribute] = (next(iter(values)), source)
        elif values:
            notes.append(f"{what}: {', '.join(_counted(value, names) for value, names in values.items())}")
    if found.get("pool_padding", ("",))[0] == "valid":
        del found["pool_padding"]
        notes.append("max-pools of 3×3 with stride 2 have the padding `valid`, which no Xception has")
    return found, notes


def _layers(config: Any) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(class name, configuration) of every layer, in order, at any depth."""
    waiting = [config]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting.extend(reversed(item))
        elif isinstance(item, dict):
            name, inner = item.get("registered_name") or item.get("class_name"), item.get("config")
            if isinstance(name, str) and isinstance(inner, dict):
                yield name, inner
            waiting.extend(reversed(item.values()))


def _epsilons(layers: list[tuple[str, Mapping[str, Any]]]) -> dict[Any, list[str]]:
    """The epsilons of batch norms, each with the names of the layers that have it."""
    found: dict[Any, list[str]] = defaultdict(list)
    for kind, config in layers:
        epsilon = config.get("epsilon")
        if kind in _BATCH_NORMS and isinstance(epsilon, float) and 0 < epsilon < 1:
            found[epsilon].append(shown(str(config.get("name"))))
    return found


def _paddings(layers: list[tuple[str, Mapping[str, Any]]]) -> dict[Any, list[str]]:
    """The paddings of max-pools of 3×3 with stride 2, each with the names of the layers that have it."""
    found: dict[Any, list[str]] = defaultdict(list)
    for kind, config in layers:
        name = shown(str(config.get("name")))
        if kind.removeprefix(_OURS) == _SYMMETRIC_POOL:
            found["symmetric"].append(name)
        elif kind == "MaxPooling2D" and config.get("pool_size") == [3, 3] and config.get("strides") == [2, 2]:
            padding = config.get("padding", config.get("border_mode"))  # border_mode: Keras 1
            found["same_upper" if padding == "same" else shown(str(padding))].append(name)
    return found


def _counted(value: Any, names: list[str]) -> str:
    return f"{value} ({len(names)} layers)" if len(names) > 1 else f"{value} (1 layer, `{names[0]}`)"
