"""What PaddlePaddle writes is read to the bit, what is written here it loads without remainder, and our graph on it is the
reference; each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.frameworks.nets import altered, assert_same_numbers, network
from tests.frameworks.test_backends import assert_equal
from xconvert.axes import rearrange
from xconvert.backends import backends, forward
from xconvert.backends import paddle as backend
from xconvert.errors import UsageError
from xconvert.formats import read
from xconvert.formats.paddle import NAMES, write_pickle
from xconvert.formats.safetensors import write as write_safetensors
from xconvert.model import Checkpoint, Model, Tensor
from xconvert.probe import images

pytestmark = pytest.mark.framework
ROOT = Path(__file__).parents[2]

# A tensor of every dtype. `save_numbers` keeps their bytes, which NumPy has for all of them.
KINDS = """
import pickle, sys, warnings, paddle, numpy as np
warnings.simplefilter("error")
warnings.filterwarnings("ignore", "When training")
folder = sys.argv[1]
paddle.seed(0)
names = "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex64 complex128".split()
kinds = {name: (paddle.randn([3, 50]) * 9).astype("float32").astype(name) for name in names}
kinds |= {"scalar": paddle.to_tensor(7.5), "vector": paddle.arange(5, dtype="float32")}
def save_numbers(path, tensors):
    dense = {name: np.ascontiguousarray(np.asarray(tensor)) for name, tensor in tensors.items()}
    np.savez(path, **{name: np.frombuffer(array.tobytes(), np.uint8) for name, array in dense.items()})
def net():
    return paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4))
"""


def paddle_run(code: str, *arguments: Path | str, **environment: str) -> str:
    """What ``code`` prints, run by a Python of its own that imports PaddlePaddle; fails with its message if it fails."""
    python = os.environ.get("XCONVERT_PYTHON_PADDLE", sys.executable)
    command = [python, "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment}, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def assert_same_kinds(checkpoint: Checkpoint, expected: Path) -> None:
    """The same, and of the dtype that its name ends in."""
    assert_same_numbers(checkpoint, expected)
    for name, tensor in checkpoint.tensors.items():
        if name not in ("scalar", "vector"):
            assert tensor.dtype == name.rpartition(".")[2]


@pytest.mark.parametrize("protocol", ["2", "3", "4"])
def test_reads_every_dtype(tmp_path: Path, protocol: str) -> None:
    code = "paddle.save(kinds, folder + '/a.pdparams', protocol=int(sys.argv[2]))\nsave_numbers(folder + '/n.npz', kinds)\n"
    paddle_run(KINDS + code, tmp_path, protocol)
    checkpoint = read(tmp_path / "a.pdparams")
    assert (checkpoint.format, checkpoint.notes) == ("paddle", ())
    assert_same_kinds(checkpoint, tmp_path / "n.npz")
    assert len(json.loads(checkpoint.metadata[NAMES])) == len(checkpoint.tensors)


def test_reads_a_training_checkpoint_and_an_optimizer(tmp_path: Path) -> None:
    code = """
model = net()
optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
model(paddle.randn([2, 3, 8, 8])).sum().backward(); optimizer.step()
paddle.save({"epoch": 3, "model": model.state_dict(), "opt": optimizer.state_dict()}, folder + "/train.pdparams")
paddle.save(optimizer.state_dict(), folder + "/a.pdopt")
given = {"a": paddle.to_tensor([1.5, 2.5]), "b": paddle.to_tensor([7.0])}
dense = {name: tensor.get_tensor() for name, tensor in given.items()}
paddle.save({"dense": dense, "list": [1]}, folder + "/dense.pdparams")
print({name: tensor.name for name, tensor in model.state_dict().items()})
"""
    internal = paddle_run(KINDS + code, tmp_path)
    checkpoint = read(tmp_path / "train.pdparams")
    assert list(checkpoint.tensors) == ["0.weight", "0.bias", "1.weight", "1.bias", "1._mean", "1._variance"]
    assert checkpoint.notes == ("unwrapped `model`", "left out `opt` (4 tensors)")
    assert str(json.loads(checkpoint.metadata[NAMES])) == internal.strip()
    assert sum("velocity" in name for name in read(tmp_path / "a.pdopt").tensors) == 4
    assert b"eval" in (tmp_path / "dense.pdparams").read_bytes()
    dense = read(tmp_path / "dense.pdparams").tensors
    assert {name: tensor.read().tolist() for name, tensor in dense.items()} == {"a": [1.5, 2.5], "b": [7.0]}


def test_reads_static_files(tmp_path: Path) -> None:
    """Internal names; a network for inference has them in the program beside it, of either kind."""
    code = """
