"""One step of training in every framework, and in every zoo's own class, against the reference. Each in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.graphs import model as random_model
from tests.narrow import checkpoint, narrow
from xconvert import convert, load, training
from xconvert.backends import backends, find, train
from xconvert.compare import EXACT
from xconvert.errors import UsageError
from xconvert.formats import safetensors
from xconvert.model import Attribute, Depth, Model
from xconvert.naming import native, native_names
from xconvert.probe import images
from xconvert.report import Step
from xconvert.training import compare_step_backend
from xconvert.verification import given_to

pytestmark = pytest.mark.framework

FRAMEWORKS = ["torch", "keras", "tensorflow", "paddle", "mindspore"]
NETWORKS: dict[str, dict[str, Any]] = {  # the second of each is odd in every way that its family may be
    "xception": {"bn_momentum": 0.99},
    "xception headless": {"head": False, "pool_padding": "symmetric", "bn_epsilon": 1e-5},
    "xception_aligned": {"bn_epsilon": 1e-3},
    "xception_aligned dilated": {"exit_dilation": 2, "head_scale": 0.5, "bn_momentum": 0.9997},
    "xception_preact": {},
    "xception_paddleclas": {"bn_momentum": 0.9},
}
SINGLE = ["xception", "xception_aligned dilated"]  # in float32, where the reference goes back three times more
CLASSES = {  # family that a zoo's class is of, and by what widths may be divided; one of each is at full width
    "timm": [("xception", 1), ("xception_aligned", 1), ("xception_preact", 1)],
    "cadene": [("xception", 1)],
    "keras.applications": [("xception", 1)],
    "keras-hub": [("xception", 16)],
    "paddleclas": [("xception_aligned", 1), ("xception_paddleclas", 1)],
    "mindcv": [("xception", 1)],
}


def needs(name: str) -> None:
    """Skip where a backend cannot run; MindSpore's Python is a setting, and a run without it would prove nothing of it."""
    variable = "XCONVERT_PYTHON_" + name.upper()
    if name in ("mindspore", "mindcv") and variable not in os.environ:
        pytest.fail(f"set {variable} to a Python that has MindSpore; `make test` does")
    if not backends()[name].installed:
        pytest.skip(f"`{name}` is not installed")


def network(name: str, **more: Any) -> Model:
    return narrow(1, name.split()[0], **{**NETWORKS[name], **more})


def parted(found: Step) -> dict[str, tuple[float, float]]:
    rows = (found.loss, *found.gradients, *found.statistics)
    return {error.name: (error.relative, error.allowed) for error in rows if not error.ok}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("backend", [name for name in FRAMEWORKS if name != "mindspore"])
def test_a_framework_takes_the_references_step_in_float64(backend: str, name: str) -> None:
    needs(backend)
    model = network(name)
    found = compare_step_backend(model, model, backend, "float64")
    assert parted(found) == {}
    assert all(error.allowed == EXACT for error in (found.loss, *found.gradients, *found.statistics))
    assert len(found.gradients) + len(found.statistics) == len(model.weights)
    assert any(error.relative > 0 for error in found.gradients)


@pytest.mark.parametrize("name", SINGLE)
@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_a_framework_takes_the_references_step_in_float32(backend: str, name: str) -> None:
    needs(backend)
    model = network(name)
    found = compare_step_backend(model, model, backend, "float32")
    assert parted(found) == {}
    assert all(error.relative > 0 for error in found.statistics)


@pytest.mark.parametrize(
    ("backend", "family", "divide"), [(name, family, divide) for name, rows in CLASSES.items() for family, divide in rows]
)
def test_a_zoos_own_class_takes_the_references_step(backend: str, family: str, divide: int) -> None:
    """The class loads the file that we write for it, and is trained with its own batch norms, loss and autograd."""
    needs(backend)
    depth, dtype = Depth(3, 8), "float32" if backend == "mindcv" else "float64"
    model = random_model(family, backend, depth, divide=divide)
    with given_to(backend, model) as (given, changes, path):
        assert not changes
        published = native(backend, given).model(depth)
        assert published
        names = native_names(backend, given)
        found = compare_step_backend(model, given, backend, dtype, names, published.name, path, batch=2)
    assert parted(found) == {}
    assert bool(find(backend).kept) == any("dropout" in reason for reason in found.reasons)


def test_a_headless_class_is_trained_by_its_features() -> None:
    needs("paddleclas")
    depth = Depth(3, 8)
    model = random_model("xception_aligned", "paddleclas", depth, head=False)
    with given_to("paddleclas", model) as (given, _, path):
        names = native_names("paddleclas", given)
        found = compare_step_backend(model, given, "paddleclas", "float64", names, "Xception41_deeplab", path, batch=2)
    assert parted(found) == {}


