"""What a file says of its layers is held against the graph: whatever the weights cannot show is refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.narrow import checkpoint, narrow
from xconvert.errors import NetworkError
from xconvert.formats._keras_config import describe
from xconvert.implementation import written_names
from xconvert.loading import interpret
from xconvert.mappings import library
from xconvert.model import Checkpoint, Layer, Model

Config = dict[str, Any]
Edit = Callable[[list[Config]], None]
COMMON = {"data_format": "channels_last", "dilation_rate": [1, 1], "activation": "linear", "use_bias": False}


def layer(kind: str, name: str, **options: Any) -> Config:
    return {"class_name": kind, "config": {"name": name, **options}, "name": name, "inbound_nodes": [{"args": []}]}


def keras_layer(ours: Layer, name: str) -> Config | None:
    """What keras.applications' own model says of a layer; the depthwise half is told with the pointwise one."""
    if ours.op == "depthwise":
        return None
    if ours.op == "pointwise":
        return layer("SeparableConv2D", name, kernel_size=[3, 3], strides=[1, 1], padding="same", **COMMON)
    if ours.op == "conv":
        padding = "same" if ours.kernel == 1 else "valid"
        return layer("Conv2D", name, kernel_size=[ours.kernel] * 2, strides=[ours.stride] * 2, padding=padding, **COMMON)
    options: dict[str, tuple[str, Config]] = {
        "batch_norm": ("BatchNormalization", {"epsilon": 1e-3, "momentum": 0.99, "axis": -1}),
        "max_pool": ("MaxPooling2D", {"pool_size": [3, 3], "strides": [2, 2], "padding": "same"}),
        "relu": ("Activation", {"activation": "relu"}),
        "add": ("Add", {}),
        "global_average": ("GlobalAveragePooling2D", {"data_format": "channels_last"}),
        "linear": ("Dense", {"activation": "linear", "use_bias": True}),
    }
    kind, said = options[ours.op]
    return layer(kind, name, **said)


def configuration(model: Model) -> list[Config]:
    known = library()
    names = written_names(known.named("keras.applications")[0], known.dialects["keras"], model.depth, model.head)
    told = (keras_layer(ours, names.get(ours.name, ours.name.replace(".", "_"))) for ours in model.layers)
    return [layer("InputLayer", "input_layer"), *(one for one in told if one)]


def stating(edit: Edit = lambda layers: None, numbered: bool = False, model: Model | None = None) -> Checkpoint:
    """A file of Keras, whose configuration is edited."""
    model = model or narrow()
    layers = configuration(model)
    edit(layers)
    said = describe(json.dumps({"class_name": "Functional", "config": {"layers": layers}}), "here", numbered=numbered)
    found = checkpoint(model, "keras.applications", "keras_weights" if numbered else None)
    return found._replace(stated=said.stated, evidence=said.evidence, notes=said.notes)


def options(*names: str, **changed: Any) -> Edit:
    """Change options of the layers whose names end so."""

    def edit(layers: list[Config]) -> None:
        chosen = [one for one in layers if one["config"]["name"].endswith(names)]
        assert chosen
        for one in chosen:
            one["config"].update(changed)

    return edit


def norms(**changed: Any) -> Edit:
    """Change options of every batch norm of the network."""
    return options("_bn", "batch_normalization", *(f"batch_normalization_{i}" for i in (1, 2, 3)), **changed)


def turned(name: str, kind: str, **changed: Any) -> Edit:
    def edit(layers: list[Config]) -> None:
        for one in layers:
            if one["config"]["name"] == name:
                one["class_name"] = kind
                one["config"].update(changed)

    return edit


def inserted(at: int, *new: Config) -> Edit:
    def edit(layers: list[Config]) -> None:
        layers[at:at] = new

    return edit


def all_of(*edits: Edit) -> Edit:
    return lambda layers: [edit(layers) for edit in edits] and None


