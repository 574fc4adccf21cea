"""What TensorFlow and Keras write as TensorFlow checkpoints is read to the bit, and what is written here they load; each in a
process of its own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.frameworks import warm
from tests.narrow import checkpoint, narrow
from xconvert.errors import AmbiguousError
from xconvert.formats import format_for_writing, read, tensorflow
from xconvert.formats._arrays import dtype_named
from xconvert.formats._bundle import DTYPES
from xconvert.model import Checkpoint, Tensor

pytestmark = [
    pytest.mark.framework,
    pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is not installed"),
]
OPTIMIZER = "left out the optimizer's 42 tensors"
KERAS_2 = pytest.mark.skipif(importlib.util.find_spec("tf_keras") is None, reason="tf_keras is not installed")

START = """
import importlib, json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
import tensorflow as tf
folder = sys.argv[1]
os.chdir(folder)
tf1 = tf.compat.v1
random = np.random.default_rng(0)

def keep(name, arrays):  # with the bits of dtypes that NumPy does not know
    np.savez(name, **{n: a.view("u2") if a.dtype == tf.bfloat16.as_numpy_dtype else a for n, a in arrays.items()})

def small(keras, head=True, name="xception"):
    L = keras.layers
    start = L.Input((16, 16, 3))
    x = L.Conv2D(4, 3, use_bias=False, name="block1_conv1")(start)
    x = L.BatchNormalization(name="block1_conv1_bn")(x)
    for _ in range(3):
        side = L.Conv2D(4, 1, strides=2, padding="same", use_bias=False)(x)
        side = L.BatchNormalization()(side)
        x = L.SeparableConv2D(4, 3, padding="same", use_bias=False)(x)
        x = L.MaxPooling2D(3, strides=2, padding="same")(x)
        x = L.add([x, side])
    x = L.Dropout(0.5)(L.GlobalAveragePooling2D()(x))
    return keras.Model(start, L.Dense(5, name="predictions")(x) if head else x, name=name)

def fill(model):
    model.set_weights([random.uniform(0.5, 2, w.shape).astype(np.asarray(w).dtype) for w in model.get_weights()])
    return model

def layers(model):
    for layer in model.layers:
        yield from layers(layer) if hasattr(layer, "layers") else [layer]

def told(model):
    return {
        layer.name + "/" + w.name.rpartition("/")[2].removesuffix(":0"): np.asarray(w)
        for layer in layers(model) for w in layer.weights if "seed_generator" not in w.name
    }
"""
SAVER = """
tf1.disable_eager_execution()
arrays = {f"net/{kind}": random.normal(size=(5, 7)).astype(kind) for kind in ("float16", "float32", "float64", "complex64")}
arrays |= {f"net/{kind}": random.integers(-99, 99, (2, 3)).astype(kind) for kind in "i1 u1 i2 u2 i4 i8".split()}
arrays |= {"net/bool": np.array([True, False]), "net/none": np.zeros((0, 3), "f4"), "global_step": np.array(70_000)}
if sys.argv[2] == "V2":
    arrays["net/bfloat16"] = random.normal(size=(3, 1)).astype(tf.bfloat16.as_numpy_dtype)
variables = [tf1.get_variable(n, initializer=a) for n, a in arrays.items()]
whole = random.normal(size=(3000, 2, 70)).astype("f4")
for axis in (0, 2):
    def part(shape, dtype, partition_info):
        place = tuple(slice(at, at + size) for at, size in zip(partition_info.var_offset, shape))
        return tf.constant(whole[place])
    split = tf1.fixed_size_partitioner(3, axis=axis)
    variables += list(tf1.get_variable(f"net/parts{axis}", shape=whole.shape, partitioner=split, initializer=part))
    arrays[f"net/parts{axis}"] = whole
variables.append(tf1.get_variable("words", initializer=np.array(["a", "bc"])))
saver = tf1.train.Saver(variables, write_version=getattr(tf1.train.SaverDef, sys.argv[2]))
with tf1.Session() as session:
    session.run(tf1.global_variables_initializer())
    saver.save(session, "model.ckpt")
keep("model.npz", arrays)
"""
SHARDS = """
arrays = {f"net/{i}": random.normal(size=(i, 3)).astype("f4") for i in range(8)}
for shard in range(2):
    names = sorted(arrays)[shard::2]
    tf.raw_ops.SaveV2(prefix=f"part{shard}", tensor_names=names, shape_and_slices=[""] * 4, tensors=[arrays[n] for n in names])
tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=["part0", "part1"], destination_prefix="model.ckpt", delete_old_dirs=False)
keep("model.npz", arrays)
"""
OBJECTS = """
import keras, tf_keras
for name, kind in (("keras", keras), ("tf_keras", tf_keras)):
    model = fill(small(kind))
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(np.zeros((2, 16, 16, 3)), np.zeros((2, 5)), verbose=0)
    keep(f"{name}.npz", told(model))
    if kind is keras:
        tf.train.Checkpoint(model=model).write("keras-model")
        tf.train.Checkpoint(model=model, optimizer=model.optimizer).save("keras-trained")
        model.export("keras-export", verbose=False)
    else:
        model.save_weights("tf_keras-weights")
        model.save("tf_keras-saved", save_format="tf")
        tf.train.Checkpoint(net=model, optimizer=model.optimizer).save("tf_keras-trained")
        tf.train.Checkpoint(one=model, two=tf_keras.models.clone_model(model)).write("twice")
"""
RESTORE = """
found = tf.train.load_checkpoint("ours.ckpt")
kept = {n: found.get_tensor(n) for n in found.get_variable_to_shape_map()}
assert kept.pop("xconvert") == b'{"version": "\\xc3\\xa9"}'
keep("load.npz", {n: a.view("u1") if "float8" in a.dtype.name else a for n, a in kept.items()})
with tf.Graph().as_default(), tf1.Session() as session:
    names = [n for n in kept if "float8" not in n]
    variables = {n: tf1.get_variable(n, initializer=tf.zeros(kept[n].shape, kept[n].dtype)) for n in names}
    tf1.train.Saver(variables).restore(session, "ours.ckpt")
    for name, variable in variables.items():
        assert session.run(variable).tobytes() == kept[name].tobytes(), name
"""
SAVE_V2 = """
arrays = np.load("ours.npz")
names = sorted(arrays)
values = [arrays[n] for n in names]
tf.raw_ops.SaveV2(prefix="theirs.ckpt", tensor_names=names, shape_and_slices=[""] * len(names), tensors=values)
"""
LOAD = """
import tf_keras
model = small(tf_keras) if sys.argv[2] == "small" else tf_keras.applications.Xception(weights=None)
for i in range(3):
    model.set_weights([np.zeros(w.shape, "f4") for w in model.get_weights()])
    if i == 0:
        model.load_weights("ours.ckpt")
    else:
        tf.train.Checkpoint(model, **{"model": model} if i == 2 else {}).read("ours.ckpt").assert_existing_objects_matched()
    keep(f"loaded{i}.npz", told(model))
tf.train.Checkpoint(model=model).read("ours.ckpt").assert_existing_objects_matched()
"""


def run(code: str, folder: Path, *arguments: str) -> None:
    done = subprocess.run(
        [*warm.python("keras"), "-c", START + code, folder, *arguments], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]


def same(found: Checkpoint, path: Path) -> None:
    """Every tensor of ``found`` has the name, shape, dtype and bits of the framework's own."""
    with np.load(path) as expected:
        assert set(found.tensors) == set(expected)
        for name, tensor in found.tensors.items():
            array, theirs = tensor.read(), expected[name]
            assert array.shape == theirs.shape == tensor.shape
            assert array.dtype == theirs.dtype or (array.dtype.name, theirs.dtype.name) == ("bfloat16", "uint16"), name
            assert array.tobytes() == theirs.tobytes(), name


@pytest.mark.parametrize("version", ["V1", "V2"])
def test_what_a_saver_writes(tmp_path: Path, version: str) -> None:
    run(SAVER, tmp_path, version)
    found = read(tmp_path / "model.ckpt")
    assert found.format == ("tensorflow" if version == "V2" else "tensorflow-v1")
    assert found.notes == ("left out 1 tensors of text or handles",)
    same(found, tmp_path / "model.npz")


def test_several_shards(tmp_path: Path) -> None:
    run(SHARDS, tmp_path)
    assert sorted(p.name for p in tmp_path.glob("model.ckpt.data*")) == [
        "model.ckpt.data-00000-of-00002",
        "model.ckpt.data-00001-of-00002",
    ]
    same(read(tmp_path / "model.ckpt"), tmp_path / "model.npz")


@pytest.fixture(scope="module")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("objects")
    run(OBJECTS, folder)
    return folder


