"""Our graph on the frameworks, and the frameworks' own classes, against the NumPy reference. Every framework in a
process of its own.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.frameworks import warm
from tests.frameworks.make import names
from tests.frameworks.nets import apart, arrays, network
from xconvert.backends import backends, forward
from xconvert.errors import UsageError
from xconvert.model import Model
from xconvert.probe import images

pytestmark = pytest.mark.framework
ROOT = Path(__file__).parents[2]
EXACT = 1e-12  # relative L2 in float64; the smallest semantic defect known is 1e-4
NOISE = 8  # float32: so many times the rounding that the reference itself shows

NAMES = {
    "timm": names("timm"),
    "cadene": names("timm") | {"predictions": "last_linear"},
    "keras.applications": names("keras"),
    "keras-hub": names("hub"),
}
PUBLISHED = {"timm": "legacy_xception"}  # where a zoo has several networks, the one that is meant
MADE = {  # model class → the padding it has, and the file that a framework makes for it
    "timm": ("symmetric", "timm-safetensors", "x.safetensors"),
    "cadene": ("symmetric", "cadene-safetensors", "x.safetensors"),
    "keras.applications": ("same_upper", "keras-h5", "x.h5"),
    "keras-hub": ("same_upper", "keras-weights", "x.weights.h5"),
}


def needs(*names: str) -> None:
    """Skip where a backend cannot run."""
    for name in names:
        if not backends()[name].installed:
            pytest.skip(f"`{name}` is not installed")


def python(script: str, *arguments: str | Path, framework: str) -> None:
    """Run one of the modules beside this file in the Python of ``framework``; its error is the test's."""
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", **os.environ}
    command = [*warm.python(framework), "-m", f"tests.frameworks.{script}", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def assert_equal(model: Model, backend: str, size: int, *, least: int, file: Path | None = None, named: str = "") -> None:
    """The backend agrees with NumPy on at least ``least`` layers in float64, and on the answer in float32."""
    x = images(size, 2, channels=model.weights["block1.conv1.weight"].shape[2])
    reference = forward(model, x, dtype="float64", taps="all")
    last = "logits" if model.head else "features"
    given = {"backend": backend, "names": NAMES.get(named or backend), "published": PUBLISHED.get(backend, ""), "path": file}
    out = forward(model, x, dtype="float64", taps="all", **given)
    assert len(out) >= least
    errors = {name: apart(array, reference[name]) for name, array in out.items()}
    assert max(errors.values()) <= EXACT, max(errors.items(), key=lambda item: item[1])
    assert all(array.dtype == np.float64 and array.shape == reference[name].shape for name, array in out.items())
    rounding = apart(forward(model, x, dtype="float32")[last], reference[last])
    single = forward(model, x, dtype="float32", **given)[last]
    assert single.dtype == np.float32
    assert 0 < apart(single, reference[last]) <= NOISE * rounding


@pytest.mark.parametrize("size", [75, 96])
@pytest.mark.parametrize("padding", ["symmetric", "same_upper"])
@pytest.mark.parametrize("backend", ["torch", "keras"])
def test_graph_is_that_of_the_reference(backend: str, padding: str, size: int) -> None:
    needs(backend)
    model = network(padding)
    assert_equal(model, backend, size, least=len(model.layers))


@pytest.mark.parametrize("backend", ["torch", "keras"])
def test_graph_with_other_channels_depth_and_without_head(backend: str) -> None:
    needs(backend)
    model = network("same_upper", head=False, channels=5, depth=1)
    assert_equal(model, backend, 96, least=len(model.layers))


@pytest.mark.parametrize(("backend", "named"), [("torch", "timm"), ("keras", "timm"), ("keras", "keras.applications")])
def test_graph_under_the_names_of_an_implementation(backend: str, named: str) -> None:
    needs(backend)
    model = network("symmetric")
    halves = sum(layer.op == "depthwise" for layer in model.layers)
    hidden = halves if (backend, named) == ("keras", "keras.applications") else 0  # in SeparableConv2D
    assert_equal(model, backend, 75, least=len(model.layers) - hidden, named=named)


@pytest.mark.parametrize("backend", ["torch", "keras"])
def test_padding_matters_to_the_graph(backend: str) -> None:
    """The comparison can fail: the other padding is seen."""
    needs(backend)
    symmetric, same = network("symmetric"), network("same_upper")
    other = Model(
        same.family,
        same.depth,
        True,
        {**symmetric.attributes, "pool_padding": same.attributes["pool_padding"]},
        symmetric.weights,
    )
    x = images(75, 1)
    assert (
        apart(forward(other, x, backend=backend, dtype="float64")["logits"], forward(symmetric, x, dtype="float64")["logits"])
        > 1e-3
    )


@pytest.mark.parametrize("head", [True, False], ids=["head", "headless"])
@pytest.mark.parametrize("name", MADE)
def test_real_class_is_the_reference(name: str, head: bool, tmp_path: Path) -> None:
    needs(name)
    padding, kind, file = MADE[name]
    model = network(padding, divide=1, head=head, classes=10)
    np.savez(tmp_path / "weights.npz", **arrays(model))
    python(
        "make",
        kind,
        tmp_path / file,
        "--weights",
        tmp_path / "weights.npz",
        framework="keras" if name.startswith("keras") else "torch",
    )
    assert_equal(model, name, 75, least=120, file=tmp_path / file)


@pytest.mark.parametrize("name", ["timm", "cadene", "keras.applications"])
def test_fixed_widths_are_named(name: str, tmp_path: Path) -> None:
    needs(name)
    model = network(MADE[name][0])
    with pytest.raises(UsageError, match=r"has fixed widths: `block1\.conv1` has 32 filters, the checkpoint 2"):
        given = {"names": NAMES[name], "published": PUBLISHED.get(name, ""), "path": tmp_path / MADE[name][2]}
        forward(model, images(75, 1), backend=name, **given)


@pytest.mark.parametrize(
    "check",
    ["loads_the_real_file_strictly", "carries_its_record", "learns", "keeps_double_precision", "refuses_one_name_for_two_layers"],
)
def test_torch_module(check: str, tmp_path: Path) -> None:
    needs("torch", "timm")
    python("checks_torch", check, tmp_path, framework="torch")


@pytest.mark.parametrize(
    "check",
    ["loads_the_real_files", "has_the_layers_of_the_real_class", "learns", "saves_and_loads", "pools_symmetrically"],
)
def test_keras_model(check: str, tmp_path: Path) -> None:
    needs("keras")
    python("checks_keras", check, tmp_path, framework="keras")