def test_what_a_fold_cannot_keep_is_told_and_nothing_else_differs() -> None:
    """Keras' weights in timm's class: epsilon was folded, momentum is the class's own."""
    needs("timm")
    depth = Depth(3, 8)
    model = random_model("xception", "keras.applications", depth)
    with given_to("timm", model) as (given, changes, path):
        assert "bn_epsilon" in {change.attribute for change in changes}
        found = compare_step_backend(
            model, given, "timm", "float64", native_names("timm", given), "legacy_xception", path, batch=2
        )
    assert not found.ok
    assert not found.loss.ok
    text = "\n".join(found.reasons)
    for part in (
        "`bn_epsilon` is 0.001 and 1e-05",
        "`bn_momentum` is 0.99 and 0.9",
        "`pool_padding` is same_upper",
        "n / (n - 1)",
    ):
        assert part in text
    assert found.reasons[-1].endswith("the reference takes the same step: nothing else differs")


FAULTS = {"bn_momentum": 0.98, "bn_epsilon": 1.1e-3, "pool_padding": "symmetric"}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("attribute", FAULTS)
def test_a_framework_that_is_built_wrong_is_seen(attribute: str, dtype: str) -> None:
    """What runs has another attribute than what it is held to, unannounced."""
    needs("torch")
    model = narrow(1, bn_momentum=0.99, bn_epsilon=1e-3, pool_padding="same_upper")
    wrong = model._replace(attributes={**model.attributes, attribute: Attribute(FAULTS[attribute], "test")})
    found = compare_step_backend(model, wrong, "torch", dtype)
    statistics = {error.name for error in found.statistics}
    if attribute == "bn_momentum":
        assert parted(found).keys() == statistics
    else:
        assert "loss" in parted(found)
        assert parted(found).keys() & statistics
    assert any(attribute in reason for reason in found.reasons)


@pytest.mark.parametrize("backend", FRAMEWORKS)
def test_the_other_variance_would_be_seen(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """So the convention that a backend states is the framework's own."""
    needs(backend)
    other = "biased" if find(backend).variance == "unbiased" else "unbiased"
    monkeypatch.setattr(training, "find", lambda name: find(name)._replace(variance=other))
    model = network("xception")
    found = compare_step_backend(model, model, backend, "float32")
    assert parted(found).keys() == {error.name for error in found.statistics if error.name.endswith(".variance")}


@pytest.mark.parametrize(("backend", "number"), [("paddle", "epsilon"), ("paddle", "momentum")])
def test_what_paddle_holds_in_float32_would_be_seen(backend: str, number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    needs(backend)
    kept = tuple(name for name in find(backend).single if name != number)
    monkeypatch.setattr(training, "find", lambda name: find(name)._replace(single=kept))
    model = network("xception")
    assert not compare_step_backend(model, model, backend, "float64").ok


@pytest.mark.parametrize(("backend", "suffix"), [("keras", ".keras"), ("keras", ".weights.h5"), ("torch", ".pth")])
def test_a_file_is_trained_as_the_framework_opens_it(backend: str, suffix: str, tmp_path: Path) -> None:
    needs(backend)
    safetensors.FORMAT.write(tmp_path / "a.safetensors", checkpoint(network("xception"), "timm"))
    file = tmp_path / f"b{suffix}"
    convert(tmp_path / "a.safetensors", file, to=backend, implementation="timm", verify=False)
    model = load(file)
    found = compare_step_backend(model, model, backend, "float32", native_names(backend, model), path=file)
    assert parted(found) == {}
    other = narrow(1, "xception", seed=5, **{name: model.values[name] for name in NETWORKS["xception"]})
    assert "loss" in parted(compare_step_backend(other, other, backend, "float32", native_names(backend, other), path=file))


def test_what_cannot_train_says_why() -> None:
    needs("onnx")
    model, x, labels = narrow(0), images(64, 1), np.array([0])
    with pytest.raises(UsageError, match="backend `onnx` cannot train") as caught:
        train(model, x, labels, backend="onnx")
    assert caught.value.facts == ("ONNX Runtime only infers",) or caught.value.facts == ["ONNX Runtime only infers"]
    needs("mindspore")
    with pytest.raises(UsageError, match="MindSpore's convolutions compute on a CPU in float32 alone"):
        train(model, x, labels, backend="mindspore", dtype="float64")
