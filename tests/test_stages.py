"""The laws of the reference's forward pass: how it is cut into stages and blocks, how many threads there are, what is computed
with what and who looks on, changes no bit; and it computes what the plain operations do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest

from tests.narrow import TORCH, changed, narrow
from xconvert import forward, serving
from xconvert.backends import Job, _pass, _stages, _threads, _walks
from xconvert.backends._graph import execute
from xconvert.backends._pass import ready
from xconvert.backends.numpy import OPERATIONS, run, serve
from xconvert.model import Array, Layer, Model, Tensor
from xconvert.parity import compare_networks, numpy_run
from xconvert.probe import images
from xconvert.weights import differences, sharing

NETWORKS: Mapping[str, dict[str, Any]] = {
    "keras": {},
    "torch, headless": {**TORCH, "head": False, "channels": 4},
    "aligned, dilated": {"family": "xception_aligned", "exit_dilation": 2, "head_scale": 0.5},
    "pre-activation": {"family": "xception_preact"},
    "paddleclas": {"family": "xception_paddleclas"},
}
RNG = np.random.default_rng(0)


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Model:
    return narrow(1, **NETWORKS[request.param])


@pytest.fixture
def finely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Narrow maps cut as full-size ones are."""
    for name, value in {"BYTES": 5000, "PIXELS": 6, "FEW": 30, "CHANNELS": 8}.items():
        monkeypatch.setattr(_stages, name, value)


def probe(model: Model, batch: int = 3) -> Array:
    return images(75, batch, model.weights[f"{model.layers[0].name}.weight"].shape[2])


def same(a: Mapping[str, Array], b: Mapping[str, Array]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in a.keys() & b.keys())


@pytest.mark.usefixtures("finely")
@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_batches_taps_and_repetition_change_no_bit(network: Model, dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    x, few = probe(network), [layer.name for layer in network.layers[3::5]]
    monkeypatch.setenv(_threads.SETTING, "1")
    expected = forward(network, x, dtype=dtype, taps="all")
    assert expected[network.layers[-1].name].dtype == dtype
    for threads in ("1", "2", "5"):
        monkeypatch.setenv(_threads.SETTING, threads)
        for taps in ((), few, "all"):
            assert same(forward(network, x, dtype=dtype, taps=taps), expected)
    monkeypatch.setattr(_pass, "MAPS", 1)  # one image waits for the other
    assert same(forward(network, x, dtype=dtype, taps="all"), expected)
    alone = [forward(network, x[i : i + 1], dtype=dtype, taps=few) for i in range(len(x))]
    assert same({name: np.concatenate([each[name] for each in alone]) for name in alone[0]}, expected)


def plain(layers: tuple[Layer, ...], weights: Mapping[str, Array], image: Array) -> dict[str, Array]:
    """Every output by the operations on whole maps, one after the other."""

    def step(layer: Layer, inputs: list[Array]) -> Array:
        return OPERATIONS[layer.op](*inputs, layer, *(weights[f"{layer.name}.{parameter}"] for parameter in layer.parameters))

    return execute(layers, image, step, [layer.name for layer in layers])


@pytest.mark.usefixtures("finely")
def test_it_computes_what_the_plain_operations_do(network: Model) -> None:
    x = probe(network, 1).astype(np.float64)
    weights = {name: tensor.read().astype(np.float64) for name, tensor in network.weights.items()}
    expected = plain(network.layers, weights, x[0])
    for name, output in run(Job(network.layers, weights, x, "float64", tuple(expected))).items():
        np.testing.assert_allclose(output[0], expected[name], rtol=1e-9, atol=1e-11, err_msg=name)


ODD = (  # what no network of ours does, but a graph may
    Layer("start", "relu", ("image",)),
    Layer("wide", "depthwise", ("start",), kernel=3, padding=1),
    Layer("pool", "max_pool", ("start",), kernel=3, stride=2, padding=1),  # another border of the same map
    Layer("far", "depthwise", ("wide",), kernel=3, padding=2, dilation=2),
    Layer("twice", "add", ("far", "far")),
    Layer("skipped", "add", ("start", "twice")),
    Layer("nobody", "relu", ("skipped",)),
    Layer("mixed", "conv", ("pool",), kernel=2, padding="same_upper", dilation=2),
    Layer("mixed.bn", "batch_norm", ("mixed",), epsilon=1e-3),
    Layer("next", "pointwise", ("mixed.bn",)),
    Layer("mean", "global_average", ("next",)),
    Layer("positive", "relu", ("mean",)),
    Layer("classes", "linear", ("positive",), scale=0.5),
)
SHAPES = {
    "wide.weight": (3, 3, 5),
    "far.weight": (3, 3, 5),
    "mixed.weight": (2, 2, 5, 24),
    **{f"mixed.bn.{parameter}": (24,) for parameter in ("gamma", "beta", "mean", "variance")},
    "next.weight": (24, 40),
    "classes.weight": (40, 7),
    "classes.bias": (7,),
}


@pytest.mark.usefixtures("finely")
def test_any_graph_is_computed() -> None:
    weights = {name: RNG.uniform(0.5, 1.5, shape) for name, shape in SHAPES.items()}
    x = RNG.standard_normal((1, 13, 17, 5))
    expected = plain(ODD, weights, x[0])
    for taps in ((), ("skipped", "wide"), tuple(expected)):
        for name, output in run(Job(ODD, weights, x, "float64", taps)).items():
            np.testing.assert_allclose(output[0], expected[name], rtol=1e-12, atol=1e-12, err_msg=name)


def test_weights_that_are_not_finite_raise_no_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_threads.SETTING, "2")
    model = narrow(1)
    weight = model.weights["block3.sepconv1.pointwise.weight"].read().copy()
    weight[0, 0], weight[1, 1] = np.inf, np.nan
    huge = np.full(model.weights["block2.sepconv1.bn.gamma"].shape, 1e300)  # too large for float32
    broken = changed(model, block3__sepconv1__pointwise__weight=weight, block2__sepconv1__bn__gamma=huge)
    for dtype in ("float32", "float64"):
        assert np.isnan(forward(broken, probe(model), dtype=dtype)["logits"]).all()


