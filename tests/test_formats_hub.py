"""The folder that timm opens from the Hub: what is written is read again, with its preprocessing."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graphs import model
from tests.narrow import narrow
from xconvert import load
from xconvert.errors import UsageError
from xconvert.formats import formats, of_layout, read
from xconvert.formats._timm_config import _crop
from xconvert.loading import save
from xconvert.mappings import library
from xconvert.model import Checkpoint, Depth, Model

NETWORKS = {
    "legacy_xception": ("xception", Depth(3, 8), "conv1", "fc", 0.897),
    "xception41": ("xception_aligned", Depth(3, 8), "stem.0.conv", "head.fc", 0.903),
    "xception65": ("xception_aligned", Depth(3, 16), "stem.0.conv", "head.fc", 0.94),
    "xception41p": ("xception_preact", Depth(3, 8), "stem.0.conv", "head.fc", 0.94),
}


def checkpoint(given: Model, implementation: str = "timm") -> Checkpoint:
    known = library()
    found = known.find(implementation, given.family, given.depth)
    assert found is not None
    return save(given, found, known.dialects[found.dialect])


def written(folder: Path, given: Checkpoint) -> Path:
    write = of_layout("hub").write
    assert write is not None
    write(folder, given)
    return folder


@pytest.mark.parametrize("name", NETWORKS)
def test_the_folder_says_what_timm_wants_to_know(name: str, tmp_path: Path) -> None:
    family, depth, first, classifier, crop = NETWORKS[name]
    network = model(family, "timm", depth, divide=32)
    folder = written(tmp_path / "x", checkpoint(network))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    config = json.loads((folder / "config.json").read_text())
    told = config.pop("pretrained_cfg")
    features = network.weights["predictions.weight"].shape[0]
    assert config == {"architecture": name, "num_classes": 7, "num_features": features, "global_pool": "avg"}
    assert told == {
        "tag": "xconvert",
        "custom_load": False,
        "input_size": [3, 299, 299],
        "fixed_input_size": False,
        "interpolation": "bicubic",
        "crop_pct": crop,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 7,
        "pool_size": [10, 10],
        "first_conv": first,
        "classifier": classifier,
    }


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    network = model("xception_aligned", "timm", Depth(3, 8), divide=32)
    again = load(written(tmp_path / "x", checkpoint(network)))
    assert (again.family, again.depth, again.implementation) == (network.family, network.depth, "timm")
    assert all(np.array_equal(tensor.read(), again.weights[name].read()) for name, tensor in network.weights.items())
    assert again.preprocessing == network.preprocessing


def test_a_headless_network_has_no_classifier(tmp_path: Path) -> None:
    network = model("xception", "timm", Depth(3, 8), head=False, divide=32, channels=5)
    config = json.loads((written(tmp_path / "x", checkpoint(network)) / "config.json").read_text())
    assert (config["num_classes"], config["num_features"]) == (0, 64)
    assert config["pretrained_cfg"]["input_size"] == [5, 299, 299]
    assert "classifier" not in config["pretrained_cfg"]


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    given = checkpoint(model("xception", "timm", Depth(3, 8), divide=32))
    a, b = (written(tmp_path / name, given) for name in "ab")
    assert all((a / name).read_bytes() == (b / name).read_bytes() for name in ("config.json", "model.safetensors"))


@pytest.mark.parametrize(
    ("given", "fact"),
    [
        (lambda: checkpoint(narrow(), "cadene"), "names of cadene, network xception"),
        (lambda: checkpoint(narrow(depth=2)), "names of timm, network unpublished"),
        (lambda: checkpoint(narrow())._replace(metadata={}), "names of a stranger, network unpublished"),
    ],
    ids=["names", "depth", "stranger"],
)
def test_what_timm_does_not_publish_is_refused(given: Any, fact: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds one of timm's own networks") as caught:
        written(tmp_path / "x", given())
    assert caught.value.facts == (fact,)
    assert not (tmp_path / "x").exists()


def test_it_is_a_layout_and_no_suffix_chooses_it() -> None:
    assert of_layout("hub") is formats()["hub"]
    with pytest.raises(UsageError, match="no layout is called `safetensors`"):
        of_layout("safetensors")


@given(size=st.integers(32, 1024), border=st.integers(0, 400))
def test_the_crop_is_the_one_that_timm_computes(size: int, border: int) -> None:
    assert math.floor(size / _crop(size, size + border)) == size + border


STATED = {"input_size": [3, 224, 224], "crop_pct": 0.875, "interpolation": "bilinear", "mean": [0.1, 0.2, 0.3], "std": [1, 2, 3]}


def read_beside(folder: Path, config: Any) -> Any:
    written(folder / "x", checkpoint(narrow()))
    text = config if isinstance(config, str) else json.dumps(config)
    (folder / "x" / "config.json").write_text(text)
    return read(folder / "x").preprocessing


def test_a_strangers_configuration_tells_the_preprocessing(tmp_path: Path) -> None:
    assert read_beside(tmp_path, {"pretrained_cfg": STATED}) == {
        "size": 224,
        "resize": 256,
        "crop": "centre",
        "interpolation": "bilinear",
        "mean": [0.1, 0.2, 0.3],
        "std": [1, 2, 3],
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("not JSON", {}),
        ("[" * 100_000, {}),
        ("[]", {}),
        ({"pretrained_cfg": None}, {}),
        ({"pretrained_cfg": {"input_size": []}}, {}),
        ({"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": 1e-320}}, {}),
        ({"pretrained_cfg": {"input_size": [3, 224, 224], "crop_pct": "x"}}, {}),
        ({"pretrained_cfg": {"input_size": [3, 1e9], "mean": "none", "std": [0]}}, {}),
        ({"pretrained_cfg": {"input_size": [3, 224, 224], "crop_mode": "squash", "crop_pct": 0.9}}, {"size": 224}),
        ('{"pretrained_cfg": {"input_size": [' + "9" * 5000 + "]}}", {}),
        (" " * (1 << 21), {}),
    ],
)
def test_what_is_no_configuration_tells_nothing(config: Any, expected: dict[str, Any], tmp_path: Path) -> None:
    assert read_beside(tmp_path, config) == expected


def test_an_image_that_is_taken_whole_is_squashed_by_timm(tmp_path: Path) -> None:
    """Keras' classes take an image of any shape; keras-hub the largest square, which is timm's crop of everything."""
    for crop, mode in (("none", "squash"), ("square", "center")):
        made = narrow()
        made = made._replace(preprocessing={**made.preprocessing, "crop": crop, "interpolation": "bilinear"})
        folder = written(tmp_path / crop, checkpoint(made))
        stated = json.loads((folder / "config.json").read_text())["pretrained_cfg"]
        assert (stated["crop_mode"], stated["crop_pct"]) == (mode, 1.0)
        found = read(folder).preprocessing
        assert found["crop"] == {"none": "none", "square": "centre"}[crop]


def test_only_the_weights_of_that_name_have_one(tmp_path: Path) -> None:
    folder = written(tmp_path / "x", checkpoint(narrow()))
    assert read(folder / "model.safetensors").preprocessing["size"] == 299
    (folder / "model.safetensors").rename(folder / "other.safetensors")
    assert read(folder / "other.safetensors").preprocessing == {}
