"""What the tests with frameworks share: narrow networks of either padding, their weights, and how far apart two
answers are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from tests.narrow import KERAS, TORCH, narrow
from xconvert.backends import Job
from xconvert.model import Array, Checkpoint, Layer, Model
from xconvert.probe import images

DIVIDE = 16


def network(padding: str, **options: Any) -> Model:
    """A narrow Xception with the attributes of Keras for ``same_upper``, of PyTorch's zoos for ``symmetric``."""
    return narrow(**({"divide": DIVIDE} | (KERAS if padding == "same_upper" else TORCH) | options))


def arrays(model: Model) -> dict[str, Array]:
    """The weights of ``model`` by canonical name."""
    return {name: tensor.read() for name, tensor in model.weights.items()}


def apart(a: Array, b: Array) -> float:
    """Relative L2 distance of ``a`` from ``b``, in float64."""
    return float(np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64)))


def altered(dtype: str) -> Job:
    """A job whose last depthwise convolutions are dilated and whose classifier halves its input."""
    model = network("symmetric", depth=1)

    def changed(layer: Layer) -> Layer:
        if layer.op == "depthwise" and layer.name.startswith("block7."):
            return layer._replace(dilation=2, padding=2)
        return layer._replace(scale=0.3) if layer.op == "linear" else layer

    layers = tuple(map(changed, model.layers))
    assert sum(layer.dilation == 2 for layer in layers) == 2
    return Job(layers, arrays(model), images(75, 2), dtype, tuple(layer.name for layer in layers))


def assert_same_numbers(checkpoint: Checkpoint, expected: Path) -> None:
    """Every tensor of ``checkpoint`` has the name and the bits of the array that the framework itself stored in ``expected``."""
    numbers = np.load(expected)
    assert set(checkpoint.tensors) == set(numbers.files)
    for name, tensor in checkpoint.tensors.items():
        array = tensor.read()
        assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype), name
        assert array.tobytes() == numbers[name].tobytes(), name
