"""What the tests with frameworks share: narrow networks of either padding, their weights, and how far apart two
answers are."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.narrow import KERAS, TORCH, narrow
from xconvert.model import Array, Model

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
