"""Batch norms in training: the zoos' own classes have the momentum that their mappings state, and what xconvert builds has the
checkpoint's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xconvert.mappings import library

pytestmark = pytest.mark.framework

# Each prints the share of its running statistics that a batch norm keeps, by the name of the network: {name: [share, …]}.
TORCH = """
import json, torch
from xconvert.backends.cadene import import_xception
from xconvert.backends.timm import import_timm
def norms(network):
    return sorted({round(1 - m.momentum, 9) for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)})
timm = import_timm()
names = ("legacy_xception", "xception41", "xception65", "xception71", "xception41p", "xception65p")
told = {"timm " + name: norms(timm.create_model(name)) for name in names}
print(json.dumps({**told, "cadene xception": norms(import_xception().xception(pretrained=None))}))
"""
KERAS = """
import json, keras, keras_hub
def norms(network):
    return sorted({layer.momentum for layer in network.layers if isinstance(layer, keras.layers.BatchNormalization)})
backbone = keras_hub.models.XceptionBackbone([[8, 8], [8, 8]], [False, True], image_shape=(None, None, 3))
own = keras.applications.Xception(weights=None)
print(json.dumps({"keras.applications Xception": norms(own), "keras-hub xception_41_imagenet": norms(backbone)}))
"""
PADDLE = """
import json
from xconvert.backends.paddleclas import create
def norms(network):
    return sorted({layer._momentum for layer in network.sublayers() if "BatchNorm" in type(layer).__name__})
names = ("Xception41", "Xception65", "Xception71", "Xception41_deeplab", "Xception65_deeplab")
print(json.dumps({"paddleclas " + name: norms(create(name, 10)) for name in names}))
"""
MINDCV = """
import json
from xconvert.backends.mindcv import create
def norms(network):  # the cell keeps the rest of what its constructor takes, as PyTorch does
    return sorted({round(1 - c.momentum, 9) for _, c in network.cells_and_names() if "BatchNorm" in type(c).__name__})
print(json.dumps({"mindcv xception": norms(create(10, 3))}))
"""
BUILT = """
import json, sys
from tests.graphs import random_weights
from xconvert.architectures import families
from xconvert.backends import builder
from xconvert.model import Depth
framework = sys.argv[1]
family = families()["xception"]
layers = family.build(Depth(3, 1), True, {**family.attributes, "bn_momentum": 0.95})
network = builder(framework)(layers, random_weights(layers, 16), {}, "")
parts = {"torch": "modules", "keras": "layers", "paddle": "sublayers", "mindspore": "cells_and_names"}[framework]
parts = network.layers if framework == "keras" else getattr(network, parts)()
parts = [part[1] if framework == "mindspore" else part for part in parts]
norms = [part for part in parts if "BatchNorm" in type(part).__name__]
print(json.dumps([len(norms), sorted({getattr(norm, "_momentum" if framework == "paddle" else "momentum") for norm in norms})]))
"""


def told(script: str, framework: str, *args: object) -> object:
    """The last line that ``script`` prints in the Python of ``framework``."""
    python = os.environ.get(f"XCONVERT_PYTHON_{framework.upper()}", sys.executable)
    command = [python, "-W", "ignore", "-c", script, *map(str, args)]
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", **os.environ}
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


ZOOS = [(TORCH, "torch"), (KERAS, "keras"), (PADDLE, "paddle"), (MINDCV, "mindcv")]


@pytest.mark.parametrize(("script", "framework"), ZOOS, ids=[name for _, name in ZOOS])
def test_a_mapping_states_what_the_class_has(script: str, framework: str) -> None:
    stated = {
        f"{zoo.name} {published.name}": [zoo.at(published.depth).attributes["bn_momentum"]]
        for zoo in library().implementations
        for published in zoo.published
    }
    found = told(script, framework)
    assert isinstance(found, dict)
    assert found == {name: stated[name] for name in found}


# What the framework itself calls a momentum of 0.95.
SPELLED = {"torch": 0.05, "keras": 0.95, "paddle": 0.95, "mindspore": 0.05}


@pytest.mark.parametrize("framework", SPELLED)
def test_what_is_built_trains_as_the_checkpoint_says(framework: str) -> None:
    count, momentums = told(BUILT, framework, framework)  # type: ignore[misc]
    assert count == 19
    assert momentums == [pytest.approx(SPELLED[framework], abs=1e-12)]
