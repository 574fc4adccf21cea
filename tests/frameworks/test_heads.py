"""Networks with a new head, and without one, load strictly into each zoo's own class of so many classes, and answer the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.frameworks.nets import apart
from tests.graphs import model
from xconvert import convert, load
from xconvert.backends import backends, forward
from xconvert.formats import safetensors
from xconvert.loading import save
from xconvert.mappings import library
from xconvert.model import Depth
from xconvert.probe import images
from xconvert.verification import known_as

pytestmark = pytest.mark.framework

# Zoo → family, depth, the zoo whose attributes the source has, suffix.
ZOOS = {
    "timm": ("xception", Depth(3, 8), "timm", ".safetensors"),
    "cadene": ("xception", Depth(3, 8), "timm", ".pth"),
    "keras.applications": ("xception", Depth(3, 8), "keras.applications", ".weights.h5"),
    "keras-hub": ("xception", Depth(3, 8), "keras.applications", ".weights.h5"),
    "mindcv": ("xception", Depth(3, 8), "mindcv", ".ckpt"),
    "paddleclas": ("xception_aligned", Depth(3, 8), "paddleclas", ".pdparams"),
}


@pytest.mark.parametrize("zoo", ZOOS)
@pytest.mark.parametrize("count", [5, 0], ids=["five", "none"])
def test_a_zoos_own_class_of_so_many_classes_loads_it(zoo: str, count: int, tmp_path: Path) -> None:
    if not backends()[zoo].installed:
        pytest.skip(f"{zoo} is not installed")
    family, depth, names, suffix = ZOOS[zoo]
    network = model(family, names, depth)
    found = library().find(names, network.family, depth)
    assert found
    safetensors.write(tmp_path / "a.safetensors", save(network, found, library().dialects[found.dialect]))
    path = tmp_path / f"b{suffix}"
    asked = {"num_classes": count, "seed": 2} if count else {"head": False}
    convert(tmp_path / "a.safetensors", path, to=zoo, verify=False, **asked)
    made = load(path, implementation=zoo)
    x = images(75, 1)
    theirs = forward(made, x, backend=zoo, path=path, **known_as(zoo, made))
    output = "logits" if count else "features"
    if count:
        assert theirs[output].shape == (1, count)
    exact = forward(made, x, dtype="float64")
    assert apart(theirs[output], exact[output]) < 1e-3
    last = next(layer.name for layer in reversed(network.layers) if layer.op in ("relu", "batch_norm"))
    before = forward(network, x, dtype="float64", taps=[last])[last]
    after = forward(made, x, dtype="float64", taps=[last])[last]
    assert np.array_equal(before, after)
