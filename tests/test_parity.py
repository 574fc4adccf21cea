"""What is measured of two networks, and what it is held to: tolerances, precision, agreement, the acceptance table."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.narrow import TORCH, changed, narrow
from xconvert import verify
from xconvert.compare import EXACT, FALLBACK, UNIT, agreement, allowed_for, compare, picture
from xconvert.model import Model, Tensor
from xconvert.parity import BATCHES, SEEDS, acceptance, compare_networks, numpy_run
from xconvert.precision import significant
from xconvert.reconcile import reconcile
from xconvert.report import Report
from xconvert.weights import differences

SIZES = (75,)


def check(report: Report, name: str) -> tuple[bool, str]:
    return next((c.ok, c.detail) for c in report.checks if c.name == name)


def as_dtype(model: Model, dtype: np.typing.DTypeLike) -> Model:
    with np.errstate(over="ignore"):
        return model._replace(weights={n: Tensor.of(t.read().astype(dtype)) for n, t in model.weights.items()})


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("turned", [False, True], ids=["from full", "to full"])
def test_a_half_precision_copy_is_equal_and_its_cost_is_told(dtype: np.typing.DTypeLike, turned: bool) -> None:
    model = narrow()
    pair = (model, as_dtype(model, dtype))
    report = verify(*(pair[::-1] if turned else pair), sizes=SIZES)
    assert report.equal
    assert {layer.allowed for layer in report.layers} == {EXACT}  # but for the rounding, to the bit
    ok, told = check(report, "precision")
    assert ok
    assert f"weights rounded to {np.dtype(dtype).name} move the logits by" in told


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("order", ["fold, round", "round | fold", "round | fold, round", "full | round, fold"])
def test_folding_and_rounding_in_any_order_raises_no_alarm(dtype: np.typing.DTypeLike, turned: bool, order: str) -> None:
    model = narrow(2)
    fold = {"bn_epsilon": 1e-5}
    pair = {
        "fold, round": lambda: (model, as_dtype(reconcile(model, fold)[0], dtype)),
        "round | fold": lambda: (as_dtype(model, dtype), reconcile(model, fold)[0]),
        "round | fold, round": lambda: (as_dtype(model, dtype), as_dtype(reconcile(model, fold)[0], dtype)),
        "full | round, fold": lambda: (model, reconcile(as_dtype(model, dtype), fold)[0]),
    }[order]()
    report = verify(*(pair[::-1] if turned else pair), sizes=SIZES)
    assert report.equal, report.diagnoses
    assert {layer.allowed for layer in report.layers} == {EXACT}


@pytest.mark.slow
def test_half_precision_hides_no_small_defect() -> None:
    """One late epsilon moves logits a hundred times less than rounding every weight to 11 bits does, and is found."""
    model = narrow(bn_epsilon=1e-3)
    half = as_dtype(model, np.float16)
    gamma = "block14.sepconv1.bn.gamma"
    folded, _ = reconcile(model, {"bn_epsilon": 1e-5})
    forgotten = half._replace(weights={**half.weights, gamma: Tensor.of(folded.weights[gamma].read().astype(np.float16))})
    report = verify(model, forgotten, sizes=SIZES)
    assert not report.equal
    assert report.first_divergence is not None
    assert report.first_divergence.name == "block14.sepconv1.bn"


def test_digits_lost_for_being_small_are_no_matter_of_course() -> None:
    """Half precision has no digits for what is below 6e-8: scaled down by a batch norm before, it would have been as good."""
    model = narrow()
    weight, variance = (model.weights[f"block1.{n}"].read() for n in ("conv2.weight", "conv2.bn.variance"))
    mean = model.weights["block1.conv2.bn.mean"].read()
    small = changed(
        model,
        block1__conv2__weight=weight * np.float32(1e-7),
        block1__conv2__bn__variance=variance * np.float32(1e-14),
        block1__conv2__bn__mean=mean * np.float32(1e-7),
    )
    tiny = small._replace(attributes=narrow(bn_epsilon=1e-12).attributes)
    half = as_dtype(tiny, np.float16)
    kept = half._replace(weights={**half.weights, "block1.conv2.bn.variance": tiny.weights["block1.conv2.bn.variance"]})
    report = verify(tiny, kept, sizes=SIZES)
    assert check(report, "precision")[0] is False
    assert not report.equal


@given(arrays(np.float32, 40, elements=st.floats(2.0**-14, 60000, width=32)), st.sampled_from([np.float16, np.float32]))
def test_significant_bits_are_those_of_the_format_in_its_range(array: np.ndarray, dtype: np.typing.DTypeLike) -> None:
    bits = np.finfo(dtype).nmant + 1
    assert np.array_equal(significant(array, bits), array.astype(dtype).astype(np.float64))
    assert np.array_equal(significant(array * 2.0**40, bits), significant(array, bits) * 2.0**40)  # whatever its size


def test_folding_there_and_back_leaves_rounding_alone() -> None:
    model = narrow()
    there, _ = reconcile(model, {"bn_epsilon": 1e-5})
    back, _ = reconcile(there, {"bn_epsilon": 1e-3})
    assert any(difference.kind == "close" for difference in differences(model, back))
    report = verify(model, back, sizes=SIZES)
    assert report.equal
    assert all(layer.rounding > 0 for layer in report.layers if layer.name != "image")


def test_a_tolerance_is_eight_roundings_but_never_below_eight_units() -> None:
    assert allowed_for(1e-6) == 8e-6
    assert allowed_for(0.0) == 8 * UNIT
    assert allowed_for(float("nan")) == allowed_for(float("inf")) == max(FALLBACK.values())


@pytest.mark.parametrize(("norms", "allowed"), [(40, 3e-5), (84, 1.5e-4), (132, 3e-4), (146, 6e-4)])
def test_where_float32_overflows_a_fixed_tolerance_holds(norms: int, allowed: float) -> None:
    good = {f"l{i}.bn": np.ones((1, 4)) for i in range(norms)}
    rounded = {name: np.full((1, 4), np.inf) for name in good}
    assert {error.allowed for error in compare(good, 75, good, good, rounded)} == {allowed}


@given(arrays(np.float64, (3, 8), elements=st.floats(-100, 100)), st.floats(-10, 10))
def test_every_measure_says_what_its_name_says(a: np.ndarray, by: float) -> None:
    b = a + by * np.arange(8)
    (error,) = compare(["x"], 75, {"x": a}, {"x": b})
    assert error.maximum == pytest.approx(np.abs(b - a).max())
    assert error.rms == pytest.approx(np.sqrt(((b - a) ** 2).mean()))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    if (lengths > 1e-6).all():
        assert error.cosine == pytest.approx(((a * b).sum(1) / lengths).min(), abs=1e-9)


def test_agreement_counts_the_first_and_the_set_of_the_first_five() -> None:
    logits = np.arange(20.0).reshape(2, 10)
    assert agreement(75, logits, logits) == agreement(75, logits, logits * 3 + 1)
    swapped = logits.copy()
    swapped[0, [8, 9]] = swapped[0, [9, 8]]  # another first, the same five
    swapped[1, 0] = 14.5 + 100  # another first, another five
    told = agreement(75, logits, swapped)
    assert (told.images, told.top1, told.top5) == (2, 0, 1)


def test_the_picture_shows_the_image_and_channel_that_differ_most() -> None:
    a = np.zeros((2, 3, 3, 4))
    b = a.copy()
    b[1, 2, 0, 3] = 5
    shown = picture("x", 75, a, b)
    assert shown is not None
    assert (shown.channel, shown.other[2, 0], shown.reference.shape) == (3, 5, (3, 3))
    assert picture("x", 75, a, b[:, :2]) is None


@pytest.mark.slow
def test_the_acceptance_table_has_every_seed_and_batch_and_rejects() -> None:
    model = narrow()
    trials = acceptance(model, numpy_run(model), calibrated=False, size=75)
    assert [(trial.seed, trial.batch) for trial in trials] == [(s, b) for s in range(SEEDS) for b in BATCHES]
    assert all(trial.ok and trial.maximum == 0 and trial.top1 == trial.batch for trial in trials)
    wrong = changed(model, predictions__bias=model.weights["predictions.bias"].read() + np.float32(1e-3))
    assert not any(trial.ok for trial in acceptance(model, numpy_run(wrong), calibrated=True, size=75))


@pytest.mark.slow
def test_trials_decide_the_verdict_too() -> None:
    model = narrow()
    report = verify(model, model, sizes=SIZES)
    bad = acceptance(model, numpy_run(narrow(seed=1)), calibrated=False, size=75)
    assert report.equal
    assert not report._replace(trials=bad).equal


def test_where_nothing_parts_nothing_is_kept() -> None:
    model = narrow()
    parity = compare_networks(model, numpy_run(model), (75, 96), calibrated=False)
    assert parity.parted is None
    assert [told.size for told in parity.agreement] == [75, 96]


def test_the_size_at_which_two_networks_part_earliest_is_looked_at() -> None:
    """At 96 pixels the pools pad alike until block 4, at 75 until block 3."""
    parity = compare_networks(narrow(), numpy_run(narrow(pool_padding="symmetric")), (96, 75), calibrated=False)
    assert parity.parted is not None
    assert parity.parted.size == 75
    assert parity.parted.picture is not None
    assert parity.parted.picture.layer == "block3.pool"


def test_another_normalisation_is_measured_and_fails_nothing() -> None:
    model = narrow(**TORCH)
    other = model._replace(preprocessing={**model.preprocessing, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})
    report = verify(model, other, sizes=SIZES)
    assert report.equal
    (note,) = report.notes
    assert "images must be normalised differently" in note
    moved = float(note.rpartition(" by ")[2])
    assert moved > 0.1
    assert verify(model, model, sizes=SIZES).notes == ()
