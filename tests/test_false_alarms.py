"""Networks that are the same function, by every way in which the same function comes about: none of them may be called different.
And the other side of the tolerance: the smallest defect that is worth catching, in many networks.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tests.mutations import FAMILIES, Computed
from tests.narrow import narrow
from xconvert import formats, load, verify
from xconvert.loading import save
from xconvert.mappings import library
from xconvert.model import Attribute, Depth, Model, Tensor
from xconvert.parity import compare_networks
from xconvert.reconcile import reconcile, with_background, without_background
from xconvert.report import Report

SEEDS = 5
SIZES = (64, 75, 80, 96, 101)


def network(family: str, seed: int, **options: Any) -> Model:
    return narrow(Depth(3, 2), family, seed=seed, **options)


def size(seed: int) -> tuple[int]:
    return (SIZES[seed % len(SIZES)],)


def other_epsilon(model: Model) -> float:
    return 1e-5 if model.values["bn_epsilon"] == 1e-3 else 1e-3


def refolded(model: Model) -> Model:
    """``model`` with another epsilon, made up for in gamma."""
    return reconcile(model, {"bn_epsilon": other_epsilon(model)})[0]


FRAMEWORKS = {"a.safetensors": "torch", "b.h5": "keras", "c.pth": "torch", "d.pdparams": "paddle"}


def through(model: Model, path: Path) -> Model:
    """``model`` written to a file and read again."""
    known = library()
    implementation = known.customary(known.dialects[FRAMEWORKS[path.name]], model.family, model.depth)
    fmt = formats.format_for_writing(path, known.dialects[implementation.dialect].family)
    assert fmt.write is not None
    fmt.write(path, save(model, implementation, known.dialects[fmt.dialects.get(implementation.dialect, implementation.dialect)]))
    return load(path)


def rounded(model: Model, dtype: Any) -> Model:
    """``model`` as a file of half precision holds it."""
    return model._replace(weights={name: Tensor.of(t.read().astype(dtype)) for name, t in model.weights.items()})


def a_fold(family: str, seed: int, folder: Path) -> Report:
    model = network(family, seed)
    return verify(model, refolded(model), sizes=size(seed))


def a_fold_of_another_epsilon(family: str, seed: int, folder: Path) -> Report:
    model = network(family, seed, bn_epsilon=[1e-6, 1e-4, 2e-3, 1e-2, 1e-3][seed])
    return verify(refolded(model), model, sizes=size(seed))


def files_there_and_back(family: str, seed: int, folder: Path) -> Report:
    """Folded into one format, and folded back into another."""
    model = network(family, seed)
    names = [*FRAMEWORKS]
    there = through(refolded(model), folder / names[seed % 4])
    back = through(refolded(there), folder / names[(seed + 1 + seed // 4) % 4])
    return verify(model, back, sizes=size(seed))


def other_axes_and_back(family: str, seed: int, folder: Path) -> Report:
    """PyTorch's axes, Keras' axes, PyTorch's axes: the same bits."""
    model = network(family, seed)
    keras = through(through(model, folder / "a.safetensors"), folder / "b.h5")
    return verify(model, through(keras, folder / "c.pth"), sizes=size(seed))


def half_precision(family: str, seed: int, folder: Path, dtype: Any) -> Report:
    model = network(family, seed)
    return verify(*[(model, rounded(model, dtype)), (rounded(model, dtype), model)][seed % 2], sizes=size(seed))


def half_precision_folded(family: str, seed: int, folder: Path) -> Report:
    """A file of half precision, converted: gammas are float32 then."""
    half = rounded(network(family, seed), np.float16)
    return verify(half, refolded(half), sizes=size(seed))


def background_and_scale(family: str, seed: int, folder: Path) -> Report:
    """A background class added and dropped again, the head's scale folded where there is one, and a momentum, which only matters
    in training."""
    model = network(family, seed, **({"head_scale": 0.5} if family == "xception_aligned" else {}))
    plain = reconcile(model, {"head_scale": 1.0} if family == "xception_aligned" else {})[0]
    plain = plain._replace(attributes={**plain.attributes, "bn_momentum": Attribute(0.5, "test")})
    if seed % 2:
        return verify(model, without_background(with_background(plain)), sizes=size(seed))
    return verify(with_background(model), plain, background="drop", sizes=size(seed))


