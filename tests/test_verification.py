"""What the verifier says, and of what; which faults it finds is in `test_mutations.py`, what it must not call one in
`test_false_alarms.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.narrow import TORCH, changed, checkpoint, narrow
from xconvert import formats, render, verify
from xconvert.compare import EXACT, compare, relative_l2
from xconvert.effects import measure
from xconvert.errors import UsageError
from xconvert.model import Attribute, Model
from xconvert.reconcile import Change, reconcile

SIZES = (75, 96)


def with_attribute(model: Model, name: str, value: Any) -> Model:
    return model._replace(attributes={**model.attributes, name: Attribute(value, "test")})


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2))])
def test_a_fold_is_no_false_alarm(seed: int) -> None:
    model = narrow(seed=seed)
    folded, _ = reconcile(model, {"bn_epsilon": 1e-5})
    report = verify(model, folded, sizes=SIZES)
    assert report.equal
    assert "40 differ as folding `bn_epsilon` makes them, within 2 ulp" in next(
        c.detail for c in report.checks if c.name == "values"
    )
    back, _ = reconcile(folded, {"bn_epsilon": 1e-3})
    assert verify(model, back, sizes=SIZES, tolerance=1e-5).equal


def test_the_same_network_is_equal_to_itself_exactly() -> None:
    report = verify(narrow(), narrow(), sizes=SIZES)
    assert report.equal
    assert report.first_divergence is None
    assert {layer.relative for layer in report.layers} == {0.0}
    assert {layer.allowed for layer in report.layers} == {EXACT}


def test_networks_of_another_shape_are_different_before_any_number() -> None:
    report = verify(narrow(), narrow(classes=9), sizes=SIZES)
    assert [check.ok for check in report.checks] == [True, False, True, True]
    assert "(128, 10) against (128, 9)" in report.checks[1].detail
    assert not verify(narrow(), narrow(depth=2), sizes=SIZES).equal
    assert not verify(narrow(), narrow(head=False), sizes=SIZES).equal


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "moved"), [("float16", 2e-2), ("bfloat16", 0.2)])
def test_a_copy_in_half_precision_is_equal_at_its_own_tolerance(dtype: str, moved: float) -> None:
    """The weights are proven to be the same, rounded; what the rounding does to the answer is told, and judged by itself."""
    half = narrow(dtype="float16" if dtype == "float16" else np.dtype(ml_dtypes.bfloat16))
    report = verify(narrow(), half, sizes=SIZES)
    assert report.equal
    assert {layer.allowed for layer in report.layers} == {EXACT}
    check = next(check for check in report.checks if check.name == "precision")
    found = re.fullmatch(
        rf"236 weights rounded to {dtype} move the logits by (\S+) of (\S+) allowed \(relative L2\)", check.detail
    )
    assert found
    assert 1e-4 < float(found[1]) < float(found[2])
    assert float(found[1]) < moved


def test_a_source_that_answers_nothing_is_told() -> None:
    model = narrow()
    mean = model.weights["block5.sepconv1.bn.mean"].read().copy()
    mean[3] = np.nan
    report = verify(changed(model, block5__sepconv1__bn__mean=mean), model, sizes=SIZES)
    assert not report.equal
    assert [(check.name, check.detail) for check in report.checks if not check.ok] == [
        ("finite", "`block5.sepconv1.bn.mean` is not finite in A")
    ]
    assert report.layers == ()  # there is no answer to compare with
    assert [(d.kind, d.layer, d.told) for d in report.diagnoses] == [
        ("not finite", "block5.sepconv1.bn", "`A`: `block5.sepconv1.bn.mean` is not finite")
    ]


def test_one_or_two_sides_are_needed() -> None:
    with pytest.raises(UsageError):
        verify(narrow())
    with pytest.raises(UsageError):
        verify(narrow(), narrow(), backend="torch")
    with pytest.raises(UsageError, match="no backend is called `caffe`"):
        verify(narrow(), backend="caffe")


def test_what_is_not_a_number_is_never_within_tolerance() -> None:
    good, bad = np.ones((1, 4)), np.array([[1, 2, np.nan, 4]])
    assert np.isnan(relative_l2(good, bad))
    assert not compare(["a"], 75, {"a": good}, {"a": bad})[0].ok
    assert not compare(["a"], 75, {"a": good}, {"a": np.full((1, 4), np.inf)})[0].ok


def test_a_constant_shift_of_all_logits_is_seen() -> None:
    logits = np.random.default_rng(0).standard_normal((2, 10)) + 1000
    assert relative_l2(logits, logits + 1e-3) > 1e-4


def test_another_shape_of_activation_is_infinitely_far() -> None:
    error = compare(["a"], 75, {"a": np.ones((1, 4, 4, 2))}, {"a": np.ones((1, 5, 5, 2))})[0]
    assert not error.ok
    assert error.relative == float("inf")


def test_weights_that_no_probe_sees_are_told() -> None:
    """A channel that is zero on every probe hides its weights from the activations, not from the comparison of values."""
    model = narrow()
    gamma, beta = (model.weights[f"block14.sepconv2.bn.{p}"].read().copy() for p in ("gamma", "beta"))
    gamma[5], beta[5] = 0, -1  # always negative before its ReLU
    weight = model.weights["predictions.weight"].read().copy()
    weight[5] += 1
    dead = changed(model, block14__sepconv2__bn__gamma=gamma, block14__sepconv2__bn__beta=beta)
    report = verify(dead, changed(dead, predictions__weight=weight), sizes=SIZES)
    assert report.equal
    assert report.notes == ("no probe image sees 1 weight that differs: predictions.weight",)


def test_preprocessing_that_differs_is_told() -> None:
    model = narrow()
    other = model._replace(preprocessing={**model.preprocessing, "channels": "BGR"})
    told = {check.name: check for check in verify(model, other, sizes=(75,)).checks}
    assert told["preprocessing"].detail == "channels RGB against BGR"
    assert {check.name: check for check in verify(model, model, sizes=(75,)).checks}["preprocessing"].detail == "the same"


@pytest.mark.parametrize("tolerance", [0, -1, float("inf"), float("nan")])
def test_a_tolerance_that_lets_all_or_nothing_through_is_refused(tolerance: float) -> None:
    with pytest.raises(UsageError, match="the tolerance cannot be"):
        verify(narrow(), narrow(), tolerance=tolerance)


def test_a_head_of_zeros_divides_nothing_by_zero() -> None:
    model = narrow()
    zero = changed(model, predictions__weight=np.zeros((128, 10), np.float32), predictions__bias=np.zeros(10, np.float32))
    assert verify(zero, zero, sizes=(75,)).equal
    report = verify(zero, model, sizes=(75,))
    assert not report.equal
    assert report.outputs[0].moved == float("inf")
    assert "inf" in render.verdict(report)
    assert measure(zero, Change("pool_padding", "same_upper", "symmetric", "refused"), size=75).moved == 0


def test_the_report_is_json_with_a_schema() -> None:
    told = verify(narrow(), with_attribute(narrow(), "pool_padding", "symmetric"), sizes=(75,)).to_dict()
    assert told["schema"] == 1
    assert told["equal"] is False
    assert told["first_divergence"]["name"] == "block3.pool"
    assert told["source"]["attributes"]["pool_padding"]["value"] == "same_upper"


def test_weights_of_torch_attributes_are_compared_as_such() -> None:
    assert verify(narrow(**TORCH), narrow(**TORCH), sizes=(75,)).equal


def test_what_is_no_number_is_null_in_json() -> None:
    error = compare(["a"], 75, {"a": np.ones((1, 4))}, {"a": np.full((1, 4), np.nan)})[0]
    assert error.to_dict()["relative"] is None
    assert error.to_dict()["ok"] is False
    json.dumps(error.to_dict(), allow_nan=False)


def test_options_speak_of_the_first_file(tmp_path: Path) -> None:
    """`--from` of one file is not that of the other."""
    formats.formats()["torch"].write(tmp_path / "a.pth", checkpoint(narrow(**TORCH), "timm"))
    formats.formats()["keras-h5"].write(tmp_path / "b.h5", checkpoint(narrow(**TORCH), "keras.applications"))
    report = verify(tmp_path / "a.pth", tmp_path / "b.h5", implementation="timm", settings={"bn_epsilon": 1e-3}, sizes=(75,))
    assert report.first_divergence is not None
    assert report.first_divergence.name == "block3.pool"


@pytest.mark.parametrize("sizes", [(), (1,), (75, 3)])
def test_sizes_that_compute_nothing_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match=r"size|pixels"):
        verify(narrow(), narrow(seed=1), sizes=sizes)


def test_options_that_would_do_nothing_are_refused() -> None:
    with pytest.raises(UsageError, match="compared in float64"):
        verify(narrow(), narrow(), dtype="float32")
    with pytest.raises(UsageError, match="has the classes of the checkpoint"):
        verify(narrow(), backend="numpy", background="drop")


def test_the_reference_itself_may_be_the_backend() -> None:
    report = verify(narrow(), backend="numpy", sizes=SIZES)
    assert report.equal
    assert report.precision == "float32"
    assert 0 < report.outputs[0].relative < report.outputs[0].allowed < 1e-4


@pytest.mark.parametrize("fold", [False, True], ids=["one unit in the last place", "a fold"])
def test_rounding_elsewhere_hides_no_weight_that_differs(fold: bool) -> None:
    """What rounding explains is settled exactly, so that the rest is held to float64's tolerance."""
    model = narrow()
    weight = model.weights["predictions.weight"].read()
    changed_head = {"predictions__weight": weight * np.float32(1 + 4e-6)}
    if fold:
        other = changed(reconcile(model, {"bn_epsilon": 1e-5})[0], **changed_head)
    else:
        beta = model.weights["block2.sepconv1.bn.beta"].read()
        other = changed(model, block2__sepconv1__bn__beta=np.nextafter(beta, np.float32(9)), **changed_head)
    report = verify(model, other, sizes=(75,))
    assert not report.equal
    assert report.first_divergence is not None
    assert report.first_divergence.name == "predictions"
    assert report.first_divergence.allowed == EXACT


