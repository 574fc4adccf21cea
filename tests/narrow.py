"""Narrow, calibrated Xceptions for tests: a few thousand weights, and every mistake shows."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from tests.frameworks.calibrate import calibrated, widths
from xconvert.architectures import families
from xconvert.loading import save
from xconvert.mappings import library
from xconvert.model import Attribute, Checkpoint, Depth, Model, Tensor
from xconvert.weights import same_bits

KERAS = {"bn_epsilon": 1e-3, "pool_padding": "same_upper", "bn_momentum": 0.99}
TORCH = {"bn_epsilon": 1e-5, "pool_padding": "symmetric", "bn_momentum": 0.9}


ZOO = {
    "xception": "keras.applications",
    "xception_aligned": "timm",
    "xception_preact": "timm",
    "xception_paddleclas": "paddleclas",
}


@cache
def _weights(family: str, depth: Depth, head: bool, classes: int, channels: int, divide: int, seed: int) -> dict[str, np.ndarray]:
    layers = families()[family].build(depth, head, families()[family].attributes)
    return calibrated(layers, widths(layers, divide), classes=classes, channels=channels, seed=seed, size=96)


def narrow(
    depth: int | Depth = 8,
    family: str = "xception",
    head: bool = True,
    classes: int = 10,
    channels: int = 3,
    divide: int = 16,
    seed: int = 0,
    dtype: str = "float32",
    **attributes: Any,
) -> Model:
    """A network of 1/``divide`` width, by default as its authors published it; Xception as keras.applications computes it."""
    values = {**families()[family].attributes, **attributes}
    depth = depth if isinstance(depth, Depth) else Depth(3, depth)
    made = _weights(family, depth, head, classes, channels, divide, seed)
    weights = {name: Tensor.of(array.astype(dtype)) for name, array in made.items()}
    told = {name: Attribute(value, "test") for name, value in values.items()}
    model = Model(families()[family], depth, head, told, weights, implementation=ZOO[family])
    zoo = library().find(ZOO[family], families()[family], depth)
    assert zoo
    return model._replace(preprocessing=zoo.preprocessing)


def checkpoint(model: Model, implementation: str, dialect: str | None = None) -> Checkpoint:
    """What a stranger's file of ``model`` holds: the names of ``implementation``, and nothing of xconvert's own.

    A framework's name means its customary names, which are our own where no zoo has the family.
    """
    known = library()
    found = known.find(implementation, model.family, model.depth)
    found = found or known.customary(known.dialects[implementation], model.family, model.depth)
    return save(model, found, known.dialects[dialect or found.dialect])._replace(metadata={})


def changed(model: Model, **weights: np.ndarray) -> Model:
    """``model`` with some weights replaced; double underscores stand for dots."""
    named = {name.replace("__", "."): Tensor.of(array) for name, array in weights.items()}
    assert named.keys() <= model.weights.keys()
    return model._replace(weights={**model.weights, **named})


def assert_folded_back(before: Model, after: Model) -> None:
    """Every weight has its bits again, but for gammas, which two folds may move by two units in the last place."""
    for name, tensor in before.weights.items():
        a, b = tensor.read(), after.weights[name].read()
        if name.endswith(".gamma"):
            assert (np.abs(a.astype(np.float64) - b) <= 2 * np.spacing(np.abs(a))).all(), name
        else:
            assert same_bits(a, b), name
