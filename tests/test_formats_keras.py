"""Keras' three containers without Keras: round trips, the orders and names that readers give, and hostile files."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from xconvert.errors import AmbiguousError, UnreadableError, UsageError, XconvertError
from xconvert.formats import formats, read
from xconvert.formats._hdf5_signature import is_hdf5
from xconvert.formats._keras_config import describe
from xconvert.formats._keras_models import natural_order
from xconvert.formats.keras_h5 import write as write_h5
from xconvert.formats.keras_weights import write as write_weights
from xconvert.model import Checkpoint, Tensor

DTYPES = ["float16", "float32", "float64", "int8", "uint8", "int32", "int64", "uint32", "bool"]
WRITERS = {".h5": write_h5, ".weights.h5": write_weights}


def save(path: Path, tensors: Mapping[str, np.ndarray], **metadata: str) -> Path:
    """Write ``path`` in the layout that its suffix asks for."""
    suffix = ".weights.h5" if path.name.endswith(".weights.h5") else ".h5"
    WRITERS[suffix](path, Checkpoint({name: Tensor.of(array) for name, array in tensors.items()}, metadata))
    return path


def legacy(path: Path, groups: Mapping[str, Sequence[str]], under: str = "", encode: Callable[[str], Any] = str.encode) -> Path:
    """A file of the older layout, made with h5py alone: every weight is a number that counts from 0."""
    with h5py.File(path, "w") as root:
        group = root.create_group(under) if under else root
        group.attrs["layer_names"] = [encode(layer) for layer in groups]
        number = 0
        for layer in sorted(groups):  # alphabetical, as Keras creates them
            group.create_group(layer).attrs["weight_names"] = [encode(name) for name in groups[layer]]  # none: no float64
        for layer, names in groups.items():
            for name in names:
                group[layer][name] = np.float32(number)
                number += 1
    return path


def store(path: Path, *names: str) -> Path:
    """A file of the newer layout, made with h5py alone: ``names`` are paths of datasets, which count from 0."""
    with h5py.File(path, "w") as root:
        for number, name in enumerate(names):
            root[name] = np.float32(number)
    return path


# --- Round trips ---


def same(checkpoint: Checkpoint, tensors: Mapping[str, np.ndarray]) -> None:
    """Every tensor is there with its shape, dtype and bytes."""
    assert set(checkpoint.tensors) == set(tensors)
    for name, array in tensors.items():
        tensor = checkpoint.tensors[name]
        found = tensor.read()
        assert (tensor.shape, tensor.dtype) == (found.shape, found.dtype) == (array.shape, array.dtype)
        assert found.tobytes() == array.tobytes()


words = st.text(st.characters(codec="utf-8", exclude_characters="/:", exclude_categories=["C", "Z"]), min_size=1, max_size=12)
words = words.filter(lambda word: word not in (".", "..") and word.isprintable())
shapes = arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
values = st.sampled_from(DTYPES).flatmap(lambda dtype: arrays.arrays(dtype, shapes))
halves = arrays.arrays(np.uint16, shapes).map(lambda array: array.view(ml_dtypes.bfloat16))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(layers=st.dictionaries(words, st.dictionaries(words, values, min_size=1, max_size=3), max_size=4), metadata=words)
def test_h5_round_trip(layers: dict[str, dict[str, np.ndarray]], metadata: str) -> None:
    tensors = {f"{layer}/{name}": array for layer, weights in layers.items() for name, array in weights.items()}
    with tempfile.TemporaryDirectory() as folder:
        first, second = (save(Path(folder, name), tensors, xconvert=metadata) for name in ("a.h5", "b.h5"))
        found = read(first)
        same(found, tensors)
        assert list(found.tensors) == list(tensors)
        assert (found.metadata, found.format) == ({"xconvert": metadata}, "keras-h5")
        assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    layers=st.dictionaries(words, st.lists(values | halves, min_size=1, max_size=12), max_size=4).filter(
        lambda d: "layers" not in d
    ),
    metadata=words,
)
def test_weights_round_trip(layers: dict[str, list[np.ndarray]], metadata: str) -> None:
    tensors = {f"{layer}/{i}": array for layer, weights in layers.items() for i, array in enumerate(weights)}
    with tempfile.TemporaryDirectory() as folder:
        first, second = (save(Path(folder, f"{name}.weights.h5"), tensors, xconvert=metadata) for name in "ab")
        found = read(first)
        same(found, tensors)
        for layer, weights in layers.items():  # 10 comes after 9
            assert [name for name in found.tensors if name.rpartition("/")[0] == layer] == [
                f"{layer}/{i}" for i in range(len(weights))
            ]
        assert (found.metadata, found.format) == ({"xconvert": metadata}, "keras-weights")
        assert first.read_bytes() == second.read_bytes()


@given(st.lists(st.tuples(st.sampled_from(["conv2d", "dense", "block1_conv1"]), st.integers(0, 30)), unique=True))
def test_natural_order(layers: list[tuple[str, int]]) -> None:
    names = [f"{stem}_{number}" if number else stem for stem, number in layers]
    ordered = natural_order(names)
    assert sorted(ordered) == sorted(names)
    places = [
        name.rpartition("_")[0] if name[-1].isdigit() and "_" in name and name != "block1_conv1" else name for name in ordered
    ]
    assert [stem for stem, _ in layers] == places
    for stem in ("conv2d", "dense", "block1_conv1"):
        mine = [name for name, place in zip(ordered, places, strict=True) if place == stem]
        assert mine == [f"{stem}_{n}" if n else stem for n in sorted(n for s, n in layers if s == stem)]


@pytest.mark.slow
def test_names_that_need_two_attributes(tmp_path: Path) -> None:
    tensors = {f"{'layer' * 20}_{i}/kernel": np.float32(i) for i in range(1500)}
    path = save(tmp_path / "a.h5", {name: np.asarray(value) for name, value in tensors.items()})
    with h5py.File(path) as root:
        assert {"layer_names0", "layer_names1"} <= set(root.attrs)
        assert "layer_names" not in root.attrs
    assert {name: tensor.read()[()] for name, tensor in read(path).tensors.items()} == tensors


@pytest.mark.parametrize(
    "options", [{"chunks": (2, 3)}, {"compression": "gzip"}, {"compression": "lzf", "shuffle": True}, {"fletcher32": True}]
)
@pytest.mark.parametrize("array", [np.arange(12).reshape(4, 3).astype(">f4"), np.eye(4, 3) > 0], ids=["big-endian", "bool"])
def test_compressed_datasets(tmp_path: Path, options: dict[str, Any], array: np.ndarray) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as root:
        root.create_dataset("layers/dense/vars/0", data=array, **options)
    same(read(tmp_path / "a.h5"), {"dense/0": array.astype(array.dtype.newbyteorder("="))})


def test_compact_and_big_endian_datasets_behind_a_user_block(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w", userblock_size=2048) as root:
        root["layers/dense/vars/0"] = np.arange(6, dtype=">i2").reshape(2, 3)
        plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        plist.set_layout(h5py.h5d.COMPACT)
        space = h5py.h5s.create_simple((3,))
        dataset = h5py.h5d.create(root["layers/dense/vars"].id, b"1", h5py.h5t.NATIVE_DOUBLE, space, plist)
        dataset.write(h5py.h5s.ALL, h5py.h5s.ALL, np.arange(3.0))
    same(read(tmp_path / "a.h5"), {"dense/0": np.arange(6, dtype="i2").reshape(2, 3), "dense/1": np.arange(3.0)})


def test_booleans_that_are_neither_true_nor_false(tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5", {"a/b": np.array([True, False, True])})
    content = path.read_bytes()
    with h5py.File(path) as root:
        at = root["a/a/b"].id.get_offset()
    path.write_bytes(content[:at] + b"\x07\x00\xff" + content[at + 3 :])
    same(read(path), {"a/b": np.array([True, False, True])})


# --- Names and orders ---


@pytest.mark.parametrize("encode", [str.encode, str], ids=["bytes", "str"])
@pytest.mark.parametrize("under", ["", "model_weights"])
def test_layer_names_give_the_order(tmp_path: Path, encode: Callable[[str], Any], under: str) -> None:
    groups = {
        "input": [],
        "block1_conv1": ["block1_conv1_1/kernel:0"],  # TensorFlow 1 made it unique
        "convolution2d_1": ["convolution2d_1_W:0"],  # Keras 1
        "batchnormalization_1": ["batchnormalization_1_gamma:0", "batchnormalization_1_running_std:0"],
        "a_last": ["scope/a_last/kernel", "scope/a_last/bias"],
    }
    checkpoint = read(legacy(tmp_path / "a.h5", groups, under, encode))
    assert list(checkpoint.tensors) == [
        "block1_conv1/kernel",
        "convolution2d_1/convolution2d_1_W",
        "batchnormalization_1/batchnormalization_1_gamma",
        "batchnormalization_1/batchnormalization_1_running_std",
        "a_last/kernel",
        "a_last/bias",
    ]
    assert [tensor.read()[()] for tensor in checkpoint.tensors.values()] == list(range(6))
    assert checkpoint.notes == ()


def test_partly_frozen_nested_model_is_put_in_order(tmp_path: Path) -> None:
    inner = [
        "conv2d_10/kernel", "bn/gamma", "conv2d/kernel", "block1_conv1/kernel", "conv2d_2/kernel", "bn/moving_mean",
    ]  # fmt: skip
    checkpoint = read(legacy(tmp_path / "a.h5", {"xception": inner, "dense": ["dense/kernel"]}))
    assert {name: int(tensor.read()) for name, tensor in checkpoint.tensors.items()} == {
        "conv2d/kernel": 2,
        "bn/gamma": 1,
        "bn/moving_mean": 5,
        "conv2d_2/kernel": 4,
        "block1_conv1/kernel": 3,
        "conv2d_10/kernel": 0,
        "dense/kernel": 6,
    }
    assert list(checkpoint.tensors) == [
        "conv2d/kernel",
        "bn/gamma",
        "bn/moving_mean",
        "conv2d_2/kernel",
        "block1_conv1/kernel",
        "conv2d_10/kernel",
        "dense/kernel",
    ]
    assert checkpoint.notes == ("unwrapped the nested model `xception`",)


TWINS = {
    "student": ["conv2d/kernel", "dense/kernel"],
    "teacher": ["conv2d/kernel", "bn/gamma"],
    "dense": ["dense/kernel"],
    "head": ["head/kernel"],
}
STORED_TWINS = [
    f"layers/{m}/layers/{w}/vars/0"
    for m, w in (("student", "conv2d"), ("student", "dense"), ("teacher", "conv2d"), ("teacher", "bn"))
]


@pytest.mark.parametrize("layout", ["legacy", "store", "archive", "keras 2.12"])
def test_a_key_chooses_between_nested_models(tmp_path: Path, layout: str) -> None:
    if layout == "legacy":
        path, suffix = legacy(tmp_path / "a.h5", TWINS), "/kernel"
    else:
        old = layout == "keras 2.12"
        names = [*STORED_TWINS, "layers/dense/vars/0", "layers/head/vars/0"]
        names = [name.replace("layers", "_layer_checkpoint_dependencies") if old else name for name in names]
        path, suffix = store(tmp_path / "a.weights.h5", *names), "/0"
    if layout == "archive":
        with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
            archive.write(path, "model.weights.h5")
        path = tmp_path / "a.keras"
    with pytest.raises(AmbiguousError) as caught:
        read(path)
    around = ["`{}`, `dense`, `head`", "`dense`, `head`, `{}`"][layout != "legacy"]  # the older layout has an order
    assert caught.value.hints == (
        f"`--key student` takes that model alone, without {around.format('teacher')}",
        f"`--key teacher` takes that model alone, without {around.format('student')}",
    )
    assert caught.value.facts[0] == "`student` (2 tensors)"
    student, teacher = read(path, "student"), read(path, "teacher")
    assert {name: int(t.read()) for name, t in student.tensors.items()} == {
        f"conv2d{suffix}": 0,
        f"dense{suffix}": 1,
    }
    assert sorted(int(tensor.read()) for tensor in teacher.tensors.values()) == [2, 3]
    assert student.notes == (
        "unwrapped the nested model `student`",
        f"left out 4 tensors outside the nested model `student`: {around.format('teacher')}",
    )
    with pytest.raises(UnreadableError, match="holds no nested model `dense`"):
        read(path, "dense")


def test_a_key_takes_the_models_inside_and_not_the_one_around(tmp_path: Path) -> None:
    path = store(
        tmp_path / "a.h5",
        "layers/functional/layers/dense/vars/0",
        "layers/functional/layers/sequential/layers/conv2d/vars/0",
        "layers/functional/layers/sequential/layers/sequential/layers/bn/vars/0",
    )
    checkpoint = read(path, "functional/sequential")
    assert list(checkpoint.tensors) == ["conv2d/0", "bn/0"]
    assert checkpoint.notes[-1] == "left out 1 tensors outside the nested model `functional/sequential`: `dense`"


SEQUENTIAL = {
    "xception": ["a/kernel", "b/kernel"],
    "sequential": ["sequential_1/sequential/dense_5/kernel"],
    "new": ["old/kernel"],
}


def test_a_nested_model_with_one_layer_is_a_model(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a.h5", SEQUENTIAL)
    assert list(read(path).tensors) == ["a/kernel", "b/kernel", "dense_5/kernel", "old/kernel"]
    assert read(path).notes[1] == "unwrapped the nested model `sequential`"
    assert list(read(path, "sequential").tensors) == ["dense_5/kernel"]


def test_the_configuration_tells_a_nested_model_from_a_renamed_layer(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a.h5", SEQUENTIAL, "model_weights")
    dense = {"class_name": "Dense", "config": {"name": "dense_5"}}
    new = {"class_name": "Conv2D", "config": {"name": "new"}}
    sequential = {"class_name": "Sequential", "config": {"name": "sequential", "layers": [dense]}}
    with h5py.File(path, "a") as root:
        root.attrs["model_config"] = json.dumps(nested(nested(), sequential, new))
    checkpoint = read(path)
    assert list(checkpoint.tensors) == ["a/kernel", "b/kernel", "dense_5/kernel", "new/kernel"]
    assert list(checkpoint.stated) == ["dense_5", "new"]


def test_what_a_model_of_its_own_class_holds_is_not_stated(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a.h5", {"hub": ["a/kernel", "b/kernel"], "dense": ["dense/kernel"]}, "model_weights")
    hub = {"class_name": "keras_hub>Backbone", "config": {"name": "hub"}}
    with h5py.File(path, "a") as root:
        root.attrs["model_config"] = json.dumps(nested(hub, {"class_name": "Dense", "config": {"name": "dense"}}))
    assert list(read(path).stated) == ["dense"]
    hub["class_name"] = "TimeDistributed"
    with h5py.File(path, "a") as root:
        root.attrs["model_config"] = json.dumps(nested(hub))
    assert list(read(path).stated) == ["hub"]


def test_a_key_where_there_is_nothing_to_choose(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError) as caught:
        read(save(tmp_path / "a.h5", {"a/b": np.zeros(1)}), "xception")
    assert caught.value.hints == ("leave `--key` away",)


def test_what_training_left_is_left_out(tmp_path: Path) -> None:
    path = store(
        tmp_path / "a.h5", "layers/conv2d/vars/0", "optimizer/vars/0", "optimizer/vars/1", "metrics/mean/vars/0", "vars/0"
    )
    checkpoint = read(path)
    assert set(checkpoint.tensors) == {"conv2d/0", "vars/0"}
    assert checkpoint.notes == ("left out the optimizer's 2 tensors", "left out the metrics' 1 tensors")
    legacy(path, {"dense": ["dense/kernel"]}, "model_weights")
    with h5py.File(path, "a") as root:
        root.create_group("optimizer_weights").attrs["weight_names"] = [b"adam/a", b"adam/b"]
    assert read(path).notes == ("left out the optimizer's 2 tensors",)


def test_weights_of_the_model_itself_are_not_lost(tmp_path: Path) -> None:
    path = legacy(tmp_path / "a.h5", {"dense": ["dense/kernel"], "top_level_model_weights": ["scale"]})
    with h5py.File(path, "a") as root:
        root.attrs["layer_names"] = [b"dense"]
    assert list(read(path).tensors) == ["dense/kernel", "top_level_model_weights/scale"]


def test_archive(tmp_path: Path) -> None:
    tensors = {"dense/0": np.arange(6.0).reshape(2, 3)}
    inner = save(tmp_path / "inner.weights.h5", tensors, xconvert="{}")
    path = tmp_path / "a.keras"
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("metadata.json", "{}")
            archive.writestr("config.json", json.dumps({"config": {"layers": [norm("bn", 1e-3)]}}))
            archive.write(inner, "model.weights.h5")
        checkpoint = read(path)
        same(checkpoint, tensors)
        assert checkpoint.format == "keras-archive"
        assert (checkpoint.metadata, checkpoint.evidence) == ({"xconvert": "{}"}, {"bn_epsilon": (1e-3, "config.json")})
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UnreadableError, match="truncated"):
        read(path)


def test_archive_without_weights(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.keras", "w") as archive:
        archive.writestr("metadata.json", "{}")
    with pytest.raises(UnreadableError, match=r"holds no `model\.weights\.h5`"):
        read(tmp_path / "a.keras")


# --- Model configurations ---


def norm(name: str, epsilon: float, **options: Any) -> dict[str, Any]:
    return {"class_name": "BatchNormalization", "config": {"name": name, "epsilon": epsilon, **options}}


def pool(padding: str, key: str = "padding", size: int = 3) -> dict[str, Any]:
    config = {"name": "pool", key: padding, "pool_size": [size, size], "strides": [2, 2]}
    return {"class_name": "MaxPooling2D", "config": config}


SYMMETRIC = {"class_name": "SymmetricMaxPooling2D", "registered_name": "xconvert>SymmetricMaxPooling2D", "config": {"name": "p"}}
OLD_SYMMETRIC = {"class_name": "xconvert>SymmetricMaxPooling2D", "config": {"name": "p"}}


def nested(*layers: dict[str, Any]) -> dict[str, Any]:
    return {"class_name": "Functional", "config": {"name": "xception", "layers": list(layers)}}


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([norm("a", 1e-3), norm("b", 1e-3)], {"bn_epsilon": 1e-3}),
        ([nested(nested(norm("a", 1e-5), pool("same")))], {"bn_epsilon": 1e-5, "pool_padding": "same_upper"}),
        ([norm("a", 1e-3, momentum=0.95), norm("b", 1e-3, momentum=0.95)], {"bn_epsilon": 1e-3, "bn_momentum": 0.95}),
        ([norm("a", 1e-3, momentum=1.0), norm("b", 1e-3, momentum="x")], {"bn_epsilon": 1e-3}),
        ([pool("same", "border_mode"), pool("valid", size=2)], {"pool_padding": "same_upper"}),
        ([SYMMETRIC, SYMMETRIC], {"pool_padding": "symmetric"}),
        ([OLD_SYMMETRIC], {"pool_padding": "symmetric"}),
        ([{**SYMMETRIC, "registered_name": "other>SymmetricMaxPooling2D"}], {}),
        ([], {}),
    ],
)
def test_evidence(layers: list[dict[str, Any]], expected: dict[str, Any]) -> None:
    for config in (nested(*layers), {"class_name": "Sequential", "config": layers}):  # Sequential: a bare list in Keras 1
        said = describe(json.dumps(config), "here")
        assert (said.evidence, said.notes) == ({name: (value, "here") for name, value in expected.items()}, ())


@pytest.mark.parametrize(
    ("layers", "note"),
    [
        (
            [norm("a", 1e-3), norm("bn", 1e-5), norm("c", 1e-3)],
            "batch norms have different epsilons: 0.001 (2 layers), 1e-05 (1 layer, `bn`)",
        ),
        (
            [norm("a", 0.0, momentum=0.9), norm("bn", 0.0, momentum=0.99)],
            "batch norms have different momentums: 0.9 (1 layer, `a`), 0.99 (1 layer, `bn`)",
        ),
        ([pool("valid")], "max-pools of 3×3 with stride 2 have the padding `valid`, which no Xception has"),
        ([pool("same"), SYMMETRIC], "max-pools have different paddings: same_upper (1 layer, `pool`), symmetric (1 layer, `p`)"),
    ],
)
def test_disagreeing_layers_are_no_evidence(layers: list[dict[str, Any]], note: str) -> None:
    said = describe(json.dumps(nested(*layers)), "here")
    assert (said.evidence, said.notes) == ({}, (note,))


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", '"a"', "1" * 5000, b"\xff"])
def test_a_configuration_that_makes_no_sense_is_no_evidence(text: str | bytes) -> None:
    said = describe(text, "here")
    assert (said.evidence, said.stated) == ({}, {})


def test_layers_are_stated_under_the_names_that_readers_give() -> None:
    dense = {"class_name": "Dense", "config": {"name": "dense_5", "activation": "linear"}, "inbound_nodes": [[], []]}
    act = {"class_name": "Activation", "config": {"name": "act", "activation": "relu"}}
    config = json.dumps(nested(act, norm("bn", 1e-3), nested(norm("inner", 1e-5), act), norm("bn_7", 1e-3), dense))
    own = describe(config, "here")
    assert list(own.stated) == ["act", "bn", "inner", "xception/act", "bn_7", "dense_5"]
    assert own.stated["dense_5"] == {"class": "Dense", "name": "dense_5", "calls": 2, "activation": "linear"}
    assert own.models == {"xception"}
    numbered = describe(config, "here", numbered=True)
    assert list(numbered.stated) == [
        "activation", "batch_normalization", "functional/batch_normalization", "functional/activation", "batch_normalization_1",
        "dense",
    ]  # fmt: skip
    inner = describe(config, "here", key="functional", numbered=True)
    assert list(inner.stated) == ["batch_normalization", "activation"]
    assert inner.evidence == {"bn_epsilon": (1e-5, "here")}


@pytest.mark.parametrize("pooling", ["avg", "max", None, {}])
def test_keras_hub_says_how_it_pools(pooling: Any) -> None:
    config = {"registered_name": "keras_hub>XceptionImageClassifier", "config": {"pooling": pooling, "activation": None}}
    classes = [options["class"] for options in describe(json.dumps(config), "here").stated.values()]
    assert classes == {"avg": ["GlobalAveragePooling2D"], "max": ["GlobalMaxPooling2D"]}.get(str(pooling), [])


# --- Hostile and damaged files ---


@pytest.mark.parametrize("link", [h5py.SoftLink("/b"), h5py.ExternalLink("b.h5", "b")], ids=["soft", "external"])
@pytest.mark.parametrize("at", ["model_weights", "model_weights/a", "model_weights/a/a", "model_weights/a/a/kernel"])
def test_links_in_the_older_layout(tmp_path: Path, at: str, link: Any) -> None:
    path = legacy(tmp_path / "a.h5", {"a": ["a/kernel"]}, "model_weights")
    legacy(tmp_path / "b.h5", {"b": ["b/kernel"]})
    with h5py.File(path, "a") as root:
        root.move(at, "b")
        root[at] = link
    with pytest.raises(UnreadableError, match=r"is a soft link|is an external link"):
        read(path)


@pytest.mark.parametrize(
    ("layers", "weights", "message"),
    [
        (["a", ".."], ["a/kernel"], r"`\.\.` is not a name"),
        (["a", "."], ["a/kernel"], r"`\.` is not a name"),
        (["a", ""], ["a/kernel"], r"`` is not a name"),
        (["a", "b"], ["a/kernel"], "`b` is missing"),
        (["a", "a"], ["a/kernel"], "another name already"),
        (["a"], ["a/kernel/x"], r"`a/kernel/x` is missing"),
        (["a"], ["a/../a/kernel"], r"`\.\.` is not a name"),
        (["a"], ["/a/a/kernel"], "`` is not a name"),
        (["a"], ["a"], "`a` is not a dataset"),
        (["a"], np.zeros(3), "is not a list of names"),
        (["a"], [b"a\xff"], "`a\N{REPLACEMENT CHARACTER}` is missing"),
        (["a"], np.asarray([b"a\xff"]), "`a\N{REPLACEMENT CHARACTER}` is missing"),
        (["a"], h5py.Empty("S1"), "is not a list of names"),
    ],
)
def test_lists_of_names_that_make_no_sense(tmp_path: Path, layers: list[str], weights: Any, message: str) -> None:
    path = legacy(tmp_path / "a.h5", {"a": ["a/kernel"]})
    with h5py.File(path, "a") as root:
        root.attrs["layer_names"] = layers
        root["a"].attrs["weight_names"] = weights
    with pytest.raises(UnreadableError, match=message):
        read(path)


def test_another_programs_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as root:
        root["pressure"] = np.zeros(3)
    with pytest.raises(UnreadableError, match="HDF5 file, but not one of Keras") as caught:
        read(tmp_path / "a.h5")
    assert caught.value.facts[-1] == "its root holds `pressure`"


def test_a_signature_inside_something_else_is_no_hdf5(tmp_path: Path) -> None:
    """A tensor may hold the bytes; an archive may hold a whole file, where HDF5 would look for it."""
    signature = b"\x89HDF\r\n\x1a\n"
    assert is_hdf5(memoryview(b"\0" * 512 + signature + b"\0"))
    assert not is_hdf5(memoryview(b"\0" * 512 + signature + b"x"))
    assert not is_hdf5(memoryview(b"PK\x03\x04" + b"\0" * 508 + signature + b"\0"))


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_truncated_file_is_unreadable(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"a{suffix}", {f"dense_{i}/0": np.arange(100.0) for i in range(3)})
    content = path.read_bytes()
    for length in range(8, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(UnreadableError, match="is truncated or damaged: "):
            read(path)


def test_damage_to_compressed_numbers_is_found_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as root:
        at = root.create_dataset("layers/dense/vars/0", data=np.arange(100.0), fletcher32=True).id.get_chunk_info(0).byte_offset
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match="is damaged: `/layers/dense/vars/0`: a chunk of it does not have its checksum"):
        read(path).tensors["dense/0"].read()


def test_a_dataset_that_lies_outside_the_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5", {"a/b": np.full(64, np.pi)})
    content = bytearray(path.read_bytes())
    with h5py.File(path) as root:
        layout = content.index(struct.pack("<QQ", root["a/a/b"].id.get_offset(), 512))  # address and size
    content[layout : layout + 8] = struct.pack("<Q", len(content) - 100)
    path.write_bytes(content)
    with pytest.raises(UnreadableError, match="is damaged: `/a/a/b` lies outside the file"):
        read(path)


# --- Writing ---


@pytest.mark.parametrize("name", ["kernel", "/kernel", "dense/", "a/b/c", "./kernel", "dense/..", "dense/kernel"])
def test_names_that_a_layout_has_no_room_for(tmp_path: Path, name: str) -> None:
    for suffix in WRITERS if name != "dense/kernel" else [".weights.h5"]:
        with pytest.raises(UsageError, match="hold weights called"):
            save(tmp_path / f"a{suffix}", {name: np.zeros(1)})
        assert list(tmp_path.iterdir()) == []


def test_dtypes_that_keras_has_no_room_for(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="of dtype `complex64`"):
        save(tmp_path / "a.weights.h5", {"dense/0": np.zeros(2, "c8")})
    with pytest.raises(UsageError, match="cannot load bfloat16") as caught:
        save(tmp_path / "a.h5", {"dense/kernel": np.zeros(2, ml_dtypes.bfloat16)})
    assert caught.value.hints == ("write `.weights.h5` instead",)


@pytest.mark.parametrize("suffix", WRITERS)
def test_a_disk_that_refuses_is_an_ordinary_error(tmp_path: Path, suffix: str) -> None:
    """In a process of its own: HDF5 that writes to the disk itself crashes there."""
    code = f"""
