"""The real classes part from each other's checkpoints where the facts say, for the reason that the facts give."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from tests.frameworks import warm
from tests.frameworks.test_parity import DEEPLAB_41, KERAS_FULL, MINDCV_FULL, TIMM_41, Made, Row, make
from xconvert import verify

pytestmark = pytest.mark.framework

ROOT = Path(__file__).parents[2]
EXIT = "exit.block2.sepconv1"
# (whose file, by which class, the first layer that parts and why); shared/facts/semantics.md §5.
PARTING = [
    (KERAS_FULL, "timm", "block3.pool", "padding"),
    (KERAS_FULL, "mindcv", "", ""),
    (MINDCV_FULL, "timm", "block3.pool", "padding"),
    (TIMM_41, "paddleclas", f"{EXIT}.depthwise", "dilation"),
    (DEEPLAB_41, "timm", f"{EXIT}.depthwise", "dilation"),
]


@pytest.fixture(scope="module")
def made() -> Iterator[Callable[[Row], Made]]:
    """Makes the file of a row when first asked."""
    with TemporaryDirectory() as folder:
        yield cache(lambda row: make(Path(folder, f"{row.zoo}-{row.network}"), row))


@pytest.mark.parametrize(("row", "backend", "layer", "kind"), PARTING, ids=[f"{r.zoo}-{b}" for r, b, *_ in PARTING])
def test_a_class_parts_where_it_does_and_the_reason_is_told(
    made: Callable[[Row], Made], row: Row, backend: str, layer: str, kind: str
) -> None:
    report = verify(made(row).path, backend=backend, sizes=(75, 96), implementation=row.zoo)
    first = report.first_divergence
    assert (first.name if first else "") == layer
    assert [(diagnosis.kind, diagnosis.last) for diagnosis in report.diagnoses] == ([(kind, True)] if kind else [])
    assert report.equal is (not kind)


def test_a_port_that_only_renames_has_two_faults_and_both_are_told(made: Callable[[Row], Made], tmp_path: Path) -> None:
    """Keras' weights in timm's class, as ports on GitHub have them: `strict=True` passes, epsilon and padding are others."""
    keras = made(KERAS_FULL)
    np.savez(tmp_path / "weights.npz", **keras.weights)
    command = [*warm.python("torch"), "-m", "tests.frameworks.make", "timm-pth", tmp_path / "port.pth"]
    command += ["--weights", tmp_path / "weights.npz"]
    subprocess.run(list(map(str, command)), check=True, capture_output=True, cwd=ROOT)
    report = verify(keras.path, tmp_path / "port.pth", sizes=(75,))
    assert [(diagnosis.kind, diagnosis.layer) for diagnosis in report.diagnoses] == [
        ("epsilon", "block1.conv1.bn"),
        ("padding", "block3.pool"),
    ]
    assert "adds 1e-05 to the variance" in report.diagnoses[0].told
    assert "in all 40 batch norms" in report.diagnoses[0].told
    assert report.diagnoses[-1].last
    assert next(check.detail for check in report.checks if check.name == "values") == "236 bit-equal"
