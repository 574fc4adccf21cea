"""What a Keras model configuration says of its layers, and so of attributes that are not in the weights.

It is data here, and never run.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

from xconvert.formats._arrays import shown
from xconvert.formats._keras_models import within
from xconvert.tuples import NamedTuple

_BATCH_NORMS = {"BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization"}
_OURS = "xconvert>"  # the package under which xconvert registers its own layers with Keras
_SYMMETRIC_POOL = _OURS + "SymmetricMaxPooling2D"
_WRAPPERS = {"TimeDistributed", "Bidirectional", "SpectralNormalization"}  # change what the layer inside computes

# Keras 1 → 2
_CLASSES = {"Convolution2D": "Conv2D", "SeparableConvolution2D": "SeparableConv2D"}
_OPTIONS = {"border_mode": "padding", "subsample": "strides", "bias": "use_bias", "dim_ordering": "data_format"}
_DATA_FORMATS = {"tf": "channels_last", "th": "channels_first"}
_KEPT = (
    *("kernel_size", "pool_size", "strides", "padding", "dilation_rate", "groups", "data_format", "use_bias", "activation"),
    *("epsilon", "momentum", "axis", "max_value", "negative_slope", "threshold", "scale", "offset"),
)

Evidence = dict[str, tuple[Any, str]]


class Description(NamedTuple):
    """``evidence`` and ``stated`` as in ``Checkpoint``, with notes; ``models`` are the paths of the nested models, None where
    the configuration lists no layers.
    """

    evidence: Mapping[str, tuple[Any, str]] = {}
    stated: Mapping[str, Mapping[str, Any]] = {}
    notes: tuple[str, ...] = ()
    models: frozenset[str] | None = None

    def without(self, models: Iterable[str]) -> Description:
        """Nothing stated of nested ``models`` in the weights that list no layers here: they build them themselves."""
        parts = {part for model in models for part in model.split("/")}
        stated = {n: o for n, o in self.stated.items() if n not in parts or o["class"] in _WRAPPERS}
        return self._replace(stated=stated)


class _Said(NamedTuple):
    """A layer, or a nested model with ``layers``; ``model`` is the path of the nested model that it is part of."""

    model: str
    name: str
    options: Mapping[str, Any]
    has_layers: bool

    @property
    def path(self) -> str:
        return f"{self.model}/{self.name}" if self.model else self.name


def describe(text: str | bytes, source: str, *, key: str | None = None, numbered: bool = False) -> Description:
    """What the JSON ``text`` states, of Keras 1, 2 and 3, nested models included.

    ``key``: the path of the nested model that is meant, alone. ``numbered``: layers go by class and number, as in
    ``.weights.h5``. No evidence is given for an attribute on which layers disagree, or for pools that no Xception has; a note
    says so.
    """
    try:
        config = json.loads(text)
        listed = _listed(config)
        everything = list(_layers(listed or [], "", numbered))
    except (ValueError, RecursionError):
        return Description(notes=(f"the {source} is not JSON and was not looked at",))
    if listed is None:
        return Description(stated=_task(config, numbered) if key is None else {})
    models = frozenset(said.path for said in everything if said.has_layers)
    chosen = [said for said in everything if not said.has_layers and (key is None or within(said.model, key))]
    found, notes = _evidence([said.options for said in chosen], source)
    return Description(found, _named(chosen), tuple(notes), models)


def _task(model: Any, numbered: bool) -> dict[str, Mapping[str, Any]]:
    """What keras-hub's classifiers say of their head, the only layers that they do not leave to a backbone."""
    config = model.get("config") if isinstance(model, dict) else None
    if not isinstance(config, dict) or not str(model.get("registered_name") or model.get("class_name")).startswith("keras_hub>"):
        return {}
    stated: dict[str, Mapping[str, Any]] = {}
    if config.get("pooling") in ("avg", "max"):
        kind = "GlobalMaxPooling2D" if config["pooling"] == "max" else "GlobalAveragePooling2D"
        stated["pooler"] = {"class": kind, "name": "pooler", "calls": 1}
    if config.get("activation") is not None:
        dense = {"class": "Dense", "name": "predictions", "calls": 1, "activation": config["activation"]}
        stated["dense" if numbered else "predictions"] = dense
    return stated


def _listed(item: Any) -> list[Any] | None:
    """The layers of a model's configuration, a bare list for ``Sequential`` in Keras 1; None for what is no model."""
    config = item.get("config") if isinstance(item, dict) else None
    layers = config.get("layers") if isinstance(config, dict) else config
    return layers if isinstance(layers, list) else None


