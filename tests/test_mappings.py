"""Mapping files: each names exactly the tensors of the real class, and every way of writing one wrongly is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.narrow import checkpoint, narrow
from tests.oracle import inventory
from xconvert import mappings
from xconvert.cli import main
from xconvert.errors import MappingError, UsageError
from xconvert.implementation import written_names
from xconvert.loading import interpret
from xconvert.mappings import library
from xconvert.model import Checkpoint, Tensor

# Every shipped mapping, and the inventory of the real class's checkpoint that it must cover.
INVENTORIES = [
    ("timm", "torch", "timm.legacy_xception"),
    ("lornatang", "torch", "lornatang.xception"),
    ("cadene", "torch", "cadene.xception_fc_file"),
    ("cadene", "torch", "cadene.xception_last_linear"),
    ("keras.applications", "keras", "keras_applications.xception_top"),
    ("keras.applications", "keras", "keras_applications.xception_notop"),
    ("keras-hub", "keras", "keras_hub.xception_41_imagenet_backbone"),
    ("keras-hub", "keras", "keras_hub.xception_41_imagenet_classifier"),
    ("mindcv", "mindspore", "mindcv.xception"),
]


def empty(shapes: dict[str, tuple[int, ...]]) -> Checkpoint:
    """A checkpoint of zeros that costs no memory."""
    return Checkpoint({name: Tensor.of(np.broadcast_to(np.float32(0), shape)) for name, shape in shapes.items()})


def test_every_shipped_mapping_is_held_to_an_inventory() -> None:
    assert {name for name, _, _ in INVENTORIES} == {i.name for i in library().implementations}


@pytest.mark.parametrize(("name", "dialect", "told"), INVENTORIES)
def test_a_mapping_names_exactly_the_tensors_of_the_real_class(name: str, dialect: str, told: str) -> None:
    shapes = {t["name"]: tuple(t["shape"]) for t in inventory(told)["tensors"]}
    model = interpret(empty(shapes), told, implementation=name)
    assert sum(int(np.prod(t.shape)) for t in model.weights.values()) == inventory(told)["params_total_with_bn_stats"]
    assert model.depth == 8
    written = checkpoint(model, name)
    renamed = {n.replace("fc.", "last_linear."): s for n, s in shapes.items()} if told.endswith("fc_file") else shapes
    assert {n: t.shape for n, t in written.tensors.items()} == renamed


def test_weights_h5_positions_are_those_of_the_real_file() -> None:
    told = inventory("keras_applications.xception_top")["tensors"]
    shapes = {t["weights_h5"].removeprefix("layers/").replace("/vars/", "/"): tuple(t["shape"]) for t in told}
    model = interpret(empty(shapes), "weights.h5", implementation="keras.applications")
    assert {n: t.shape for n, t in checkpoint(model, "keras.applications", "keras_weights").tensors.items()} == shapes


@pytest.mark.parametrize("name", [i.name for i in library().implementations])
@pytest.mark.parametrize("depth", [0, 3, 8, 16])
def test_names_stay_one_to_one_at_any_depth(name: str, depth: int) -> None:
    found = library().find(name)
    tensors = checkpoint(narrow(depth), name).tensors
    model = interpret(Checkpoint(tensors), name, implementation=name)
    assert model.depth == depth
    assert (
        len(set(written_names(found, library().dialects[found.dialect], depth, True)))
        == len(model.weights) - 3 * _norms(depth) - 1
    )


def _norms(depth: int) -> int:
    return 2 + 3 * 3 + 3 * depth + 3 + 2


GOOD = """
architecture = "xception"
dialect = "torch"
describes = "a zoo"
names_of = "timm"
[attributes]
bn_epsilon = 1e-5
pool_padding = "symmetric"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("[attributes]", '[layers]\n"predictions" = "bn1"\n[attributes]'), "both called `bn1.weight`"),
        (("[attributes]", '[layers]\n"predction" = "head"\n[attributes]'), "line `predction` serves no layer"),
        (('names_of = "timm"', ""), "layer `block1.conv1` has no line"),
        (("bn_epsilon = 1e-5", ""), "attribute `bn_epsilon` is missing"),
        (("bn_epsilon = 1e-5", "bn_epsilon = 3"), "`bn_epsilon` cannot be `3`"),
        (('"symmetric"', '"valid"'), "expected one of `same_upper`, `symmetric`"),
        (("pool_padding", "exit_dilation = 1\npool_padding"), "attribute `exit_dilation` is none of xception's"),
        (('"torch"', '"pytorch"'), "dialect `pytorch` is unknown"),
        (('"xception"', '"xception_99"'), "architecture `xception_99` is unknown"),
        (("describes", "describe"), "`describe` is no key"),
        (("[attributes]", '[layers]\n"predictions" = "fc{j}"\n[attributes]'), "`j` is not bound"),
        (("[attributes]", '[layers]\n"block{b}.add" = "b{b*2}"\n[attributes]'), "a placeholder is {i}"),
        (("[attributes]", '[preprocessing]\nsize = "big"\n[attributes]'), "preprocessing `size` is 'big', expected int"),
        (('names_of = "timm"', 'names_of = "tim"'), "`names_of` asks for `tim.toml`"),
    ],
)
def test_a_wrong_mapping_is_told_precisely(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], told: str
) -> None:
    assert change[0] in GOOD
    path = written(tmp_path, GOOD.replace(*change, 1))
    with pytest.raises(MappingError) as caught:
        mappings.load(path, library().dialects)
    assert told in "\n".join(caught.value.facts)
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(path)])
    assert stopped.value.code == 1
    assert told in capsys.readouterr().out


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    lines = GOOD.replace("bn_epsilon = 1e-5", "").replace('"symmetric"', '"valid"')
    with pytest.raises(MappingError, match="has 2 problems"):
        mappings.load(written(tmp_path, lines), library().dialects)


def test_what_is_not_toml_could_not_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(written(tmp_path, "architecture ="))])
    assert stopped.value.code == 2
    assert "is not TOML" in capsys.readouterr().err


def test_a_zoo_is_added_with_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The test of the design: a made-up zoo touches one TOML file."""
    lines = GOOD.replace("[attributes]", '[layers]\n"predictions" = "top"\n[attributes]', 1)
    path = written(tmp_path, lines)
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(path), "--json"])
    assert stopped.value.code == 0
    assert json.loads(capsys.readouterr().out)["tensors"] == 236
    known = library(tmp_path)
    tensors = {n.replace("fc.", "top."): t for n, t in checkpoint(narrow(), "timm").tensors.items()}
    model = interpret(Checkpoint(tensors), "mine.pth", mappings=[tmp_path])
    assert model.implementation == "mine"
    assert known.find("mine").describes == "a zoo"


def test_an_unknown_folder_of_mappings_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder of mapping files"):
        library(tmp_path / "nowhere")
