"""What the project promises, on full-size checkpoints that real Keras and real timm wrote: the numbers of the real
classes decide."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.frameworks import warm
from tests.frameworks.calibrate import calibrated, widths
from tests.narrow import assert_folded_back
from xconvert import convert, forward, load, verify
from xconvert.architectures import families
from xconvert.compare import ROUNDINGS, relative_l2
from xconvert.errors import RefusedError
from xconvert.model import Depth
from xconvert.probe import images

pytestmark = pytest.mark.framework

MAKE = Path(__file__).with_name("make.py")
KERAS = {"bn_epsilon": 1e-3, "pool_padding": "same_upper", "bn_momentum": 0.99}
TORCH = {"bn_epsilon": 1e-5, "pool_padding": "symmetric", "bn_momentum": 0.9}
SIZES = (224, 295, 299, 333)


def make(
    folder: Path,
    kind: str,
    name: str,
    attributes: dict[str, Any],
    *,
    divide: int = 1,
    sizes: tuple[int, ...] = (75, 96),
    **options: Any,
) -> Path:
    """A checkpoint that the real class saved, and ``<name>.answers.npz`` beside it; weights calibrated for
    ``attributes``."""
    layers = families()["xception"].build(Depth(3, 8), options.pop("head", True), attributes)
    weights = calibrated(layers, widths(layers, divide), **options)
    tiny = np.concatenate([a for n, a in weights.items() if n.endswith(".variance")])
    assert 0.2 < (tiny < 1.2e-2).mean() < 0.3  # a quarter of the variances are so small that epsilon matters
    np.savez(folder / f"{name}.weights.npz", **weights)
    python = warm.python("keras" if kind.startswith(("keras", "hub")) else "torch")
    command = [*python, MAKE, kind, folder / name, "--weights", folder / f"{name}.weights.npz", "--divide", divide]
    command += ["--answers", folder / f"{name}.answers.npz", "--batch", 1, "--sizes", *sizes]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder / name


def answers(path: Path) -> dict[str, np.ndarray]:
    return dict(np.load(path.with_name(path.name + ".answers.npz")))


@pytest.fixture(scope="module")
def keras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("keras"), "keras-h5", "keras.h5", KERAS, sizes=SIZES)


@pytest.fixture(scope="module")
def timm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("timm"), "timm-pth", "timm.pth", TORCH, seed=1, sizes=(224, 299, 333))


@pytest.fixture(scope="module")
def converted(keras: Path) -> Path:
    convert(keras, keras.with_name("keras.safetensors"), to="torch", verify_with=["torch"])
    convert(keras, keras.with_name("keras.pth"), to="torch", verify_with=["torch"])
    return keras.with_name("keras.pth")


@pytest.fixture(scope="module")
def for_timm(keras: Path) -> Path:
    report = convert(keras, keras.with_name("xception.safetensors"), to="timm", accept=["pool_padding"], verify_with=["timm"])
    assert report.equal
    assert any(check.name == "run by timm" and check.ok for check in report.checks)
    return keras.with_name("xception.safetensors")


@pytest.mark.parametrize("size", SIZES)
def test_the_reference_is_keras_itself(keras: Path, size: int) -> None:
    ours = forward(load(keras), images(size, 1), dtype="float64")["logits"]
    assert relative_l2(answers(keras)[f"float64_{size}"], ours) < 1e-12


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_our_torch_computes_what_keras_computed(keras: Path, converted: Path, suffix: str) -> None:
    model = load(converted.with_suffix(suffix))
    assert model.values == {"bn_epsilon": 1e-5, "pool_padding": "same_upper", "bn_momentum": 0.99}
    for size in (224, 299, 333):
        probe = images(size, 1)
        exact, rounded = (forward(load(keras), probe, dtype=dtype)["logits"] for dtype in ("float64", "float32"))
        torch = forward(model, probe, backend="torch")["logits"]
        floor = relative_l2(exact, rounded)
        assert relative_l2(answers(keras)[f"float32_{size}"], torch) < ROUNDINGS * floor
        assert relative_l2(exact, torch) < ROUNDINGS * floor < 1e-4


def test_our_torch_in_float64_is_the_reference(converted: Path) -> None:
    model = load(converted)
    for size in (224, 299):
        ours, torch = (forward(model, images(size, 1), backend=b, dtype="float64")["logits"] for b in ("numpy", "torch"))
        assert relative_l2(ours, torch) <= 1e-12


def test_timm_is_refused_with_the_effect_that_timm_really_shows(keras: Path, for_timm: Path) -> None:
    with pytest.raises(RefusedError, match="`pool_padding` differs") as caught:
        convert(keras, to="timm")
    told = next(fact for fact in caught.value.facts if "first layer" in fact)
    report = verify(for_timm, backend="timm", sizes=(299,), dtype="float64")
    assert report.equal, report.first_divergence  # timm computes what we say that the accepted file computes …
    real = verify(keras, backend="timm", sizes=(299,), dtype="float64")
    assert not real.equal  # … and not what Keras computes
    effect = real.outputs[0].maximum / real.outputs[0].scale
    assert told == f"At 299×299 the first layer to part is `block3.pool`; logits move by {effect:.1e}"


def test_real_timm_agrees_with_real_keras_at_295_and_parts_at_299(keras: Path, for_timm: Path) -> None:
    """Strict loading into timm.create_model("legacy_xception"), by timm and torch alone."""
    code = """