def test_a_weight_is_copied_only_where_it_must_be() -> None:
    memory = _pass.Memory()
    stored = [np.ones((4, 5), np.float32), np.arange(20, dtype=np.float32).reshape(5, 4).T]
    as_it_is, on_its_side = [Tensor.of(array).read for array in stored]
    copies = _pass.Copies("float32", memory)
    copies.expect([as_it_is, on_its_side], passes=2)
    with _pass.Workers() as workers:
        first, turned = copies.take([as_it_is, on_its_side], workers)
    assert first is stored[0]
    assert turned.flags.c_contiguous
    assert np.array_equal(turned, stored[1])
    copies.done(on_its_side)
    with _pass.Workers() as workers:
        assert copies.take([on_its_side], workers)[0] is turned  # the other pass needs it too
        (wide,) = _pass.Copies("float64", memory).take([on_its_side], workers)
    assert (wide.dtype, wide.tolist()) == (np.float64, turned.tolist())


@pytest.mark.parametrize("shape", [(160, 160), (1, 30000), (3, 3, 4000), (257, 129)])
def test_a_large_weight_is_copied_whole_by_all_workers(shape: tuple[int, ...]) -> None:
    stored = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    with _pass.Workers() as workers:
        for array in (stored, stored.T):
            (copy,) = _pass.Copies("float64", _pass.Memory()).take([Tensor.of(array).read], workers)
            assert copy.flags.c_contiguous
            assert np.array_equal(copy, array.astype(np.float64))


class Counted(dict[str, Array]):
    """Weights that count how often each is read."""

    def __init__(self, weights: Mapping[str, Array]) -> None:
        super().__init__(weights)
        self.reads = dict.fromkeys(weights, 0)

    def __getitem__(self, name: str) -> Array:
        self.reads[name] += 1
        return super().__getitem__(name)

    items = Mapping.items  # type: ignore[assignment]  # by way of the above


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_to_serve_weights_are_read_and_copied_once(dtype: str) -> None:
    model = narrow(1)
    turned = {name: np.asfortranarray(tensor.read()) for name, tensor in model.weights.items()}
    weights, x = Counted(turned), probe(model)
    answer = serve(Job(model.layers, weights, x[:0], dtype))
    assert set(weights.reads.values()) == {1}
    expected = run(Job(model.layers, turned, x, dtype))[model.layers[-1].name]
    for batch in (x, x[:1], x):
        assert np.array_equal(answer(batch), expected[: len(batch)])
    assert set(weights.reads.values()) == {1}
    assert all(ready(array, np.dtype(dtype)) is array for array in (ready(each, np.dtype(dtype)) for each in turned.values()))


def test_what_a_file_holds_is_let_go_of_while_it_is_made_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    model, let_go = narrow(1), []
    monkeypatch.setattr(serving, "let_go", lambda: let_go.append(1))
    answer = serving.reference(model)
    assert len(let_go) == len(model.weights)
    assert np.array_equal(answer(probe(model)), forward(model, probe(model))["logits"])


