"""The batch norms' momentum, which matters in training alone: carried wherever it goes, and never a reason to refuse."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from tests.narrow import narrow
from xconvert import convert, formats, load
from xconvert.attributes import DEFINITIONS, in_training
from xconvert.formats import onnx
from xconvert.listing import everything, everything_text, inspect, inspect_text
from xconvert.loading import save
from xconvert.mappings import library
from xconvert.model import Attribute
from xconvert.reconcile import FOLDS
from xconvert.render import conversion
from xconvert.weights import same_bits

# Where a file goes and how, and back again: the batch norms' momentum is carried, though no mapping has it.
CARRIED = [(".pth", "torch"), (".safetensors", "torch"), (".npz", "torch"), (".pdparams", "paddle"), (".onnx", "onnx")]
CARRIED += [(".ckpt", "mindspore"), (".ckpt", "tensorflow"), (".weights.h5", "keras"), (".keras", "keras")]


def stated_by_keras(path: Path, **attributes: float) -> Path:
    """A full Keras model that states its attributes in its configuration alone: there is no record of xconvert's."""
    model = narrow(1, **attributes)
    form = formats.format_for_writing(path, "keras")
    own = library().dialects[form.dialects["keras"]]
    made = save(model, library().customary(library().dialects["keras"], model.family, model.depth), own)
    assert form.write
    form.write(path, made._replace(metadata={}))
    return path


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "framework"), CARRIED)
def test_momentum_goes_there_and_comes_back(tmp_path: Path, suffix: str, framework: str) -> None:
    source = stated_by_keras(tmp_path / "a.keras", bn_momentum=0.95)
    model = load(source)
    assert model.attributes["bn_momentum"] == Attribute(0.95, "the file's config.json")
    there = convert(source, tmp_path / f"b{suffix}", to=framework)
    assert there.target["attributes"]["bn_momentum"] == 0.95
    assert not [change for change in there.changes if change["attribute"] == "bn_momentum"]
    assert load(there.output).values["bn_momentum"] == 0.95
    back = load(convert(there.output, tmp_path / "c.keras", to="keras").output)
    assert back.values == model.values


@pytest.mark.slow
def test_a_class_trains_with_its_own_momentum(tmp_path: Path) -> None:
    """So it needs no `--accept`, and the report says it."""
    source = stated_by_keras(tmp_path / "a.keras", bn_momentum=0.95)
    report = convert(source, tmp_path / "b.h5", to="keras.applications")
    change = {"attribute": "bn_momentum", "source": 0.95, "target": 0.99, "action": "training", "count": 0, "where": ""}
    assert report.changes == (change,)
    assert report.equal
    assert "  training  bn_momentum 0.95 → 0.99 (no answer depends on it)" in click.unstyle(conversion("a.keras", report))
    found = load(report.output)
    assert found.values["bn_momentum"] == 0.99
    before = load(source).weights
    assert all(same_bits(tensor.read(), found.weights[name].read()) for name, tensor in before.items())


def test_momentum_is_no_part_of_what_a_graph_computes(tmp_path: Path) -> None:
    """An ONNX file that states none, or another than the user sets, is the same network."""
    model = narrow(1, bn_momentum=0.95)
    zoo = library().customary(library().dialects["onnx"], model.family, model.depth)
    made = save(model, zoo, library().dialects["onnx"])
    assert made.graph
    silent = [layer._replace(momentum=0.0) for layer in model.layers]
    for name, graph in (("said", made.graph), ("silent", made.graph._replace(layers=tuple(silent)))):
        assert onnx.FORMAT.write
        onnx.FORMAT.write(tmp_path / f"{name}.onnx", made._replace(graph=graph, metadata={}))
    said, unsaid = load(tmp_path / "said.onnx"), load(tmp_path / "silent.onnx")
    assert said.attributes["bn_momentum"] == Attribute(0.95, "the file's graph")
    assert unsaid.attributes["bn_momentum"] == Attribute(0.99, "as xception was published")
    assert load(tmp_path / "said.onnx", settings={"bn_momentum": 0.5}).values["bn_momentum"] == 0.5


def test_what_matters_in_training_alone_is_never_folded() -> None:
    assert [name for name in DEFINITIONS if in_training(name)] == ["bn_momentum"]
    assert not any(in_training(name) for name in FOLDS)
    assert not in_training("no_such")


def test_every_batch_norm_of_every_published_network_has_its_zoos_momentum() -> None:
    for zoo in library().implementations:
        for published in zoo.published:
            there = zoo.at(published.depth)
            layers = there.family.build(published.depth, True, there.attributes)
            found = {layer.momentum for layer in layers if layer.op == "batch_norm"}
            assert found == {there.attributes["bn_momentum"]}
            assert {layer.momentum for layer in layers if layer.op != "batch_norm"} == {0.0}


def test_it_is_shown_with_its_source(tmp_path: Path) -> None:
    told = inspect_text(inspect(stated_by_keras(tmp_path / "a.keras", bn_momentum=0.95)))
    assert "bn_momentum     0.95        the file's config.json" in click.unstyle(told)
    everything_ = everything()
    assert {i["attributes"]["bn_momentum"] for i in everything_["implementations"]} == {0.9, 0.99, 0.9997}
    lines = click.unstyle(everything_text(everything_)).splitlines()
    assert max(map(len, lines)) <= 80
    assert not any("bn_momentum" in line for line in lines)