import sys, numpy as np, torch
from xconvert.backends.timm import import_timm
from safetensors.torch import load_file
from xconvert.model import Depth
from xconvert.probe import images
model = import_timm().create_model("legacy_xception")
print(model.load_state_dict(load_file(sys.argv[1]), strict=True))
model.eval()
with torch.inference_mode():
    answers = {str(n): model(torch.from_numpy(images(n, 1).transpose(0, 3, 1, 2).copy())).numpy() for n in (295, 299)}
np.savez(sys.argv[2], **answers)
"""
    out = keras.with_name("timm.npz")
    done = subprocess.run([sys.executable, "-c", code, for_timm, out], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "All keys matched" in done.stdout
    timm = np.load(out)
    for size, agrees in ((295, True), (299, False)):
        exact, rounded = (forward(load(keras), images(size, 1), dtype=dtype)["logits"] for dtype in ("float64", "float32"))
        error = relative_l2(answers(keras)[f"float32_{size}"], timm[str(size)])
        assert (error < ROUNDINGS * relative_l2(exact, rounded)) is agrees
    assert error > 1e-2


def test_a_timm_checkpoint_becomes_keras_and_timm_again(timm: Path) -> None:
    report = convert(timm, timm.with_name("back.h5"), to="keras", verify_with=["keras"])
    assert report.equal
    again = load(timm.with_name("back.h5"))
    for size in (224, 299, 333):
        probe = images(size, 1)
        exact, rounded = (forward(load(timm), probe, dtype=dtype)["logits"] for dtype in ("float64", "float32"))
        assert relative_l2(answers(timm)[f"float64_{size}"], exact) < 1e-12
        assert relative_l2(
            answers(timm)[f"float32_{size}"], forward(again, probe, backend="keras")["logits"]
        ) < ROUNDINGS * relative_l2(exact, rounded)
    convert(timm.with_name("back.h5"), timm.with_name("again.pth"), to="timm", verify_with=["timm"])
    assert_folded_back(load(timm), load(timm.with_name("again.pth")))
    with pytest.raises(RefusedError):
        convert(timm, to="keras.applications")


@pytest.mark.parametrize(
    ("backend", "sizes"), [("keras.applications", (75, 299)), ("keras-hub", (75, 299)), ("keras", (75, 96)), ("torch", (75, 96))]
)
def test_the_real_classes_compute_the_keras_checkpoint(keras: Path, backend: str, sizes: tuple[int, ...]) -> None:
    report = verify(keras, backend=backend, sizes=sizes)
    assert report.equal, report.first_divergence
    assert len({layer.name for layer in report.layers}) > 60  # not the logits alone


@pytest.mark.parametrize("backend", ["timm", "cadene"])
def test_the_real_classes_compute_the_torch_checkpoint(timm: Path, backend: str) -> None:
    report = verify(timm, backend=backend, sizes=(75, 299))
    assert report.equal, report.first_divergence
    assert len({layer.name for layer in report.layers}) > 60


@pytest.mark.parametrize("wrapped", ["n.state_dict()", "torch.nn.DataParallel(n).state_dict()", "torch.compile(n).state_dict()"])
def test_a_built_network_converts_back_however_it_was_saved(tmp_path: Path, wrapped: str) -> None:
    """Its padding and epsilon, which no tensor shows, come back with it."""
    source = Path(__file__).parents[2] / "fixtures" / "keras.h5"
    code = "import sys, torch, xconvert; n = xconvert.build(sys.argv[1], 'torch'); torch.save(" + wrapped + ", sys.argv[2])"
    subprocess.run([sys.executable, "-c", code, source, tmp_path / "saved.pth"], check=True, capture_output=True)
    assert load(tmp_path / "saved.pth").values == KERAS
    assert verify(source, tmp_path / "saved.pth", sizes=(75, 96)).equal


def test_a_whole_network_can_be_saved_and_loaded(tmp_path: Path) -> None:
    source = Path(__file__).parents[2] / "fixtures" / "keras.h5"
    code = """
