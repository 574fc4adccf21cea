"""`.keras` files are written without Keras: the model's configuration, then its weights, always the same bytes."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.graphs import graph, graph_checkpoint, model
from tests.narrow import checkpoint, narrow
from xconvert import load
from xconvert.errors import NetworkError, UsageError
from xconvert.formats import format_for_writing, read
from xconvert.formats._keras_graph import configuration
from xconvert.formats.keras_archive import write
from xconvert.loading import interpret, save
from xconvert.mappings import library
from xconvert.model import Checkpoint, Depth, Graph, Layer, Model, Tensor


def numbered(given: Model) -> Checkpoint:
    known = library()
    found = known.find("keras.applications", given.family, given.depth)
    assert found is not None
    return save(given, found, known.dialects["keras_weights"])


def layers(path: Path) -> dict[str, dict[str, Any]]:
    with zipfile.ZipFile(path) as archive:
        config = json.loads(archive.read("config.json"))
    assert (config["class_name"], config["config"]["input_layers"]) == ("Functional", ["image", 0, 0])
    return {layer["name"]: layer for layer in config["config"]["layers"]}


@pytest.mark.slow
@pytest.mark.parametrize("head", [True, False], ids=["head", "headless"])
@pytest.mark.parametrize("padding", ["same_upper", "symmetric"])
def test_a_model_is_written_and_read_again(padding: str, head: bool, tmp_path: Path) -> None:
    network = narrow(head=head, pool_padding=padding, bn_epsilon=3e-4, bn_momentum=0.95)
    given = numbered(network)
    for copy in "ab":
        write(tmp_path / f"{copy}.keras", given)
    assert (tmp_path / "a.keras").read_bytes() == (tmp_path / "b.keras").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.keras", "b.keras"]
    found = read(tmp_path / "a.keras")
    assert (found.format, found.metadata) == ("keras-archive", given.metadata)
    stated = {"bn_epsilon": 3e-4, "pool_padding": padding, "bn_momentum": 0.95}
    assert found.evidence == {name: (value, "config.json") for name, value in stated.items()}
    assert found.tensors.keys() == given.tensors.keys()
    assert all(np.array_equal(tensor.read(), found.tensors[name].read()) for name, tensor in given.tensors.items())
    again = load(tmp_path / "a.keras")
    assert (again.values, again.depth, again.head) == (network.values, network.depth, head)


def test_the_archive_is_stored_and_has_the_members_of_keras(tmp_path: Path) -> None:
    write(tmp_path / "x.keras", numbered(narrow()))
    with zipfile.ZipFile(tmp_path / "x.keras") as archive:
        assert archive.namelist() == ["metadata.json", "config.json", "model.weights.h5"]
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
        assert archive.testzip() is None
        assert json.loads(archive.read("metadata.json"))["keras_version"] == "3.0.0"


def test_layers_are_those_of_keras_applications(tmp_path: Path) -> None:
    write(tmp_path / "x.keras", numbered(narrow()))
    made = layers(tmp_path / "x.keras")
    first = {
        "kernel_size": [3, 3],
        "strides": [2, 2],
        "padding": "valid",
        "dilation_rate": [1, 1],
        "use_bias": False,
        "filters": 2,
    }
    assert made["block1_conv1"]["config"] == {"name": "block1_conv1", "dtype": "float32", **first}
    assert made["block2_sepconv1"]["class_name"] == "SeparableConv2D"
    assert made["block2_sepconv1"]["config"]["padding"] == "same"
    assert made["block2_pool"]["config"]["padding"] == "same"
    assert made["predictions"]["config"] == {"name": "predictions", "dtype": "float32", "units": 10}
    (call,) = made["block2_add"]["inbound_nodes"]
    tensors = [tensor["config"] for tensor in call["args"][0]]
    assert [tensor["keras_history"][0] for tensor in tensors] == ["block2_pool", "block2_shortcut_bn"]
    assert {tuple(tensor["shape"]) for tensor in tensors} == {(None, None, None, 8)}
    assert all(call["config"]["shape"] == [None, 128] for call in made["predictions"]["inbound_nodes"][0]["args"])


def test_what_keras_has_no_option_for_is_a_layer_before(tmp_path: Path) -> None:
    written, weights = graph("aligned.dilated")
    write(tmp_path / "x.keras", graph_checkpoint(written, weights, numbered=True))
    made = layers(tmp_path / "x.keras")
    assert made["predictions_input"]["class_name"] == "Rescaling"
    assert made["predictions_input"]["config"] | {"scale": 0.5, "offset": 0.0} == made["predictions_input"]["config"]
    assert made["entry_block1_sepconv3_depthwise_input"]["config"]["padding"] == [[1, 1], [1, 1]]
    assert made["entry_block1_sepconv3_depthwise"]["class_name"] == "DepthwiseConv2D"
    assert made["entry_block1_sepconv3_depthwise"]["config"]["padding"] == "valid"
    dilated = made["exit_block2_sepconv1_depthwise"]["config"]
    assert (dilated["dilation_rate"], dilated["padding"]) == ([2, 2], "same")


def test_a_configuration_that_says_otherwise_is_another_network(tmp_path: Path) -> None:
    """The check of what a file states sees what is written here: with another stride it is refused."""
    network = narrow()
    given = numbered(network)._replace(metadata={})
    assert given.graph is not None
    write(tmp_path / "same.keras", given)
    assert load(tmp_path / "same.keras").values == network.values
    changed = [layer._replace(stride=2) if layer.name == "block1.conv2" else layer for layer in given.graph.layers]
    write(tmp_path / "other.keras", given._replace(graph=given.graph._replace(layers=tuple(changed))))
    with pytest.raises(NetworkError) as caught:
        load(tmp_path / "other.keras")
    assert caught.value.facts == ("`block1_conv2` (Conv2D) has strides 2, expected 1",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "implementation"),
    [("xception_aligned", "paddleclas"), ("xception_preact", "timm"), ("xception_paddleclas", "paddleclas")],
)
def test_networks_with_both_halves_apart_are_read_from_what_the_model_states(
    family: str, implementation: str, tmp_path: Path
) -> None:
    """Epsilon, dilation and scale are in the configuration; no record is needed."""
    given, known = model(family, implementation, Depth(3, 1), divide=16), library()
    own = known.customary(known.dialects["keras"], given.family, given.depth)
    write(tmp_path / "x.keras", save(given, own, known.dialects["keras_apart_weights"])._replace(metadata={}))
    again = load(tmp_path / "x.keras")
    assert (again.family, again.depth, again.values) == (given.family, given.depth, given.values)
    assert all(np.array_equal(tensor.read(), again.weights[name].read()) for name, tensor in given.weights.items())


def test_double_precision_is_kept() -> None:
    weights = {"c.weight": Tensor.of(np.zeros((1, 1, 3, 2)))}
    config = json.loads(configuration(Graph((Layer("c", "conv", ("image",)),), {"c": "conv2d"}, weights)))
    assert {layer["config"]["dtype"] for layer in config["config"]["layers"]} == {"float64"}


def test_weights_alone_are_no_model(tmp_path: Path) -> None:
    assert format_for_writing(tmp_path / "x.keras", "keras").write is write
    with pytest.raises(UsageError, match=r"a `\.keras` file holds the model itself, and only weights are there"):
        write(tmp_path / "x.keras", checkpoint(narrow(), "keras.applications", "keras_weights")._replace(graph=None))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", ["before the classifier", "behind it", "before the first convolution"])
def test_a_scale_is_the_heads_only_right_before_the_classifier(place: str, tmp_path: Path) -> None:
    """Behind it the bias would be scaled too, and in front of everything the image."""
    given = narrow(1, family="xception_aligned", head_scale=0.5)
    known = library()
    zoo = known.customary(known.dialects["keras"], given.family, given.depth)
    write(tmp_path / "a.keras", save(given, zoo, known.dialects["keras_apart_weights"]))
    found = read(tmp_path / "a.keras")._replace(metadata={})
    (scale,) = [name for name, options in found.stated.items() if options["class"] == "Rescaling"]
    others = {name: options for name, options in found.stated.items() if name != scale}
    if place == "before the classifier":
        assert interpret(found, "a.keras").values == given.values
        return
    moved = {scale: found.stated[scale], **others} if "first" in place else {**others, scale: found.stated[scale]}
    with pytest.raises(NetworkError, match="is not the Xception_aligned that its weights fit") as caught:
        interpret(found._replace(stated=moved), "a.keras")
    assert "(Rescaling) is not part of it" in caught.value.facts[0]
