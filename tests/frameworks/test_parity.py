"""The matrix: what the zoos' own classes write and answer, against what is read and computed here, for every Xception that is
published; then the conversions between those that agree, each run by the class that it is for.

Every class starts from weights calibrated for it and writes its file itself (``make.py``). TensorFlow DeepLab is on no
registry: its answers are those of ``fixtures/oracles``.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest

from tests.frameworks import warm
from tests.frameworks.calibrate import calibrated, widths
from tests.narrow import KERAS, TORCH, assert_folded_back
from xconvert import convert, forward, load, verify
from xconvert.architectures import families
from xconvert.compare import EXACT, ROUNDINGS, relative_l2
from xconvert.errors import RefusedError, UsageError
from xconvert.model import Depth, Model
from xconvert.probe import images
from xconvert.weights import same_bits

pytestmark = pytest.mark.framework
ROOT = Path(__file__).parents[2]
NARROW = 16
D41, D65, D71 = Depth(3, 8), Depth(3, 16), Depth(5, 16)  # blocks of the entry and middle flow
ALIGNED = {"bn_epsilon": 1e-3, "exit_dilation": 1, "head_scale": 1.0, "bn_momentum": 0.9}
DEEPLAB = {"bn_epsilon": 1e-3, "exit_dilation": 2, "head_scale": 0.5, "bn_momentum": 0.99}
STEM = {"entry.conv1": 32, "entry.conv2": 64}  # timm's deeper classes have one width of these


@dataclass(frozen=True)
class Row:
    """A network of a zoo: the kind of ``make.py`` that writes it, and its own semantics.

    ``network``: what the zoo calls it, empty for the first Xception. ``depth``: blocks of the entry and middle flow. ``divide``:
    by what it is narrower than published; a zoo's class as a backend takes the published widths alone.
    """

    zoo: str
    kind: str
    suffix: str
    attributes: dict[str, Any] = field(hash=False)
    network: str = ""
    family: str = "xception"
    depth: Depth = D41
    divide: int = 1

    def __str__(self) -> str:
        return f"{self.zoo} {self.network or 'xception'} {self.kind}" + (f" /{self.divide}" if self.divide > 1 else "")


def aligned(zoo: str, network: str, kind: str, suffix: str, depth: Depth, divide: int = NARROW) -> Row:
    return Row(zoo, kind, suffix, DEEPLAB if zoo == "paddleclas" else ALIGNED, network, "xception_aligned", depth, divide)


def preact(network: str, kind: str, suffix: str, depth: Depth, epsilon: float, divide: int = NARROW) -> Row:
    return Row("timm", kind, suffix, {"bn_epsilon": epsilon, "bn_momentum": 0.9}, network, "xception_preact", depth, divide)


def paddle(network: str, kind: str, depth: Depth, divide: int = NARROW) -> Row:
    return Row(
        "paddleclas", kind, ".pdparams", {"bn_epsilon": 1e-5, "bn_momentum": 0.9}, network, "xception_paddleclas", depth, divide
    )


MINDCV_SEMANTICS = {"bn_epsilon": 1e-5, "pool_padding": "same_upper", "bn_momentum": 0.9}
KERAS_FULL = Row("keras.applications", "keras-h5", ".h5", KERAS)
MINDCV_FULL = Row("mindcv", "mindcv-ckpt", ".ckpt", MINDCV_SEMANTICS)
HUB = Row("keras-hub", "hub-weights", ".weights.h5", KERAS, divide=NARROW)
TIMM = Row("timm", "timm-pth", ".pth", TORCH, divide=NARROW)
MINDCV = Row("mindcv", "mindcv-safetensors", ".safetensors", MINDCV_SEMANTICS, divide=NARROW)
TIMM_65 = aligned("timm", "xception65", "timm-legacy", ".pth", D65)
DEEPLAB_65 = aligned("paddleclas", "Xception65_deeplab", "paddleclas-4", ".pdparams", D65)
TIMM_41 = aligned("timm", "xception41", "timm-pth", ".pth", D41, 1)
TIMM_71 = aligned("timm", "xception71", "timm-safetensors", ".safetensors", D71)
TIMM_41P = preact("xception41p", "timm-pth", ".pth", D41, 1e-5, 1)
PADDLE_41 = paddle("Xception41", "paddleclas-4", D41, 1)
DEEPLAB_41 = aligned("paddleclas", "Xception41_deeplab", "paddleclas-2", ".pdparams", D41, 1)
ROWS = [
    KERAS_FULL,
    HUB,
    TIMM,
    Row("cadene", "cadene-pth", ".pth", TORCH, divide=NARROW),
    MINDCV_FULL,
    MINDCV,
    TIMM_41,
    TIMM_65,
    TIMM_71,
    DEEPLAB_41,
    DEEPLAB_65,
    TIMM_41P,
    preact("xception65p", "timm-safetensors", ".safetensors", D65, 1e-3, 8),
    PADDLE_41,
    paddle("Xception65", "paddleclas-2", D65),
    paddle("Xception71", "paddleclas-4", D71),
]
FULL = [TIMM_41, TIMM_41P, DEEPLAB_41, PADDLE_41, MINDCV_FULL]


@dataclass(frozen=True)
class Made:
    """The file that the class wrote, from these weights, and its answers: ``float64_75``, …"""

    path: Path
    weights: dict[str, np.ndarray]
    answers: dict[str, np.ndarray]


@pytest.fixture(scope="module")
def made() -> Iterator[Callable[[Row], Made]]:
    """Makes the file of a row when first asked."""
    with TemporaryDirectory() as folder:
        yield cache(lambda row: make(Path(folder, str(ROWS.index(row))), row))


def make(folder: Path, row: Row) -> Made:
    folder.mkdir()
    layers = families()[row.family].build(row.depth, True, row.attributes)
    width = widths(layers, row.divide) | (STEM if row.zoo == "timm" and row.network else {})
    small = row.divide > 1
    weights = calibrated(layers, width, classes=10 if small else 100, seed=len(row.kind), size=96 if small else 75)
    np.savez(folder / "weights.npz", **weights)
    out = folder / ("model" + row.suffix)
    command = [*python(row), "-m", "tests.frameworks.make", row.kind, out, "--weights", folder / "weights.npz"]
    command += ["--answers", folder / "answers.npz", "--divide", row.divide, "--sizes", *((75, 96) if small else (75,))]
    command += ["--network", row.network] if row.network else []
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", **os.environ}
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return Made(out, weights, dict(np.load(folder / "answers.npz")))


def python(row: Row) -> list[str]:
    """The Python that has the zoo; MindSpore's is another one, and a run without it would prove nothing of it."""
    if row.zoo == "mindcv" and "XCONVERT_PYTHON_MINDCV" not in os.environ:
        pytest.fail("set XCONVERT_PYTHON_MINDCV to a Python that has MindSpore; `make test` does")
    return warm.python(row.zoo)


