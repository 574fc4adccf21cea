"""What only a process with TensorFlow can check: ``python -m tests.frameworks.checks_tensorflow CHECK FOLDER``. Each check is run
by ``test_tensorflow_backend.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from tests.frameworks.nets import apart, arrays
from tests.frameworks.test_tensorflow_backend import names, slim
from tests.graphs import model
from xconvert.backends import forward
from xconvert.backends.tensorflow import build
from xconvert.model import Depth, Model
from xconvert.probe import images


def _given() -> Model:
    return model("xception_aligned", "tf-deeplab", Depth(3, 1), divide=16)


def _built(given: Model) -> Any:
    return build(given.layers, arrays(given), names(given), "{}")


def has_slims_variables(folder: Path) -> None:
    """Their names, shapes and values; moving statistics are not trained."""
    given = _given()
    built, expected = _built(given), slim(given)
    found = {variable.name.removesuffix(":0"): variable for variable in built.variables}
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name].numpy(), array) for name, array in expected.items())
    frozen = {name for name, variable in found.items() if not variable.trainable}
    assert frozen == {name for name in found if name.endswith(("moving_mean", "moving_variance"))}
    assert built.record == "{}"


def learns(folder: Path) -> None:
    """Gradients reach every trainable variable, and a step down them lowers the loss."""
    built, x, labels = _built(_given()), tf.constant(images(75, 4)), tf.constant([0, 1, 2, 3])

    def loss() -> Any:
        return tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=built(x)))

    first = float(loss())
    for _ in range(10):
        with tf.GradientTape() as tape:
            now = loss()
        for variable, gradient in zip(built.trainable_variables, tape.gradient(now, built.trainable_variables), strict=True):
            assert gradient is not None, variable.name
            variable.assign_sub(1e-3 * gradient)
    assert float(loss()) < 0.9 * first, (first, float(loss()))


def is_saved_as_a_model(folder: Path) -> None:
    """A SavedModel gives the reference's answer at any size."""
    given = _given()
    built = _built(given)
    tf.saved_model.save(built, folder / "x", signatures=built.answer)
    again = tf.saved_model.load(folder / "x")
    for size in (75, 96):
        x = images(size, 2)
        assert apart(again.answer(tf.constant(x)).numpy(), forward(given, x, dtype="float64")["logits"]) < 5e-6


def refuses_one_name_for_two_layers(folder: Path) -> None:
    """As two layers cannot share their weights."""
    given = _given()
    try:
        build(given.layers, arrays(given), {**names(given), "entry.conv2": names(given)["entry.conv1"]})
    except ValueError as error:
        assert str(error) == "two variables are called `xception_20/entry_flow/conv1_1/weights`", error
    else:
        raise AssertionError("it was built")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