def _layers(items: Iterable[Any], model: str, numbered: bool) -> Iterator[_Said]:
    """Every layer in order, each nested model before the layers in it."""
    count: Counter[str] = Counter()
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("config"), (dict, list)):
            continue
        options = _options(item)
        stem = _snake(options["class"])
        number = f"{stem}_{count[stem]}" if count[stem] else stem  # as _save_container_state in keras/src/saving/saving_lib.py
        count[stem] += 1
        inner = _listed(item)
        said = _Said(model, number if numbered else options["name"] or number, options, inner is not None)
        yield said
        yield from _layers(inner or [], said.path, numbered)


def _options(item: Mapping[str, Any]) -> dict[str, Any]:
    """What ``stated`` holds of a layer: its class, its own name, how often it is called, and options in the words of Keras 3."""
    kind = str(item.get("registered_name") or item.get("class_name"))
    config = item["config"] if isinstance(item["config"], dict) else {}
    said = {_OPTIONS.get(option, option): value for option, value in config.items()}
    if {"nb_row", "nb_col"} <= said.keys():
        said["kernel_size"] = [said["nb_row"], said["nb_col"]]
    if isinstance(said.get("data_format"), str):
        said["data_format"] = _DATA_FORMATS.get(said["data_format"], said["data_format"])
    kind = "Add" if kind == "Merge" and said.get("mode") == "sum" else _CLASSES.get(kind, kind)
    kept = {option: _tupled(said[option]) for option in _KEPT if option in said}
    calls = item.get("inbound_nodes")
    times = len(calls) if isinstance(calls, list) and calls else 1
    return {"class": shown(kind), "name": shown(str(config.get("name") or item.get("name") or "")), "calls": times, **kept}


def _tupled(value: Any) -> Any:
    return tuple(tuple(v) if isinstance(v, list) else v for v in value) if isinstance(value, list) else value


@lru_cache(64)  # a network has hundreds of layers, of a dozen classes
def _snake(kind: str) -> str:
    """``to_snake_case`` in keras/src/utils/naming.py, of a class without its package."""
    name = re.sub(r"\W+", "", kind.rpartition(">")[2])
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", name)).lower()


def _named(layers: Iterable[_Said]) -> dict[str, Mapping[str, Any]]:
    """What is said of every layer by its name, or by its path where the name is taken, or by that and a number."""
    stated: dict[str, Mapping[str, Any]] = {}
    number: Counter[str] = Counter()
    for said in layers:
        name = path = said.path if said.name in stated else said.name
        while name in stated:
            number[path] += 1
            name = f"{path} ({number[path]})"
        stated[name] = said.options
    return stated


def _evidence(layers: list[Mapping[str, Any]], source: str) -> tuple[Evidence, list[str]]:
    found: Evidence = {}
    notes = []
    for attribute, what, values in (
        ("bn_epsilon", "batch norms have different epsilons", _of_norms(layers, "epsilon")),
        ("bn_momentum", "batch norms have different momentums", _of_norms(layers, "momentum")),
        ("pool_padding", "max-pools have different paddings", _paddings(layers)),
    ):
        if len(values) == 1:
            found[attribute] = (next(iter(values)), source)
        elif values:
            told = [_counted(value, names) for value, names in islice(values.items(), 8)]
            notes.append(f"{what}: {', '.join(told)}" + (f" and {len(values) - 8} more" if len(values) > 8 else ""))
    if found.get("pool_padding", ("",))[0] == "valid":
        del found["pool_padding"]
        notes.append("max-pools of 3×3 with stride 2 have the padding `valid`, which no Xception has")
    return found, notes


def _of_norms(layers: list[Mapping[str, Any]], option: str) -> dict[Any, list[str]]:
    """The values of batch norms' ``option``, numbers between 0 and 1, each with the names of the layers that have it."""
    found: dict[Any, list[str]] = defaultdict(list)
    for options in layers:
        value = options.get(option)
        if options["class"] in _BATCH_NORMS and isinstance(value, float) and 0 < value < 1:
            found[value].append(options["name"])
    return found


def _paddings(layers: list[Mapping[str, Any]]) -> dict[Any, list[str]]:
    """The paddings of max-pools of 3×3 with stride 2, each with the names of the layers that have it."""
    found: dict[Any, list[str]] = defaultdict(list)
    for options in layers:
        if options["class"] == _SYMMETRIC_POOL:
            found["symmetric"].append(options["name"])
        elif options["class"] == "MaxPooling2D" and options.get("pool_size") == (3, 3) and options.get("strides") == (2, 2):
            padding = options.get("padding")
            found["same_upper" if padding == "same" else shown(str(padding))].append(options["name"])
    return found


def _counted(value: Any, names: list[str]) -> str:
    return f"{value} ({len(names)} layers)" if len(names) > 1 else f"{value} (1 layer, `{names[0]}`)"
