"""One step of training by the reference: its derivatives against finite differences, what the comparison tells and excuses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.graphs import GRAPHS, graph
from tests.narrow import changed, narrow
from xconvert import training
from xconvert.backends import Job, backends, train
from xconvert.backends._gradients import DERIVATIVES, Doubt, cross_entropy, half_mean_square, moments, normalised
from xconvert.backends._gradients import train as step
from xconvert.backends.numpy import OPERATIONS
from xconvert.compare import EXACT
from xconvert.errors import UsageError, VerificationError
from xconvert.model import Array, Attribute, Layer, Model
from xconvert.probe import images
from xconvert.reconcile import reconcile
from xconvert.report import Step
from xconvert.training import compare_step, compare_step_backend

H = 1e-5  # central differences are off by about H² and 1e-16 / H


def outputs(layer: Layer, inputs: Sequence[Array], parameters: Sequence[Array]) -> Array:
    if layer.op == "batch_norm":
        return normalised(inputs[0], layer, *parameters)
    return np.stack([OPERATIONS[layer.op](*maps, layer, *parameters) for maps in zip(*inputs, strict=True)])


def distinct(rng: np.random.Generator, *shape: int) -> Array:
    """Numbers around zero, of which no two, and none and zero, are closer than 1e-3: no step of ``H`` turns a ReLU or a pool."""
    count = int(np.prod(shape))
    return (rng.permutation(count) - count // 2 + 0.5).reshape(shape) / max(count / 4, 1)


def assert_derivative(layer: Layer, inputs: Sequence[Array], parameters: Mapping[str, Array], seed: int = 0) -> None:
    """Along a random direction of every input and parameter the layer changes as its derivative says."""
    rng = np.random.default_rng(seed)
    arrays = [*inputs, *parameters.values()]
    directions = [rng.standard_normal(a.shape) for a in arrays]
    for name in ("mean", "variance"):  # stored statistics play no part
        if name in parameters:
            directions[len(inputs) + list(parameters).index(name)][:] = 0

    def moved(h: float) -> Array:
        points = [a + h * d for a, d in zip(arrays, directions, strict=True)]
        return outputs(layer, points[: len(inputs)], points[len(inputs) :])

    cotangent = rng.standard_normal(moved(0).shape)
    numeric = np.vdot(cotangent, moved(H) - moved(-H)) / (2 * H)
    back, own = DERIVATIVES[layer.op](cotangent, layer, *inputs, *parameters.values())
    assert [b.shape for b in back] == [x.shape for x in inputs]
    assert {name: g.shape for name, g in own.items()} == {
        n: a.shape for n, a in parameters.items() if n not in ("mean", "variance")
    }
    parts = [np.vdot(g, d) for g, d in zip([*back, *own.values()], directions, strict=False)]
    scale = np.linalg.norm(cotangent) * np.linalg.norm((moved(H) - moved(-H)) / (2 * H))
    assert abs(sum(parts) - numeric) <= 1e-6 * scale


@given(
    op=st.sampled_from(["conv", "depthwise", "max_pool"]),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    padding=st.sampled_from([0, 1, 2, "same_upper"]),
    size=st.tuples(st.integers(5, 8), st.integers(5, 8)),
    seed=st.integers(0, 99),
)
def test_windows_change_as_their_derivatives_say(
    op: str, kernel: int, stride: int, dilation: int, padding: int | str, size: tuple[int, int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    if op == "max_pool":
        dilation = 1
        padding = min(padding, kernel - 1) if isinstance(padding, int) else padding  # else a window is all border
    layer = Layer("x", op, ("image",), kernel, stride, padding, dilation=dilation)
    shapes = {"conv": (kernel, kernel, 3, 2), "depthwise": (kernel, kernel, 3)}
    weights = {"weight": rng.standard_normal(shapes[op])} if op in shapes else {}
    assert_derivative(layer, [distinct(rng, 2, *size, 3)], weights, seed)


@given(count=st.integers(2, 4), size=st.integers(1, 5), seed=st.integers(0, 99), scale=st.sampled_from([1.0, 0.5]))
def test_other_layers_change_as_their_derivatives_say(count: int, size: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    x, y = distinct(rng, count, size, size, 3), rng.standard_normal((count, size, size, 3))
    vectors = {"gamma": rng.uniform(0.5, 1.5, 3), "beta": rng.standard_normal(3), "mean": np.zeros(3), "variance": np.ones(3)}
    cases: list[tuple[Layer, list[Array], dict[str, Array]]] = [
        (Layer("x", "pointwise", ("image",)), [x], {"weight": rng.standard_normal((3, 4))}),
        (Layer("x", "batch_norm", ("image",), epsilon=0.1), [x], vectors),
        (Layer("x", "relu", ("image",)), [x], {}),
        (Layer("x", "add", ("image", "image")), [x, y], {}),
        (Layer("x", "global_average", ("image",)), [x], {}),
        (
            Layer("x", "linear", ("image",), scale=scale),
            [y[:, 0, 0]],
            {"weight": rng.standard_normal((3, 4)), "bias": rng.standard_normal(4)},
        ),
    ]
    for layer, inputs, parameters in cases:
        assert_derivative(layer, inputs, parameters, seed)


@pytest.mark.parametrize("loss", [lambda x: cross_entropy(x, np.array([1, 0, 3])), half_mean_square])
def test_losses_change_as_their_derivatives_say(loss: Callable[[Array], tuple[float, Array]]) -> None:
    rng = np.random.default_rng(0)
    x, d = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    numeric = (loss(x + H * d)[0] - loss(x - H * d)[0]) / (2 * H)
    assert np.vdot(loss(x)[1], d) == pytest.approx(numeric, rel=1e-7)


def test_cross_entropy_is_the_mean_of_what_the_labels_are_worth() -> None:
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]]) + np.array([[1000.0], [-1000.0]])  # large logits overflow nothing
    assert cross_entropy(logits, np.array([1, 1]))[0] == pytest.approx(-(np.log(0.25) + np.log(0.8)) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", GRAPHS)
def test_a_network_changes_as_its_gradients_say(name: str) -> None:
    """Along the gradient itself: a mistake in any part of it would show in the length."""
    layers, weights = graph(name)
    labels = np.array([1, 4]) if layers[-1].op == "linear" else None
    job = Job(layers, weights, images(64, 2), "float64", labels=labels)
    gradients = {n: g for n, g in step(job).items() if n != "loss" and not n.endswith(("mean", "variance"))}
    for rows in (gradients, {n: g for n, g in gradients.items() if n.endswith(("gamma", "beta"))}):
        h = 1e-6 / np.sqrt(sum(np.vdot(g, g) for g in rows.values()))

        def loss(h: float, rows: Mapping[str, Array] = rows) -> float:
            moved = {n: a.astype(np.float64) + h * rows.get(n, 0.0) for n, a in weights.items()}
            return float(step(job._replace(weights=moved))["loss"])

        slope = sum(float(np.vdot(g, g)) for g in rows.values())
        assert (loss(h) - loss(-h)) / (2 * h) == pytest.approx(slope, rel=1e-5)


def test_the_first_of_several_largest_pixels_gets_the_gradient() -> None:
    pool = Layer("p", "max_pool", ("image",), kernel=3, stride=2, padding=1)
    x = np.zeros((1, 4, 4, 1))
    (back,), _ = DERIVATIVES["max_pool"](np.arange(1.0, 5).reshape(1, 2, 2, 1), pool, x)
    assert back[0, :, :, 0].tolist() == [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


def test_a_relu_at_zero_lets_nothing_pass() -> None:
    (back,), _ = DERIVATIVES["relu"](np.ones(3), Layer("r", "relu", ("image",)), np.array([-1.0, 0, 1]))
    assert back.tolist() == [0, 0, 1]


def test_doubt_touches_what_is_within_its_margin_alone() -> None:
    rng = np.random.default_rng(0)
    x = distinct(rng, 1, 8, 8, 5)
    gradient = np.ones_like(x)
    relu = Layer("r", "relu", ("image",))
    (sure,), _ = DERIVATIVES["relu"](gradient, relu, x)
    (doubted,), _ = DERIVATIVES["relu"](gradient, relu, x, Doubt(0.5, rng))
    assert ((doubted != sure) == (np.abs(x) < 0.5)).all()
    assert set(np.unique(doubted - sure)) == {-1.0, 0.0, 1.0}
    pool = Layer("p", "max_pool", ("image",), kernel=2, stride=2)
    y = np.array([[5.0, 4.9], [1, 0]])[None, :, :, None]
    (moved,), _ = DERIVATIVES["max_pool"](np.ones((1, 1, 1, 1)), pool, y, Doubt(0.2, rng))
    assert moved[0, :, :, 0].tolist() in ([[0, 1], [0, 0]], [[2, -1], [0, 0]])
    (kept,), _ = DERIVATIVES["max_pool"](np.ones((1, 1, 1, 1)), pool, y, Doubt(0.05, rng))
    assert kept[0, :, :, 0].tolist() == [[1, 0], [0, 0]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_statistics_keep_their_share_and_take_the_rest_of_the_batch(dtype: str) -> None:
    model = narrow(1, bn_momentum=0.75)
    x = images(64, 3)
    out = train(model, x, np.array([0, 1, 2]), dtype=dtype, taps=["block1.conv1"])
    mean, variance = moments(out["block1.conv1"].astype(np.float64))
    for name, now in (("mean", mean), ("variance", variance)):
        old = model.weights[f"block1.conv1.bn.{name}"].read().astype(np.float64)
        np.testing.assert_allclose(
            out[f"block1.conv1.bn.{name}"], 0.75 * old + 0.25 * now, rtol=1e-4 if dtype == "float32" else 1e-12
        )
    assert {array.dtype for array in out.values()} == {np.dtype(dtype)}
    assert out.keys() == {"loss", "block1.conv1", *model.weights}


def test_labels_that_do_not_fit_are_told() -> None:
    model, x = narrow(0), images(64, 2)
    for labels in (None, np.array([1]), np.array([0.5, 1.5])):
        with pytest.raises(UsageError, match="trained with a label for each of the 2 images"):
            train(model, x, labels)
    with pytest.raises(UsageError, match="the labels are classes 0 to 9, found 3 to 10"):
        train(model, x, np.array([3, 10]))
    with pytest.raises(UsageError, match=r"the network takes \(N, H, W, 3\)"):
        train(model, x.transpose(0, 3, 1, 2), np.array([3, 1]))


def test_every_backend_trains_or_says_why_not() -> None:
    for backend in backends().values():
        assert (backend.train is None) == bool(backend.untrained), backend.name


def parted(found: Step) -> list[str]:
    return [error.name for error in (found.loss, *found.gradients, *found.statistics) if not error.ok]


@pytest.mark.parametrize("head", [True, False])
def test_a_network_takes_the_step_that_it_takes(head: bool) -> None:
    model = narrow(1, head=head)
    found = compare_step(model, model, batch=2)
    assert found.ok
    assert not found.reasons
    assert found.losses[0] == found.losses[1] > 0
    trained = [n for n in model.weights if not n.endswith(("mean", "variance"))]
    assert [error.name for error in found.gradients] == trained
    assert [error.name for error in found.statistics] == [n for n in model.weights if n not in trained]
    assert all(error.allowed == EXACT and error.relative == 0 and error.cosine > 0.999 for error in found.gradients)


def told(model: Model, **values: Any) -> Model:
    """``model`` said to have other attributes, its weights as they are."""
    return model._replace(attributes={**model.attributes, **{n: Attribute(v, "test") for n, v in values.items()}})


def test_another_momentum_moves_the_statistics_alone() -> None:
    model = narrow(1, bn_momentum=0.99)
    found = compare_step(model, told(model, bn_momentum=0.9), batch=2)
    assert parted(found) == [error.name for error in found.statistics]
    assert found.reasons == (f"`bn_momentum` is 0.99 and 0.9: {training.PARTS['bn_momentum']}",)


def test_a_folded_epsilon_is_exact_in_inference_alone() -> None:
    model = narrow(1, bn_epsilon=1e-3)
    folded, _ = reconcile(model, {"bn_epsilon": 1e-5})
    found = compare_step(model, folded, batch=2)
    assert not found.loss.ok
    assert not all(error.ok for error in found.gradients)
    assert found.reasons == (f"`bn_epsilon` is 0.001 and 1e-05: {training.PARTS['bn_epsilon']}",)


def test_a_folded_scale_makes_another_gradient_of_one_weight() -> None:
    model = narrow(1, "xception_aligned", head_scale=0.5)
    folded, _ = reconcile(model, {"head_scale": 1.0})
    found = compare_step(model, folded, batch=2)
    assert parted(found) == ["predictions.weight"]
    assert next(e for e in found.gradients if e.name == "predictions.weight").relative == pytest.approx(1.0)
    assert "head_scale" in found.reasons[0]


def test_one_weight_that_differs_is_seen() -> None:
    model = narrow(1)
    gamma = model.weights["block7.sepconv2.bn.gamma"].read().copy()
    gamma[0] *= 1 + 1e-5
    assert not compare_step(model, changed(model, block7__sepconv2__bn__gamma=gamma), batch=2).ok


@pytest.mark.slow
def test_a_beta_that_gets_no_gradient_raises_no_alarm() -> None:
    """The next batch norm takes out what it adds, so what it gets is rounding: compared with itself it would part."""
    model = narrow(1, "xception_aligned")
    found = compare_step_backend(model, model, "numpy", "float64", batch=2)
    (error,) = (e for e in found.gradients if e.name == "entry.block1.sepconv1.depthwise.bn.beta")
    gamma = train(model, images(96, 2), np.array([0, 1]), dtype="float64")["entry.block1.sepconv1.depthwise.bn.gamma"]
    assert error.scale < 1e-12 * np.abs(gamma).max()
    single = compare_step_backend(model, model, "numpy", "float32", batch=2)
    assert single.ok, parted(single)


def test_a_step_that_is_not_finite_is_told() -> None:
    model = narrow(1)
    broken = changed(model, predictions__bias=np.full(10, np.nan, np.float32))
    with pytest.raises(VerificationError, match="the reference's own step of training is not finite"):
        compare_step(broken, model, batch=2)
    assert not compare_step(model, broken, batch=2).ok


@pytest.mark.slow
@pytest.mark.parametrize("family", ["xception", "xception_aligned", "xception_preact", "xception_paddleclas"])
def test_float32_raises_no_alarm(family: str) -> None:
    for seed in range(3):
        model = narrow(1, family, seed=seed)
        found = compare_step_backend(model, model, "numpy", "float32", seed=seed)
        assert found.ok, parted(found)
        assert all(error.rounding > 0 for error in found.statistics)


Fault = Callable[[dict[str, Array], Model], None]


def frozen(out: dict[str, Array], model: Model) -> None:
    out["block3.sepconv1.pointwise.weight"] *= 0


def frozen_vector(out: dict[str, Array], model: Model) -> None:
    out["block3.shortcut.bn.gamma"] *= 0


def left_out(out: dict[str, Array], model: Model) -> None:
    """A batch norm that stayed in inference mode moves nothing."""
    for name in ("mean", "variance"):
        out[f"block7.sepconv2.bn.{name}"] = model.weights[f"block7.sepconv2.bn.{name}"].read()


def unbiased(out: dict[str, Array], model: Model) -> None:
    """The variance of the last map, of 36 pixels, divided by 35."""
    name = "block7.sepconv2.bn.variance"
    old = model.weights[name].read()
    out[name] = old * np.float32(0.99) + (out[name] - old * np.float32(0.99)) * np.float32(36 / 35)


def missing(out: dict[str, Array], model: Model) -> None:
    del out["block2.shortcut.conv.weight"]


def halved(out: dict[str, Array], model: Model) -> None:
    """A loss that is summed over half of the batch."""
    out["loss"] = out["loss"] / 2


@pytest.mark.slow
@pytest.mark.parametrize("fault", [frozen, frozen_vector, left_out, unbiased, missing, halved], ids=lambda fault: fault.__name__)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_a_framework_does_wrong_is_seen(fault: Fault, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step that was really taken, and then one number of it spoiled as a fault would."""
    model = narrow(1)
    assert model.values["bn_momentum"] == 0.99

    def faulty(*arguments: Any, **options: Any) -> dict[str, Array]:
        out = train(*arguments, **options)
        before = set(out), {name: array.copy() for name, array in out.items()}
        fault(out, model)
        spoiled.extend(n for n in before[0] if n not in out or not np.array_equal(out[n], before[1][n]))
        return out

    spoiled: list[str] = []
    monkeypatch.setattr(training, "train", faulty)
    found = compare_step_backend(model, model, "numpy", dtype)
    assert spoiled
    assert set(parted(found)) == set(spoiled)