def single_precision(family: str, seed: int, folder: Path) -> Report:
    """Computed in float32, by operations in another order, against the reference in float64."""
    model = network(family, seed)
    parity = compare_networks(model, Computed(model, {}, {}, "float32"), size(seed), calibrated=True)
    return Report({}, {}, layers=parity.layers)


def other_widths_and_depths(family: str, seed: int, folder: Path) -> Report:
    depth = Depth(3 if family == "xception" or seed % 2 else 5, seed + 1)
    options = {
        "classes": [2, 7, 21, 100, 3][seed],
        "channels": [3, 1, 3, 4, 3][seed],
        "divide": [32, 24, 16, 12, 8][seed],
        "head": seed != 3,
    }
    model = narrow(depth, family, seed=seed, **options)
    return verify(model, refolded(model), sizes=(*size(seed), *size(seed + 2)))


KINDS: dict[str, Callable[[str, int, Path], Report]] = {
    "a fold": a_fold,
    "a fold of another epsilon": a_fold_of_another_epsilon,
    "files there and back": files_there_and_back,
    "other axes and back": other_axes_and_back,
    "float16": partial(half_precision, dtype=np.float16),
    "bfloat16": partial(half_precision, dtype=ml_dtypes.bfloat16),
    "float16 folded": half_precision_folded,
    "background and scale": background_and_scale,
    "float32": single_precision,
    "other widths and depths": other_widths_and_depths,
}


def alarms(kind: str, family: str, seed: int, folder: Path) -> list[str]:
    report = KINDS[kind](family, seed, folder)
    told = [f"{check.name}: {check.detail}" for check in report.checks if not check.ok]
    if report.first_divergence:
        told.append(str(report.first_divergence))
    assert report.equal == (not told)
    return [f"seed {seed}: {text}" for text in [*told, *(diagnosis.told for diagnosis in report.diagnoses)]]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_good_pairs_raise_no_alarm(kind: str, family: str, tmp_path: Path, record_property: pytest.RecordProperty) -> None:
    folders = [tmp_path / str(seed) for seed in range(SEEDS)]
    found = {}
    for seed, folder in enumerate(folders):
        folder.mkdir()
        found[seed] = alarms(kind, family, seed, folder)
    record_property("pairs", [sum(map(bool, found.values())), len(found)])
    assert not any(found.values()), found


def test_there_are_two_hundred_good_pairs() -> None:
    assert len(KINDS) * len(FAMILIES) * SEEDS >= 200


def late_epsilon(family: str, seed: int) -> tuple[Model, Computed, str]:
    """A network whose last batch norm has no small variance, 0.3 to 2, and the same, in float32, with another epsilon there."""
    model = network(family, seed)
    late = [layer for layer in model.layers if layer.op == "batch_norm"][-1]
    gamma, variance = (model.weights[f"{late.name}.{p}"].read().astype(np.float64) for p in ("gamma", "variance"))
    drawn = np.random.default_rng(seed).uniform(0.3, 2, variance.shape)
    made = {"variance": drawn, "gamma": gamma * np.sqrt((drawn + late.epsilon) / (variance + late.epsilon))}
    weights = {f"{late.name}.{p}": Tensor.of(array.astype(np.float32)) for p, array in made.items()}
    model = model._replace(weights={**model.weights, **weights})
    return model, Computed(model, {late.name: late._replace(epsilon=other_epsilon(model))}, {}, "float32"), late.name


def assert_caught(family: str, seed: int) -> float:
    """The defect is placed, and is over the tolerance in the answer too; by how many times."""
    model, other, late = late_epsilon(family, seed)
    parity = compare_networks(model, other, size(seed), calibrated=True)
    first = next(error for error in parity.layers if not error.ok)
    answer = parity.layers[-1]
    assert first.name == late, (family, seed, first)
    assert answer.relative > 2 * answer.allowed, (family, seed, answer)
    return answer.relative / answer.allowed


@pytest.mark.parametrize("family", FAMILIES)
def test_the_smallest_defect_is_caught(family: str) -> None:
    assert_caught(family, FAMILIES.index(family))


@pytest.mark.slow
def test_the_smallest_defect_is_caught_in_every_network(record_property: pytest.RecordProperty) -> None:
    over = [assert_caught(family, seed) for family in FAMILIES for seed in range(40)]
    record_property(
        "told",
        f"smallest defect (one late batch norm, variances 0.3 to 2, epsilon 1e-3 for 1e-5 or the reverse, in float32): caught in "
        f"{len(over)} of {len(over)} networks, in the answer by {min(over):.0f} times the tolerance at the least",
    )
