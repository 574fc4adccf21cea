"""What only a process with Keras can check: ``python -m tests.frameworks.checks_keras CHECK FOLDER``. Each check is
run by ``test_backends.py``.
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np

from tests.frameworks.make import names
from tests.frameworks.make_keras import make
from tests.frameworks.nets import DIVIDE, apart, arrays, network
from xconvert.backends.keras import build, symmetric_max_pooling
from xconvert.backends.numpy import max_pool
from xconvert.model import Layer
from xconvert.probe import images


def _built(padding: str, seed: int = 0) -> Any:
    model = network(padding, seed=seed)
    return build(model.layers, arrays(model), names("keras"))


def loads_the_real_files(folder: Path) -> None:
    """Files of Keras' own class fill a network of other weights, by position, and give it that class' answers."""
    x = images(75, 2)
    for kind, file in (("keras-h5", folder / "x.h5"), ("keras-weights", folder / "x.weights.h5")):
        expected = make(kind, file, arrays(network("same_upper")), DIVIDE)(x, "float32")
        built = _built("same_upper", seed=1)
        assert apart(np.asarray(built(x)), expected) > 0.1, "the weights were the same to begin with"
        built.load_weights(file)
        assert np.array_equal(np.asarray(built(x)), expected), kind


def has_the_layers_of_the_real_class(folder: Path) -> None:
    """The same kinds and names of layers with weights in the same order, and the same number of all others."""
    real = keras.applications.Xception(weights=None, classes=7, classifier_activation=None, input_shape=(75, 75, 3))
    built = _built("same_upper")
    described = [[(type(layer), layer.name) for layer in model.layers if layer.weights] for model in (built, real)]
    assert described[0] == described[1]
    assert Counter(type(layer) for layer in built.layers) == Counter(type(layer) for layer in real.layers)
    assert {"block2_sepconv2_act", "block2_pool", "avg_pool"} <= {layer.name for layer in built.layers}


def learns(folder: Path) -> None:
    """``fit`` lowers the loss and moves the moving statistics."""
    built = _built("symmetric")
    before = [w.copy() for w in built.get_layer("block13_sepconv2_bn").get_weights()]
    built.compile(keras.optimizers.SGD(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    losses = built.fit(images(75, 4), np.arange(4), epochs=5, verbose=0).history["loss"]
    assert losses[-1] < 0.8 * losses[0], losses
    after = built.get_layer("block13_sepconv2_bn").get_weights()
    assert not any(np.array_equal(a, b) for a, b in zip(before, after, strict=True))


def saves_and_loads(folder: Path) -> None:
    """Whole models and weights alone come back with the same answers, symmetric pools among them."""
    built, x = _built("symmetric"), images(96, 2)
    expected = np.asarray(built(x))
    for name in ("x.keras", "x.h5"):
        built.save(folder / name)
        assert np.array_equal(np.asarray(keras.models.load_model(folder / name)(x)), expected), name
    other = _built("symmetric", seed=1)
    built.save_weights(folder / "x.weights.h5")
    other.load_weights(folder / "x.weights.h5")
    assert np.array_equal(np.asarray(other(x)), expected)


def pools_symmetrically(folder: Path) -> None:
    """Negative maps keep their values in every precision, where zeros would win at the border."""
    x = -1 - np.random.default_rng(0).random((2, 12, 9, 4))
    layer = Layer("pool", "max_pool", ("image",), kernel=3, stride=2, padding=1)
    for dtype in ("float16", "float32", "float64"):
        pool = symmetric_max_pooling()(dtype=dtype)
        out = np.asarray(pool(x.astype(dtype)))
        assert out.dtype == dtype
        assert np.array_equal(out, np.stack([max_pool(image.astype(dtype), layer) for image in x]))
        assert pool.compute_output_shape(x.shape) == out.shape
    assert type(pool).from_config(pool.get_config()).get_config() == pool.get_config()


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
