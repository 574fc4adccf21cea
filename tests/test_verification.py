"""The verifier is tested by what it rejects: each fault must be seen, and placed where it is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.narrow import TORCH, changed, checkpoint, narrow
from xconvert import formats, render, verify
from xconvert.compare import EXACT, compare, relative_l2
from xconvert.effects import measure
from xconvert.errors import UsageError, VerificationError
from xconvert.model import Attribute, Model
from xconvert.reconcile import Change, reconcile

SIZES = (75, 96)


def swapped(model: Model, one: str, other: str) -> Model:
    """Two layers of equal shape with each other's weights."""
    weights = dict(model.weights)
    for name in model.weights:
        if name.startswith(one):
            twin = other + name.removeprefix(one)
            weights[name], weights[twin] = model.weights[twin], model.weights[name]
    return replace(model, weights=weights)


def with_attribute(model: Model, name: str, value: Any) -> Model:
    return replace(model, attributes={**model.attributes, name: Attribute(value, "test")})


def edited(model: Model, weight: str, edit: Any) -> Model:
    return changed(model, **{weight: np.ascontiguousarray(edit(model.weights[weight].read()))})


FAULTS = {
    "two middle blocks swapped": (lambda m: swapped(m, "block6.", "block9."), "block6.sepconv1.depthwise"),
    "a square pointwise kernel transposed": (
        lambda m: edited(m, "block7.sepconv2.pointwise.weight", np.transpose),
        "block7.sepconv2.pointwise",
    ),
    "two batch norms of equal width swapped": (
        lambda m: swapped(m, "block13.shortcut.bn", "block13.sepconv2.bn"),
        "block13.sepconv2.bn",
    ),
    "a depthwise kernel with height and width exchanged": (
        lambda m: edited(m, "block3.sepconv1.depthwise.weight", lambda w: w.transpose(1, 0, 2)),
        "block3.sepconv1.depthwise",
    ),
    "two depthwise filters exchanged": (
        lambda m: edited(m, "block12.sepconv3.depthwise.weight", lambda w: w[..., [1, 0, *range(2, w.shape[2])]]),
        "block12.sepconv3.depthwise",
    ),
    "the classes shifted by one": (lambda m: edited(m, "predictions.weight", lambda w: np.roll(w, 1, 1)), "predictions"),
    "the classifier's bias dropped": (lambda m: edited(m, "predictions.bias", np.zeros_like), "predictions"),
    "epsilon wrong": (lambda m: with_attribute(m, "bn_epsilon", 1e-5), "block1.conv1.bn"),
    "padding wrong": (lambda m: with_attribute(m, "pool_padding", "symmetric"), "block3.pool"),
    "statistics dropped": (
        lambda m: edited(edited(m, "block8.sepconv1.bn.mean", np.zeros_like), "block8.sepconv1.bn.variance", np.ones_like),
        "block8.sepconv1.bn",
    ),
    "variance stored as standard deviation": (lambda m: edited(m, "block4.shortcut.bn.variance", np.sqrt), "block4.shortcut.bn"),
    "gamma and beta exchanged": (
        lambda m: changed(
            m,
            **{
                "block10.sepconv1.bn.gamma": m.weights["block10.sepconv1.bn.beta"].read(),
                "block10.sepconv1.bn.beta": m.weights["block10.sepconv1.bn.gamma"].read(),
            },
        ),
        "block10.sepconv1.bn",
    ),
    "images in BGR": (lambda m: edited(m, "block1.conv1.weight", lambda w: w[:, :, ::-1]), "block1.conv1"),
    "one weight off by one part in a million": (
        lambda m: edited(
            m, "block11.sepconv2.pointwise.weight", lambda w: w * np.where(np.arange(w.size) == 99, 1 + 1e-6, 1).reshape(w.shape)
        ),
        "block11.sepconv2.pointwise",
    ),
    "one value not a number": (
        lambda m: edited(m, "block5.sepconv1.bn.mean", lambda w: np.where(np.arange(w.size) == 3, np.nan, w)),
        "block5.sepconv1.bn",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught_and_placed(fault: str) -> None:
    inject, layer = FAULTS[fault]
    model = narrow()
    report = verify(model, inject(model), sizes=SIZES)
    assert not report.equal
    assert report.first_divergence is not None
    assert report.first_divergence.name == layer
    assert all(check.ok for check in report.checks)  # names and shapes see nothing: only the numbers do


@pytest.mark.parametrize("seed", range(3))
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


def test_an_unfolded_epsilon_in_one_late_layer_is_no_rounding() -> None:
    """The smallest defect of the facts: one late batch norm with the wrong epsilon, hidden in a folded file."""
    model = narrow()
    folded, _ = reconcile(model, {"bn_epsilon": 1e-5})
    gamma = "block14.sepconv1.bn.gamma"
    forgotten = replace(folded, weights={**folded.weights, gamma: model.weights[gamma]})
    report = verify(model, forgotten, sizes=SIZES)
    assert report.first_divergence is not None
    assert report.first_divergence.name == "block14.sepconv1.bn"


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


def test_half_a_precision_lost_is_different() -> None:
    assert not verify(narrow(), narrow(dtype="float16"), sizes=SIZES).equal


def test_a_source_that_answers_nothing_is_told() -> None:
    broken = FAULTS["one value not a number"][0](narrow())
    with pytest.raises(VerificationError, match=r"not finite, from `block5\.sepconv1\.bn` on") as caught:
        verify(broken, narrow(), sizes=SIZES)
    assert caught.value.facts == ("not finite: block5.sepconv1.bn.mean",)


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
    assert report.notes == ("1 weights differ without moving these probe images",)


def test_preprocessing_that_differs_is_told() -> None:
    model = narrow()
    other = replace(model, preprocessing={**model.preprocessing, "channels": "BGR"})
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
