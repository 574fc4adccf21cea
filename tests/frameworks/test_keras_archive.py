"""`.keras` files written without Keras: Keras opens them as models, which compute what the reference does."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.frameworks import warm
from tests.frameworks.nets import apart, arrays, network
from tests.graphs import GRAPHS, graph, graph_checkpoint
from tests.narrow import checkpoint
from xconvert import load
from xconvert.backends import Job, forward
from xconvert.backends.numpy import run
from xconvert.errors import UsageError
from xconvert.formats import formats
from xconvert.loading import save
from xconvert.mappings import library
from xconvert.model import Model
from xconvert.probe import images

pytestmark = [
    pytest.mark.framework,
    pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras is not installed"),
]

OPEN = """
import sys
import numpy as np
import keras
if sys.argv[3] == "symmetric":
    from xconvert.backends.keras import SymmetricMaxPooling2D
model = keras.saving.load_model(sys.argv[1])
told = dict(np.load(sys.argv[2]))
print(*(layer.name for layer in model.layers if layer.weights))
np.savez(sys.argv[2], **{name: np.asarray(model(x, training=False)) for name, x in told.items()})
"""


def answers(path: Path, padding: str, *batches: np.ndarray) -> tuple[list[str], list[np.ndarray]]:
    """The layers with weights of the model that Keras opens, in its order, and what it answers."""
    told = path.with_suffix(".npz")
    np.savez(told, *batches)
    done = subprocess.run([*warm.python("keras"), "-c", OPEN, path, told, padding], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(told) as out:
        return done.stdout.split(), list(out.values())


def written(model: Model, implementation: str, path: Path) -> Path:
    known = library()
    names = known.find(implementation, model.family, model.depth)
    assert names is not None
    write = formats()["keras-archive"].write
    assert write is not None
    write(path, save(model, names, known.dialects["keras_weights"]))
    return path


@pytest.mark.parametrize("head", [True, False], ids=["head", "headless"])
@pytest.mark.parametrize("padding", ["same_upper", "symmetric"])
@pytest.mark.parametrize("implementation", ["keras.applications", "keras-hub"])
def test_keras_opens_and_computes_it(implementation: str, padding: str, head: bool, tmp_path: Path) -> None:
    model = network(padding, head=head)
    path = written(model, implementation, tmp_path / "x.keras")
    batches = [images(75, 2), images(96, 1)]
    layers, found = answers(path, padding, *batches)
    if implementation == "keras.applications":
        assert layers[0] == "block1_conv1"
        assert "block2_sepconv1" in layers
    for x, out in zip(batches, found, strict=True):
        exact = forward(model, x, dtype="float64")["logits" if head else "features"]
        assert out.dtype == np.float32
        assert 0 < apart(out, exact) < 1e-5  # rounding of float32, up to 3.5e-6 by processor; what differs moves 1e-4
    again = load(path, implementation=implementation)
    assert again.values == model.values
    assert all(np.array_equal(array, arrays(again)[name]) for name, array in arrays(model).items())


def test_double_precision_is_kept(tmp_path: Path) -> None:
    model = network("same_upper", dtype="float64")
    x = images(75, 1).astype(np.float64)
    _, (out,) = answers(written(model, "keras.applications", tmp_path / "x.keras"), "", x)
    assert out.dtype == np.float64
    assert apart(out, forward(model, x, dtype="float64")["logits"]) < 1e-12


@pytest.mark.parametrize("padding", ["same_upper", "symmetric"])
def test_the_backend_runs_the_model_in_the_file(padding: str, tmp_path: Path) -> None:
    given, other, x = network(padding), network(padding, seed=1), images(75, 1)
    path = written(given, "keras.applications", tmp_path / "x.keras")
    exact = forward(given, x, dtype="float64", taps="all")
    out = forward(other, x, backend="keras", taps="all", path=path)
    halves = {layer.name for layer in given.layers if layer.op == "depthwise"}
    assert out.keys() == exact.keys() - halves
    assert max(apart(array, exact[name]) for name, array in out.items()) < 1e-5
    with pytest.raises(UsageError, match="computes in float32"):
        forward(other, x, backend="keras", dtype="float64", path=path)


def test_without_the_class_of_its_pools_keras_says_so(tmp_path: Path) -> None:
    path = written(network("symmetric"), "keras.applications", tmp_path / "x.keras")
    done = subprocess.run(
        [*warm.python("keras"), "-c", "import sys, keras; keras.saving.load_model(sys.argv[1])", path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert "SymmetricMaxPooling2D" in done.stderr


def test_a_file_without_record_is_read_as_the_model_it_states(tmp_path: Path) -> None:
    """The configuration passes the check that its layers are the graph's, and is the evidence for the attributes."""
    model = network("symmetric")
    plain = checkpoint(model, "keras.applications", "keras_weights")
    write = formats()["keras-archive"].write
    assert write is not None
    write(tmp_path / "x.keras", plain)
    again = load(tmp_path / "x.keras")
    assert again.values == model.values
    assert {attribute.source for attribute in again.attributes.values()} == {"the file's config.json"}


@pytest.mark.parametrize("name", [name for name in GRAPHS if not name.startswith("xception.")])
def test_other_networks_are_models_too(name: str, tmp_path: Path) -> None:
    """Depthwise and pointwise convolutions apart, dilation, scale, pools that do not stride."""
    layers, weights = graph(name)
    given = graph_checkpoint(layers, weights, numbered=True)
    write = formats()["keras-archive"].write
    assert write is not None
    write(tmp_path / "x.keras", given._replace(dialect="keras"))
    x = images(75, 2)
    _, (out,) = answers(tmp_path / "x.keras", "symmetric", x)
    exact = run(Job(layers, weights, x, "float64"))[layers[-1].name]
    assert apart(out, exact) < 5e-6