def given(made: Made, row: Row, **settings: Any) -> Model:
    return load(made.path, implementation=row.zoo, settings=settings)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_what_the_class_wrote_is_read_to_the_bit(made: Callable[[Row], Made], row: Row) -> None:
    file = made(row)
    model = given(file, row)
    assert (model.family.name, model.depth, model.values) == (row.family, row.depth, row.attributes)
    assert model.weights.keys() == file.weights.keys()
    assert [name for name, array in file.weights.items() if not same_bits(model.weights[name].read(), array)] == []


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_the_reference_answers_what_the_class_answers(made: Callable[[Row], Made], row: Row) -> None:
    """In float64 to the last digits, where the framework has it; in float32 within a few roundings."""
    file = made(row)
    model = given(file, row)
    exactly = model
    if row.zoo == "paddleclas":  # Paddle holds the epsilon of a batch norm in float32, whatever it computes in
        exactly = given(file, row, bn_epsilon=float(np.float32(row.attributes["bn_epsilon"])))
    for name, theirs in file.answers.items():
        dtype, _, size = name.partition("_")
        probe = images(int(size), 2)
        if dtype == "float64":
            assert relative_l2(forward(exactly, probe, dtype="float64")["logits"], theirs) < 1e-11
        else:
            exact, rounded = (forward(model, probe, dtype=precision)["logits"] for precision in ("float64", "float32"))
            assert relative_l2(exact, theirs) < ROUNDINGS * relative_l2(exact, rounded)
    assert ("float64_75" in file.answers) == (row.zoo != "mindcv")


@pytest.mark.parametrize("row", FULL, ids=str)
@pytest.mark.parametrize("head", [True, False], ids=["head", "headless"])
def test_the_class_is_the_reference_layer_by_layer(made: Callable[[Row], Made], row: Row, head: bool) -> None:
    """The class as a backend loads the file that we write for it, strictly, and shows its layers."""
    model = given(made(row), row)
    if not head:
        bare = {name: tensor for name, tensor in model.weights.items() if not name.startswith("predictions.")}
        model = model._replace(weights=bare, head=False)
    report = verify(model, backend=row.zoo, dtype="float32" if row.zoo == "mindcv" else "float64", sizes=(75,))
    assert report.equal, report.first_divergence
    seen = {error.name for error in report.layers}
    operations = {layer.name: layer.op for layer in model.layers}
    hidden = {name for name, op in operations.items() if name not in seen and op not in ("relu", "global_average")}
    activated = {layer.inputs[0] for layer in model.layers if layer.op == "relu" and layer.name in seen}  # in one with the ReLU
    assert hidden <= activated
    assert all(operations[name] == "batch_norm" for name in hidden)
    assert row.zoo == "mindcv" or all(error.allowed == EXACT for error in report.layers)


