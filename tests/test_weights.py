"""How the tensors of two models differ, what explains it, and `xconvert diff`, which tells it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from tests.narrow import changed, narrow
from tests.test_cli import run
from xconvert.difference import diff, diff_text
from xconvert.loading import load
from xconvert.model import Attribute, Model, Tensor
from xconvert.reconcile import reconcile
from xconvert.weights import KINDS, ULP, Difference, differences, folded, same_bits, summary

FIXTURES = Path(__file__).parents[1] / "fixtures"
POINTWISE = "block7.sepconv1.pointwise.weight"


def by_name(a: Model, b: Model) -> dict[str, Difference]:
    found = differences(a, b)
    assert all(difference.kind in KINDS for difference in found)
    return {difference.name: difference for difference in found}


def with_(model: Model, name: str, array: np.ndarray) -> Model:
    return changed(model, **{name.replace(".", "__"): array})


def weight(model: Model, name: str) -> np.ndarray:
    return model.weights[name].read()


def cast(model: Model, dtype: Any) -> Model:
    return model._replace(weights={n: Tensor.of(t.read().astype(dtype)) for n, t in model.weights.items()})


def test_every_tensor_is_there_once_in_canonical_order() -> None:
    model = narrow()
    found = differences(model, model)
    expected = [f"{layer.name}.{parameter}" for layer in model.layers for parameter in layer.parameters]
    assert [difference.name for difference in found] == expected
    assert {difference.kind for difference in found} == {"identical"}
    assert all(difference.explained and not difference.rounding for difference in found)
    assert summary(found) == f"{len(expected)} bit-equal"


def test_a_fold_is_told_by_its_attribute() -> None:
    a = narrow()
    b, changes = reconcile(a, {"bn_epsilon": 1e-5})
    found = by_name(a, b)
    assert {n for n, d in found.items() if d.kind == "folded"} == set(changes[0].weights)
    gamma = found["block1.conv1.bn.gamma"]
    assert (gamma.attribute, gamma.detail) == ("bn_epsilon", "bn_epsilon 0.001 → 1e-05")
    assert gamma.rounding
    assert gamma.explained
    x, y = weight(a, gamma.name).astype(float), weight(b, gamma.name).astype(float)
    assert gamma.maximum == np.abs(y - x).max() > 0
    assert gamma.relative == pytest.approx(np.linalg.norm(y - x) / np.linalg.norm(x))
    assert gamma.count <= gamma.size == x.size
    assert folded(a, b, list(found.values())) == {"bn_epsilon": True}
    assert summary(list(found.values())) == "196 bit-equal, 40 differ as folding `bn_epsilon` makes them, within 2 ulp"


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_a_fold_is_told_in_any_dtype(dtype: Any) -> None:
    a = narrow()
    b, _ = reconcile(a, {"bn_epsilon": 1e-5})
    assert by_name(a, cast(b, dtype))["block1.conv1.bn.gamma"].kind == "folded"
    half, _ = reconcile(cast(a, dtype), {"bn_epsilon": 1e-5})
    assert by_name(cast(a, dtype), half)["block1.conv1.bn.gamma"].kind == "folded"


@pytest.mark.parametrize(("units", "kind"), [(1, "folded"), (3, "different"), (30, "different")])
def test_a_fold_may_be_off_by_two_units_in_the_last_place(units: int, kind: str) -> None:
    a = narrow()
    b, _ = reconcile(a, {"bn_epsilon": 1e-5})
    name = "block9.sepconv2.bn.gamma"
    rounded = weight(b, name)  # itself off by half a unit
    moved = rounded + np.float32(units) * np.spacing(np.abs(rounded))
    found = differences(a, with_(b, name, moved))
    assert [d.kind for d in found if d.name == name] == [kind]
    assert folded(a, b, found)["bn_epsilon"] is (kind == "folded")
    assert ULP == 2


def test_an_epsilon_that_no_weight_makes_up_for_is_not_folded() -> None:
    a = narrow()
    b = a._replace(attributes={**a.attributes, "bn_epsilon": Attribute(1e-5, "test")})
    found = differences(a, b)
    assert {d.kind for d in found} == {"identical"}
    assert folded(a, b, found) == {"bn_epsilon": False}


def test_there_and_back_is_close() -> None:
    a = narrow()
    b, _ = reconcile(reconcile(a, {"bn_epsilon": 1e-5})[0], {"bn_epsilon": 1e-3})
    assert {d.kind for d in differences(a, b)} == {"identical", "close"}
    assert folded(a, b, differences(a, b)) == {}


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_rounding_and_widening_are_told_either_way(dtype: Any) -> None:
    a = narrow()
    b = cast(a, dtype)
    down, up = by_name(a, b), by_name(b, a)
    assert {d.kind for d in (*down.values(), *up.values())} <= {"rounded", "widened"}  # zeros and ones are exact
    name = np.dtype(dtype).name
    assert (down[POINTWISE].kind, down[POINTWISE].detail) == ("rounded", f"float32 → {name}")
    assert (up[POINTWISE].kind, up[POINTWISE].detail) == ("rounded", f"{name} → float32")
    assert 0 < down[POINTWISE].relative < 1e-2
    wide = by_name(b, cast(b, np.float32))
    assert {d.kind for d in wide.values()} == {"widened"}
    assert not any(d.rounding or d.maximum for d in wide.values())


@pytest.mark.slow
def test_what_half_precision_cannot_hold_is_not_rounding() -> None:
    a = with_(narrow(), POINTWISE, weight(narrow(), POINTWISE) * np.float32(1e6))
    with np.errstate(over="ignore"):
        found = by_name(a, cast(a, np.float16))[POINTWISE]
    assert (found.kind, found.detail, found.maximum) == ("different", "float32 → float16, which overflows", np.inf)
    assert not found.explained


def test_a_number_that_is_none_is_different_unless_its_bits_are_the_same() -> None:
    a = narrow()
    array = weight(a, POINTWISE).copy()
    array[3, 4] = np.nan
    found = by_name(a, with_(a, POINTWISE, array))[POINTWISE]
    assert (found.kind, found.count) == ("different", 1)
    assert np.isnan(found.maximum)
    both = with_(a, POINTWISE, array)
    assert by_name(both, both)[POINTWISE].kind == "identical"


def recognised(make: Any, name: str = POINTWISE) -> str:
    a = narrow()
    found = by_name(a, with_(a, name, np.ascontiguousarray(make(a, weight(a, name)))))[name]
    assert found.kind == "different"
    return found.detail


@pytest.mark.parametrize(
    ("name", "make", "told"),
    [
        (POINTWISE, lambda a, x: weight(a, "block9.sepconv2.pointwise.weight"), "is `block9.sepconv2.pointwise.weight` of A"),
        (POINTWISE, lambda a, x: x.T, "transposed: inputs and outputs are swapped"),
        (POINTWISE, lambda a, x: np.zeros_like(x), "all 0"),
        (POINTWISE, lambda a, x: x + np.float32(1e-3), ""),
        ("block7.sepconv1.depthwise.weight", lambda a, x: x.swapaxes(0, 1), "transposed: height and width are swapped"),
        ("block7.sepconv1.depthwise.weight", lambda a, x: x[::-1, ::-1], "flipped in height and width, as Theano stores kernels"),
        ("block1.conv1.weight", lambda a, x: x[:, :, ::-1], "its input channels are in reverse order, as for BGR images"),
        ("block7.sepconv1.bn.variance", lambda a, x: np.sqrt(x), "the square root of A's: standard deviations"),
        ("block7.sepconv1.bn.gamma", lambda a, x: np.ones_like(x), "all 1"),
        ("block7.sepconv1.bn.beta", lambda a, x: weight(a, "block7.sepconv1.bn.mean"), "is `block7.sepconv1.bn.mean` of A"),
    ],
)
def test_what_a_wrong_tensor_is_can_often_be_told(name: str, make: Any, told: str) -> None:
    assert recognised(make, name) == told


def test_names_on_one_side_and_other_shapes_are_told() -> None:
    a, b = narrow(classes=10), narrow(classes=12)
    found = by_name(a, b)
    assert (found["predictions.bias"].kind, found["predictions.bias"].detail) == ("other shape", "(10,) against (12,)")
    headless = narrow(head=False)
    assert [d.name for d in differences(a, headless) if d.kind == "only in A"] == ["predictions.weight", "predictions.bias"]
    assert [d.name for d in differences(headless, a) if d.kind == "only in B"] == ["predictions.weight", "predictions.bias"]
    assert not any(d.explained for d in differences(a, headless) if d.name.startswith("predictions"))
    assert "2 only in A: predictions.weight, predictions.bias" in summary(differences(a, headless))


FLOATS = arrays.arrays(
    st.sampled_from([np.float16, np.float32, np.float64, np.uint8]), arrays.array_shapes(min_dims=0, max_dims=3, min_side=0)
)


@pytest.mark.slow
@given(FLOATS, FLOATS)
def test_same_bits_are_the_same_bytes(a: np.ndarray, b: np.ndarray) -> None:
    def bytes_of(x: np.ndarray) -> tuple[Any, ...]:
        return x.dtype, x.shape, x.tobytes()

    assert same_bits(a, b) == (bytes_of(a) == bytes_of(b))
    assert same_bits(a, a.copy())
    assert same_bits(a.T, np.ascontiguousarray(a.T).reshape(a.T.shape))


def test_zeros_differ_by_sign_and_not_a_number_equals_itself() -> None:
    assert not same_bits(np.array([0.0]), np.array([-0.0]))
    assert same_bits(np.array([np.nan]), np.array([np.nan]))


# ——— the command


@pytest.mark.slow
def test_diff_of_files_across_frameworks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    shutil.copy(FIXTURES / "keras.h5", tmp_path)
    assert run(capsys, tmp_path / "keras.h5", "--to", "torch", "--no-verify")[0] == 0
    code, out, _ = run(capsys, "diff", tmp_path / "keras.h5", tmp_path / "keras.pth")
    assert code == 0
    assert "identical   196  bit-equal" in out
    assert "bn_epsilon  0.001 → 1e-05, which the folded weights make up for" in out
    assert "  40 × *.bn.gamma  folded  " in out
    assert "explained: folds account for what differs" in out
    assert out.endswith("note: tensors were compared, nothing was computed; `xconvert verify` computes\n")
    assert all(len(line) <= 80 for line in out.splitlines()[1:] if "/" not in line)
    code, out, _ = run(capsys, "diff", tmp_path / "keras.h5", tmp_path / "keras.h5")
    assert (code, "identical: every tensor is bit-equal and every attribute the same" in out) == (0, True)


def test_diff_all_lists_every_tensor(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "diff", FIXTURES / "timm.pth", FIXTURES / "timm.pth", "--all")
    names = [line.split()[0] for line in out.splitlines() if line.endswith(" identical")]
    assert (code, names) == (0, [d.name for d in differences(load(FIXTURES / "timm.pth"), load(FIXTURES / "timm.pth"))])


def test_diff_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "diff", FIXTURES / "keras.h5", FIXTURES / "timm.pth", "--json", "--set", "bn_epsilon=1e-5")
    told = json.loads(out)
    assert (code, told["same"], told["explained"], told["counts"]) == (1, False, False, {"different": 236})
    assert [change["attribute"] for change in told["attributes"] if not change["explained"]] == ["pool_padding"]
    assert told["a"]["attributes"]["bn_epsilon"]["source"] == "--set"
    assert len(told["tensors"]) == 236
    assert told["tensors"][0].keys() == {*Difference.__slots__, "explained"}


def test_diff_speaks_json_of_what_is_not_finite() -> None:
    a = narrow()
    told = diff(a, with_(a, POINTWISE, np.full_like(weight(a, POINTWISE), np.inf)))
    (entry,) = [t for t in told["tensors"] if t["name"] == POINTWISE]
    assert (entry["maximum"], entry["detail"]) == (None, "all inf")
    json.dumps(told, allow_nan=False)
    assert "not finite" in diff_text(told)


def lines(a: Model, b: Model) -> list[str]:
    import click

    return click.unstyle(diff_text(diff(a, b))).splitlines()


def test_few_wrong_tensors_stand_before_all_that_is_explained() -> None:
    a = narrow()
    b, _ = reconcile(a, {"bn_epsilon": 1e-5})
    other = "block9.sepconv2.pointwise.weight"
    b = with_(with_(b, POINTWISE, weight(a, other)), other, weight(a, POINTWISE))
    text = lines(a, b)
    at = next(i for i, line in enumerate(text) if line.split()[:1] == ["tensor"])
    assert text[at + 1].split()[:2] == [POINTWISE, "different"]
    assert text[at + 2] == f"      is `{other}` of A"
    assert text[at + 5].startswith("  40 × *.bn.gamma")
    assert "different: 2 tensors" in text


def test_many_wrong_tensors_are_told_in_runs() -> None:
    text = lines(narrow(), narrow(seed=1))
    assert any(line.startswith("  34 × *.pointwise.weight") for line in text)
    assert len(text) < 24
    assert all(len(line) <= 80 for line in text)


def test_an_attribute_that_nothing_makes_up_for_is_a_difference() -> None:
    told = diff(narrow(), narrow(pool_padding="symmetric"))
    assert (told["same"], told["explained"], told["counts"]) == (False, False, {"identical": 236})
    text = "\n".join(lines(narrow(), narrow(pool_padding="symmetric")))
    assert "pool_padding  same_upper → symmetric, which no weight makes up for" in text
    assert "different: `pool_padding`" in text


def test_a_setting_of_training_is_told_and_explained() -> None:
    told = diff(narrow(), narrow(bn_momentum=0.9))
    assert (told["same"], told["explained"]) == (False, True)
    assert "explained: settings of training account for what differs" in lines(narrow(), narrow(bn_momentum=0.9))


def test_other_depths_and_other_networks_are_different() -> None:
    deeper = diff(narrow(8), narrow(9))
    assert not deeper["explained"]
    assert "different: 3 and 8 against 3 and 9 blocks of entry and middle flow" in lines(narrow(8), narrow(9))
    other = narrow(family="xception_aligned")
    told = diff(narrow(8), other)
    assert (told["explained"], told["tensors"]) == (False, [])
    assert "different: no tensor of xception has a counterpart in xception_aligned" in lines(narrow(8), other)
