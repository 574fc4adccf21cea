"""Every family in every framework's names, and what only the networks beyond Chollet's bring: dilation, a scaled head, a
background class, moving averages, segmentation heads, and networks that cannot become each other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.narrow import ZOO, checkpoint, narrow
from xconvert import convert, formats, forward, load, verify
from xconvert.architectures import families
from xconvert.compare import relative_l2
from xconvert.errors import AmbiguousError, NetworkError, RefusedError, UsageError
from xconvert.formats import safetensors
from xconvert.loading import interpret, save
from xconvert.mappings import library
from xconvert.model import Attribute, Checkpoint, Depth, Model, Tensor
from xconvert.probe import images
from xconvert.reconcile import NEVER
from xconvert.weights import same_bits

FRAMEWORKS = [dialect.name for dialect in library().dialects.values() if dialect.suffix]
PADDLE = {"exit_dilation": 2, "head_scale": 0.5}


def saved(path: Path, model: Model, zoo: str) -> Path:
    """A stranger's safetensors file with the names of ``zoo``."""
    safetensors.FORMAT.write(path, checkpoint(model, zoo))  # type: ignore[misc]
    return path


def same_weights(a: Model, b: Model) -> bool:
    return a.weights.keys() == b.weights.keys() and all(same_bits(t.read(), b.weights[n].read()) for n, t in a.weights.items())


QUICK = {("xception", "paddle")}
PAIRS = [
    pytest.param(family, framework, marks=() if (family, framework) in QUICK else pytest.mark.slow)
    for family in ZOO
    for framework in FRAMEWORKS
]


@pytest.mark.parametrize(("family", "framework"), PAIRS)
def test_a_framework_keeps_the_function_of_every_family(tmp_path: Path, family: str, framework: str) -> None:
    """Also where no zoo has the network: Keras' Xception in Paddle, PaddleClas' own in PyTorch, the aligned in MindSpore."""
    odd = {"bn_epsilon": 1e-4, "bn_momentum": 0.97}
    model = narrow(1, family=family, **odd)
    source = saved(tmp_path / "a.safetensors", model, ZOO[family])
    report = convert(source, to=framework, settings=odd)
    assert report.equal
    found = load(report.output)
    assert (found.family, found.depth, found.values["bn_epsilon"], found.values["bn_momentum"]) == (
        model.family,
        model.depth,
        report.target["attributes"]["bn_epsilon"],
        0.97,
    )
    assert verify(source, report.output, sizes=(75,), settings=odd).equal
    if found.implementation == "xconvert":  # no zoo, no customary epsilon: nothing is rounded
        assert same_weights(model, found)
        assert found.values == model.values


@pytest.mark.slow
@pytest.mark.parametrize("family", ZOO)
@pytest.mark.parametrize("head", [True, False])
def test_a_headless_network_stays_headless(tmp_path: Path, family: str, head: bool) -> None:
    source = saved(tmp_path / "a.safetensors", narrow(1, family=family, head=head, channels=4), ZOO[family])
    convert(source, tmp_path / "b.npz", to="torch", verify=False)
    found = load(tmp_path / "b.npz")
    assert found.head is head
    assert verify(source, tmp_path / "b.npz", sizes=(75,)).equal


@pytest.mark.slow
def test_paddles_dropout_is_folded_and_its_dilation_refused(tmp_path: Path) -> None:
    model = narrow(family="xception_aligned", **PADDLE)
    source = saved(tmp_path / "a.safetensors", model, "paddleclas")
    with pytest.raises(RefusedError, match="`exit_dilation` differs") as caught:
        convert(source, to="timm")
    told = " ".join(caught.value.facts)
    assert "the first layer to part is `exit.block2.sepconv1.depthwise`" in told
    assert "Nothing parts" not in told  # at no size
    other = narrow(family="xception_aligned", exit_dilation=1, head_scale=0.5)
    ours, theirs = (forward(m, images(299, 1), dtype="float64")["logits"] for m in (model, other))
    moved = np.abs(ours - theirs).max() / np.abs(ours).max()
    assert f"logits move by {moved:.1e}" in told
    report = convert(source, tmp_path / "b.pth", to="timm", accept=["exit_dilation"])
    assert [(c["attribute"], c["action"]) for c in report.changes] == [
        ("exit_dilation", "accepted"),
        ("head_scale", "folded"),
        ("bn_momentum", "training"),
    ]
    timm = load(tmp_path / "b.pth")
    assert same_bits(timm.weights["predictions.weight"].read(), model.weights["predictions.weight"].read() * np.float32(0.5))
    assert relative_l2(theirs, forward(timm, images(299, 1), dtype="float64")["logits"]) < 1e-12


