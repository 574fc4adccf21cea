"""Write ``fixtures/`` again: narrow Xceptions saved by the real frameworks, and what their own classes answer (``make
fixtures``).

Run with the Python that has the frameworks; each of them gets a process of its own.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.frameworks.calibrate import calibrated, widths
from tests.narrow import checkpoint, narrow
from xconvert.architectures import families
from xconvert.model import Depth

FOLDER = Path(__file__).parents[2] / "fixtures"
MAKE = Path(__file__).with_name("make.py")
LIMIT = 1_000_000  # bytes; nothing larger is committed


@dataclass(frozen=True)
class Fixture:
    """A file: the kind of ``make.py``, by what its widths are divided, and the attributes that its weights are
    calibrated for."""

    name: str
    kind: str
    divide: int
    attributes: dict[str, object]
    seed: int


KERAS = {"bn_epsilon": 1e-3, "pool_padding": "same_upper", "bn_momentum": 0.99}
TORCH = {"bn_epsilon": 1e-5, "pool_padding": "symmetric", "bn_momentum": 0.9}
FIXTURES = (
    Fixture("keras.h5", "keras-h5", 16, KERAS, 1),
    Fixture("keras.weights.h5", "keras-weights", 16, KERAS, 1),
    Fixture("timm.pth", "timm-pth", 16, TORCH, 2),
    Fixture("timm.float16.pth", "timm-float16", 8, TORCH, 3),
)
CLASSES = 10


@dataclass(frozen=True)
class Saved:
    """Files of one checkpoint whose arrays a framework's own writer saved, under the names of a zoo."""

    name: str
    framework: str
    zoo: str
    attributes: dict[str, object]
    classes: int
    files: tuple[str, ...]


SAVED = (
    Saved("deeplab.pdparams", "paddle", "paddleclas", {"exit_dilation": 2, "head_scale": 0.5}, 10, ("deeplab.pdparams",)),
    Saved("deeplab.ckpt", "tensorflow", "tf-deeplab", {}, 11, ("deeplab.ckpt.index", "deeplab.ckpt.data-00000-of-00001")),
)


def save(fixture: Saved) -> None:
    """A narrow aligned Xception, saved by the framework."""
    model = narrow(family="xception_aligned", classes=fixture.classes, **fixture.attributes)
    arrays = {name: tensor.read() for name, tensor in checkpoint(model, fixture.zoo).tensors.items()}
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "arrays.npz"), **arrays)
        command = [sys.executable, "-m", "tests.frameworks.save_arrays", fixture.framework, Path(folder, "arrays.npz")]
        subprocess.run([*command, Path(folder, fixture.name)], check=True, cwd=FOLDER.parent)
        for name in fixture.files:
            assert Path(folder, name).stat().st_size < LIMIT, name
            shutil.copyfile(Path(folder, name), FOLDER / name)


def make(fixture: Fixture) -> None:
    """Calibrate, build and save the real class, store its answers at 75 and 96 pixels."""
    layers = families()["xception"].build(Depth(3, 8), True, fixture.attributes)
    weights = calibrated(layers, widths(layers, fixture.divide), classes=CLASSES, seed=fixture.seed, size=128)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "weights.npz"), **weights)
        out = Path(folder, fixture.name)
        answers = Path(folder, fixture.name + ".answers.npz")
        options = ["--weights", Path(folder, "weights.npz"), "--divide", fixture.divide, "--answers", answers]
        subprocess.run([sys.executable, MAKE, fixture.kind, out, *map(str, options)], check=True)
        assert out.stat().st_size < LIMIT, f"{fixture.name} has {out.stat().st_size} bytes"
        for path in (out, answers):
            shutil.copyfile(path, FOLDER / path.name)


if __name__ == "__main__":
    for fixture in FIXTURES:
        make(fixture)
    for saved in SAVED:
        save(saved)