def test_no_array_of_others_is_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights and images may be views of a file that is mapped."""
    monkeypatch.setattr(_pass, "SMALL", 0)
    model = narrow(1)
    held = {name: np.frombuffer(bytearray(tensor.read().tobytes()), np.uint8) for name, tensor in model.weights.items()}
    weights = {name: held[name].view(np.float32).reshape(tensor.shape) for name, tensor in model.weights.items()}
    x = np.frombuffer(bytearray(probe(model).tobytes()), np.uint8).view(np.float32).reshape(3, 75, 75, 3)
    answers = [run(Job(model.layers, weights, x))["predictions"] for _ in range(2)]
    assert np.array_equal(*answers)
    assert np.array_equal(x, probe(model))
    assert all(np.array_equal(weights[name], tensor.read()) for name, tensor in model.weights.items())


@pytest.mark.slow
def test_memory_is_kept_for_the_next_pass_and_does_not_grow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_pass, "SMALL", 0)
    monkeypatch.setattr(_pass, "_idle", [])
    model, sizes = narrow(1), []
    for _ in range(6):
        compare_networks(model, numpy_run(model), (75,), calibrated=True)
        (memory,) = _pass._idle
        sizes.append(memory.reclaimed())
    assert 0 < sizes[5] == sizes[4] < 1.1 * sizes[0]
    monkeypatch.setattr(_pass, "KEPT", 0)
    forward(model, probe(model))
    assert not _pass._idle


def scripted(names: str, done: list[str]) -> Iterator[_pass.Made | list[_threads.Task]]:
    """A pass that makes one layer after another in the same memory, with a task before each."""
    memory = np.zeros(2)
    for i, name in enumerate(names):
        yield [lambda _, name=name: done.append(name)]  # type: ignore[misc]
        memory[:] = i
        yield _pass.Made(name, [memory])


def test_layers_are_shown_in_the_order_in_which_they_are_asked_for() -> None:
    with _threads.Workers() as workers:
        shown = _walks.Together(workers).add("abc", scripted("abc", []))
        asked = [output[0].tolist() if (output := shown.output(name)) else None for name in "bacda"]
    assert asked == [[1, 1], [0, 0], [2, 2], None, None]


def test_passes_wait_for_each_other_at_every_layer_and_lose_no_output() -> None:
    done: list[str] = []
    with _threads.Workers() as workers:
        together = _walks.Together(workers)
        first, second, third = (together.add(names, scripted(names, done)) for names in ("abc", "bxc", "xy"))
        assert first.output("b")
        assert sorted(done) == ["a", "b", "b"]  # the third has no such layer, and stays where it is
        assert [array.tolist() for array in third.output("y") or []] == [[1, 1]]
        assert sorted(done) == ["a", "b", "b", "x", "y"]
        assert [[array.tolist() for array in second.output(name) or []] for name in "cxb"] == [[[2, 2]], [[1, 1]], [[0, 0]]]
        assert [[array.tolist() for array in first.output(name) or []] for name in "ca"] == [[[2, 2]], [[0, 0]]]
    assert sorted(done) == [*"abbccxxy"]


def test_networks_share_the_tensors_that_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, other = narrow(1), narrow(1)
    reads = Counter[str]()
    counted = {n: t._replace(read=lambda n=n, t=t: (reads.update([n]), t.read())[1]) for n, t in other.weights.items()}
    other = other._replace(weights=counted)
    name = "block3.sepconv1.pointwise.weight"
    damaged = changed(other, block3__sepconv1__pointwise__weight=other.weights[name].read() * 1.001)
    shared = sharing(model, damaged, differences(model, damaged))
    assert {n for n, tensor in shared.weights.items() if tensor is not model.weights[n]} == {name}
    reads.clear()
    parity = compare_networks(model, numpy_run(shared), (75,), calibrated=False)
    assert not reads
    assert next(error.name for error in parity.layers if not error.ok) == "block3.sepconv1.pointwise"


@pytest.mark.parametrize(
    ("length", "count", "unit", "ends"),
    [(19, 2, 1, [10, 19]), (7, 0, 1, [7]), (728, 2, 16, [368, 728]), (16, 2, 16, [16]), (2, 4, 1, [1, 2]), (20, 3, 16, [16, 20])],
)
def test_parts_cover_a_map_and_the_larger_come_first(length: int, count: int, unit: int, ends: list[int]) -> None:
    parts = _stages.parts(length, count, unit)
    assert [part.stop for part in parts] == ends
    assert [part.start for part in parts] == [0, *ends[:-1]]


def test_blas_has_its_threads_back() -> None:
    known = _threads._blas()
    if known is None:
        pytest.skip("NumPy has a BLAS of which this is not known")
    before = known[0]()
    with _threads.Workers() as workers:
        assert known[0]() == 1
        done: list[int] = []
        workers.do([lambda _, i=i: done.append(i) for i in range(9)])  # type: ignore[misc]
        assert sorted(done) == [*range(9)]
        with pytest.raises(ZeroDivisionError):
            workers.do([lambda _: 1 // 0] * 3)  # type: ignore[list-item]
        workers.do([done.append] * 3)  # it can go on
        assert len(done) == 12
    assert known[0]() == before


@pytest.mark.parametrize(("told", "expected"), [("3", 3), ("0", None), ("many", None), ("", None)])
def test_the_number_of_threads_is_a_setting(told: str, expected: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(_threads.SETTING, told)
    assert _threads.threads() == expected if expected else 1 <= _threads.threads() <= _threads.MOST
