"""The zoos' own libraries open the folders that are published for them, and answer as the reference does on the source."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.frameworks.nets import apart
from tests.graphs import model
from tests.test_layouts import published
from xconvert import convert
from xconvert.backends import backends, forward
from xconvert.formats import safetensors
from xconvert.loading import save
from xconvert.mappings import library
from xconvert.model import Depth
from xconvert.probe import images

pytestmark = pytest.mark.framework

KERAS_HUB = """
import sys
import numpy as np, keras, keras_hub
folder, x, head = sys.argv[1], np.load(sys.argv[2]), sys.argv[3] == "True"
if head:
    network = keras_hub.models.XceptionImageClassifier.from_preset(folder)
    assert network.preprocessor.image_converter.image_size == (299, 299)
    byte = np.random.default_rng(0).integers(0, 256, (1, 299, 299, 3)).astype("float32")
    seen = np.asarray(network.preprocessor.image_converter(byte))
    assert np.allclose(seen, byte / 127.5 - 1, atol=1e-5), np.abs(seen - (byte / 127.5 - 1)).max()
    other = keras_hub.models.XceptionImageClassifier.from_preset(folder, num_classes=3)
    assert other.output_shape == (None, 3)
    generic = keras_hub.models.ImageClassifier.from_preset(folder)
    assert type(generic) is type(network)
else:
    network = keras_hub.models.XceptionBackbone.from_preset(folder)
np.save(sys.argv[2], np.asarray(network(x, training=False)))
"""

PADDLECLAS = """
import sys, types
from importlib.util import find_spec
from pathlib import Path
import numpy as np, paddle
root = Path(find_spec("paddleclas").origin).parent / "ppcls"  # whose __init__ wants more than its loader does
for name, place in (("ppcls", root), ("ppcls.utils", root / "utils")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [str(place)]
from ppcls.utils import logger
from ppcls.utils.save_load import load_dygraph_pretrain
from xconvert.backends.paddleclas import correct_epsilon, create
logger.init_logger()
import yaml
folder = Path(sys.argv[1])
config = yaml.safe_load(next(folder.glob("*.yaml")).read_text())
network = create(config["Arch"]["name"], config["Arch"]["class_num"])
load_dygraph_pretrain(network, str(folder / config["Global"]["pretrained_model"]))
correct_epsilon(network)
network.eval()
x = paddle.to_tensor(np.load(sys.argv[2]).transpose(0, 3, 1, 2).astype("float64"))
np.save(sys.argv[2], network(x).numpy())
"""


def answers(program: str, folder: Path, *arguments: object) -> np.ndarray:
    """What a program that opens ``folder`` computes of the probe."""
    x = folder.parent / "x.npy"
    np.save(x, images(75, 1))
    command = [sys.executable, "-c", program, folder, x, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=None, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: np.ndarray = np.load(x)
    return found


@pytest.mark.skipif(not backends()["keras-hub"].installed, reason="keras-hub is not installed")
@pytest.mark.parametrize("head", [True, False])
def test_keras_hub_opens_its_preset(head: bool, tmp_path: Path) -> None:
    folder, network = published(tmp_path, "keras-hub", head=head, verify=False)
    found = answers(KERAS_HUB, folder, head)
    exact = forward(network, images(75, 1), dtype="float64")["logits" if head else "features"]
    assert found.shape == exact.shape
    assert apart(found, exact) < 1e-5


@pytest.mark.skipif(not backends()["paddleclas"].installed, reason="PaddleClas is not installed")
@pytest.mark.parametrize(("family", "classes"), [("xception_aligned", 7), ("xception_paddleclas", 5)])
def test_paddleclas_opens_its_pair(family: str, classes: int, tmp_path: Path) -> None:
    network = model(family, "paddleclas", Depth(3, 8), classes=classes)
    found = library().find("paddleclas", network.family, network.depth)
    assert found
    safetensors.write(tmp_path / "a.safetensors", save(network, found, library().dialects[found.dialect]))
    convert(tmp_path / "a.safetensors", tmp_path / "pair", to="paddleclas", layout="paddleclas", verify=False)
    theirs = answers(PADDLECLAS, tmp_path / "pair")
    assert theirs.shape == (1, classes)
    assert apart(theirs, forward(network, images(75, 1), dtype="float64")["logits"]) < 1e-9
