"""What MindSpore writes is read to the bit, what is written here it loads without remainder, and our graph on it is the
reference. MindSpore lives in an environment of its own, whose Python ``XCONVERT_PYTHON_MINDSPORE`` names; `make test` sets it.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.frameworks.nets import altered, arrays, assert_same_numbers, network
from tests.frameworks.test_backends import assert_equal
from tests.narrow import checkpoint as file_of
from xconvert.backends import backends, forward
from xconvert.errors import UnreadableError, UsageError
from xconvert.formats import read
from xconvert.formats.mindspore import write
from xconvert.formats.safetensors import write as write_safetensors
from xconvert.model import Checkpoint, Model, Tensor
from xconvert.naming import native_names
from xconvert.probe import images

pytestmark = pytest.mark.framework
ROOT = Path(__file__).parents[2]
VARIABLE = "XCONVERT_PYTHON_MINDSPORE"

# A tensor of every dtype. `save_numbers` keeps their bytes, which NumPy has for all but bfloat16.
KINDS = """
import sys, mindspore as ms, numpy as np
from mindspore import nn
folder = sys.argv[1]
names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool_".split()
rng = np.random.default_rng(0)
kinds = {name: ms.Tensor(rng.uniform(0, 9, (3, 5)).astype(np.float32)).astype(getattr(ms, name)) for name in names}
kinds["scalar"] = ms.Tensor(7.5, ms.float32)
def save_numbers(path, tensors):
    np.savez(path, **{name: np.frombuffer(bytes(tensor.get_bytes()), np.uint8) for name, tensor in tensors.items()})
def save(path, tensors, **how):
    ms.save_checkpoint([{"name": name, "data": ms.Parameter(tensor)} for name, tensor in tensors.items()], path, **how)
