"""Head surgery: the backbone keeps its bits, a new head is reproducible, and what contradicts itself is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.narrow import TORCH, checkpoint, narrow
from xconvert import convert, load
from xconvert.cli import main
from xconvert.errors import UsageError
from xconvert.formats import safetensors
from xconvert.heads import BIAS, CUSTOMARY, INITS, WEIGHT, Asked, operated, with_head, without_head
from xconvert.mappings import library
from xconvert.model import Model
from xconvert.weights import same_bits

MODELS = {
    "xception": {},
    "xception_aligned": {},
    "xception_preact": {},
    "xception_paddleclas": {"depth": 8},
}


def backbone(model: Model) -> dict[str, np.ndarray]:
    return {name: tensor.read() for name, tensor in model.weights.items() if not name.startswith("predictions.")}


def assert_same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> None:
    assert a.keys() == b.keys()
    assert all(same_bits(array, b[name]) for name, array in a.items())


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heads") / "a.safetensors"
    safetensors.write(path, checkpoint(narrow(depth=1, divide=32, **TORCH), "timm"))
    return path


# Laws.


@pytest.mark.parametrize("family", MODELS)
@pytest.mark.parametrize("head", [True, False])
def test_the_backbone_keeps_its_bits(family: str, head: bool) -> None:
    model = narrow(family=family, head=head, divide=32, **MODELS[family])
    made, (change,) = with_head(model, 5, "uniform", 0)
    assert_same(backbone(made), backbone(model))
    assert made.head
    last = made.layers[-1]
    assert (last.op, made.weights[WEIGHT].shape[1], made.weights[BIAS].shape) == ("linear", 5, (5,))
    if head:
        assert made.weights[WEIGHT].shape[0] == model.weights[WEIGHT].shape[0]
    assert (change.source, change.target) == ("10 classes" if head else "none", "5 classes, uniform, seed 0")
    bare, _ = without_head(made)
    assert_same({name: tensor.read() for name, tensor in bare.weights.items()}, backbone(model))
    assert list(bare.weights) == [name for name in model.weights if not name.startswith("predictions.")]


def test_a_new_head_and_then_none_is_none() -> None:
    model = narrow(depth=1, divide=32)
    direct, _ = without_head(model)
    detour, _ = without_head(with_head(model, 7, "glorot", 3)[0])
    assert (direct.head, direct.layers, list(direct.weights)) == (detour.head, detour.layers, list(detour.weights))
    assert_same(backbone(direct), backbone(detour))
    again, changes = without_head(direct)
    assert (again, changes) == (direct, ())


@settings(max_examples=30)
@given(seed=st.integers(0, 2**63), init=st.sampled_from(sorted(INITS)), count=st.integers(1, 40))
def test_a_seed_gives_the_same_head_again_and_another_one_another(seed: int, init: str, count: int) -> None:
    model = narrow(depth=0, divide=32)
    one, two, other = (with_head(model, count, init, s)[0].weights[WEIGHT].read() for s in (seed, seed, seed + 1))
    assert same_bits(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("init", INITS)
def test_heads_start_as_they_say(init: str) -> None:
    weight, bias = INITS[init].draw(np.random.default_rng(1), 2048, 1000)
    deviation = {"uniform": 1 / np.sqrt(3 * 2048), "glorot": np.sqrt(2 / 3048), "normal": 0.01}[init]
    assert (weight.shape, bias.shape) == ((2048, 1000), (1000,))
    assert abs(weight.std() / deviation - 1) < 0.01
    assert abs(weight.mean()) < deviation / 100
    assert bias.any() == (init == "uniform")
    assert init == "normal" or np.abs(weight).max() <= deviation * np.sqrt(3)


def test_every_framework_that_has_a_custom_of_its_own_is_one() -> None:
    assert CUSTOMARY.keys() <= {dialect.family for dialect in library().dialects.values()}


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_head_has_the_precision_of_the_one_before(dtype: str) -> None:
    made, _ = with_head(narrow(depth=0, divide=32, dtype=dtype), 3, "normal", 0)
    assert made.weights[WEIGHT].dtype == made.weights[BIAS].dtype == np.dtype(dtype)
    made, _ = with_head(narrow(depth=0, divide=32, dtype="float16", head=False), 3, "normal", 0)
    assert made.weights[WEIGHT].dtype == np.float32


# What is written.


def test_a_conversion_tells_of_a_new_head(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "b.h5", to="keras", num_classes=4, seed=9)
    assert report.equal
    assert (report.head, report.answers, report.source["classes"]) == ("new", "logits", 10)
    first = report.changes[0]
    assert [first[key] for key in ("attribute", "action", "source", "target")] == [
        *("head", "new", "10 classes"),
        "4 classes, glorot, seed 9",
    ]
    assert "the head is new and untrained, 4 classes: uniform within sqrt(6/(inputs + classes)), biases 0, seed 9" in report.notes
    made = load(tmp_path / "b.h5")
    assert made.weights[BIAS].shape == (4,)
    record = made.origin.record if made.origin else {}
    assert record["changes"][0] == {key: first[key] for key in ("attribute", "source", "target", "action")}
    convert(source, tmp_path / "c.h5", to="keras", num_classes=4, seed=9)
    assert (tmp_path / "b.h5").read_bytes() == (tmp_path / "c.h5").read_bytes()


def test_a_conversion_without_a_head(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "b.npz", to="torch", head=False)
    assert (report.equal, report.head, report.answers, report.source["classes"]) == (True, "dropped", "features", 10)
    assert report.layers[-1].name == "block7.sepconv2.act"
    assert not load(tmp_path / "b.npz").head
    report = convert(tmp_path / "b.npz", tmp_path / "c.npz", to="torch", head=False)
    assert (report.equal, report.head) == (True, "")


def test_1001_new_classes_have_no_background(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "b.npz", to="torch", num_classes=1001, verify=False)
    assert not any("background" in note for note in report.notes)


def test_the_command_line_has_one_word_for_it_and_knows_another(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []
    for i, word in enumerate(("--no-head", "--backbone-only")):
        with pytest.raises(SystemExit) as ended:
            main([str(source), "--to", "torch", "-o", str(tmp_path / f"{i}.npz"), word, "--json"])
        assert ended.value.code == 0
        told.append(json.loads(capsys.readouterr().out))
    assert told[0]["changes"] == told[1]["changes"]
    assert (tmp_path / "0.npz").read_bytes() == (tmp_path / "1.npz").read_bytes()
    with pytest.raises(SystemExit):
        main(["convert", "--help"])
    help_text = capsys.readouterr().out
    assert "--no-head" in help_text
    assert "--backbone-only" not in help_text


def test_the_text_of_a_conversion(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([str(source), "--to", "torch", "-o", str(tmp_path / "a.npz"), "--num-classes", "3", "--head-init", "normal"])
    out = capsys.readouterr().out
    assert "  new      head 10 classes → 3 classes, normal, seed 0\n" in out
    assert "verified: same features, under a new head\n" in out
    with pytest.raises(SystemExit):
        main(["inspect", str(tmp_path / "a.npz")])
    assert "  new             head 10 classes → 3 classes, normal, seed 0\n" in capsys.readouterr().out


# Refusals.

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"num_classes": 3, "head": False}, "`--no-head` and `--num-classes` ask for different heads"),
    ({"num_classes": 3, "background": "drop"}, "`--num-classes` and `--drop-background` ask for different heads"),
    ({"head": False, "background": "add"}, "`--no-head` and `--add-background` ask for different heads"),
    ({"num_classes": 0}, "a head cannot have 0 classes"),
    ({"num_classes": 10**7}, "a head cannot have 10000000 classes"),
    ({"num_classes": 3, "init": "zeros"}, "no head starts as `zeros`"),
    ({"init": "normal"}, "`--head-init` is about a new head"),
    ({"seed": 1}, "`--seed` is about a new head"),
    ({"num_classes": 3, "seed": -1}, "a seed cannot be -1"),
]


@pytest.mark.parametrize(("asked", "message"), REFUSED)
def test_what_makes_no_sense_is_refused(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as refusal:
        operated(narrow(depth=0, divide=32), Asked(**asked), "torch")
    assert refusal.value.message == message
    assert refusal.value.exit_code == 2


def test_nothing_is_written_for_a_contradiction(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(source), "--to", "torch", "-o", str(tmp_path / "a.npz"), "--num-classes", "3", "--no-head"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        "error: `--no-head` and `--num-classes` ask for different heads\nhint: pass one of the two\n"
    )
    assert not list(tmp_path.iterdir())