import resource
from pathlib import Path
import numpy as np
from xconvert.formats import format_for_writing
from xconvert.model import Checkpoint, Tensor
path = Path({str(tmp_path / "a")!r} + {suffix!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
try:
    format_for_writing(path, "keras").write(path, Checkpoint({{f"dense_{{i}}/0": Tensor.of(np.zeros(20_000)) for i in range(9)}}))
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "File too large\n", "")


def test_metadata_do_not_change_what_keras_sees(tmp_path: Path) -> None:
    path = save(tmp_path / "a.h5", {"a/b": np.zeros(1)}, layer_names="x", keras_version="1", note="n" * 100_000)
    assert list(read(path).tensors) == ["a/b"]
    assert read(path).metadata == {"note": "n" * 100_000}


def test_every_layout_is_recognised_by_content(tmp_path: Path) -> None:
    names = {
        "keras-h5": save(tmp_path / "a.h5", {"layers/vars": np.zeros(1)}),
        "keras-weights": save(tmp_path / "b.weights.h5", {"a/0": np.zeros(1)}),
    }
    for expected, path in names.items():
        assert read(path.rename(tmp_path / "renamed.ckpt")).format == expected
    assert {"keras-h5", "keras-weights", "keras-archive"} <= set(formats())


def test_nothing_loads_h5py_before_there_is_an_h5(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"no checkpoint at all")
    code = f"""
import sys
from pathlib import Path
from xconvert.errors import XconvertError
from xconvert.formats import read
try:
    read(Path({str(tmp_path / "a")!r}))
except XconvertError:
    print("h5py" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout == "False\n"


def test_errors_are_xconverts_own(tmp_path: Path) -> None:
    """Bits flipped in the structure of a file never surface as an error of h5py."""
    path = save(tmp_path / "a.h5", {"a/kernel": np.zeros(2, "f4")})
    content = path.read_bytes()
    random = np.random.default_rng(0)
    refused = 0
    for at in random.integers(8, len(content), 150):
        path.write_bytes(content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :])
        try:
            for tensor in read(path).tensors.values():
                tensor.read()
        except XconvertError:
            refused += 1
    assert refused > 10
