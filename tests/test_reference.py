"""The NumPy reference against what the real implementations computed: logits and inner outputs, float64 and
float32."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tests.oracle import Oracle, oracle
from xconvert.backends import forward
from xconvert.backends.numpy import max_pool, output_size, pads
from xconvert.errors import UsageError
from xconvert.loading import interpret
from xconvert.model import Checkpoint, Layer, Model, Tensor

# Oracle, whose mapping reads it, and how far their own float32 and float64 runs are apart: the float32 tolerance.
NETWORKS = {
    "keras_applications.xception_top": ("keras.applications", 2e-6),
    "timm.legacy_xception": ("timm", 3e-6),
    "mindcv.xception": ("mindcv", 3e-6),
}
# Their names of inner outputs → ours: torch counts blocks from 1, MindCV from 0, Keras its additions.
INNER = {
    "bn1": "block1.conv1.bn",
    "bn4": "block14.sepconv2.bn",
    "block1_conv2_act": "block1.conv2.act",
    "block14_sepconv2_act": "block14.sepconv2.act",
    "add": "block2.add",
    **{f"block{n}": f"block{n + 1}.add" for n in range(1, 13)},
    **{f"blocks.{n}": f"block{n + 2}.add" for n in range(12)},
    **{f"add_{n}": f"block{n + 2}.add" for n in range(1, 12)},
}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request: pytest.FixtureRequest) -> tuple[Oracle, Model]:
    told = oracle(request.param)
    checkpoint = Checkpoint({name: Tensor.of(array) for name, array in told.checkpoint().items()})
    return told, interpret(checkpoint, request.param, implementation=NETWORKS[request.param][0])


@pytest.mark.parametrize("size", [75, 96, 150, 299])
def test_logits_are_those_of_the_real_network(network: tuple[Oracle, Model], size: int) -> None:
    told, model = network
    images = told.images(size)
    exact = told.answers.get(f"logits64_{size}")
    reference = told.answers[f"logits_{size}"] if exact is None else exact
    scale = np.abs(reference).max()
    ours = forward(model, images, dtype="float64")["logits"]
    allowed = 8 * NETWORKS[told.name][1] if exact is None else 1e-12
    assert np.abs(ours - reference).max() / scale < allowed
    single = forward(model, images, dtype="float32")["logits"]
    assert single.dtype == np.float32
    assert np.abs(single - reference).max() / scale < 8 * NETWORKS[told.name][1]


def test_inner_outputs_are_those_of_the_real_network(network: tuple[Oracle, Model]) -> None:
    told, model = network
    taps = {i: INNER[name] for i, name in enumerate(told.answers["block_names"].tolist()) if name in INNER}
    assert len(taps) == 14
    outputs = forward(model, told.images(96), dtype="float64", taps=sorted(set(taps.values())))
    for i, ours in taps.items():
        shape = tuple(n for n in told.answers["block_shapes"][i].tolist() if n)
        assert outputs[ours].shape == shape, ours
        flat = outputs[ours].ravel()
        picked = flat[(2 * np.arange(16) + 1) * flat.size // 32]
        scale = told.answers["block_stats"][i][1]
        assert np.abs(picked - told.answers["block_values"][i]).max() < 1e-4 * scale, ours
        assert abs(flat.std() - scale) < 1e-5 * scale, ours


def test_batching_changes_no_bit(network: tuple[Oracle, Model]) -> None:
    told, model = network
    images = told.images(75)
    together = forward(model, images)["logits"]
    assert all(np.array_equal(forward(model, images[i : i + 1])["logits"][0], together[i]) for i in range(len(images)))


def test_a_wrong_padding_is_seen_at_96_and_not_at_71(network: tuple[Oracle, Model]) -> None:
    _, model = network
    swapped = {"same_upper": "symmetric", "symmetric": "same_upper"}[model.values["pool_padding"]]
    attribute = dataclasses.replace(model.attributes["pool_padding"], value=swapped)
    other = dataclasses.replace(model, attributes={**model.attributes, "pool_padding": attribute})
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