import sys, torch, xconvert
x = torch.rand(1, 3, 75, 75)
n = xconvert.build(sys.argv[1], "torch")
torch.save(n, sys.argv[2])
assert torch.equal(torch.load(sys.argv[2], weights_only=False)(x), n(x))
"""
    subprocess.run([sys.executable, "-c", code, source, tmp_path / "whole.pth"], check=True, capture_output=True)


# Checkpoints as people have them, each written by the real framework, narrow for speed:
# (kind, file, attributes, options, what is told).
AS_FOUND = [
    ("keras-second", "second.h5", KERAS, {}, ""),
    ("keras-h5", "two_classes.h5", KERAS, {"classes": 2}, ""),
    ("keras-trained", "trained.h5", KERAS, {"classes": 2}, "left out the optimizer's"),
    ("keras-h5", "headless.h5", KERAS, {"head": False}, ""),
    ("keras-nested", "nested.h5", KERAS, {"classes": 2}, "unwrapped the nested model `xception`"),
    ("keras-frozen", "frozen.h5", KERAS, {"classes": 2}, "unwrapped the nested model `xception`"),
    ("keras-float16", "half.h5", KERAS, {}, ""),
    ("keras-archive", "model.keras", KERAS, {}, ""),
    ("keras-weights", "x.weights.h5", KERAS, {}, ""),
    ("hub-weights", "hub.weights.h5", KERAS, {}, "unwrapped the nested model `xception_backbone`"),
    ("timm-parallel", "parallel.pth", TORCH, {}, "stripped `module.` from every name"),
    ("timm-float16", "half.pth", TORCH, {}, ""),
    ("timm-wrapped", "wrapped.pth.tar", TORCH, {}, "unwrapped `state_dict`"),
    ("timm-legacy", "legacy.pth", TORCH, {"classes": 3}, ""),
    ("timm-safetensors", "x.safetensors", TORCH, {}, ""),
    ("timm-pth", "headless.pth", TORCH, {"head": False}, ""),
    ("timm-pth", "five_channels.pth", TORCH, {"channels": 5}, ""),
    ("cadene-pth", "cadene.pth", TORCH, {}, ""),
]


@pytest.mark.parametrize(("kind", "name", "attributes", "options", "told"), AS_FOUND, ids=[name for _, name, *_ in AS_FOUND])
def test_a_checkpoint_as_people_have_it(tmp_path: Path, kind: str, name: str, attributes: dict, options: dict, told: str) -> None:
    path = make(tmp_path, kind, name, attributes, divide=16, **({"classes": 10} | options))
    model = load(path)
    assert model.values == attributes
    assert told in " ".join(model.notes)
    for size in (75, 96):
        ours = forward(model, images(size, 1, options.get("channels", 3)), dtype="float64")
        computed = ours["logits" if model.head else "features"]
        if kind == "keras-trained":  # the one that ends in a softmax, which is no part of the comparison
            computed = np.exp(computed) / np.exp(computed).sum(1, keepdims=True)
        assert relative_l2(answers(path)[f"float64_{size}"], computed) < 1e-9
    to = "torch" if attributes is KERAS else "keras"
    report = convert(path, tmp_path / ("out.pth" if to == "torch" else "out.h5"), to=to, verify_with=[to])
    assert report.equal
    assert verify(path, tmp_path / ("out.pth" if to == "torch" else "out.h5"), sizes=(75,)).equal
