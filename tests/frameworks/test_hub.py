"""timm opens the folders that are written for the Hub, strictly, and computes what the reference does."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.frameworks import warm
from tests.frameworks.nets import apart
from tests.graphs import model
from tests.test_formats_hub import checkpoint, written
from xconvert.backends import backends, forward
from xconvert.model import Depth
from xconvert.probe import images

pytestmark = [
    pytest.mark.framework,
    pytest.mark.skipif(not backends()["timm"].installed, reason="timm is not installed"),
]

OPEN = """
import json, sys
import numpy as np
from xconvert.backends.timm import import_timm
timm = import_timm()
import torch
network = timm.create_model("local-dir:" + sys.argv[1], pretrained=True).double().eval()
x = torch.from_numpy(np.load(sys.argv[2])).permute(0, 3, 1, 2)
with torch.inference_mode():
    out = network(x) if network.num_classes else network.forward_features(x).permute(0, 2, 3, 1)
np.save(sys.argv[2], out.numpy())
data = timm.data.resolve_model_data_config(network)
resize = timm.data.create_transform(**data).transforms[0].size
print(json.dumps([network.num_classes, data["input_size"], data["mean"], resize]))
"""


@pytest.mark.parametrize(
    ("family", "depth", "head", "channels"),
    [
        ("xception", Depth(3, 8), True, 3),
        ("xception", Depth(3, 8), False, 5),
        ("xception_aligned", Depth(3, 8), True, 3),
        ("xception_preact", Depth(3, 8), True, 3),
    ],
)
def test_timm_opens_and_computes_it(family: str, depth: Depth, head: bool, channels: int, tmp_path: Path) -> None:
    network = model(family, "timm", depth, head=head, channels=channels)
    folder = written(tmp_path / "x", checkpoint(network))
    x = images(75, 1, channels).astype(np.float64)
    np.save(tmp_path / "x.npy", x)
    done = subprocess.run(
        [*warm.python("torch"), "-c", OPEN, folder, tmp_path / "x.npy"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    exact = forward(network, x, dtype="float64")["logits" if head else "features"]
    assert apart(np.load(tmp_path / "x.npy"), exact) < 1e-12
    classes, resize = 7 if head else 0, network.preprocessing["resize"]
    assert done.stdout.splitlines()[-1] == f"[{classes}, [{channels}, 299, 299], [0.5, 0.5, 0.5], {resize}]"