@dataclass(frozen=True)
class Pair:
    """A conversion, the attributes in which its sides differ, and whether the target's class runs the result."""

    source: Row
    to: str
    suffix: str
    accept: tuple[str, ...] = ()
    runs: bool = True

    def __str__(self) -> str:
        return f"{self.source} to {self.to}{self.suffix}"


PAIRS = [
    Pair(TIMM_41, "paddleclas", ".pdparams", ("exit_dilation",)),
    Pair(DEEPLAB_41, "timm", ".safetensors", ("exit_dilation",)),
    Pair(PADDLE_41, "paddleclas", ".pdparams"),
    Pair(TIMM_41P, "timm", ".pth"),
    Pair(KERAS_FULL, "mindcv", ".ckpt"),
    Pair(MINDCV_FULL, "keras.applications", ".h5"),
    Pair(TIMM_71, "tf-deeplab", ".ckpt", (), False),
    Pair(DEEPLAB_65, "tf-deeplab", ".ckpt", ("exit_dilation",), False),
    Pair(TIMM_65, "paddleclas", ".pdparams", ("exit_dilation",), False),
    Pair(TIMM, "cadene", ".safetensors", (), False),
    Pair(MINDCV, "timm", ".pth", ("pool_padding",), False),
    Pair(HUB, "keras.applications", ".weights.h5", (), False),
    Pair(HUB, "mindcv", ".safetensors", (), False),
]


@pytest.mark.parametrize("pair", PAIRS, ids=str)
def test_a_converted_file_is_run_by_the_class_it_is_for(made: Callable[[Row], Made], pair: Pair, tmp_path: Path) -> None:
    """And back again it has the bits that it had, but for a gamma that was folded twice."""
    source, there = made(pair.source), tmp_path / ("there" + pair.suffix)
    if pair.accept:
        with pytest.raises(RefusedError, match=f"`{pair.accept[0]}` differs"):
            convert(source.path, there, to=pair.to, implementation=pair.source.zoo)
    options: dict[str, Any] = {"verify_with": [pair.to] if pair.runs else [], "implementation": pair.source.zoo}
    report = convert(source.path, there, to=pair.to, accept=pair.accept, **options)
    assert report.equal
    assert [check.ok for check in report.checks if check.name == f"run by {pair.to}"] == [True] * pair.runs
    back = tmp_path / ("back" + pair.source.suffix)
    convert(there, back, to=pair.source.zoo, accept=pair.accept, verify=False)
    again = load(back, implementation=pair.source.zoo)
    assert again.values == pair.source.attributes
    assert_folded_back(given(source, pair.source), again)
    there.unlink(missing_ok=True)
    back.unlink()


def test_the_fold_of_half_the_features_is_exact(made: Callable[[Row], Made], tmp_path: Path) -> None:
    """Halving is exact in floating point: with the dilation kept, PaddleClas' network in PyTorch answers what PaddleClas does."""
    file = made(DEEPLAB_41)
    convert(file.path, tmp_path / "x.pth", to="torch", verify_with=["torch"])
    model = load(tmp_path / "x.pth")
    assert model.values == ALIGNED | {"exit_dilation": 2, "bn_momentum": 0.99}
    halved = file.weights["predictions.weight"] * np.float32(0.5)
    assert same_bits(model.weights["predictions.weight"].read(), halved)
    epsilon = {"bn_epsilon": float(np.float32(1e-3))}
    ours = forward(load(tmp_path / "x.pth", settings=epsilon), images(75, 2), dtype="float64")["logits"]
    assert relative_l2(ours, file.answers["float64_75"]) < 1e-11


DIFFERENT = [
    (PADDLE_41, "timm", "they are different networks"),
    (PADDLE_41, "tf-deeplab", "they are different networks"),
    (TIMM_41P, "paddleclas", "they are different networks"),
    (TIMM_41, "keras.applications", "they are different networks"),
    (KERAS_FULL, "paddleclas", "they are different networks"),
]


@pytest.mark.parametrize(("row", "to", "reason"), DIFFERENT, ids=lambda value: str(value))
def test_another_network_is_refused_by_name(made: Callable[[Row], Made], row: Row, to: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=reason):
        convert(made(row).path, tmp_path / "x", to=to, implementation=row.zoo)
    assert not list(tmp_path.iterdir())


def test_what_a_class_cannot_be_is_said(made: Callable[[Row], Made]) -> None:
    narrow, deep = TIMM_65, TIMM_71
    with pytest.raises(
        UsageError, match=r"timm's xception65 has fixed widths: `entry\.block1\.sepconv1\.pointwise` has 128 filters"
    ):
        verify(given(made(narrow), narrow), backend="timm", sizes=(75,))
    with pytest.raises(UsageError, match="PaddleClas publishes no network of this depth"):
        verify(given(made(deep), deep), backend="paddleclas", sizes=(75,))
    with pytest.raises(UsageError, match="MindSpore's convolutions compute on a CPU in float32 alone"):
        verify(given(made(MINDCV_FULL), MINDCV_FULL), backend="mindcv", dtype="float64", sizes=(75,))