import os
model = net(); model.eval()
paddle.jit.save(model, folder + "/net", input_spec=[paddle.static.InputSpec([None, 3, None, None], "float32")])
save_numbers(folder + "/n.npz", {t.name: t for t in model.state_dict().values()})
save_numbers(folder + "/s.npz", model.state_dict())
print(sorted(os.listdir(folder)))
"""
    for pir, beside in (("1", "net.json"), ("0", "net.pdmodel")):
        folder = tmp_path / pir
        folder.mkdir()
        assert beside in paddle_run(
            KINDS.replace('simplefilter("error")', 'simplefilter("ignore")') + code, folder, FLAGS_enable_pir_api=pir
        )
        info = folder / "net.pdiparams.info"
        assert info.exists() == (pir == "0")
        for name in ("s", "n"):
            if name == "s" and pir == "0":
                assert_numbers(read(folder), folder / "s.npz")
                info.unlink()
            elif name == "n":
                assert_numbers(read(folder / "net.pdiparams"), folder / "n.npz")
    code = """
paddle.enable_static()
x = paddle.static.data("x", [None, 4]); paddle.static.nn.fc(x, 3)
executor = paddle.static.Executor(); executor.run(paddle.static.default_startup_program())
paddle.static.save(paddle.static.default_main_program(), folder + "/static")
"""
    paddle_run(KINDS + code, tmp_path)
    checkpoint = read(tmp_path / "static.pdparams")
    assert {tensor.shape for tensor in checkpoint.tensors.values()} == {(4, 3), (3,)}
    assert NAMES not in checkpoint.metadata


def assert_numbers(checkpoint: Checkpoint, expected: Path) -> None:
    numbers = np.load(expected)
    assert {name: tensor.read().tobytes() for name, tensor in checkpoint.tensors.items()} == {
        n: numbers[n].tobytes() for n in numbers
    }


def every_dtype() -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    made = {t.name: np.asarray(rng.uniform(0, 9, (3, 5)), np.float32).astype(t) for t in map(np.dtype, "?bhiqBefdFD")}
    made |= {"bfloat16": made["float32"].astype(ml_dtypes.bfloat16), "scalar": np.asarray(3, np.int64)}
    return {name: Tensor.of(array) for name, array in made.items()}


@pytest.mark.parametrize("protocol", [2, 4])
def test_paddle_loads_what_is_written(tmp_path: Path, protocol: int) -> None:
    tensors = every_dtype()
    table = json.dumps({"float32": "conv2d_0.w_0"})
    write_pickle(tmp_path / "a.pdparams", Checkpoint(tensors, {"xconvert": '{"ä": 1}', NAMES: table}), protocol)
    code = (
        "loaded = paddle.load(folder + '/a.pdparams')\n"
        "save_numbers(folder + '/loaded.npz', loaded)\n"
        "print({k: (str(v.dtype).removeprefix('paddle.'), tuple(v.shape), v.name) for k, v in loaded.items()})\n"
        "print(paddle.load(folder + '/a.pdparams', keep_name_table=True)['StructuredToParameterName@@'])\n"
    )
    names = {name: "conv2d_0.w_0" if name == "float32" else name for name in tensors}
    seen, kept = paddle_run(KINDS + code, tmp_path, FLAGS_enable_pir_api="1").strip().splitlines()
    assert seen == str({name: (tensor.dtype, tensor.shape, names[name]) for name, tensor in tensors.items()})
    assert kept == str(names)
    assert_numbers(Checkpoint(tensors), tmp_path / "loaded.npz")


def test_written_file_fits_without_a_warning(tmp_path: Path) -> None:
    vectors = {f"1.{name}": (4,) for name in ("weight", "bias", "_mean", "_variance")}
    shapes = {"0.weight": (4, 3, 3, 3), "0.bias": (4,), **vectors}
    tensors = {name: Tensor.of(np.full(shape, 0.5, np.float32)) for name, shape in shapes.items()}
    write_pickle(tmp_path / "a.pdparams", Checkpoint(tensors, {"xconvert": "{}"}), 4)
    code = """
model = net()
before = {name: tensor.name for name, tensor in model.state_dict().items()}
print(model.set_state_dict(paddle.load(folder + "/a.pdparams")))
assert before == {name: tensor.name for name, tensor in model.state_dict().items()}, "internal names are the network's own"
assert all((tensor == 0.5).all() for tensor in model.state_dict().values())
optimizer = paddle.optimizer.Momentum(0.1, parameters=model.parameters())
model(paddle.randn([2, 3, 8, 8])).sum().backward(); optimizer.step()
paddle.save(model.state_dict(), folder + "/again.pdparams")
"""
    assert paddle_run(KINDS + code, tmp_path).strip() == "([], [])"
    assert list(read(tmp_path / "again.pdparams").tensors) == list(shapes)


def test_safetensors_of_paddle(tmp_path: Path) -> None:
    """``paddle.save(..., safetensors=True)`` whatever the suffix, and ours in Paddle."""
    tensors = {name: tensor for name, tensor in every_dtype().items() if name in ("float32", "float16", "int64", "scalar")}
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(tensors, {"xconvert": "{}"}, dialect="paddle"))
    code = (
        "loaded = paddle.load(folder + '/a.safetensors', safetensors=True)\n"
        "save_numbers(folder + '/loaded.npz', loaded)\n"
        "paddle.save(loaded, folder + '/again.pdparams', safetensors=True)\n"
    )
    paddle_run(KINDS + code, tmp_path)
    assert_numbers(Checkpoint(tensors), tmp_path / "loaded.npz")
    assert_numbers(read(tmp_path / "again.pdparams"), tmp_path / "loaded.npz")


def file_of(model: Model) -> Checkpoint:
    """What Paddle's own state dict of our graph is."""
    tensors = {}
    for layer in model.layers:
        for parameter, axes in layer.parameters.items():
            array = model.weights[f"{layer.name}.{parameter}"].read()
            theirs = backend.AXES.get(layer.op, axes) if parameter == "weight" else axes
            tensors[f"{layer.name}.{backend.ATTRIBUTES[parameter]}"] = Tensor.of(rearrange(array, axes, theirs))
    return Checkpoint(tensors, {"xconvert": "{}"})