@pytest.mark.slow
def test_timms_classifier_is_doubled_for_paddle_and_back_again_bit_for_bit(tmp_path: Path) -> None:
    model = narrow(family="xception_aligned")
    source = saved(tmp_path / "a.safetensors", model, "timm")
    with pytest.raises(RefusedError, match="`exit_dilation` differs"):
        convert(source, to="paddleclas")
    convert(source, tmp_path / "b.pdparams", to="paddleclas", accept=["exit_dilation"])
    doubled = load(tmp_path / "b.pdparams")
    assert doubled.values == {"bn_epsilon": 1e-3, **PADDLE, "bn_momentum": 0.99}
    assert same_bits(doubled.weights["predictions.weight"].read(), model.weights["predictions.weight"].read() * np.float32(2))
    convert(tmp_path / "b.pdparams", tmp_path / "c.pth", to="timm", accept=["exit_dilation"])
    assert same_weights(model, load(tmp_path / "c.pth"))


@pytest.mark.slow
def test_a_framework_carries_dilation(tmp_path: Path) -> None:
    model = narrow(family="xception_aligned", **PADDLE)
    source = saved(tmp_path / "a.safetensors", model, "paddleclas")
    report = convert(source, to="torch")
    assert load(report.output).values == {"bn_epsilon": 1e-3, "exit_dilation": 2, "head_scale": 1.0, "bn_momentum": 0.99}
    assert any("timm xception41 itself would part at `exit.block2.sepconv1.depthwise`" in note for note in report.notes)
    assert any("images stay normalised as for the source: mean [0.485, 0.456, 0.406]" in note for note in report.notes)


# (family, zoo of the file, target that has only other networks, what is said of the two)
DIFFERENT = [
    ("xception_paddleclas", "paddleclas", "timm", ("PaddleClas Xception41", "timm xception41")),
    ("xception_aligned", "timm", "keras.applications", ("timm xception41", "keras.applications.Xception")),
    ("xception_aligned", "timm", "mindcv", ("timm xception41", "MindCV xception")),
    ("xception_preact", "timm", "paddleclas", ("timm xception41p", "PaddleClas Xception41_deeplab")),
    ("xception", "timm", "tf-deeplab", ("timm legacy_xception", "TF DeepLab xception_41")),
]


@pytest.mark.parametrize(("family", "zoo", "to", "names"), DIFFERENT, ids=[f"{f}-{to}" for f, _, to, _ in DIFFERENT])
def test_another_network_is_refused_by_name(tmp_path: Path, family: str, zoo: str, to: str, names: tuple[str, str]) -> None:
    source = saved(tmp_path / "a.safetensors", narrow(family=family), zoo)
    with pytest.raises(RefusedError, match="they are different networks") as caught:
        convert(source, to=to, accept=["exit_dilation", "pool_padding"] if family == "xception" else [])
    assert str(source) in caught.value.message
    assert all(name in " ".join(caught.value.facts) for name in names)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.safetensors"]


def test_two_networks_are_different_to_verify_too(tmp_path: Path) -> None:
    report = verify(narrow(family="xception_aligned"), narrow(family="xception_paddleclas"))
    assert not report.equal
    assert report.checks[0].name == "names"


