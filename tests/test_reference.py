"""The NumPy reference against what the real implementations computed: logits and inner outputs, float64 and
float32."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from tests.narrow import KERAS, TORCH, narrow
from tests.oracle import Oracle, oracle
from xconvert.backends import forward
from xconvert.backends.numpy import max_pool
from xconvert.errors import UsageError
from xconvert.loading import interpret
from xconvert.model import Attribute, Checkpoint, Layer, Model, Tensor
from xconvert.padding import output_size, pads

# Oracle → whose mapping reads it, and how far their own float32 and float64 runs are apart at the most, as a share of the largest
# logit (fixtures/oracles/README.md).
NETWORKS = {
    "keras_applications.xception_top": ("keras.applications", 2e-6),
    "timm.legacy_xception": ("timm", 3e-6),
    "mindcv.xception": ("mindcv", 3e-6),
    "paddleclas.Xception41": ("paddleclas", 2e-5),
    "paddleclas.Xception41_deeplab": ("paddleclas", 7e-6),
    "paddleclas.Xception65": ("paddleclas", 5e-5),
    "paddleclas.Xception65_deeplab": ("paddleclas", 3e-5),
    "paddleclas.Xception71": ("paddleclas", 1e-4),
    "tf_deeplab.xception_41": ("tf-deeplab", 9e-6),
    "tf_deeplab.xception_65": ("tf-deeplab", 9e-5),
    "tf_deeplab.xception_71": ("tf-deeplab", 6e-5),
    "timm.xception41": ("timm", 9e-6),
    "timm.xception41p": ("timm", 4e-6),
    "timm.xception65": ("timm", 2e-5),
    "timm.xception65p": ("timm", 8e-6),
    "timm.xception71": ("timm", 2e-5),
}
INSIDE = 5e-4  # of the standard deviation, for single values of float32 runs: growth with depth in semantics.md, 6
FAST = ("timm.xception41",)
# Their names of inner outputs of Chollet's network → ours: torch counts blocks from 1, MindCV from 0, Keras its additions.
INNER = [
    (r"bn1", "block1.conv1.bn"),
    (r"bn4", "block14.sepconv2.bn"),
    (r"(block1_conv2|block14_sepconv2)_act", lambda m: m[0].replace("_act", ".act").replace("_", ".", 1)),
    (r"block(\d+)", lambda m: f"block{int(m[1]) + 1}.add"),
    (r"blocks\.(\d+)", lambda m: f"block{int(m[1]) + 2}.add"),
    (r"add(?:_(\d+))?", lambda m: f"block{int(m[1] or 0) + 2}.add"),
]


def inner(told: Oracle, model: Model) -> dict[int, str]:
    """Index of an inner output → our layer."""
    found = {}
    for index, name in enumerate(told.answers["block_names"].tolist()):
        if ours := _ours(name, model):
            found[index] = ours
    return found


def _ours(name: str, model: Model) -> str:
    if model.family.name == "xception":
        for pattern, ours in INNER:
            if match := re.fullmatch(pattern, name):
                return ours(match) if callable(ours) else ours
        return ""
    layers = [layer.name for layer in model.layers]
    last = layers[-3]  # what is pooled
    ends = [n for n in layers if n.endswith(".add")]
    if match := re.fullmatch(r"(?:.*/entry_flow/conv1_|_entry_flow\._conv|_conv)([12])", name):
        return f"entry.conv{match[1]}.act"
    if name == "stem":
        return "entry.conv2" if model.family.name == "xception_preact" else "entry.conv2.act"
    if match := re.fullmatch(r"blocks\.(\d+)", name):
        before = last.replace("exit.act", "exit.block2.sepconv3.pointwise")
        return ends[int(match[1])] if int(match[1]) < len(ends) else before
    if match := re.fullmatch(r"_(entry|middle)_flow\._conv_(\d+)", name):
        return f"{match[1]}.block{int(match[2]) + 1}.add"
    if match := re.fullmatch(r"_exit_flow\._conv_(\d)", name):
        return ["exit.block1.add", "exit.block2.sepconv1.depthwise.bn", "exit.block2.sepconv2.depthwise.bn"][int(match[1])]
    if match := re.fullmatch(r"xception_\d+/(entry|middle)_flow/block(\d+)", name):
        return f"{match[1]}.block{match[2]}.add"
    if match := re.fullmatch(r"_exit_flow_([12])", name):
        return "exit.block1.add" if match[1] == "1" else last
    if match := re.fullmatch(r"xception_\d+/(\w+)_flow/block(\d+)/unit_(\d+)/xception_module(?:/(\w+))?", name):
        block = f"{match[1]}.block{match[3] if match[1] == 'middle' else match[2]}"
        return _tensorflow(block, match[4] or "")
    return {"act": "exit.act", "head.global_pool": "avg_pool"}.get(name, "")


def _tensorflow(block: str, part: str) -> str:
    """What slim calls a layer is its last operation: batch norm, and in the last block a ReLU."""
    end = ".act" if block == "exit.block2" else ".bn"
    if not part:
        return f"{block}.add" if end == ".bn" else f"{block}.sepconv3.pointwise.act"
    if part == "shortcut":
        return f"{block}.shortcut.bn"
    number, half = part.removeprefix("separable_conv").split("_")
    return f"{block}.sepconv{number}.{half}{end}"


@pytest.fixture(
    scope="module", params=[name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in NETWORKS]
)
def network(request: pytest.FixtureRequest) -> tuple[Oracle, Model]:
    told = oracle(request.param)
    checkpoint = Checkpoint({name: Tensor.of(array) for name, array in told.checkpoint().items()})
    model = interpret(checkpoint, request.param, implementation=NETWORKS[request.param][0])
    if model.implementation == "paddleclas":  # Paddle holds epsilon in float32, even in a float64 network
        rounded = Attribute(float(np.float32(model.values["bn_epsilon"])), "Paddle")
        model = model._replace(attributes={**model.attributes, "bn_epsilon": rounded})
    return told, model


@pytest.mark.parametrize("size", [75, *(pytest.param(size, marks=pytest.mark.slow) for size in (96, 150, 299))])
def test_logits_are_those_of_the_real_network(network: tuple[Oracle, Model], size: int) -> None:
    told, model = network
    images = told.images(size)
    exact = told.answers.get(f"logits64_{size}")
    reference = told.answers[f"logits_{size}"] if exact is None else exact
    scale = np.abs(reference).max()
    ours = forward(model, images, dtype="float64")["logits"]
    allowed = 8 * NETWORKS[told.name][1] if exact is None else 1e-11
    assert np.abs(ours - reference).max() / scale < allowed
    single = forward(model, images, dtype="float32")["logits"]
    assert single.dtype == np.float32
    assert np.abs(single - reference).max() / scale < 8 * NETWORKS[told.name][1]


def test_inner_outputs_are_those_of_the_real_network(network: tuple[Oracle, Model]) -> None:
    told, model = network
    taps = inner(told, model)
    assert len(taps) >= 14
    outputs = forward(model, told.images(96), dtype="float64", taps=sorted(set(taps.values())))
    for i, ours in taps.items():
        shape = tuple(n for n in told.answers["block_shapes"][i].tolist() if n)
        assert outputs[ours].shape == shape, ours
        flat = outputs[ours].ravel()
        picked = flat[(2 * np.arange(16) + 1) * flat.size // 32]
        scale = told.answers["block_stats"][i][1]
        assert np.abs(picked - told.answers["block_values"][i]).max() < INSIDE * scale, ours
        assert abs(flat.std() - scale) < INSIDE / 10 * scale, ours


@pytest.mark.slow
def test_batching_changes_no_bit(network: tuple[Oracle, Model]) -> None:
    told, model = network
    images = told.images(75)
    together = forward(model, images)["logits"]
    assert all(np.array_equal(forward(model, images[i : i + 1])["logits"][0], together[i]) for i in range(len(images)))


@pytest.mark.parametrize("attributes", [KERAS, TORCH])
def test_a_wrong_padding_is_seen_at_96_and_not_at_71(attributes: dict[str, Any]) -> None:
    model = narrow(**attributes)
    swapped = {"same_upper": "symmetric", "symmetric": "same_upper"}[model.values["pool_padding"]]
    attribute = model.attributes["pool_padding"]._replace(value=swapped)
    other = model._replace(attributes={**model.attributes, "pool_padding": attribute})
    rng = np.random.default_rng(0)
    for size, differs in ((71, False), (96, True)):
        images = rng.uniform(-1, 1, (1, size, size, 3)).astype(np.float32)
        a, b = (forward(m, images)["logits"] for m in (model, other))
        assert np.array_equal(a, b) is not differs


@pytest.mark.parametrize(("size", "expected"), [(147, (1, 1)), (74, (0, 1)), (37, (1, 1)), (19, (1, 1)), (224, (0, 1))])
def test_same_upper_pads_as_tensorflow_does(size: int, expected: tuple[int, int]) -> None:
    pool = Layer("p", "max_pool", ("image",), kernel=3, stride=2, padding="same_upper")
    assert pads(size, pool) == expected
    assert output_size(size, pool) == -(-size // 2)


def test_a_pool_of_negative_values_does_not_see_its_border() -> None:
    x = -np.arange(1.0, 17.0).reshape(4, 4, 1)
    pool = Layer("p", "max_pool", ("image",), kernel=3, stride=2, padding=1)
    assert max_pool(x, pool)[..., 0].tolist() == [[-1, -2], [-5, -6]]


def test_an_unknown_tap_and_a_wrong_image_are_told(network: tuple[Oracle, Model]) -> None:
    _, model = network
    with pytest.raises(UsageError, match=r"no layer is called `block3\.pol`"):
        forward(model, np.zeros((1, 75, 75, 3), np.float32), taps=["block3.pol"])
    with pytest.raises(UsageError, match=r"the network takes \(N, H, W, 3\)"):
        forward(model, np.zeros((1, 3, 75, 75), np.float32))


@pytest.mark.parametrize("name", ["cadene", "lornatang"])
def test_the_torch_zoos_answer_alike(name: str) -> None:
    """Their real classes gave the bits that timm's gave, for the same weights; so must their mappings."""
    theirs, timm = oracle(f"{name}.xception"), oracle("timm.legacy_xception")
    assert theirs.meta["weights_crc32"] == timm.meta["weights_crc32"]
    for size in (75, 96, 150, 299):
        assert np.array_equal(theirs.answers[f"logits64_{size}"], timm.answers[f"logits64_{size}"])
    tensors = {t["name"]: Tensor.of(np.broadcast_to(np.float32(0), t["shape"])) for t in theirs.inventory["tensors"]}
    a, b = (interpret(Checkpoint(tensors), name, implementation=n) for n in (name, "timm"))
    assert (a.values, a.depth, a.weights.keys()) == (b.values, b.depth, b.weights.keys())
    assert all(a.weights[n].shape == b.weights[n].shape for n in a.weights)
