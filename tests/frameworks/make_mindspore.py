"""The MindSpore kinds of ``make.py``: MindCV's Xception, saved by ``mindspore.save_checkpoint``."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mindspore
import numpy as np
from mindspore import nn

from tests.frameworks.make import Answer, Array, names, parts
from xconvert.backends.mindcv import create

ATTRIBUTES = {"mean": "moving_mean", "variance": "moving_variance"}


def make(kind: str, out: Path, weights: Mapping[str, Array], divide: int) -> Answer:
    """Write ``out``; returns what gives the real class' answers, in float32."""
    head = weights.get("predictions.weight")
    xception: Any = import_module("mindcv.models.xception")
    xception.nn = _narrow(divide)
    cell = create(0 if head is None else head.shape[1], next(iter(weights.values())).shape[2])
    _fill(cell, weights, names("mindcv"))
    mindspore.save_checkpoint(cell, str(out), format=kind.partition("-")[2])

    def answer(x: Array, dtype: str) -> Array:
        image = mindspore.Tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype))
        if head is not None:
            logits: Array = cell(image).asnumpy()
            return logits
        return np.ascontiguousarray(cell.forward_features(image).asnumpy().transpose(0, 2, 3, 1))

    return answer


def _narrow(divide: int) -> SimpleNamespace:
    """``mindspore.nn`` whose convolutions, normalisations and inputs of dense layers are narrower from 32 channels on."""

    def width(n: int) -> int:
        return n // divide if n >= 32 else n

    class Conv2d(nn.Conv2d):  # type: ignore[misc]
        def __init__(self, inputs: int, outputs: int, *rest: Any, group: int = 1, **how: Any) -> None:
            super().__init__(width(inputs), width(outputs), *rest, group=width(group), **how)

    class BatchNorm2d(nn.BatchNorm2d):  # type: ignore[misc]
        def __init__(self, channels: int) -> None:
            super().__init__(width(channels))

    class Dense(nn.Dense):  # type: ignore[misc]
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__(width(inputs), outputs)

    return SimpleNamespace(**{**vars(nn), "Conv2d": Conv2d, "BatchNorm2d": BatchNorm2d, "Dense": Dense})


def _fill(cell: Any, weights: Mapping[str, Array], theirs: Mapping[str, str]) -> None:
    """Set every parameter of ``cell`` from canonical axes."""
    state = {parameter.name: parameter for parameter in cell.get_parameters()}
    for layer, arrays in parts(weights).items():
        for parameter, array in arrays.items():
            if parameter == "weight":
                array = _kernel(layer, array)
            target = state.pop(f"{theirs[layer]}.{ATTRIBUTES.get(parameter, parameter)}")
            assert target.shape == array.shape, target.name
            target.set_data(mindspore.Tensor(np.ascontiguousarray(array)))
    assert not state, list(state)


def _kernel(layer: str, array: Array) -> Array:
    if layer.endswith(".depthwise"):
        return array.transpose(2, 0, 1)[:, None]  # H W C → C 1 H W
    if layer == "predictions":
        return array.T
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T[:, :, None, None]  # H W I O or I O → O I H W
