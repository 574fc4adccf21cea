"""Which network is in a file: what is recognised, and what is told about a file that holds another."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.narrow import TORCH, changed, checkpoint, narrow
from xconvert import matching
from xconvert.architectures import families
from xconvert.closest import summarise
from xconvert.errors import AmbiguousError, NetworkError, UnreadableError, UsageError
from xconvert.loading import interpret
from xconvert.mappings import library
from xconvert.model import Checkpoint, Depth, Family, Model, Tensor

FAMILIES = families()


def torch_file(model: Model | None = None) -> dict[str, Tensor]:
    return dict(checkpoint(model or narrow(**TORCH), "timm").tensors)


def same_weights(a: Model, b: Model) -> bool:
    return a.weights.keys() == b.weights.keys() and all(
        np.array_equal(a.weights[name].read(), b.weights[name].read()) for name in a.weights
    )


@pytest.mark.slow
@pytest.mark.parametrize("dialect", ["keras", "keras_weights", "keras_1"])
@pytest.mark.parametrize("options", [{}, {"head": False}, {"classes": 2}, {"channels": 5}, {"depth": 2}, {"divide": 8}], ids=str)
def test_every_spelling_of_keras_is_recognised(dialect: str, options: dict) -> None:
    model = narrow(**options)
    found = interpret(checkpoint(model, "keras.applications", dialect), "file")
    assert same_weights(found, model)
    assert (found.depth, found.head) == (model.depth, model.head)
    assert found.values == {"bn_epsilon": 1e-3, "pool_padding": "same_upper", "bn_momentum": 0.99}
    assert found.attributes["bn_epsilon"].source == "mapping keras.applications"


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module._orig_mod.", "backbone."])
def test_a_prefix_on_every_name_is_stripped_and_told(prefix: str) -> None:
    found = interpret(Checkpoint({prefix + name: t for name, t in torch_file().items()}), "file")
    assert same_weights(found, narrow(**TORCH))
    assert f"stripped `{prefix}` from every name" in found.notes


def test_a_prefix_on_some_names_is_not_stripped() -> None:
    tensors = {("module." if i else "") + name: t for i, (name, t) in enumerate(torch_file().items())}
    with pytest.raises(NetworkError):
        interpret(Checkpoint(tensors), "file")


@pytest.mark.parametrize("head", ["fc", "last_linear", "last_linear.1"])
def test_the_heads_that_cadene_files_have(head: str) -> None:
    tensors = {name.replace("fc.", f"{head}.") if name.startswith("fc.") else name: t for name, t in torch_file().items()}
    found = interpret(Checkpoint(tensors), "file", implementation="cadene")
    assert same_weights(found, narrow(**TORCH))


def test_two_dimensional_pointwise_kernels_of_the_first_cadene_file() -> None:
    """xception-b5690688.pth: pointwise weights [out, in], and no num_batches_tracked."""
    tensors = {}
    for name, tensor in torch_file().items():
        if "num_batches" in name:
            continue
        array = tensor.read()
        tensors[name] = Tensor.of(array[:, :, 0, 0] if ".pointwise." in name else array)
    found = interpret(Checkpoint(tensors), "file")
    assert same_weights(found, narrow(**TORCH))


def test_automatic_names_go_by_position_whatever_their_numbers() -> None:
    """A second Xception of one process has conv2d_4 … conv2d_7; a tenth has two digits."""
    for start in (4, 8, 36):
        tensors = {}
        for name, tensor in checkpoint(narrow(), "keras.applications").tensors.items():
            layer, _, weight = name.partition("/")
            stem, _, number = layer.rpartition("_") if layer[-1].isdigit() else (layer, "", "0")
            if layer.startswith(("conv2d", "batch_normalization")):
                layer = f"{stem}_{int(number) + start}"
            tensors[f"{layer}/{weight}"] = tensor
        assert same_weights(interpret(Checkpoint(tensors), "file"), narrow())


def test_twins_are_told_and_the_hint_decides() -> None:
    found = interpret(Checkpoint(torch_file()), "file")
    assert found.implementation == "timm"
    assert any(note.startswith("also fits cadene, lornatang: the same function") for note in found.notes)
    assert interpret(Checkpoint(torch_file()), "file", implementation="lornatang").notes == ()


def test_two_that_differ_in_function_are_asked_for(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "maps"
    folder.mkdir()
    (folder / "evil_twin.toml").write_text(
        'architecture = "xception"\ndialect = "torch"\ndescribes = "a twin"\nnames_of = "timm"\n'
        '[attributes]\nbn_epsilon = 1e-3\npool_padding = "symmetric"\nbn_momentum = 0.9\n'
    )
    with pytest.raises(AmbiguousError, match="fits two implementations") as caught:
        interpret(Checkpoint(torch_file()), "file", mappings=[folder])
    assert any("--from" in hint for hint in caught.value.hints)
    chosen = interpret(Checkpoint(torch_file()), "file", mappings=[folder], implementation="evil_twin")
    assert chosen.values["bn_epsilon"] == 1e-3


def told(tensors: dict[str, Tensor]) -> NetworkError:
    with pytest.raises(NetworkError) as caught:
        interpret(Checkpoint(tensors), "model.pth")
    return caught.value


def test_another_network_gets_missing_unexpected_and_the_closest() -> None:
    tensors = torch_file()
    tensors["block3.rep.99.weight"] = tensors.pop("block3.rep.4.conv1.weight")
    error = told(tensors)
    assert error.message == "`model.pth` holds no network that xconvert knows"
    text = "\n".join(error.facts)
    assert "closest: timm; 235 of its 236 tensors are there" in text
    assert "MISSING (1)\n  block3.rep.4.conv1.weight" in text
    assert "UNEXPECTED (1)\n  block3.rep.99.weight" in text


def test_names_that_differ_in_numbers_are_one_line() -> None:
    assert summarise([f"block{n}.skip.weight" for n in (1, 2, 3, 12)] + ["fc.bias"]) == [
        "block{1..12}.skip.weight (4)",
        "fc.bias",
    ]
    assert summarise([f"{letter}.weight" for letter in "abcdefghij"])[-1] == "… and 2 more of these kinds"


def test_parameters_without_statistics_are_explained() -> None:
    """`dict(model.named_parameters())` has no running mean and variance."""
    error = told({name: t for name, t in torch_file().items() if "running" not in name and "num_batches" not in name})
    assert any("save `state_dict()`, not `named_parameters()`" in hint for hint in error.hints)


def test_something_beside_the_network_can_be_left_out() -> None:
    tensors = torch_file() | {"aux.weight": Tensor.of(np.zeros((2, 2), np.float32))}
    assert any("`--ignore PATTERN`" in hint for hint in told(tensors).hints)
    found = interpret(Checkpoint(tensors), "file", ignore=["aux.*"])
    assert same_weights(found, narrow(**TORCH))
    assert "left out 1 tensor `aux.*`, as asked" in found.notes
    assert found.omitted == ("`aux.*`",)
    assert "`--ignore nothing*` matches nothing" in interpret(Checkpoint(torch_file()), "file", ignore=["nothing*"]).notes


def test_what_is_left_out_may_lack_the_prefix_of_the_rest() -> None:
    tensors = {f"model.{name}": t for name, t in torch_file().items()} | {"criterion.weight": Tensor.of(np.zeros(2, np.float32))}
    found = interpret(Checkpoint(tensors), "file", ignore=["criterion.*"])
    assert same_weights(found, narrow(**TORCH))


@pytest.mark.parametrize("dialect", ["keras", "keras_weights"])
def test_positions_count_by_number_where_a_format_sorts_names_as_text(dialect: str) -> None:
    """safetensors files are sorted: conv2d_10 stands before conv2d_9."""
    renumbered = {}
    for name, tensor in checkpoint(narrow(), "keras.applications", dialect).tensors.items():
        layer, _, weight = name.rpartition("/")
        stem, _, number = layer.rpartition("_")
        if layer.startswith(("conv2d", "batch_normalization")):
            stem, number = (stem, number) if number.isdigit() else (layer, "0")
            layer = f"{stem}_{int(number) + 8}"
        renumbered[f"{layer}/{weight}"] = tensor
    found = interpret(Checkpoint(dict(sorted(renumbered.items()))), "file")
    assert same_weights(found, narrow())


@pytest.mark.parametrize(
    ("weight", "shape", "message"),
    [
        ("block5.sepconv1.pointwise.weight", (45, 44), "takes 45 channels, its input has 44"),
        ("block5.sepconv1.depthwise.weight", (5, 5, 45), "is a 5x5 kernel, expected 3x3"),
        ("block14.sepconv2.bn.beta", (7,), "takes 7 channels, its input has 128"),
        ("predictions.bias", (11,), "and its bias have 10 and 11 outputs"),
        ("predictions.weight", (128, 0), "is empty"),
        ("block5.sepconv3.pointwise.weight", (45, 12), "takes 45 channels, its input has 12|adds maps of 12 and 45 channels"),
    ],
)
def test_shapes_that_do_not_fit_the_graph_are_named(weight: str, shape: tuple[int, ...], message: str) -> None:
    model = narrow(**TORCH)
    error = told(torch_file(changed(model, **{weight: np.zeros(shape, np.float32)})))
    assert any(part in "\n".join(error.facts) for part in message.split("|"))


def test_axes_that_do_not_fit_are_named() -> None:
    error = told(torch_file() | {"conv1.weight": Tensor.of(np.zeros((2, 3, 3), np.float32))})
    assert "`conv1.weight` has shape (2, 3, 3), expected axes O I H W" in "\n".join(error.facts)


def test_integers_are_no_weights() -> None:
    error = told(torch_file() | {"bn1.weight": Tensor.of(np.zeros(2, np.int32))})
    assert "`bn1.weight` is int32, expected floating point" in "\n".join(error.facts)


def test_what_the_user_sets_beats_the_file_beats_the_mapping() -> None:
    file = Checkpoint(torch_file(), evidence={"bn_epsilon": (1e-4, "model_config")})
    assert interpret(file, "f").attributes["bn_epsilon"].source == "the file's model_config"
    assert interpret(file, "f").values["bn_epsilon"] == 1e-4
    record = '{"version": "0", "implementation": "timm", "attributes": {"bn_epsilon": 0.002}, "preprocessing": {}}'
    assert interpret(file._replace(metadata={"xconvert": record}), "f").values == {
        "bn_epsilon": 0.002,
        "pool_padding": "symmetric",
        "bn_momentum": 0.9,
    }
    assert interpret(file, "f", settings={"bn_epsilon": 1e-4}).notes == interpret(file, "f").notes
    found = interpret(file._replace(metadata={"xconvert": record}), "f", settings={"bn_epsilon": "0.5"})
    assert "`--set bn_epsilon=0.5` overrules the file's record, which says 0.002" in found.notes
    assert (found.values["bn_epsilon"], found.attributes["bn_epsilon"].source) == (0.5, "--set")


@pytest.mark.parametrize(
    ("settings", "message"), [({"bn_eps": 1}, "no attribute is called `bn_eps`"), ({"bn_epsilon": "-1"}, "cannot be")]
)
def test_a_wrong_setting_is_told(settings: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        interpret(Checkpoint(torch_file()), "f", settings=settings)


@pytest.mark.parametrize("size", ["NaN", "-5", '"\\u001b[31m"', "[1]", "true"])
def test_preprocessing_in_a_record_is_checked(size: str) -> None:
    record = f'{{"version": "0", "implementation": "timm", "attributes": {{}}, "preprocessing": {{"size": {size}}}}}'
    with pytest.raises(UnreadableError, match="xconvert's own record in `f` is damaged"):
        interpret(Checkpoint(torch_file(), {"xconvert": record}), "f")


@pytest.mark.parametrize("record", ["{", "[]", '{"attributes": {}}', '{"attributes": {"bn_epsilon": "x"}}', "[" * 100_000])
def test_a_damaged_record_is_told(record: str) -> None:
    with pytest.raises(UnreadableError, match="xconvert's own record in `f` is damaged"):
        interpret(Checkpoint(torch_file(), {"xconvert": record}), "f")


@pytest.mark.slow
def test_every_implementation_is_told_apart_from_those_it_differs_from() -> None:
    for found in (i for i in library().implementations if not i.own):
        there = found.at(Depth(3, 8))
        model = narrow(family=found.family.name, **there.attributes)
        again = interpret(checkpoint(model, found.name), "file")
        assert again.values == dict(there.attributes)


@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES)
def test_operations_are_counted_as_the_graph_of_each_depth_has_them(family: Family, head: bool) -> None:
    counted = matching._operations(family.build, family.depths, head, tuple(family.attributes.items()))
    assert counted.keys() == set(family.depths)
    for depth in (*family.depths[:4], *family.depths[-1:]):
        layers = family.build(depth, head, family.attributes)
        assert counted[depth] == Counter(layer.op for layer in layers if layer.parameters)