def net():
    return nn.SequentialCell(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
"""


@pytest.fixture(autouse=True, scope="module")
def environment() -> None:
    """Fail, and do not skip: these are the only tests of MindSpore."""
    if not os.environ.get(VARIABLE):
        pytest.fail(f"set {VARIABLE} to a Python that has MindSpore; `make test` does")


def mindspore_run(code: str, *arguments: Path | str) -> str:
    """What ``code`` prints, run by the Python that has MindSpore; fails with its message if it fails."""
    command = [os.environ[VARIABLE], "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, "GLOG_v": "3"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def assert_same_kinds(checkpoint: Checkpoint, expected: Path) -> None:
    """The same, and of the dtype that its name says."""
    assert_same_numbers(checkpoint, expected)
    for name, tensor in checkpoint.tensors.items():
        assert name == "scalar" or tensor.dtype == name.removesuffix("_"), name


@pytest.mark.parametrize("crc", ["", "crc"])
def test_reads_every_dtype(tmp_path: Path, crc: str) -> None:
    code = "save(folder + '/a.ckpt', kinds, crc_check=bool(sys.argv[2]))\nsave_numbers(folder + '/n.npz', kinds)\n"
    mindspore_run(KINDS + code, tmp_path, crc)
    checkpoint = read(tmp_path / "a.ckpt")
    assert checkpoint.format == "mindspore"
    assert checkpoint.notes == (("left out `crc_num`, a checksum; it is right",) if crc else ())
    assert_same_kinds(checkpoint, tmp_path / "n.npz")


def test_reads_what_stands_beside_the_weights(tmp_path: Path) -> None:
    code = """
ms.save_checkpoint(net(), folder + "/a.ckpt", append_dict={"epoch": 3, "lr": 0.5, "note": "hä", "flag": True})
ms.save_checkpoint(net(), folder + "/a.safetensors", format="safetensors")
ms.save_checkpoint(net(), folder + "/secret.ckpt", enc_key=b"0123456789abcdef", enc_mode="AES-CBC")
"""
    mindspore_run(KINDS + code, tmp_path)
    checkpoint = read(tmp_path / "a.ckpt")
    names = ["0.weight", "1.moving_mean", "1.moving_variance", "1.gamma", "1.beta"]
    assert list(checkpoint.tensors) == [*names, "epoch", "lr", "flag"]
    assert checkpoint.metadata == {"note": "hä"}
    assert [checkpoint.tensors[name].read().item() for name in ("epoch", "lr", "flag")] == [3, 0.5, True]
    other = read(tmp_path / "a.safetensors")
    assert (sorted(other.tensors), other.metadata) == (sorted(names), {"format": "ms"})
    with pytest.raises(UnreadableError, match="is encrypted"):
        read(tmp_path / "secret.ckpt")


def test_reads_a_tensor_in_pieces(tmp_path: Path) -> None:
    code = "from mindspore.train import serialization as s\ns.SLICE_SIZE = 1  # KiB instead of 512 MiB\n"
    code += "a = {'float32': ms.Tensor(rng.uniform(0, 1, (20, 64)).astype(np.float32))}\n"
    code += "save(folder + '/a.ckpt', a)\nsave_numbers(folder + '/n.npz', a)\n"
    mindspore_run(KINDS + code, tmp_path)
    assert (tmp_path / "a.ckpt").read_bytes().count(b"float32") > 4
    assert_same_kinds(read(tmp_path / "a.ckpt"), tmp_path / "n.npz")


def every_dtype() -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    made = {t.name: np.asarray(rng.uniform(0, 9, (3, 5)), np.float32).astype(t) for t in map(np.dtype, "?bhiqBHIQefd")}
    made |= {"bfloat16": made["float32"].astype(ml_dtypes.bfloat16), "scalar": np.asarray(3, np.float32)}
    return {name: Tensor.of(array) for name, array in made.items()}


def test_mindspore_loads_what_is_written(tmp_path: Path) -> None:
    tensors = every_dtype()
    write(tmp_path / "a.ckpt", Checkpoint(tensors, {"xconvert": '{"ä": 1}', "empty": ""}))
    code = (
        "loaded = ms.load_checkpoint(folder + '/a.ckpt')\n"
        "save_numbers(folder + '/loaded.npz', loaded)\n"
        "print({k: (str(v.dtype).lower().replace('bool_', 'bool'), v.shape) for k, v in loaded.items()})\n"
    )
    seen = mindspore_run(KINDS + code, tmp_path)
    assert seen.strip() == str({name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()})
    loaded = np.load(tmp_path / "loaded.npz")
    assert {n: a.tobytes() for n, a in loaded.items()} == {name: tensor.read().tobytes() for name, tensor in tensors.items()}


@pytest.mark.parametrize("suffix", ["ckpt", "safetensors"])
def test_written_file_fits_without_remainder(tmp_path: Path, suffix: str) -> None:
    """Neither a parameter nor an entry of the file is left over, so the record is seen by xconvert alone."""
    shapes = {"0.weight": (4, 3, 3, 3), **{f"1.{name}": (4,) for name in ("gamma", "beta", "moving_mean", "moving_variance")}}
    tensors = {name: Tensor.of(np.full(shape, 0.5, np.float32)) for name, shape in shapes.items()}
    given = Checkpoint(tensors, {"xconvert": "{}"}, dialect="mindspore")
    {"ckpt": write, "safetensors": write_safetensors}[suffix](tmp_path / f"a.{suffix}", given)
    code = (
        "cell = net()\n"
        "state = ms.load_checkpoint(folder + '/a.' + sys.argv[2], format=sys.argv[2])\n"
        "print(ms.load_param_into_net(cell, state, strict_load=True))\n"
        "assert all((p.asnumpy() == 0.5).all() for p in cell.get_parameters())\n"
    )
    assert mindspore_run(KINDS + code, tmp_path, suffix).strip() == "([], [])"
    found = read(tmp_path / f"a.{suffix}")
    assert found.metadata["xconvert"] == "{}"
    assert found.metadata.get("format") == ("ms" if suffix == "safetensors" else None)


@pytest.mark.parametrize("size", [75, 96])
@pytest.mark.parametrize("padding", ["symmetric", "same_upper"])
def test_graph_is_that_of_the_reference(padding: str, size: int) -> None:
    model = network(padding)
    assert_equal(model, "mindspore", size, least=len(model.layers))


def test_graph_with_other_channels_and_without_head() -> None:
    model = network("same_upper", head=False, channels=5, depth=1)
    assert_equal(model, "mindspore", 96, least=len(model.layers))


def written(folder: Path, model: Model, suffix: str) -> Path:
    path = folder / f"a{suffix}"
    {".ckpt": write, ".safetensors": write_safetensors}[suffix](path, file_of(model, "mindcv"))
    return path


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_graph_takes_its_weights_from_a_file_of_mindcv(tmp_path: Path, suffix: str) -> None:
    model, other = network("same_upper"), network("same_upper", seed=1)
    path, x = written(tmp_path, model, suffix), images(75, 1)
    names = native_names("mindspore", model)
    assert names["block2.sepconv1.pointwise"] == "blocks.0.rep.0.pointwise"
    out = forward(other, x, backend="mindspore", dtype="float64", names=names, path=path)["logits"]
    expected = forward(model, x, dtype="float64")["logits"]
    assert np.linalg.norm(out - expected) <= 1e-12 * np.linalg.norm(expected)


@pytest.mark.parametrize("change", ["less", "more"])
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: str) -> None:
    model = network("same_upper")
    given = file_of(model, "mindcv")
    tensors = dict(given.tensors)
    if change == "less":
        del tensors["classifier.bias"]
    else:
        tensors["extra"] = tensors["classifier.bias"]
    write(tmp_path / "a.ckpt", given._replace(tensors=tensors))
    message = "missing .'classifier.bias'., unexpected .." if change == "less" else "missing .., unexpected .'extra'."
    with pytest.raises(UsageError, match="does not fit: " + message):
        names = native_names("mindspore", model)
        forward(model, images(75, 1), backend="mindspore", names=names, path=tmp_path / "a.ckpt")


def test_dilation_and_scale(tmp_path: Path) -> None:
    job = altered("float64")
    np.savez(tmp_path / "weights.npz", **job.weights)
    code = """
import sys, numpy as np
from dataclasses import replace
from xconvert.architectures import families
from xconvert.backends import Job, mindspore
from xconvert.model import Depth
from xconvert.probe import images
layers = eval(sys.argv[2], {"Layer": __import__("xconvert.model").model.Layer})
weights = dict(np.load(sys.argv[1] + "/weights.npz"))
for dtype in ("float32", "float64"):
    job = Job(layers, weights, images(75, 2), dtype, tuple(layer.name for layer in layers))
    np.savez(sys.argv[1] + f"/{dtype}.npz", **mindspore.run(job))
"""
    mindspore_run(code, tmp_path, repr(job.layers))
    exact = backends()["numpy"].run(job)
    rounded = backends()["numpy"].run(altered("float32"))
    last = job.layers[-1].name
    for dtype in ("float32", "float64"):
        out = np.load(tmp_path / f"{dtype}.npz")
        assert set(out) == set(exact)
        for name, array in exact.items():
            limit = 1e-12 if dtype == "float64" else 1e-4
            assert np.linalg.norm(out[name] - array) <= limit * np.linalg.norm(array), name
        if dtype == "float32":
            assert np.linalg.norm(out[last] - exact[last]) <= 8 * np.linalg.norm(rounded[last] - exact[last])


def test_network_learns_and_keeps_its_precision(tmp_path: Path) -> None:
    """Training lowers the loss and moves the running statistics; evaluation moves nothing."""
    model = network("same_upper")
    np.savez(tmp_path / "weights.npz", **arrays(model))
    code = """
import sys, numpy as np, mindspore as ms
from mindspore import nn
from xconvert.architectures import families
from xconvert.backends.mindspore import build
from xconvert.model import Depth
from xconvert.probe import images
weights = dict(np.load(sys.argv[1] + "/weights.npz"))
values = {"bn_epsilon": 1e-3, "pool_padding": "same_upper", "bn_momentum": 0.9}
layers = families()["xception"].build(Depth(3, 8), True, values)
net = build(layers, weights, {})
names = [parameter.name for parameter in net.get_parameters()]
assert "block2.sepconv1.depthwise.weight" in names, "without names the layers keep their own"
assert "block1.conv1.bn.moving_mean" in names, "a layer may stand below a convolution"
assert len(set(names)) == len(names) == len(weights)
x, labels = ms.Tensor(images(75, 4).transpose(0, 3, 1, 2)), ms.Tensor([0, 1, 2, 3], ms.int32)
before = {parameter.name: parameter.asnumpy().copy() for parameter in net.get_parameters()}
net(x)
assert all((before[p.name] == p.asnumpy()).all() for p in net.get_parameters())
net.set_train()
loss = nn.CrossEntropyLoss()
optimizer = nn.SGD(net.trainable_params(), 0.01)
gradient = ms.value_and_grad(lambda images, labels: loss(net(images), labels), None, optimizer.parameters)
losses = []
for _ in range(5):
    value, gradients = gradient(x, labels)
    optimizer(gradients)
    losses.append(float(value.asnumpy()))
assert losses[-1] < 0.8 * losses[0], losses
assert not any((before[p.name] == p.asnumpy()).all() for p in net.get_parameters()), "every parameter moved"
for given, expected in ((np.float64, ms.float64), (np.float32, ms.float32), (np.float16, ms.float32)):
    made = build(layers, {n: a.astype(given) for n, a in weights.items()}, {})
    assert {p.dtype for p in made.get_parameters()} == {expected}
try:
    build(layers, weights, {"block1.conv1": "a", "block1.conv2": "a"})
except ValueError as error:
    assert str(error) == "two layers are called `a`"
else:
    raise AssertionError("it was built")
"""
    mindspore_run(code, tmp_path)
