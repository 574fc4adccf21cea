"""The ``config.json`` that timm writes beside its weights: which of its networks it is, and how images become inputs.

From ``save_config_for_hf`` in timm/models/_hub.py and ``create_transform`` in timm/data/transforms_factory.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xconvert.model import Graph
from xconvert.preprocessing import PREPROCESSING

WEIGHTS, CONFIG = "model.safetensors", "config.json"
NATIVE = 299  # pixels; the size of every Xception in timm
_LARGEST = 1 << 20  # bytes; timm's own have some hundred, with the names of classes some ten thousand


def stated_beside(path: Path) -> dict[str, Any]:
    """What the configuration beside the weights ``path`` states of preprocessing, in the words of the mapping files.

    Empty where there is none, and without what is no sensible value: the file is not the one that was asked for.
    """
    beside = path.with_name(CONFIG)
    try:
        if path.name != WEIGHTS or not beside.is_file() or beside.stat().st_size > _LARGEST:
            return {}
        config = json.loads(beside.read_bytes())["pretrained_cfg"]
        found = _preprocessing(config)
    except (OSError, ValueError, KeyError, TypeError, IndexError, RecursionError, ArithmeticError):
        return {}
    return {key: value for key, value in found.items() if PREPROCESSING[key].fits(value)}


def _preprocessing(config: Mapping[str, Any]) -> dict[str, Any]:
    size = config["input_size"][-1]
    found = {"size": size, **{key: config[key] for key in ("interpolation", "mean", "std") if key in config}}
    mode = config.get("crop_mode", "center")
    if mode == "squash" and config.get("crop_pct") == 1:
        found["crop"] = "none"
    elif mode == "center" and config.get("crop_pct"):
        found |= {"resize": math.floor(size / config["crop_pct"]), "crop": "centre"}
    return found


def configuration(graph: Graph, published: str, preprocessing: Mapping[str, Any]) -> str:
    """The configuration for timm's network ``published``, with the classes and channels that the checkpoint has."""
    first, last = graph.layers[0], graph.layers[-1]
    head = graph.weights.get(f"{last.name}.weight") if last.op == "linear" else None
    classes = head.shape[1] if head else 0
    size = preprocessing.get("size", NATIVE)
    whole = preprocessing["crop"] if preprocessing.get("crop") in ("none", "square") else None
    stated = {
        "tag": "xconvert",
        "custom_load": False,
        "input_size": [graph.weights[f"{first.name}.weight"].shape[2], size, size],
        "fixed_input_size": False,
        "interpolation": preprocessing.get("interpolation"),
        "crop_pct": _crop(size, preprocessing["resize"]) if "resize" in preprocessing else 1.0 if whole else None,
        "crop_mode": "squash" if whole == "none" else "center",
        "mean": preprocessing.get("mean"),
        "std": preprocessing.get("std"),
        "num_classes": classes,
        "pool_size": [math.ceil(size / 32)] * 2,
        "first_conv": graph.names[first.name],
        "classifier": graph.names[last.name] if head else None,
    }
    told = {
        "architecture": published,
        "num_classes": classes,
        "num_features": head.shape[0] if head else _width(graph),
        "global_pool": "avg",
        "pretrained_cfg": {key: value for key, value in stated.items() if value is not None},
    }
    return json.dumps(told, indent=2) + "\n"


def _width(graph: Graph) -> int:
    """Channels of the last map: those of the last weights."""
    layer = next(layer for layer in reversed(graph.layers) if layer.parameters)
    return graph.weights[f"{layer.name}.{next(iter(layer.parameters))}"].shape[-1]


def _crop(size: int, resize: int) -> float:
    """The shortest decimal fraction with which timm resizes the shorter side to ``resize``: floor(size / fraction)."""
    for digits in range(1, 17):
        for target in (resize, resize + 0.5):  # what rounds to less than the first is caught by the second
            fraction = round(size / target, digits)
            if fraction and math.floor(size / fraction) == resize:
                return fraction
    return size / resize