@pytest.mark.parametrize("size", [75, 96])
@pytest.mark.parametrize("padding", ["symmetric", "same_upper"])
def test_graph_is_that_of_the_reference(padding: str, size: int) -> None:
    model = network(padding)
    assert_equal(model, "paddle", size, least=len(model.layers))


def test_graph_with_other_channels_and_without_head() -> None:
    model = network("same_upper", head=False, channels=5, depth=1)
    assert_equal(model, "paddle", 96, least=len(model.layers))


def test_graph_takes_its_weights_from_a_file(tmp_path: Path) -> None:
    model, other = network("symmetric"), network("symmetric", seed=1)
    write_pickle(tmp_path / "a.pdparams", file_of(model), 4)
    x = images(75, 1)
    out = forward(other, x, backend="paddle", dtype="float64", path=tmp_path / "a.pdparams")["logits"]
    expected = forward(model, x, dtype="float64")["logits"]
    assert np.linalg.norm(out - expected) <= 1e-12 * np.linalg.norm(expected)


@pytest.mark.parametrize("change", ["less", "more"])
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: str) -> None:
    model = network("symmetric")
    tensors = dict(file_of(model).tensors)
    if change == "less":
        del tensors["predictions.bias"]
    else:
        tensors["extra"] = tensors["predictions.bias"]
    write_pickle(tmp_path / "a.pdparams", Checkpoint(tensors), 4)
    with pytest.raises(
        UsageError, match=rf"does not fit: missing \[{'.predictions.bias.' if change == 'less' else ''}\], unexpected"
    ):
        forward(model, images(75, 1), backend="paddle", path=tmp_path / "a.pdparams")


def test_dilation_and_scale(tmp_path: Path) -> None:
    """Of PaddleClas' own networks: here in a graph made by hand, run in a process of its own by the backend itself."""
    code = """
import numpy as np
from dataclasses import replace
from tests.frameworks.nets import altered
from xconvert.backends import paddle
np.savez(sys.argv[1] + "/out.npz", **paddle.run(altered("float64")))
"""
    paddle_run("import sys\n" + code, tmp_path)
    expected = backends()["numpy"].run(altered("float64"))
    out = np.load(tmp_path / "out.npz")
    assert set(out) == set(expected)
    for name, array in expected.items():
        assert np.linalg.norm(out[name] - array) <= 1e-12 * np.linalg.norm(array), name


CHECK = """
import sys, warnings
warnings.simplefilter("ignore")
import numpy as np, paddle
from tests.frameworks.nets import arrays, network
from xconvert.backends.paddle import build
from xconvert.probe import images
model = network("symmetric")
net = build(model.layers, arrays(model), {})
"""


def test_network_learns() -> None:
    """Training lowers the loss and moves the running statistics; evaluation moves nothing."""
    code = """
x, labels = paddle.to_tensor(images(75, 4).transpose(0, 3, 1, 2)), paddle.arange(4)
before = {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}
net(x)
assert all((before[name] == tensor.numpy()).all() for name, tensor in net.state_dict().items())
net.train()
optimizer, losses = paddle.optimizer.SGD(0.01, parameters=net.parameters()), []
for _ in range(5):
    loss = paddle.nn.functional.cross_entropy(net(x), labels)
    loss.backward(); optimizer.step(); optimizer.clear_grad(); losses.append(float(loss))
assert losses[-1] < 0.8 * losses[0], losses
assert not any((before[name] == tensor.numpy()).all() for name, tensor in net.state_dict().items()), "every tensor moved"
"""
    paddle_run(CHECK + code)


def test_network_keeps_precision_and_refuses_one_name_for_two_layers() -> None:
    code = """
for given, expected in ((np.float64, paddle.float64), (np.float32, paddle.float32), (np.float16, paddle.float32)):
    made = build(model.layers, {n: a.astype(given) for n, a in arrays(model).items()}, {})
    assert {p.dtype for p in made.state_dict().values()} == {expected}
assert "block2.sepconv1.depthwise.weight" in net.state_dict(), "without names the layers keep their own"
assert "block1.conv1.bn._mean" in net.state_dict(), "a layer may stand below a convolution"
try:
    build(model.layers, arrays(model), {"block1.conv1": "a", "block1.conv2": "a"})
except ValueError as error:
    assert str(error) == "two layers are called `a`"
else:
    raise AssertionError("it was built")
"""
    paddle_run(CHECK + code)
