"""The graph in plain TensorFlow, under slim's names: run, trained, saved, and filled from checkpoints that TensorFlow reads."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.frameworks import warm
from tests.frameworks.nets import apart, network
from tests.graphs import model
from xconvert.backends import backends, forward
from xconvert.errors import UsageError
from xconvert.implementation import written_names
from xconvert.mappings import library
from xconvert.model import Depth, Model
from xconvert.probe import images

pytestmark = [
    pytest.mark.framework,
    pytest.mark.skipif(not backends()["tensorflow"].installed, reason="TensorFlow is not installed"),
]


def names(given: Model) -> dict[str, str]:
    known = library()
    found = known.customary(known.dialects["tensorflow"], given.family, given.depth)
    return written_names(found, known.dialects["tensorflow"], given.depth, given.head)


def assert_equal(given: Model, size: int, path: Path | None = None) -> None:
    x = images(size, 2, channels=given.weights[f"{given.layers[0].name}.weight"].shape[2])
    exact = forward(given, x, dtype="float64", taps="all")
    told = {"backend": "tensorflow", "names": names(given), "path": path}
    out = forward(given, x, dtype="float64", taps="all", **told)  # type: ignore[arg-type]
    assert out.keys() == exact.keys()
    errors = {name: apart(array, exact[name]) for name, array in out.items()}
    assert max(errors.values()) <= 1e-12, max(errors.items(), key=lambda item: item[1])
    assert all(array.dtype == np.float64 and array.shape == exact[name].shape for name, array in out.items())
    last = "logits" if given.head else "features"
    single = forward(given, x, **told)[last]  # type: ignore[arg-type]
    assert single.dtype == np.float32
    assert 0 < apart(single, exact[last]) <= 8 * apart(forward(given, x)[last], exact[last])


@pytest.mark.parametrize("size", [75, 96])
@pytest.mark.parametrize("padding", ["symmetric", "same_upper"])
def test_it_is_the_reference(padding: str, size: int) -> None:
    assert_equal(network(padding, depth=1), size)


@pytest.mark.parametrize(
    ("family", "implementation"),
    [
        ("xception_aligned", "tf-deeplab"),
        ("xception_aligned", "paddleclas"),
        ("xception_preact", "timm"),
        ("xception_paddleclas", "paddleclas"),
    ],
)
def test_other_networks(family: str, implementation: str) -> None:
    assert_equal(model(family, implementation, Depth(5, 1), divide=16), 75)


def test_headless_with_other_channels() -> None:
    assert_equal(model("xception_aligned", "tf-deeplab", Depth(3, 1), head=False, divide=16, channels=5), 75)


SAVE = """
import sys
import numpy as np
import tensorflow as tf
variables = {name: tf.Variable(array, name=name) for name, array in np.load(sys.argv[1]).items()}
with tf.Graph().as_default(), tf.compat.v1.Session() as session:  # as slim's own programs write: variables by name
    made = [tf.compat.v1.get_variable(n, initializer=a, use_resource=False) for n, a in np.load(sys.argv[1]).items()]
    session.run(tf.compat.v1.global_variables_initializer())
    tf.compat.v1.train.Saver(made).save(session, sys.argv[2], write_meta_graph=False)
"""


def slim(given: Model) -> dict[str, np.ndarray]:
    """The variables as slim has them, spelled out here: not by the dialect, nor by the backend."""
    scopes, variables = names(given), {}
    for layer in given.layers:
        for parameter in layer.parameters:
            array = given.weights[f"{layer.name}.{parameter}"].read()
            spelling = {"weight": "weights", "bias": "biases", "mean": "moving_mean", "variance": "moving_variance"}
            spelled = "depthwise_weights" if layer.op == "depthwise" else spelling.get(parameter, parameter)
            shape = {"depthwise": (*array.shape, 1), "pointwise": (1, 1, *array.shape), "linear": (1, 1, *array.shape)}
            kernel = parameter == "weight" and layer.op in shape
            variables[f"{scopes[layer.name]}/{spelled}"] = array.reshape(shape[layer.op]) if kernel else array
    return variables


def saved(variables: dict[str, np.ndarray], folder: Path) -> Path:
    np.savez(folder / "v.npz", **variables)
    done = subprocess.run(
        [*warm.python("keras"), "-c", SAVE, folder / "v.npz", folder / "model.ckpt"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (folder / "model.ckpt.index").is_file()
    return folder / "model.ckpt"


def test_it_is_filled_from_the_checkpoint(tmp_path: Path) -> None:
    wanted = model("xception_aligned", "tf-deeplab", Depth(3, 1), divide=16)
    other = model("xception_aligned", "tf-deeplab", Depth(3, 1), divide=16, seed=1)
    path, x = saved(slim(wanted), tmp_path), images(75, 1)
    out = forward(other, x, backend="tensorflow", dtype="float64", names=names(other), path=path)["logits"]
    assert apart(out, forward(wanted, x, dtype="float64")["logits"]) < 1e-12
    assert apart(out, forward(other, x, dtype="float64")["logits"]) > 0.1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("missing", "the checkpoint has no variable `xception_17/logits/biases`"),
        ("shape", r"variable `xception_17/logits/biases` has the shape \(1, 7\), expected \(7,\)"),
    ],
)
def test_every_variable_must_be_there(fault: str, message: str, tmp_path: Path) -> None:
    given = model("xception_aligned", "tf-deeplab", Depth(3, 0), divide=16)
    variables = slim(given)
    name = next(name for name in variables if name.endswith("logits/biases"))
    value = variables.pop(name)
    if fault == "shape":
        variables[name] = value[None]
    with pytest.raises(UsageError, match=message):
        forward(given, images(75, 1), backend="tensorflow", names=names(given), path=saved(variables, tmp_path))


@pytest.mark.parametrize("check", ["has_slims_variables", "learns", "is_saved_as_a_model", "refuses_one_name_for_two_layers"])
def test_tensorflow_module(check: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [*warm.python("keras"), "-m", "tests.frameworks.checks_tensorflow", check, tmp_path],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr[-3000:]
