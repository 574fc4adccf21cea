"""The parity matrix of the README: every file that a real class wrote, against the reference; every conversion between zoos
whose networks agree, run by the real class it is for, on the file that was written for it. One network of each zoo is in full
size; of the others a narrow file says as much.

``XCONVERT_MATRIX=write`` (``make matrix``) puts the tables into the README; else they must be those that it has.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from tests.frameworks import matrix, warm
from tests.frameworks.matrix import Ran, Read
from tests.frameworks.test_parity import DEEPLAB_41, KERAS_FULL, MINDCV_FULL, PADDLE_41, ROWS, TIMM_41, TIMM_41P, Made, Row, make
from tests.narrow import KERAS, TORCH, checkpoint
from tests.oracle import oracle
from xconvert import convert, forward, load
from xconvert.compare import ROUNDINGS
from xconvert.loading import interpret
from xconvert.model import Checkpoint, Model, Tensor
from xconvert.parity import compare_networks
from xconvert.probe import images
from xconvert.reconcile import FOLDS, reconcile
from xconvert.verification import run_by

pytestmark = pytest.mark.framework

TIMM = Row("timm", "timm-pth", ".pth", TORCH)
HUB = Row("keras-hub", "hub-weights", ".weights.h5", KERAS)
CADENE = Row("cadene", "cadene-pth", ".pth", TORCH)
SLIM = Row("tf-deeplab", "tensorflow", ".ckpt", TIMM_41.attributes, "xception_41", "xception_aligned")
FILES = [KERAS_FULL, HUB, TIMM, CADENE, MINDCV_FULL, TIMM_41, DEEPLAB_41, TIMM_41P, PADDLE_41]
FILES += [row for row in ROWS if row.network and row.divide > 1]
WORDS = {".h5": "`.h5`", ".pth": "`.pth`", ".ckpt": "`.ckpt`", ".pdparams": "`.pdparams`", ".safetensors": "safetensors"}
WORDS |= {".weights.h5": "`.weights.h5`"}
ORACLES = [("TF DeepLab", f"tf_deeplab.xception_{n}", "tf-deeplab") for n in (41, 65, 71)]
ORACLES += [("Lornatang", "lornatang.xception", "lornatang")]


@dataclass(frozen=True)
class Target:
    """Where a conversion goes: the file's suffix, and the backend that runs it, where the zoo is on a registry its own class."""

    zoo: str
    suffix: str
    runner: str


# Lornatang's class has the names and bits of timm's (test_reference.py); of slim's network TensorFlow's operations are run.
CHOLLET = [
    Target("keras.applications", ".h5", "keras.applications"),
    Target("keras-hub", ".h5", "keras-hub"),
    Target("timm", ".safetensors", "timm"),
    Target("cadene", ".pth", "cadene"),
    Target("lornatang", ".pth", "timm"),
    Target("mindcv", ".ckpt", "mindcv"),
]
DEEPLAB = [
    Target("timm", ".pth", "timm"),
    Target("paddleclas", ".pdparams", "paddleclas"),
    Target("tf-deeplab", ".ckpt", "tensorflow"),
]
PAIRS = [(source, target) for source in (KERAS_FULL, HUB, TIMM, CADENE, MINDCV_FULL) for target in CHOLLET]
PAIRS += [(source, target) for source in (TIMM_41, DEEPLAB_41, SLIM) for target in DEEPLAB]
PAIRS += [(TIMM_41P, DEEPLAB[0]), (PADDLE_41, DEEPLAB[1])]
MARKS = {"pool_padding": " ¹", "exit_dilation": " ²"}

NAMES = {"keras.applications": "Xception", "keras-hub": "xception_41_imagenet", "timm": "legacy_xception"}
NAMES |= {"cadene": "xception", "mindcv": "xception"}

measured_files: dict[str, Read] = {}
measured_pairs: dict[tuple[str, str], Ran] = {}


@pytest.fixture(scope="module")
def made() -> Iterator[Callable[[Row], Made]]:
    """Makes the file of a row when first asked."""
    with TemporaryDirectory() as folder:

        @cache
        def once(row: Row) -> Made:
            place = Path(folder, f"{row.zoo}-{row.network}-{row.divide}-{row.suffix}")
            return _slim(place, once(TIMM_41)) if row is SLIM else make(place, row)

        yield once


def _slim(folder: Path, timm: Made) -> Made:
    """TensorFlow's own writer saves the weights of a network under the names of its scopes."""
    folder.mkdir()
    tensors = checkpoint(load(timm.path, implementation="timm"), "tf-deeplab").tensors
    np.savez(folder / "arrays.npz", **{name: tensor.read() for name, tensor in tensors.items()})
    command = [
        *warm.python("keras"),
        "-m",
        "tests.frameworks.save_arrays",
        "tensorflow",
        folder / "arrays.npz",
        folder / "model.ckpt",
    ]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=Path(__file__).parents[2])
    return Made(folder / "model.ckpt", timm.weights, {})


