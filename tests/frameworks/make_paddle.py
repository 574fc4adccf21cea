"""The PaddlePaddle kinds of ``make.py``: PaddleClas' Xceptions, saved by ``paddle.save``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from paddle import nn

from tests.frameworks.make import Answer, Array, names, parts
from xconvert.backends.paddleclas import FILES, cut, import_zoo

ATTRIBUTES = {"gamma": "weight", "beta": "bias", "mean": "_mean", "variance": "_variance"}


def make(kind: str, out: Path, weights: Mapping[str, Array], divide: int, network: str = "Xception41") -> Answer:
    """Write ``out``; returns what gives the real class' answers: Paddle's epsilons are float32 in either precision."""
    head = weights.get("predictions.weight")
    layer = _create(network, 1 if head is None else head.shape[1], divide)
    if head is None:
        cut(layer)
    _fill(layer, weights, names("paddleclas", network))
    paddle.save(layer.state_dict(), str(out), protocol=int(kind.partition("-")[2]))

    def answer(x: Array, dtype: str) -> Array:
        layer.to(dtype=dtype)
        with paddle.no_grad():
            y: Array = layer(paddle.to_tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype))).numpy()
        return y

    return answer


def _create(network: str, classes: int, divide: int) -> Any:
    """PaddleClas' class, its layers made ``divide`` times narrower, from 32 channels on, by what it takes for Paddle's."""

    def width(n: int) -> int:
        return n // divide if n >= 32 else n

    class Conv2D(nn.Conv2D):
        def __init__(self, in_channels: int, out_channels: int, kernel_size: int, groups: int = 1, **how: Any) -> None:
            super().__init__(width(in_channels), width(out_channels), kernel_size, groups=width(groups), **how)

    class BatchNorm(nn.BatchNorm):
        def __init__(self, num_channels: int, **how: Any) -> None:
            super().__init__(width(num_channels), **how)

    class Linear(nn.Linear):
        def __init__(self, inputs: int, outputs: int, **how: Any) -> None:
            super().__init__(width(inputs), outputs, **how)

    zoo: Any = next(module for module in map(import_zoo, FILES) if network in module.__all__)
    zoo.Conv2D, zoo.BatchNorm, zoo.Linear = Conv2D, BatchNorm, Linear
    layer = getattr(zoo, network)(class_num=classes)
    layer.eval()
    return layer


def _fill(layer: Any, weights: Mapping[str, Array], theirs: Mapping[str, str]) -> None:
    """Set every tensor of ``layer`` from canonical axes."""
    state = layer.state_dict()
    left = set(state)
    for name, arrays in parts(weights).items():
        for parameter, array in arrays.items():
            if parameter == "weight" and name != "predictions":
                array = _kernel(name, array)
            key = f"{theirs[name]}.{ATTRIBUTES.get(parameter, parameter)}"
            assert tuple(state[key].shape) == array.shape, key
            state[key].set_value(paddle.to_tensor(np.ascontiguousarray(array)))
            left.remove(key)
    assert not left, left


def _kernel(layer: str, array: Array) -> Array:
    if layer.endswith(".depthwise"):
        return array.transpose(2, 0, 1)[:, None]  # H W C → C 1 H W
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T[:, :, None, None]  # H W I O or I O → O I H W
