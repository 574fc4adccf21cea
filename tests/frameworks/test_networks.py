"""Networks that xconvert builds in a framework, for every family: what the framework itself saves of them comes back."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.frameworks import warm
from tests.narrow import ZOO, checkpoint, narrow
from xconvert import load, verify
from xconvert.formats import safetensors

pytestmark = pytest.mark.framework

ODD = {"xception_aligned": {"exit_dilation": 2, "head_scale": 0.5}, "xception": {"pool_padding": "symmetric"}}
SAVE = """
import sys, xconvert
model = xconvert.load(sys.argv[1], implementation=sys.argv[3], settings=dict(pair.split("=") for pair in sys.argv[4:]))
network = xconvert.build(model, "keras")
network.save(sys.argv[2])
"""


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("family", ZOO)
def test_a_keras_model_saved_whole_remembers_everything(tmp_path: Path, family: str, suffix: str) -> None:
    attributes = {"bn_epsilon": 2e-3, "bn_momentum": 0.97, **ODD.get(family, {})}
    model = narrow(2, family=family, **attributes)
    assert safetensors.FORMAT.write
    safetensors.FORMAT.write(tmp_path / "a.safetensors", checkpoint(model, ZOO[family]))
    settings = [f"{name}={value}" for name, value in attributes.items()]
    command = [*warm.python("keras"), "-c", SAVE, tmp_path / "a.safetensors", tmp_path / f"b{suffix}", ZOO[family], *settings]
    environment = {**os.environ, "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = load(tmp_path / f"b{suffix}")
    assert (found.family, found.depth, found.values) == (model.family, model.depth, model.values)
    assert verify(model, found, sizes=(75, 96)).equal