@pytest.mark.slow
def test_background_is_dropped_and_added_on_request(tmp_path: Path) -> None:
    model = narrow(1, family="xception_aligned", classes=1001)
    source = saved(tmp_path / "a.safetensors", model, "tf-deeplab")
    kept = convert(source, tmp_path / "kept.pth", to="timm", verify=False)
    assert any("`--drop-background` leaves it out" in note for note in kept.notes)
    dropped = convert(source, tmp_path / "dropped.pth", to="timm", background="drop", verify=False)
    assert any("left out the first of 1001 classes, background: row 0" in note for note in dropped.notes)
    a, b = (forward(load(tmp_path / n), images(75, 1))["logits"] for n in ("kept.pth", "dropped.pth"))
    assert np.allclose(a[:, 1:], b, rtol=1e-5, atol=1e-6)  # BLAS orders a sum by the width of the matrix
    assert not verify(tmp_path / "kept.pth", tmp_path / "dropped.pth", sizes=(75,)).equal
    assert verify(tmp_path / "kept.pth", tmp_path / "dropped.pth", sizes=(75,), background="drop").equal
    convert(tmp_path / "dropped.pth", tmp_path / "added.npz", to="tf-deeplab", background="add", verify=False)
    c = forward(load(tmp_path / "added.npz"), images(75, 1))["logits"]
    assert c.shape == (1, 1001)
    assert (c[:, 0] == NEVER).all()
    assert np.allclose(c[:, 1:], b, rtol=1e-5, atol=1e-6)
    for path in ("dropped.pth", "added.npz"):
        with pytest.raises(UsageError, match="there is no background class to drop"):
            verify(tmp_path / path, tmp_path / path, background="drop")
    with pytest.raises(UsageError, match="there is no background class to drop: it has 1000 classes"):
        convert(tmp_path / "dropped.pth", to="torch", background="drop")


def trained(model: Model, averaged: dict[str, float], **more: np.ndarray) -> Checkpoint:
    """A TensorFlow training checkpoint: slots, a step, and moving averages that are ``averaged[name]`` times the weight."""
    tensors = dict(checkpoint(model, "tf-deeplab").tensors)
    for name in list(tensors):
        if not name.endswith(("moving_mean", "moving_variance")):
            tensors[f"{name}/Momentum"] = tensors[name]
    for name, factor in averaged.items():
        tensors[f"{name}/ExponentialMovingAverage"] = Tensor.of(tensors[name].read() * np.float32(factor))
    extra = {name: Tensor.of(array) for name, array in {"global_step": np.int64(7)[()].reshape(()), **more}.items()}
    return Checkpoint({**tensors, **extra})


def trainable(model: Model) -> list[str]:
    return [n for n in checkpoint(model, "tf-deeplab").tensors if not n.endswith(("moving_mean", "moving_variance"))]


def test_averages_are_taken_or_left_as_asked_and_never_mixed() -> None:
    model = narrow(1, family="xception_aligned")
    names = trainable(model)
    both = trained(model, dict.fromkeys(names, 2.0))
    with pytest.raises(
        AmbiguousError, match=f"holds {len(names)} weights twice: as trained, and their moving averages"
    ) as caught:
        interpret(both, "model.ckpt")
    assert "--ema" in caught.value.hints[0]
    plain, averaged = (interpret(both, "model.ckpt", ema=ema) for ema in (False, True))
    assert same_weights(model, plain)
    for name, tensor in model.weights.items():
        factor = np.float32(1 if name.endswith((".mean", ".variance")) else 2)
        assert same_bits(averaged.weights[name].read(), tensor.read() * factor), name
    assert any(f"took {len(names)} moving averages" in note for note in averaged.notes)
    with pytest.raises(NetworkError, match="lacks the moving average of some weights") as mixed:
        interpret(trained(model, dict.fromkeys(names[1:], 2.0)), "model.ckpt", ema=True)
    assert names[0] in mixed.value.facts[0]
    assert same_weights(model, interpret(trained(model, dict.fromkeys(names[1:], 2.0)), "model.ckpt", ema=False))