def share(reference: np.ndarray, other: np.ndarray) -> float:
    """Largest difference as a share of the largest logit."""
    return float(np.abs(other.astype(np.float64) - reference).max() / np.abs(reference).max())


def read(zoo: str, network: str, file: str, model: Model, answers: dict[str, np.ndarray], probe: np.ndarray) -> Read:
    """The reference against ``answers`` of the real class in either precision."""
    exact, rounded = (forward(model, probe, dtype=dtype)["logits"] for dtype in ("float64", "float32"))
    double = share(exact, answers["float64"]) if "float64" in answers else None
    found = Read(model.family.name, zoo, network, file, double, share(exact, answers["float32"]), share(exact, rounded))
    assert found.float32 <= ROUNDINGS * found.rounding
    assert double is None or double < 1e-11
    return found


@pytest.mark.parametrize("row", FILES, ids=str)
def test_the_reference_is_the_class_on_the_file_that_it_wrote(made: Callable[[Row], Made], row: Row) -> None:
    file = made(row)
    settings = {"bn_epsilon": float(np.float32(row.attributes["bn_epsilon"]))} if row.zoo == "paddleclas" else {}
    model = load(file.path, implementation=row.zoo, settings=settings)
    answers = {name.removesuffix("_75"): array for name, array in file.answers.items() if name.endswith("_75")}
    width = "" if row.divide == 1 else f", 1/{row.divide} wide"
    network = row.network or {
        "keras.applications": "Xception",
        "keras-hub": "xception_41_imagenet",
        "timm": "legacy_xception",
    }.get(row.zoo, "xception")
    found = read(row.zoo, network, WORDS[row.suffix] + width, model, answers, images(75, 2))
    measured_files[f"{row.zoo} {network}"] = found


@pytest.mark.parametrize(("zoo", "name", "mapping"), ORACLES, ids=[name for _, name, _ in ORACLES])
def test_the_reference_is_the_class_that_is_on_no_registry(zoo: str, name: str, mapping: str) -> None:
    told = oracle(name)
    model = interpret(Checkpoint({n: Tensor.of(array) for n, array in told.checkpoint().items()}), name, implementation=mapping)
    answers = {"float64": told.answers["logits64_75"], "float32": told.answers["logits_75"]}
    measured_files[name] = read(zoo, name.partition(".")[2], "oracle", model, answers, told.images(75))


@pytest.mark.parametrize(("source", "target"), PAIRS, ids=[f"{s.zoo}-{s.network}-{t.zoo}" for s, t in PAIRS])
def test_the_class_computes_the_file_that_was_written_for_it(
    made: Callable[[Row], Made], source: Row, target: Target, tmp_path: Path
) -> None:
    model = load(made(source).path, implementation=source.zoo)
    free = [name for name in model.values if name not in FOLDS]
    out = tmp_path / f"out{target.suffix}"
    report = convert(made(source).path, out, to=target.zoo, accept=free, verify=False, implementation=source.zoo)
    accepted = {change["attribute"]: change["target"] for change in report.changes if change["action"] == "accepted"}
    reference, _ = reconcile(model, accepted, accepted)
    again = load(out, implementation=target.zoo)
    errors = compare_networks(reference, run_by(target.runner, again, "float32", out), (75,), calibrated=True).layers
    assert all(error.ok for error in errors), next(error for error in errors if not error.ok)
    assert errors[-1].name == "predictions"
    label = source.zoo if not source.network else f"{source.zoo} {source.network}"
    measured_pairs[label, target.zoo] = Ran(label, target.zoo, errors[-1].moved, tuple(accepted))
    for path in tmp_path.iterdir():
        path.unlink()


def test_the_readme_has_these_tables() -> None:
    """Written by this very test when asked; else the same rows, and numbers of the same size."""
    assert len(measured_files) == len(FILES) + len(ORACLES), "run the whole file"
    assert len(measured_pairs) == len(PAIRS), "run the whole file"
    tables = measured()
    if os.environ.get("XCONVERT_MATRIX") == "write":
        matrix.write_readme(tables)
    told = matrix.in_readme()
    assert told.keys() == tables.keys()
    for name, table in tables.items():
        assert matrix.masked(told[name]) == matrix.masked(table)
        for ours, theirs in zip(matrix.numbers(table), matrix.numbers(told[name]), strict=True):
            assert max(ours, theirs) < 1e-9 or 1 / 30 < ours / theirs < 30


def measured() -> dict[str, str]:
    """The tables by their names in the README."""
    zoos = {target.zoo for target in CHOLLET}
    chollet = [ran for ran in measured_pairs.values() if ran.source in zoos]
    others = [ran for ran in measured_pairs.values() if ran.source not in zoos]
    families = ["xception", "xception_aligned", "xception_preact", "xception_paddleclas"]
    files = sorted(measured_files.values(), key=lambda r: (families.index(r.family), re.sub(r"\D", "", r.network), r.zoo.lower()))
    return {
        "files": matrix.read_table(files),
        "chollet": matrix.ran_table(chollet, MARKS),
        "others": matrix.ran_table(others, MARKS),
    }
