"""Folders for publishing: what is in them, that they are read again, and that the model card is true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from tests.narrow import KERAS, TORCH, checkpoint, narrow
from xconvert import convert, load
from xconvert.cli import main
from xconvert.errors import UnreadableError, UsageError
from xconvert.formats import formats, of_layout, read, safetensors
from xconvert.model import Checkpoint, Model
from xconvert.provenance import files_of, fingerprint
from xconvert.reports.card import LAYOUTS
from xconvert.sealing import content
from xconvert.weights import same_bits

# Layout → target, family, attributes.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "hub": ("timm", "xception", TORCH),
    "keras-hub": ("keras-hub", "xception", KERAS),
    "paddleclas": ("paddleclas", "xception_aligned", {"exit_dilation": 2, "head_scale": 0.5}),
}
ZOO = {"xception": {"timm": "timm", "keras-hub": "keras.applications"}}


def sources(folder: Path, layout: str, seed: int = 0, head: bool = True) -> tuple[Path, Model]:
    target, family, attributes = KINDS[layout]
    network = narrow(family=family, divide=32, seed=seed, head=head, **attributes)
    path = folder / f"{layout}-{seed}.safetensors"
    names = ZOO.get(family, {}).get(target, "paddleclas")
    safetensors.write(path, checkpoint(network, names))
    return path, network


def published(folder: Path, layout: str, head: bool = True, **options: Any) -> tuple[Path, Model]:
    path, network = sources(folder, layout, head=head)
    settings = {name: value for name, value in network.values.items() if name in KINDS[layout][2]}
    convert(path, folder / layout, to=KINDS[layout][0], layout=layout, settings=settings, **options)
    return folder / layout, network


def assert_holds(folder: Path, network: Model) -> None:
    again = load(folder)
    assert (again.family, again.depth, again.head) == (network.family, network.depth, network.head)
    assert all(same_bits(tensor.read(), again.weights[name].read()) for name, tensor in network.weights.items())
    record = again.origin.record if again.origin else {}
    assert record["content"] == content(read(folder).tensors)


FILES = {
    "hub": {"README.md", "config.json", "model.safetensors"},
    "keras-hub": {
        *("README.md", "config.json", "metadata.json", "task.json", "preprocessor.json", "image_converter.json"),
        *("model.weights.h5", "task.weights.h5"),
    },
    "paddleclas": {"README.md", "Xception41_deeplab.yaml", "Xception41_deeplab_pretrained.pdparams"},
}


@pytest.mark.parametrize("layout", KINDS)
def test_what_is_written_is_read_again(layout: str, tmp_path: Path) -> None:
    folder, network = published(tmp_path, layout, verify=False)
    assert {path.name for path in folder.iterdir()} == FILES[layout]
    assert set(formats()[layout].files(folder)) == set(folder.iterdir())
    assert_holds(folder, network)
    last = formats()[layout].files(folder)[-1]
    assert_holds(last, network)
    assert {file.name for file in files_of(folder)} == FILES[layout] - {"README.md"} - {"Xception41_deeplab.yaml"}


@pytest.mark.parametrize("layout", KINDS)
def test_a_headless_network_replaces_one_with_a_head_without_remains(layout: str, tmp_path: Path) -> None:
    folder, network = published(tmp_path, layout, verify=False)
    before = fingerprint(folder)
    path, _ = sources(tmp_path, layout)
    told = {name: value for name, value in network.values.items() if name in KINDS[layout][2]}
    convert(path, folder, to=KINDS[layout][0], layout=layout, settings=told, head=False, force=True, verify=False)
    again = load(folder)
    assert not again.head
    assert fingerprint(folder) != before
    assert {path.name for path in folder.iterdir()} == FILES[layout] - {"task.json", "task.weights.h5"}
    card = (folder / "README.md").read_text()
    assert "pipeline_tag: image-feature-extraction" in card


def test_every_layout_has_a_card() -> None:
    assert {name for name, form in formats().items() if form.card} == set(LAYOUTS) == set(KINDS)
    with pytest.raises(UsageError) as refusal:
        of_layout("huh")
    assert refusal.value.facts == ("layouts: hub, keras-hub, paddleclas",)


@pytest.mark.slow
@pytest.mark.parametrize("layout", KINDS)
def test_the_card_is_true(layout: str, tmp_path: Path) -> None:
    folder, _ = published(tmp_path, layout, card={"license": "apache-2.0", "base_model": "keras/xception"})
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {
        "library_name": LAYOUTS[layout].library,
        "pipeline_tag": "image-classification",
        "license": "apache-2.0",
        "base_model": "keras/xception",
        "tags": ["image-classification", "xception", "xconvert"],
    }
    sha256 = fingerprint(tmp_path / f"{layout}-0.safetensors")
    assert f"| sha256 | `{sha256}` |" in card
    again = load(folder)
    assert again.origin
    assert f"| tensors | sha256 `{again.origin.record['content']}` |" in card
    assert "Converted and verified by" in card
    sizes = re.findall(r"^\| (\d+)×\1 \| (\S+) \| (\S+) \| (\S+) \| 1 of 1 \|$", card, re.MULTILINE)
    assert [size for size, *_ in sizes] == ["75", "96"]
    assert all(float(relative) <= float(allowed) for _, relative, allowed, _ in sizes)
    assert "| `predictions` |" in card
    compile(re.findall(r"```python\n(.*?)```", card, re.DOTALL)[0], "card", "exec")


def test_a_card_says_when_nothing_was_verified(tmp_path: Path) -> None:
    folder, _ = published(tmp_path, "hub", verify=False)
    card = (folder / "README.md").read_text()
    assert "Converted, but not verified, by xconvert" in card
    assert "## Parity\n\nNothing was compared.\n" in card


@pytest.mark.slow
def test_a_card_tells_folds_and_what_was_accepted(tmp_path: Path) -> None:
    path, _ = sources(tmp_path, "keras-hub")
    report = convert(path, tmp_path / "x", to="timm", layout="hub", accept=["pool_padding"])
    card = (tmp_path / "x" / "README.md").read_text()
    assert report.equal
    assert "| folded | `bn_epsilon` 0.001 → 1e-05 in 40 batch norms |" in card
    assert "| accepted | `pool_padding` same\\_upper → symmetric |" in card
    assert "both with the target's `pool_padding`." in card


@pytest.mark.slow
def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    for layout in KINDS:
        folder, network = published(tmp_path, layout, verify=False)
        path, _ = sources(tmp_path, layout)
        told = {name: value for name, value in network.values.items() if name in KINDS[layout][2]}
        convert(path, tmp_path / "again", to=KINDS[layout][0], layout=layout, settings=told, verify=False, force=True)
        for file in formats()[layout].files(folder):
            assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name
        for file in (tmp_path / "again").iterdir():
            file.unlink()


# keras-hub's preset.


def test_a_preset_has_what_keras_hub_wants_to_know(tmp_path: Path) -> None:
    folder, network = published(tmp_path, "keras-hub", verify=False)
    config, task = (json.loads((folder / name).read_text()) for name in ("config.json", "task.json"))
    assert config["registered_name"] == "keras_hub>XceptionBackbone"
    filters = config["config"]["stackwise_conv_filters"]
    assert (len(filters), len(filters[5]), config["config"]["stackwise_pooling"].count(True)) == (14, 3, 4)
    assert filters[-1][-1] == network.weights["predictions.weight"].shape[0]
    assert (task["config"]["num_classes"], task["config"]["backbone"]) == (10, config)
    converter = json.loads((folder / "image_converter.json").read_text())["config"]
    assert (converter["image_size"], converter["scale"], converter["offset"]) == ([299, 299], 1 / 127.5, -1.0)


def test_a_preset_of_unknown_images_has_no_preprocessor(tmp_path: Path) -> None:
    from xconvert.formats.keras_hub import configurations

    folder, _ = published(tmp_path, "keras-hub", verify=False)
    made = read(folder)
    assert isinstance(made, Checkpoint)
    from tests.graphs import graph
    from xconvert.model import Graph, Tensor

    layers, weights = graph("xception.same")
    told = configurations(Graph(layers, {}, {name: Tensor.of(array) for name, array in weights.items()}), {"size": 299})
    assert set(told) == {"config.json", "metadata.json", "task.json"}
    assert told["task.json"]["config"]["preprocessor"] is None


def test_a_damaged_classifier_beside_a_backbone_is_told(tmp_path: Path) -> None:
    folder, _ = published(tmp_path, "keras-hub", verify=False)
    (folder / "task.weights.h5").write_bytes(b"none")
    with pytest.raises(UnreadableError, match=r"task\.weights\.h5` is damaged"):
        read(folder)
    (folder / "task.weights.h5").unlink()
    assert not load(folder).head


# PaddleClas' pair.


def test_the_yaml_has_the_checkpoints_own_images_and_classes(tmp_path: Path) -> None:
    folder, _ = published(tmp_path, "paddleclas", verify=False)
    preprocessing = load(folder).preprocessing
    told = yaml.safe_load((folder / "Xception41_deeplab.yaml").read_text())
    assert told["Arch"] == {"name": "Xception41_deeplab", "class_num": 10}
    assert told["Global"]["pretrained_model"] == "./Xception41_deeplab_pretrained"
    steps = told["DataLoader"]["Eval"]["dataset"]["transform_ops"]
    assert steps == told["Infer"]["transforms"][:-1]
    options = {name: value for step in steps for name, value in step.items()}
    assert options["ResizeImage"] == {"resize_short": preprocessing["resize"]}
    assert options["CropImage"] == {"size": preprocessing["size"]}
    assert np.allclose(options["NormalizeImage"]["mean"], preprocessing["mean"])


@pytest.mark.parametrize("layout", ["keras-hub", "paddleclas"])
def test_names_of_another_zoo_are_refused(layout: str, tmp_path: Path) -> None:
    path, _ = sources(tmp_path, "hub")
    with pytest.raises(UsageError) as refusal:
        convert(path, tmp_path / "x", to="timm", layout=layout)
    assert refusal.value.message.startswith(f"a `{layout}` file holds")
    write = of_layout(layout).write
    assert write
    with pytest.raises(UsageError, match="own network"):
        write(tmp_path / "x", checkpoint(narrow(), "cadene"))
    assert not (tmp_path / "x").exists()


# What the user states.


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--licence", "apache-2.0"], "only a folder has a model card"),
        (["--layout", "hub", "--licence", "a: b"], "`a: b` is no license"),
        (["--layout", "hub", "--base-model", "x y"], "`x y` is no base model"),
    ],
)
def test_what_a_card_cannot_state_is_refused(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, _ = sources(tmp_path, "hub")
    output = tmp_path / ("x" if "--layout" in options else "x.pth")
    with pytest.raises(SystemExit) as ended:
        main([str(path), "--from", "timm", "--to", "timm", "-o", str(output), *options])
    assert ended.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {told}\n")
    assert not output.exists()


def test_a_card_of_somebody_elses_is_not_replaced_unasked(tmp_path: Path) -> None:
    path, _ = sources(tmp_path, "hub")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "README.md").write_text("mine")
    with pytest.raises(UsageError, match=r"README\.md` exists"):
        convert(path, tmp_path / "x", to="timm", layout="hub", verify=False)
    assert [file.name for file in (tmp_path / "x").iterdir()] == ["README.md"]