@KERAS_2
@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("keras-model", (OPTIMIZER,)),
        ("keras-trained-1", ("left out `save_counter`", OPTIMIZER)),
        ("keras-export", ("left out 1 states of random numbers", "left out 28 tensors that it holds twice (`_all_variables`)")),
        ("tf_keras-weights", (OPTIMIZER,)),
        ("tf_keras-saved", (OPTIMIZER, "left out the metrics' 4 tensors")),
        ("tf_keras-trained-1", ("left out `save_counter`", OPTIMIZER)),
    ],
)
def test_variables_of_objects_have_their_own_names(objects: Path, name: str, notes: tuple[str, ...]) -> None:
    found = read(objects / name)
    assert (found.format, found.notes) == ("tensorflow-objects", notes)
    same(found, objects / f"{name.partition('-')[0]}.npz")


@KERAS_2
def test_a_key_chooses_among_objects(objects: Path) -> None:
    with pytest.raises(AmbiguousError) as caught:
        read(objects / "twice")
    assert caught.value.hints == tuple(f"`--key {name}` takes the 28 tensors of that object" for name in ("one", "two"))
    same(read(objects / "twice", "one"), objects / "tf_keras.npz")


def test_what_is_written_here_tensorflow_loads(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    arrays = {f"net/{n}": random.integers(0, 2, (3, 5)).astype(dtype_named(n)) for n in DTYPES.values()}
    arrays |= {"net/none": np.zeros((2, 0), np.float32), "net/scalar": np.asarray(7), "global_step": np.asarray(70_000)}
    record = {"xconvert": '{"version": "é"}'}
    tensorflow.write(tmp_path / "ours.ckpt", Checkpoint({n: Tensor.of(a) for n, a in arrays.items()}, record))
    run(RESTORE, tmp_path)
    with np.load(tmp_path / "load.npz") as loaded:
        assert set(loaded) == set(arrays)
        for name, array in arrays.items():
            assert (loaded[name].shape, loaded[name].tobytes()) == (array.shape, array.tobytes()), name


def test_the_bytes_are_tensorflows_own(tmp_path: Path) -> None:
    """With as many names as make several blocks in the index."""
    arrays = {f"net/{'a' * (i % 90)}{i}": np.full(i % 3, i, np.float32) for i in range(20_000)}
    tensorflow.write(tmp_path / "ours.ckpt", Checkpoint({n: Tensor.of(a) for n, a in arrays.items()}))
    np.savez(tmp_path / "ours.npz", **arrays)
    run(SAVE_V2, tmp_path)
    for end in ("index", "data-00000-of-00001"):
        assert (tmp_path / f"ours.ckpt.{end}").read_bytes() == (tmp_path / f"theirs.ckpt.{end}").read_bytes()
    assert (tmp_path / "ours.ckpt.index").stat().st_size > 300_000
    assert len(read(tmp_path / "theirs.ckpt").tensors) == 20_000


@KERAS_2
@pytest.mark.parametrize("size", ["small", pytest.param("whole", marks=pytest.mark.slow)])
def test_keras_2_loads_what_is_written_here(tmp_path: Path, size: str) -> None:
    model = "small(tf_keras)" if size == "small" else "tf_keras.applications.Xception(weights=None)"
    shapes = f"import tf_keras\njson.dump({{n: a.shape for n, a in told({model}).items()}}, open('shapes.json', 'w'))"
    run(shapes, tmp_path)
    theirs = json.loads((tmp_path / "shapes.json").read_text())
    # the whole one in our own order, which must be that of the class
    names = list(theirs) if size == "small" else list(checkpoint(narrow(), "keras.applications").tensors)
    assert set(names) == set(theirs)
    random = np.random.default_rng(2)
    arrays = {name: random.normal(size=theirs[name]).astype(np.float32) for name in names}
    form = format_for_writing(tmp_path / "ours.ckpt", "keras")
    assert form.name == "tensorflow-objects"
    assert form.write is not None
    form.write(tmp_path / "ours.ckpt", Checkpoint({n: Tensor.of(a) for n, a in arrays.items()}, {"xconvert": "{}"}))
    run(LOAD, tmp_path, size)
    for i in range(3):
        with np.load(tmp_path / f"loaded{i}.npz") as loaded:
            assert set(loaded) == set(arrays)
            assert all(loaded[name].tobytes() == array.tobytes() for name, array in arrays.items())
