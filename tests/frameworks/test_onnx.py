"""ONNX' own checker takes what is written, ONNX Runtime computes it, and what onnx writes is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.frameworks.nets import apart, network
from tests.graphs import GRAPHS, graph, graph_checkpoint
from xconvert.backends import Job, backends, forward
from xconvert.backends.numpy import run
from xconvert.errors import UnreadableError, UsageError
from xconvert.formats import read
from xconvert.formats.onnx import write
from xconvert.model import Array, Layer
from xconvert.probe import images

pytestmark = [
    pytest.mark.framework,
    pytest.mark.skipif(not backends()["onnx"].installed, reason="onnxruntime is not installed"),
]

# Nothing but ONNX' own packages: what a stranger would do with the file.
COMPUTE = """
import sys
import numpy as np, onnx, onnxruntime
onnx.checker.check_model(sys.argv[1], full_check=True)
model = onnx.load(sys.argv[1])
assert [i.name for i in model.graph.input] == ["image"]
print(*(node.name for node in model.graph.node))
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
told = dict(np.load(sys.argv[2]))
np.savez(sys.argv[2], **{n: session.run(None, {"image": x.transpose(0, 3, 1, 2)})[0] for n, x in told.items()})
"""
RESAVE = """
import sys
import onnx
model = onnx.load(sys.argv[1])
onnx.save(model, sys.argv[2])
onnx.save(model, sys.argv[3], save_as_external_data=True, location="x.data", size_threshold=0)
"""


def python(code: str, *arguments: Path) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def computed(layers: tuple[Layer, ...], weights: dict[str, Array], x: Array, dtype: str = "float64") -> Array:
    return run(Job(layers, weights, x, dtype))[layers[-1].name]


@pytest.mark.parametrize("name", GRAPHS)
def test_onnx_runtime_computes_what_is_written(name: str, tmp_path: Path) -> None:
    layers, weights = graph(name)
    write(tmp_path / "x.onnx", graph_checkpoint(layers, weights, metadata={"xconvert": "{}"}))
    batches = [images(75, 2), images(96, 1)[:, :, :80]]
    np.savez(tmp_path / "x.npz", *batches)
    nodes = python(COMPUTE, tmp_path / "x.onnx", tmp_path / "x.npz").split()
    assert nodes == [layer.name for layer in layers]
    with np.load(tmp_path / "x.npz") as found:
        for x, out in zip(batches, found.values(), strict=True):
            exact = computed(layers, weights, x)
            out = out.transpose(0, 2, 3, 1) if out.ndim == 4 else out
            assert out.dtype == np.float32
            assert 0 < apart(out, exact) <= 8 * apart(computed(layers, weights, x, "float32"), exact)


@pytest.mark.parametrize("kind", ["matrices", "everything"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_floats_are_computed_in_float32(dtype: type, kind: str, tmp_path: Path) -> None:
    layers, weights = graph("xception.same")
    rng = np.random.default_rng(0)  # bits that a float32 lacks
    fine = {name: array * rng.uniform(1, 1 + 1e-7, array.shape) for name, array in weights.items()}
    small = {name: fine[name].astype(dtype) if a.ndim > 1 or kind == "everything" else a for name, a in weights.items()}
    write(tmp_path / "x.onnx", graph_checkpoint(layers, small))
    x = images(75, 1)
    np.savez(tmp_path / "x.npz", x)
    python(COMPUTE, tmp_path / "x.onnx", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as found:
        assert apart(found["arr_0"], computed(layers, small, x)) < 2e-6


def test_the_backend_computes_a_file_that_stores_double_precision(tmp_path: Path) -> None:
    model = network("symmetric")
    weights = {name: tensor.read().astype(np.float64) for name, tensor in model.weights.items()}
    write(tmp_path / "x.onnx", graph_checkpoint(model.layers, weights))
    x = images(75, 1)
    out = forward(model, x, backend="onnx", path=tmp_path / "x.onnx")["logits"]
    assert apart(out, forward(model, x, dtype="float64")["logits"]) < 2e-6


@pytest.mark.parametrize("padding", ["symmetric", "same_upper"])
def test_the_backend_shows_every_layer(padding: str, tmp_path: Path) -> None:
    model = network(padding)
    x = images(75, 2)
    exact, single = (forward(model, x, dtype=dtype, taps="all") for dtype in ("float64", "float32"))
    layers, weights = model.layers, {name: tensor.read() for name, tensor in model.weights.items()}
    write(tmp_path / "x.onnx", graph_checkpoint(layers, weights))
    for path in (None, tmp_path / "x.onnx"):
        out = forward(model, x, backend="onnx", taps="all", path=path)
        assert out.keys() == exact.keys()
        assert all(out[name].shape == exact[name].shape for name in exact)
        errors = {name: apart(out[name], exact[name]) / max(apart(single[name], exact[name]), 1e-9) for name in exact}
        assert max(errors.values()) <= 8, max(errors.items(), key=lambda item: item[1])


def test_the_backend_computes_the_file_and_not_what_it_is_handed(tmp_path: Path) -> None:
    a, b = network("symmetric", seed=0), network("symmetric", seed=1)
    write(tmp_path / "x.onnx", graph_checkpoint(b.layers, {name: tensor.read() for name, tensor in b.weights.items()}))
    x = images(75, 1)
    out = forward(a, x, backend="onnx", path=tmp_path / "x.onnx")["logits"]
    assert apart(out, forward(b, x, dtype="float64")["logits"]) < 1e-5 < 0.1 < apart(out, forward(a, x)["logits"])


def test_double_precision_is_no_job_for_onnx_runtime() -> None:
    with pytest.raises(UsageError, match="cannot run this network: ONNX Runtime computes no convolutions in float64 on the CPU"):
        forward(network("symmetric"), images(75, 1), backend="onnx", dtype="float64")


def test_what_onnx_saves_again_is_read(tmp_path: Path) -> None:
    layers, weights = graph("aligned.dilated")
    half = {name: array.astype(np.float16) if array.ndim > 1 else array for name, array in weights.items()}
    write(tmp_path / "x.onnx", graph_checkpoint(layers, half, metadata={"key": "välue"}))
    python(RESAVE, tmp_path / "x.onnx", tmp_path / "y.onnx", tmp_path / "outside.onnx")
    first, again = read(tmp_path / "x.onnx"), read(tmp_path / "y.onnx")
    assert (again.metadata, again.program, again.evidence) == ({"key": "välue"}, first.program, first.evidence)
    assert {n: t.read().tobytes() for n, t in again.tensors.items()} == {n: t.read().tobytes() for n, t in first.tensors.items()}
    with pytest.raises(UnreadableError, match=r"keeps the numbers of `entry\.conv1\.weight` in another file"):
        read(tmp_path / "outside.onnx")


EXPORT = """
import sys
import torch
net = {"relu": torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), "sigmoid": torch.nn.Sigmoid()}[sys.argv[2]]
torch.onnx.export(net.eval(), (torch.zeros(1, 3, 8, 8),), sys.argv[1], dynamo=False)
"""


@pytest.mark.skipif(not backends()["torch"].installed, reason="torch is not installed")
@pytest.mark.parametrize(
    ("name", "message"),
    [("relu", "computes `Conv` at `[^`]+` in a form that"), ("sigmoid", "computes `Sigmoid` at `[^`]+`, which")],
)
def test_what_torch_exports_is_refused(name: str, message: str, tmp_path: Path) -> None:
    python(EXPORT, tmp_path / "x.onnx", Path(name))
    with pytest.raises(UnreadableError, match=f"{message} is no operation of xconvert's") as caught:
        read(tmp_path / "x.onnx")
    assert "give the checkpoint that this one was exported from" in caught.value.hints[0]