def test_of_a_segmentation_checkpoint_the_backbone_is_taken() -> None:
    model = narrow(family="xception_aligned", head=False)
    more = {
        f"{scope}/{name}": np.zeros(4, np.float32)
        for scope in ("aspp0", "aspp1_depthwise", "image_pooling", "concat_projection", "decoder/feature_projection0")
        for name in ("weights", "BatchNorm/gamma")
    }
    found = interpret(trained(model, {}, **more, **{"logits/semantic/weights": np.zeros((1, 1, 4, 21), np.float32)}), "deeplab")
    assert (found.head, found.implementation) == (False, "tf-deeplab")
    assert same_weights(model, found)
    assert "left out 4 tensors `aspp*`, of DeepLab's segmentation head" in found.notes


@pytest.mark.slow
def test_a_zoo_is_one_toml_file(tmp_path: Path) -> None:
    """One that calls the aligned network's layers its own way, publishes one network, and pads nothing differently."""
    (tmp_path / "mine.toml").write_text("""
architecture = "xception_aligned"
dialect      = "torch"
names_of     = "timm"
describes    = "Mine {model}"
[attributes]
bn_epsilon    = 1e-4
exit_dilation = 1
head_scale    = 1.0
bn_momentum   = 0.9
[published]
big = { blocks = [3, 8], attributes = { bn_epsilon = 2e-4 } }
[layers]
"middle.block{b}.sepconv{i}.depthwise"    = "body.{b}.{3*i}.dw"
"middle.block{b}.sepconv{i}.depthwise.bn" = "body.{b}.{3*i+1}.dw"
"predictions"                             = "out"
""")
    source = saved(tmp_path / "a.safetensors", narrow(family="xception_aligned"), "timm")
    report = convert(source, tmp_path / "b.safetensors", to="mine", mappings=[tmp_path])
    assert report.equal
    assert report.target["attributes"]["bn_epsilon"] == 2e-4
    plain = checkpoint(load(tmp_path / "b.safetensors", mappings=[tmp_path]), "timm")._replace(metadata={})
    assert "blocks.3.stack.conv1.conv_dw.weight" in plain.tensors
    found = load(tmp_path / "b.safetensors", mappings=[tmp_path])
    assert (found.implementation, found.values["bn_epsilon"]) == ("mine", 2e-4)


@pytest.mark.slow
def test_what_no_zoo_publishes_is_told(tmp_path: Path) -> None:
    source = saved(tmp_path / "a.safetensors", narrow(Depth(5, 16), family="xception_aligned"), "timm")
    report = convert(source, tmp_path / "b.npz", to="paddleclas", accept=["exit_dilation"], verify=False)
    assert "paddleclas publishes no xception_aligned of 5 entry and 16 middle blocks" in report.notes


def test_our_own_names_without_our_record_are_not_guessed_about() -> None:
    """What `paddle.save(xconvert.build(…).state_dict())` makes: no mapping tells the attributes, so they are asked for."""
    model = narrow(1, family="xception_preact", bn_epsilon=1e-5)
    bare = checkpoint(model, "paddle")
    with pytest.raises(AmbiguousError, match="does not say its `bn_epsilon`") as caught:
        interpret(bare, "x.pdparams")
    assert "`--set bn_epsilon=0.001`" in caught.value.hints[0]
    found = interpret(bare, "x.pdparams", settings={"bn_epsilon": 1e-5})
    assert found.values == model.values
    assert found.attributes["bn_momentum"] == Attribute(0.9, "as xception_preact was published")  # no answer depends on it


# Every format that is written, with a framework whose names it holds.
WRITTEN = [(suffix, "torch") for suffix in (".pth", ".safetensors", ".npz")]
WRITTEN += [(suffix, "keras") for suffix in (".h5", ".weights.h5", ".keras", ".ckpt")]
WRITTEN += [(".ckpt", "tensorflow"), (".pdparams", "paddle"), (".ckpt", "mindspore"), (".onnx", "onnx")]
PUBLISHED = sorted({(i.family.name, p.depth) for i in library().implementations for p in i.published})