def test_nothing_else_differs_only_where_no_size_says_otherwise() -> None:
    """At 71 pixels all pools pad alike: what is found there explains 71 pixels, and not 75."""
    model = narrow()
    other = narrow(pool_padding="symmetric")
    late = changed(other, predictions__bias=np.zeros(10, np.float32))
    epsilon = with_attribute(late, "bn_epsilon", 1e-5)
    report = verify(model, epsilon, sizes=(71, 75))
    assert [diagnosis.kind for diagnosis in report.diagnoses] == ["epsilon", "missing"]
    assert not any(diagnosis.last for diagnosis in report.diagnoses)


@pytest.mark.slow
def test_the_side_that_is_broken_is_named() -> None:
    good = narrow()
    broken = changed(good, block7__sepconv2__bn__variance=np.ones_like(good.weights["block7.sepconv2.bn.variance"].read()))
    for pair, who in (((good, broken), "`B`"), ((broken, good), "`A`")):
        (diagnosis,) = verify(*pair, sizes=(75,)).diagnoses
        assert diagnosis.kind == "statistics"
        assert diagnosis.told.startswith(f"{who} has no running variance")


@pytest.mark.slow
def test_a_head_of_zeros_and_a_network_without_one_pass_the_acceptance_table() -> None:
    model = narrow()
    zero = changed(model, predictions__weight=np.zeros((128, 10), np.float32), predictions__bias=np.zeros(10, np.float32))
    assert verify(zero, backend="numpy", sizes=(75,), acceptance=True).equal
    headless = verify(narrow(head=False), narrow(head=False), sizes=(75,), acceptance=True)
    assert headless.equal
    assert {trial.top1 for trial in headless.trials} == {None}
    assert "%" not in render.verification(("a", "b"), headless).partition("max_abs_diff")[2]


@pytest.mark.slow
def test_a_tolerance_holds_for_the_acceptance_table_too() -> None:
    model = narrow()
    other = changed(model, predictions__bias=model.weights["predictions.bias"].read() + np.float32(1e-4))
    assert not verify(model, other, sizes=(75,), acceptance=True).equal
    assert verify(model, other, sizes=(75,), acceptance=True, tolerance=1e-2).equal


def test_different_networks_are_told_apart_in_words() -> None:
    report = verify(narrow(), narrow(family="xception_preact"))
    assert [diagnosis.kind for diagnosis in report.diagnoses] == ["network"]
    assert "pools, and normalises behind pointwise convolutions alone" in report.diagnoses[0].told
    assert not report.layers