@pytest.mark.parametrize("numbered", [False, True], ids=["names", "numbers"])
@pytest.mark.parametrize("head", [True, False])
@pytest.mark.parametrize("depth", [8, 2])
def test_what_keras_says_of_its_own_model_agrees(depth: int, head: bool, numbered: bool) -> None:
    model = interpret(
        stating(numbered=numbered, model=narrow(depth=depth, head=head)), "x.h5", implementation="keras.applications"
    )
    assert (model.depth.middle, model.head, model.notes) == (depth, head, ())
    assert model.attributes["bn_epsilon"].source == "the file's here"


WRONG: dict[str, tuple[Edit, str]] = {
    "pool": (turned("avg_pool", "GlobalMaxPooling2D"), "`avg_pool` (GlobalMaxPooling2D) is not a GlobalAveragePooling2D"),
    "swish": (options("_act", activation="swish"), "`block1_conv1_act` (Activation) has activation swish, expected relu"),
    "relu6": (turned("block1_conv1_act", "ReLU", max_value=6.0), "`block1_conv1_act` (ReLU) has max_value 6.0, expected None"),
    "leaky": (turned("block1_conv1_act", "LeakyReLU"), "`block1_conv1_act` (LeakyReLU) is not part of it"),
    "late relu": (turned("block3_sepconv1_act", "Identity"), "it has 34 activations `relu`, expected 35"),
    "no sum": (turned("block5_add", "Identity"), "it has 11 layers `Add`, expected 12"),
    "stride": (options("block13_pool", strides=[1, 1]), "`block13_pool` (MaxPooling2D) has strides 1, expected 2"),
    "dilation": (
        options("block14_sepconv1", dilation_rate=[2, 2]),
        "`block14_sepconv1` (SeparableConv2D) has dilation_rate 2, expected 1",
    ),
    "shortcut": (options("conv2d_3", strides=[1, 1]), "`conv2d_3` (Conv2D) has strides 1, expected 2"),
    "conv": (options("block1_conv1", padding="same"), "`block1_conv1` (Conv2D) has padding same, expected valid"),
    "separable": (
        options("block2_sepconv1", padding="valid"),
        "`block2_sepconv1` (SeparableConv2D) has padding valid, expected same",
    ),
    "fused": (options("block1_conv2", activation="relu"), "`block1_conv2` (Conv2D) has activation relu, expected linear"),
    "first": (
        options("block1_conv1", data_format="channels_first"),
        "`block1_conv1` (Conv2D) has data_format channels_first, expected channels_last",
    ),
    "transposed": (turned("conv2d", "Conv2DTranspose"), "`conv2d` (Conv2DTranspose) is not a Conv2D"),
    "axis": (options("block1_conv1_bn", axis=1), "`block1_conv1_bn` (BatchNormalization) has axis 1, expected the last"),
    "valid": (options("_pool", padding="valid"), "`block2_pool` (MaxPooling2D) has padding valid, expected same"),
    "head": (options("predictions", activation="relu"), "`predictions` (Dense) has activation relu, expected linear"),
    "rescaling": (inserted(1, layer("Rescaling", "rescaling", scale=1 / 127.5)), "`rescaling` (Rescaling) is not part of it"),
    "flattened": (inserted(40, layer("Flatten", "flatten")), "`flatten` (Flatten) is not part of it"),
    "softmax inside": (options("block1_conv1_act", activation="softmax"), "has activation softmax, expected relu"),
    "more pools": (
        inserted(9, layer("MaxPooling2D", "more", pool_size=[3, 3], strides=[2, 2], padding="same")),
        "it has 5 max-pools, expected 4",
    ),
    "twice": (lambda layers: layers[7]["inbound_nodes"].append({}), "is used 2 times, expected once"),
    "control": (options("block1_conv1_act", activation="\x1b[2J"), "has activation ?[2J, expected relu"),
    "nonsense": (
        options("block1_conv1", kernel_size=[{"a": [1]}], padding={}),
        "`block1_conv1` (Conv2D) has kernel_size {'a': [1]}, expected 3",
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("numbered", [False, True], ids=["names", "numbers"])
@pytest.mark.parametrize("name", WRONG)
def test_another_function_is_refused(name: str, numbered: bool) -> None:
    edit, fact = WRONG[name]
    fact = "is not part of it" if name == "transposed" and numbered else fact  # its number is another's
    with pytest.raises(NetworkError) as caught:
        interpret(stating(edit, numbered), "x.h5", settings={"bn_epsilon": 1e-3, "pool_padding": "same_upper"})
    assert caught.value.message == "`x.h5` is not the Xception that its weights fit"
    assert any(fact in line for line in caught.value.facts), caught.value.facts
    assert len(caught.value.facts) <= 9


def test_many_faults_are_counted() -> None:
    with pytest.raises(NetworkError) as caught:
        interpret(stating(options("_act", activation="swish")), "x.h5")
    assert len(caught.value.facts) == 9
    assert caught.value.facts[-1] == "… and 28 more"
    assert caught.value.hints == ()


def test_two_epsilons_are_refused_whatever_is_set() -> None:
    with pytest.raises(NetworkError) as caught:
        interpret(stating(options("_conv1_bn", "_conv2_bn", epsilon=0.01)), "x.h5", settings={"bn_epsilon": 1e-3})
    assert caught.value.facts == (
        "batch norms have 2 kinds of epsilon, expected one",
        "  epsilon 0.01 in 2: `block1_conv1_bn`, …",
        "  epsilon 0.001 in 38: `block2_sepconv1_bn`, …",
    )
    nonsense = stating(options("block1_conv1_bn", epsilon=[{}]))
    with pytest.raises(NetworkError):
        interpret(nonsense, "x.h5")


def test_two_kinds_of_pools_are_refused_and_one_is_not() -> None:
    pools = [f"block{b}_pool" for b in (2, 3, 4, 13)]
    edits = [turned(pool, "xconvert>SymmetricMaxPooling2D", pool_size=3, strides=2, padding=1) for pool in pools]
    model = interpret(stating(all_of(*edits)), "x.h5", implementation="keras.applications")
    assert model.values["pool_padding"] == "symmetric"
    with pytest.raises(NetworkError) as caught:
        interpret(stating(edits[0]), "x.h5", implementation="keras.applications")
    assert caught.value.facts[0] == "max-pools have 2 kinds of class, expected one"


@pytest.mark.parametrize(
    ("edit", "note"),
    [
        (options("predictions", activation="softmax"), "left off the final `softmax`; answers are logits"),
        (
            lambda layers: layers.append(layer("Activation", "out", activation="sigmoid")),
            "left off the final `sigmoid`; answers are logits",
        ),
        (lambda layers: layers.append(layer("Activation", "out", activation="linear")), None),
        (lambda layers: layers.append(layer("Reshape", "out")), None),
        (inserted(-1, layer("Flatten", "flatten"), layer("Dropout", "dropout")), None),
        (inserted(1, layer("RandomFlip", "random_flip"), layer("RandomRotation", "random_rotation")), None),
        (turned("block1_conv1_act", "ReLU", max_value=None, negative_slope=0.0, threshold=0.0), None),
        (options("_bn", axis=[3]), None),
        (options("conv2d", padding="valid"), None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("numbered", [False, True], ids=["names", "numbers"])
def test_what_changes_nothing_is_let_pass(edit: Edit, note: str | None, numbered: bool) -> None:
    model = interpret(stating(edit, numbered), "x.h5", implementation="keras.applications")
    assert model.notes == ((note,) if note else ())


@pytest.mark.parametrize("numbered", [False, True], ids=["names", "numbers"])
def test_a_layer_is_left_out_when_asked(numbered: bool) -> None:
    found = stating(inserted(1, layer("Rescaling", "scale_1", scale=1 / 127.5)), numbered)
    with pytest.raises(NetworkError) as caught:
        interpret(found, "x.h5")
    assert caught.value.hints == ("`--ignore scale_1` leaves a layer out of this check",)
    model = interpret(found, "x.h5", implementation="keras.applications", ignore=["scale*"])
    assert model.notes == ("left the layer `scale_1` (Rescaling) out",)


def test_layers_whose_weights_are_left_out_are_left_out() -> None:
    """A head of another kind behind the network, with an epsilon of its own, which is not the network's."""

    def edit(layers: list[Config]) -> None:
        norms(epsilon=1e-5)(layers)
        layers.append(layer("BatchNormalization", "head_bn", epsilon=0.5, axis=-1))

    found = stating(edit)
    some = next(iter(found.tensors.values()))
    found = found._replace(tensors={**found.tensors, "head_bn/gamma": some})
    model = interpret(found, "x.h5", implementation="keras.applications", ignore=["head_bn/*"])
    assert model.values["bn_epsilon"] == 1e-5
    model = interpret(stating(), "x.h5", implementation="keras.applications", ignore=["predictions/*"])
    assert not model.head


def test_several_momentums_are_told_and_the_most_frequent_is_taken() -> None:
    """No answer depends on them, so they are no reason to refuse."""
    model = interpret(stating(options("block1_conv1_bn", "block1_conv2_bn", momentum=0.9)), "x.h5")
    assert (model.values["bn_momentum"], model.attributes["bn_momentum"].source) == (
        0.99,
        "the file's configuration of its layers",
    )
    assert model.notes == (
        "batch norms have different momentums: 0.9 (2 layers), 0.99 (38 layers)",
        "took `bn_momentum` 0.99 of 38 batch norms for all 40; no answer depends on it",
    )
    assert interpret(stating(norms(momentum=0.95)), "x.h5", settings={"bn_momentum": 0.9}).notes == (
        "`--set bn_momentum=0.9` overrules the file's here, which says 0.95",
    )


def test_the_momentum_of_another_head_is_not_the_networks() -> None:
    def edit(layers: list[Config]) -> None:
        layers.append(layer("BatchNormalization", "head_bn", epsilon=1e-3, momentum=0.5, axis=-1))

    found = stating(all_of(norms(momentum=0.95), edit))
    found = found._replace(tensors={**found.tensors, "head_bn/gamma": next(iter(found.tensors.values()))})
    model = interpret(found, "x.h5", implementation="keras.applications", ignore=["head_bn/*"])
    assert model.values["bn_momentum"] == 0.95
    assert not any("took `bn_momentum`" in note for note in model.notes)


@pytest.mark.parametrize(("value", "shown"), [(1.0, "1.0"), (0, "0"), ([{}], "{}"), ("x", "x"), (float("nan"), "nan")])
def test_a_momentum_that_is_none_is_told(value: Any, shown: str) -> None:
    """The mapping's is taken; such as 1.0, with which statistics never move."""
    model = interpret(stating(norms(momentum=value)), "x.h5")
    assert (model.values["bn_momentum"], model.attributes["bn_momentum"].source) == (0.99, "mapping keras.applications")
    assert model.notes == (f"left out the batch norms' momentum {shown}, which is not between 0 and 1",)


def test_what_is_left_out_of_the_weights_only_is_still_checked() -> None:
    with pytest.raises(NetworkError, match="is not the Xception"):
        interpret(stating(options("block1_conv1", strides=[1, 1])), "x.h5", ignore=["block1_conv1"])


def keras_1(layers: list[Config]) -> Iterator[Config]:
    """The same in the words of Keras 1."""
    words = {"padding": "border_mode", "use_bias": "bias"}
    classes = {"Conv2D": "Convolution2D", "SeparableConv2D": "SeparableConvolution2D", "Add": "Merge"}
    for one in layers:
        said = {words.get(name, name): value for name, value in one["config"].items() if name != "dilation_rate"}
        if "kernel_size" in said:
            said["nb_row"], said["nb_col"] = said.pop("kernel_size")
            said["subsample"] = said.pop("strides")
        said |= {"dim_ordering": "tf"} if said.pop("data_format", None) else {}
        said |= {"mode": "sum"} if one["class_name"] == "Add" else {}
        yield {**one, "class_name": classes.get(one["class_name"], one["class_name"]), "config": said}


def test_keras_1() -> None:
    def old(layers: list[Config]) -> None:
        layers[:] = keras_1(layers)

    assert interpret(stating(old), "x.h5", implementation="keras.applications").notes == ()
    with pytest.raises(NetworkError) as caught:
        interpret(stating(all_of(options("conv2d_3", strides=[1, 1]), old)), "x.h5")
    assert caught.value.facts == ("`conv2d_3` (Conv2D) has strides 1, expected 2",)