def sparse(family: str, depth: Depth, head: bool, dtype: str, attributes: dict[str, float]) -> Model:
    """A network of the fewest channels, its weights random: all that counts is that they come back."""
    found = families()[family]
    values = {**found.attributes, **attributes}
    rng = np.random.default_rng(0)
    weights, width = {}, {"image": 3}
    for layer in found.build(depth, head, values):
        inputs = width[layer.inputs[0]]
        outputs = width[layer.name] = max(layer.width // 64, 1) if layer.width else 4 if layer.op == "linear" else inputs
        sizes = {"H": layer.kernel, "W": layer.kernel, "I": inputs, "O": outputs, "C": inputs}
        for parameter, axes in layer.parameters.items():
            shape = tuple(sizes[axis] for axis in axes.split())
            weights[f"{layer.name}.{parameter}"] = Tensor.of(rng.uniform(0.5, 1, shape).astype(dtype))
    told = {name: Attribute(value, "test") for name, value in values.items()}
    return Model(found, depth, head, told, weights, implementation=ZOO[family])


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "framework"), WRITTEN)
@pytest.mark.parametrize(("family", "depth"), PUBLISHED)
@pytest.mark.parametrize("head", [True, False], ids=["head", "headless"])
def test_every_published_network_comes_back_from_every_format(
    tmp_path: Path, family: str, depth: Depth, head: bool, suffix: str, framework: str
) -> None:
    """Its weights to the bit and its attributes, also in half precision."""
    known = library()
    odd = {
        "bn_epsilon": 2e-3,
        "bn_momentum": 0.97,
        **({"exit_dilation": 2, "head_scale": 0.5} if family == "xception_aligned" else {}),
    }
    for dtype in ("float32", "float16"):
        model = sparse(family, depth, head, dtype, odd)
        zoo = known.customary(known.dialects[framework], model.family, depth)
        own = known.dialects[zoo.dialect]
        form = formats.format_for_writing(tmp_path / f"a{suffix}", own.family)
        written = save(model, zoo, known.dialects[form.dialects.get(own.family, own.name)])
        assert form.write
        form.write(tmp_path / f"a{suffix}", written)
        found = load(tmp_path / f"a{suffix}", implementation=zoo.name)
        assert (found.family, found.depth, found.head, found.values) == (model.family, depth, head, model.values)
        assert same_weights(model, found)
        for path in tmp_path.iterdir():
            path.unlink()


@pytest.mark.slow
def test_paddles_table_of_names_goes_with_the_names(tmp_path: Path) -> None:
    table = {"StructuredToParameterName@@": '{"_fc.weight": "fc_weights"}'}
    model = narrow(1, family="xception_aligned", **PADDLE)._replace(implementation="paddleclas", metadata=table)
    source = tmp_path / "a.safetensors"
    assert safetensors.FORMAT.write
    safetensors.FORMAT.write(source, checkpoint(model, "paddleclas")._replace(metadata=table))
    convert(source, tmp_path / "b.pdparams", to="paddleclas", verify=False)
    convert(tmp_path / "b.pdparams", tmp_path / "c.pdparams", to="paddle", verify=False)
    convert(tmp_path / "b.pdparams", tmp_path / "d.npz", to="timm", accept=["exit_dilation"], verify=False)
    assert '"_fc.weight": "fc_weights"' in formats.read(tmp_path / "c.pdparams").metadata["StructuredToParameterName@@"]
    assert formats.read(tmp_path / "d.npz").metadata.keys() == {"xconvert"}


def test_a_graph_that_is_not_the_networks_is_refused() -> None:
    """An ONNX file states its graph: with another dilation than its record says, or an activation less, it is another network."""
    model = narrow(1, family="xception_aligned", **PADDLE)
    made = save(model, library().customary(library().dialects["onnx"], model.family, model.depth), library().dialects["onnx"])
    stated = tuple(layer._replace(width=0) for layer in model.layers)
    assert same_weights(model, interpret(made._replace(program=stated), "x.onnx"))
    nearer = tuple(layer._replace(dilation=1, padding=1) if layer.dilation == 2 else layer for layer in stated)
    for program, told in (
        (nearer, "at `exit.block2.sepconv1.depthwise`: padding 1, expected 2; dilation 1"),
        (stated[:-1], "missing"),
    ):
        with pytest.raises(NetworkError, match="does not compute the xception_aligned that its weights fit") as caught:
            interpret(made._replace(program=program), "x.onnx")
        assert told in caught.value.facts[0]
