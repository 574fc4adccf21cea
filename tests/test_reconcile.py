"""Folding epsilon keeps the function; what no weights can express is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tests.narrow import KERAS, TORCH, changed, narrow
from xconvert import verify
from xconvert.backends import forward
from xconvert.compare import relative_l2
from xconvert.effects import first_parting, measure, unseen_sizes
from xconvert.errors import XconvertError
from xconvert.probe import images
from xconvert.reconcile import Change, fold_epsilon, reconcile

epsilons = st.sampled_from([1e-2, 1e-3, 1e-4, 1e-5, 1e-7])
variances = arrays(np.float32, 8, elements=st.floats(0, 100, width=32))
gammas = arrays(np.float32, 8, elements=st.floats(-4, 4, width=32))


def folded_gamma(gamma: np.ndarray, variance: np.ndarray, source: float, target: float) -> np.ndarray:
    read = {"a.gamma": gamma.astype(np.float64), "a.variance": variance.astype(np.float64)}.__getitem__
    return fold_epsilon("a.gamma", read, source, target).astype(gamma.dtype)


def scale(gamma: np.ndarray, variance: np.ndarray, epsilon: float) -> np.ndarray:
    return gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + epsilon)


@given(gammas, variances, epsilons, epsilons)
def test_a_folded_batch_norm_scales_as_before(gamma: np.ndarray, variance: np.ndarray, source: float, target: float) -> None:
    folded = folded_gamma(gamma, variance, source, target)
    assert folded.dtype == gamma.dtype
    before, after = scale(gamma, variance, source), scale(folded, variance, target)
    assert np.allclose(before, after, rtol=2.0**-23, atol=1e-42 / np.sqrt(target))  # one rounding of a float32


@given(gammas, variances, epsilons, epsilons)
def test_folding_back_is_within_two_units(gamma: np.ndarray, variance: np.ndarray, source: float, target: float) -> None:
    normal = np.where(np.abs(gamma) < 1e-30, np.float32(0), gamma)
    back = folded_gamma(folded_gamma(normal, variance, source, target), variance, target, source)
    assert (np.abs(back.astype(np.float64) - normal) <= 2 * np.spacing(np.abs(normal)).astype(np.float64)).all()


@given(gammas, variances, epsilons)
def test_the_same_epsilon_folds_to_the_same_bits(gamma: np.ndarray, variance: np.ndarray, epsilon: float) -> None:
    assert np.array_equal(folded_gamma(gamma, variance, epsilon, epsilon), gamma)


def test_a_fold_in_float64_leaves_the_network_where_it_was() -> None:
    model = narrow(dtype="float64")
    folded, changes = reconcile(model, {"bn_epsilon": 1e-5})
    assert [(c.action, len(c.weights)) for c in changes] == [("folded", 40)]
    probe = images(96, 2)
    before, after = (forward(m, probe, dtype="float64", taps="all") for m in (model, folded))
    assert all(relative_l2(before[name], after[name]) < 1e-12 for name in before)
    unfolded = forward(model, probe, dtype="float64")["logits"]
    wrong = forward(reconcile(narrow(dtype="float64", bn_epsilon=1e-5), {})[0], probe, dtype="float64")["logits"]
    assert relative_l2(unfolded, wrong) > 1e-2  # so the fold was needed


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_a_fold_is_never_stored_below_float32(dtype: str) -> None:
    model = narrow(dtype=dtype)
    folded, changes = reconcile(model, {"bn_epsilon": 1e-5})
    for name, tensor in folded.weights.items():
        assert tensor.dtype == (max(tensor.dtype, np.dtype("float32")) if name in changes[0].weights else dtype)
        assert tensor.read().dtype == tensor.dtype
    assert verify(model, folded, sizes=(75, 96)).equal


def test_a_variance_that_cannot_be_folded_names_its_layer() -> None:
    model = narrow()
    variance = model.weights["block3.shortcut.bn.variance"].read().copy()
    variance[2] = -0.5
    folded, _ = reconcile(changed(model, block3__shortcut__bn__variance=variance), {"bn_epsilon": 1e-5})
    with pytest.raises(
        XconvertError, match=r"the epsilon of `block3.shortcut.bn` cannot be folded: variance \+ epsilon is -0.49999"
    ):
        folded.weights["block3.shortcut.bn.gamma"].read()


def test_padding_is_refused_unless_accepted() -> None:
    model = narrow()
    assert [c.action for c in reconcile(model, TORCH)[1]] == ["folded", "refused", "training"]
    accepted, changes = reconcile(model, TORCH, accept=["pool_padding"])
    assert [c.action for c in changes] == ["folded", "accepted", "training"]
    assert accepted.values == TORCH
    assert reconcile(model, KERAS) == (model, ())


def test_what_matters_in_training_alone_is_taken_over_and_no_answer_changes() -> None:
    model = narrow()
    other, changes = reconcile(model, {"bn_momentum": 0.9})
    assert changes == (Change("bn_momentum", 0.99, 0.9, "training"),)
    assert (other.values["bn_momentum"], other.attributes["bn_momentum"].source) == (0.9, "training")
    assert other.weights is model.weights
    assert {layer.momentum for layer in other.layers if layer.op == "batch_norm"} == {0.9}
    assert other.values != model.values
    assert other.inference == model.inference == {"bn_epsilon": 1e-3, "pool_padding": "same_upper"}
    probe = images(75, 1)
    assert np.array_equal(forward(model, probe)["logits"], forward(other, probe)["logits"])


@pytest.mark.slow
def test_the_effect_of_padding_is_measured_where_it_is() -> None:
    effect = measure(narrow(), Change("pool_padding", "same_upper", "symmetric", "refused"), size=299)
    assert effect.layer == "block3.pool"
    assert 1e-3 < effect.moved < 2
    assert effect.unseen == (263, 264, 295, 296, 327, 328)
    assert measure(narrow(), Change("pool_padding", "same_upper", "symmetric", "refused"), size=295).layer == ""


def test_sizes_at_which_nothing_parts_are_those_of_the_facts() -> None:
    """All four pools see odd maps when the size is 7 or 8 modulo 32 (measured on the real frameworks: exactly 0
    there)."""
    ours, theirs = narrow(), narrow(pool_padding="symmetric")
    assert all(size % 32 in (7, 8) for size in unseen_sizes(ours, theirs))
    assert [first_parting(ours, theirs, n) for n in (299, 224, 333, 512)] == [
        "block3.pool",
        "block4.pool",
        "block2.pool",
        "block4.pool",
    ]
