"""Small valid files of every format, taken apart: what mutation starts from. Written by our own writers where we have one, by the
helpers of the formats' own tests where strangers write what we do not; from a few tensors with seeded numbers.
"""

from __future__ import annotations

import io
import json
import pickle
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np

from tests import pickles
from tests.fuzz import parsing
from tests.fuzz.nodes import Node, raw
from xconvert import loading
from xconvert.architectures import families
from xconvert.formats import formats
from xconvert.mappings import library
from xconvert.model import Attribute, Checkpoint, Depth, Graph, Layer, Model, Tensor

Seed = tuple[Node, ...]  # a node for each of the target's files; one without bytes for a file that is not there
NONE = raw(b"")
RECORD = {
    "version": "0.1",
    "implementation": "timm",
    "attributes": {"bn_epsilon": 1e-5, "pool_padding": "symmetric"},
    "preprocessing": {"size": 299, "mean": [0.5], "std": [0.5]},
    "mapping": {"name": "timm", "sha256": "0" * 64},
    "source": {"sha256": "a" * 64, "format": "torch", "implementation": "timm"},
    "changes": [{"attribute": "bn_epsilon", "source": 0.001, "target": 1e-5, "action": "folded"}],
    "content": "0" * 64,
}
METADATA = {"xconvert": json.dumps(RECORD), "other": "ä"}
DTYPES = ("float32", "float16", "float64", "int64", "uint8", "bool", "bfloat16", "complex64", "float8_e5m2", "uint16")


def checkpoint(*dtypes: str, names: str = "layer{}.weight", metadata: Mapping[str, str] = METADATA) -> Checkpoint:
    """A few tensors, one for each of ``dtypes``, of different ranks."""
    rng = np.random.default_rng(7)
    shapes = [(2, 1, 3), (4,), (), (2, 2), (1, 2, 1, 2), (0, 3)]
    tensors = {}
    for i, name in enumerate(dtypes):
        dtype = np.dtype(getattr(ml_dtypes, name) if name.startswith(("bfloat", "float8")) else name)
        tensors[names.format(i)] = Tensor.of(rng.integers(0, 9, shapes[i % 6]).astype(dtype))
    return Checkpoint(tensors, metadata)


@cache
def network(family: str = "xception", implementation: str = "timm", width: int = 1) -> Model:
    """A whole network of the smallest depth and width: what the matching code takes for one."""
    found = families()[family]
    layers = found.build(Depth(3, 1), True, found.attributes)
    rng, channels, weights = np.random.default_rng(3), {"image": 3}, dict[str, Tensor]()
    for layer in layers:
        inputs = channels[layer.inputs[0]]
        outputs = {"conv": width, "pointwise": width, "linear": 2}.get(layer.op, inputs)
        sizes = {"H": layer.kernel, "W": layer.kernel, "I": inputs, "O": outputs, "C": inputs}
        for parameter, axes in layer.parameters.items():
            array = rng.uniform(0.1, 1, [sizes[axis] for axis in axes.split()]).astype(np.float32)
            weights[f"{layer.name}.{parameter}"] = Tensor.of(array)
        channels[layer.name] = outputs
    told = {name: Attribute(value, "seed") for name, value in found.attributes.items()}
    return Model(found, Depth(3, 1), True, told, weights, implementation=implementation)


@cache
def network_file(family: str, implementation: str, dialect: str | None = None, record: bool = False) -> Checkpoint:
    """The smallest network under somebody's names."""
    model, known = network(family, implementation), library()
    found = known.find(implementation, model.family, model.depth) or known.customary(
        known.dialects[implementation], model.family, model.depth
    )
    saved = loading.save(model, found, known.dialects[dialect or found.dialect])
    return saved if record else Checkpoint(saved.tensors, {}, dialect=saved.dialect, graph=saved.graph)


def written(format_name: str, given: Checkpoint, name: str = "x") -> tuple[bytes, ...]:
    """The contents of the files that our writer makes."""
    form = formats()[format_name]
    assert form.write
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        form.write(path, given)
        return tuple(file.read_bytes() for file in form.files(path))


def torch() -> Iterator[Seed]:
    for given in (
        checkpoint(*DTYPES),
        checkpoint("float32"),
        network_file("xception", "timm"),
        network_file("xception", "timm", record=True),
    ):
        yield (parsing.zipped(written("torch", given)[0], parsing.torch_member),)
    whole = parsing.zipped(written("torch", checkpoint("float32", "bfloat16"))[0], parsing.torch_member)
    yield (Node("zip", whole.value, [Node("member", (8, []), member.children) for member in whole.children]),)
    view = pickles.tensor((2, 2), (1, 2))
    nested = {"state_dict": pickles.many(5), "state_dict_ema": pickles.many(), "optimizer": {"state": pickles.many()}, "epoch": 3}
    later = pickles.call("torch._utils._rebuild_parameter", view, True, {})
    for root in (nested, {"module.conv.weight": later, "b": pickles.tensor(kind="HalfStorage", shape=(2,))}, [pickles.many()]):
        yield (parsing.zipped(pickles.archive(root), parsing.torch_member),)


def torch_legacy() -> Iterator[Seed]:
    names = [pickles.legacy_tensor(), pickles.legacy_tensor((), "HalfStorage"), pickles.legacy_tensor(("v", 1, 2))]
    yield (parsing.pickled(pickles.legacy({f"l{i}.weight": pickles.legacy_tensor() for i in range(4)}, pickles.numbers())),)
    yield (parsing.pickled(pickles.legacy({"state_dict": {"a": names[0], "b": names[0]}, "x": 1}, pickles.numbers())),)
    yield (parsing.pickled(pickles.legacy({"a": names[2]}, pickles.numbers())),)
    yield (parsing.pickled(pickles.legacy({"a": pickles.legacy_tensor()}, pickles.numbers(">"), little=False)),)


def paddle() -> Iterator[Seed]:
    given = checkpoint("float32", "float16", "float64", "int64", "uint8", "bool", "bfloat16")
    yield (parsing.pickled(written("paddle", given)[0]),)
    yield (parsing.pickled(written("paddle", network_file("xception", "paddle"))[0]),)
    from xconvert.formats import paddle as form

    with tempfile.TemporaryDirectory() as folder:
        form.write_pickle(Path(folder, "x"), checkpoint("float32", "int8"), 2)
        yield (parsing.pickled(Path(folder, "x").read_bytes()),)
    arrays = {f"conv_{i}.w_0": np.arange(3, dtype=np.float32).reshape(1, 3) for i in range(4)}
    for protocol in (2, 3, 4, 5):  # NumPy's own way of writing
        yield (parsing.pickled(pickle.dumps(arrays, protocol)),)
    pieces = {"w@@.0": np.ones(3, np.float32), "w@@.1": np.ones(2, np.float32), "b": np.ones(1)}
    told = {form.PIECES: {"w": {"OriginShape": (5,), "slices": ["w@@.0", "w@@.1"]}}, form.NAMES: {"b": "b_0"}}
    yield (parsing.pickled(pickle.dumps({**pieces, **told}, 2)),)
    yield (parsing.pickled(pickle.dumps({"model": {"a": ("a_0", np.ones(2))}, "epoch": 1}, 2)),)


def paddle_inference() -> Iterator[Seed]:
    from tests.test_formats_paddle import NET, ORDER, description, program, stored

    main = [stored(NET[name]) for name in ORDER]
    shapes = {name: array.shape for name, array in NET.items()}
    told = {name: {"structured_name": f"s.{i}", "stop_gradient": False} for i, name in enumerate(NET)}
    apart = Node(
        "cat",
        None,
        [Node("cat", None, [raw(part[:20]), parsing.message(part[20:-8]), raw(part[-8:])]) for part in main if len(part) > 28],
    )
    whole = Node("cat", None, [raw(part) for part in main])
    text = parsing.json(program({name: list(shape) for name, shape in shapes.items()}).encode())
    yield whole, text, NONE, NONE
    yield whole, NONE, parsing.message(description(shapes)), parsing.pickled(pickle.dumps(told, 4))
    yield apart, text, NONE, NONE
    yield whole, NONE, parsing.message(description(shapes)), NONE


CONFIG = {
    "pretrained_cfg": {
        "input_size": [3, 299, 299],
        "interpolation": "bicubic",
        "crop_pct": 0.9,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
}


def safetensors() -> Iterator[Seed]:
    config = parsing.json(json.dumps(CONFIG).encode())
    for given in (checkpoint(*DTYPES), checkpoint("float32")):
        yield parsing.safetensors(written("safetensors", given)[0]), NONE
        yield parsing.safetensors(written("safetensors", given)[0]), config
    for implementation, family in (
        ("keras.applications", "xception"),
        ("timm", "xception_aligned"),
        ("tf-deeplab", "xception_aligned"),
    ):
        yield parsing.safetensors(written("safetensors", network_file(family, implementation))[0]), NONE


def npz() -> Iterator[Seed]:
    yield (parsing.zipped(written("npz", checkpoint(*DTYPES))[0], parsing.numpy_member),)
    yield (parsing.zipped(written("npz", checkpoint("float32"))[0], parsing.numpy_member),)
    for save in (np.savez, np.savez_compressed):
        file = io.BytesIO()
        save(file, a=np.arange(4.0), b=np.asfortranarray(np.ones((2, 3), ">i4")), c=np.float32(1))
        yield (parsing.zipped(file.getvalue(), parsing.numpy_member),)


def _hdf5(fill: Callable[[Any], None], **options: Any) -> Seed:
    file = io.BytesIO()
    with h5py.File(file, "w", **options) as root:
        fill(root)
    return (parsing.hdf5_image(file.getvalue()),)


def _legacy(root: Any) -> None:
    root.attrs["layer_names"] = np.array([b"conv", b"bn"])
    root.attrs["backend"], root.attrs["note"] = "tensorflow", "text of any length"
    for layer, names in (("conv", [b"conv/kernel:0", b"conv/bias:0"]), ("bn", [b"bn/gamma:0"])):
        group = root.create_group(layer)
        group.attrs["weight_names"] = np.array(names)
        for name in names:
            group[name.decode()] = np.arange(4, dtype=np.float32).reshape(2, 2)


def _packed(root: Any) -> None:
    root.attrs["layer_names"] = ["a"]
    group = root.create_group("a")
    group.attrs["weight_names"] = ["a/kernel:0", "a/bias:0", "a/odd:0"]
    group.create_dataset(
        "a/kernel:0", data=np.zeros((8, 8), np.float32), chunks=(4, 4), compression="gzip", shuffle=True, fletcher32=True
    )
    group.create_dataset("a/bias:0", data=np.arange(8, dtype=">f8"), chunks=(8,), compression="lzf")
    group.create_dataset("a/odd:0", shape=(3,), dtype="i2", maxshape=(None,))


LAYERS = [{"class_name": "MaxPooling2D", "config": {"name": "p", "pool_size": [3, 3], "strides": [2, 2], "padding": "same"}}]
LAYERS += [{"class_name": "BatchNormalization", "config": {"name": "bn", "epsilon": 0.001, "momentum": 0.99, "axis": [3]}}]
LAYERS += [
    {"class_name": "Functional", "config": {"name": "inner", "layers": [{"class_name": "Conv2D", "config": {"name": "conv"}}]}}
]
MODEL = {"class_name": "Functional", "config": {"name": "m", "layers": LAYERS}}


def _model(root: Any) -> None:
    root.attrs["model_config"], root.attrs["keras_version"] = json.dumps(MODEL), b"2.4.0"
    _legacy(root.create_group("model_weights"))
    root.create_group("optimizer_weights").attrs["weight_names"] = np.array([b"a:0"])


def keras_h5() -> Iterator[Seed]:
    for given in (
        checkpoint("float32", "float16", "bool", "int64", names="layer{}/kernel"),
        network_file("xception", "keras.applications"),
    ):
        yield (parsing.hdf5_image(written("keras-h5", given)[0]),)
    yield _hdf5(_legacy)
    yield _hdf5(_legacy, libver="latest")
    yield _hdf5(_packed)
    yield _hdf5(_packed, libver="latest")
    yield _hdf5(_model)
    yield _hdf5(_model, libver="latest")


def _store(root: Any) -> None:
    root["layers/conv2d/vars/0"] = np.arange(4, dtype=np.float32).reshape(1, 4)
    root["layers/conv2d_1/vars/0"] = np.float64(2)
    half = root.create_dataset("layers/dense/vars/0", data=np.zeros(3, "V2"))
    half.attrs["dtype"] = "bfloat16"
    root["layers/inner/layers/conv2d_9/vars/0"] = np.ones(2, np.int8)
    root["optimizer/vars/0"] = np.int64(7)
    root.attrs["xconvert"] = json.dumps(RECORD)


def keras_weights() -> Iterator[Seed]:
    yield (parsing.hdf5_image(written("keras-weights", checkpoint("float32", "bfloat16", "bool", names="dense_{}/0"))[0]),)
    yield (parsing.hdf5_image(written("keras-weights", network_file("xception", "keras.applications", "keras_weights"))[0]),)
    yield _hdf5(_store)
    yield _hdf5(_store, libver="latest")

    def packed(root: Any) -> None:
        root.create_dataset("layers/conv2d/vars/0", data=np.ones((4, 4)), chunks=(2, 2), compression="gzip")
        root.create_dataset("layers/conv2d/vars/1", data=np.ones(4, ">f4"), chunks=(2,), fletcher32=True, maxshape=(None,))

    yield _hdf5(packed)
    yield _hdf5(packed, libver="latest")


def keras_archive() -> Iterator[Seed]:
    image = _hdf5(_store)[0]
    config, told = parsing.json(json.dumps(MODEL).encode()), parsing.json(b'{"keras_version":"3.0.0"}')
    names = (("metadata.json", told), ("config.json", config), ("model.weights.h5", image))
    for method in (0, 8):
        yield (Node("zip", (b"", []), [Node("member", (method, []), [raw(name.encode()), inner]) for name, inner in names]),)
    task = parsing.json(b'{"registered_name":"keras_hub>X","class_name":"X","config":{"pooling":"avg","activation":"softmax"}}')
    latest = (("config.json", task), ("model.weights.h5", _hdf5(_store, libver="latest")[0]))
    yield (Node("zip", (b"", []), [Node("member", (0, []), [raw(name.encode()), inner]) for name, inner in latest]),)


def tensorflow() -> Iterator[Seed]:
    from tests.test_formats_tensorflow import DATA, HEADER, entry, sliced
    from xconvert.formats._protobuf import block, number
    from xconvert.formats._slices import key
    from xconvert.formats._sstable import table

    for given in (checkpoint(*DTYPES), checkpoint("float32"), network_file("xception_aligned", "tf-deeplab")):
        shard, index = written("tensorflow", given)
        yield parsing.tabled(index), raw(shard), NONE, NONE
        yield parsing.blocks(index), raw(shard), NONE, NONE
    halves = (((0, 1), (0, -1)), ((1, 1), (0, -1)))
    rows = {b"": HEADER, b"a": sliced(*halves)}
    rows |= {key("a", half): entry(12, 12 * i, (1, 3)) for i, half in enumerate(halves)}
    yield parsing.tabled(table(sorted(rows.items()))), raw(DATA), NONE, NONE
    two = {b"": number(1, 2) + block(3, number(1, 1)), b"a": entry(), b"b": entry(shard=1)}
    yield parsing.tabled(table(sorted(two.items()))), NONE, raw(DATA), raw(DATA)


def tensorflow_objects() -> Iterator[Seed]:
    from tests.test_formats_tensorflow import children, graph, variable

    given = checkpoint("float32", "bfloat16", "int64", names="layer_{}/kernel")
    nodes = [children(one=1, two=2), children(k=3, optimizer=2), children(k=4), variable("a/k", "1"), variable("b/k", "2")]
    layers = [children(kernel=3, bias=4), children(gamma=5, moving_variance=6)]
    counted = [
        children(**{f"layer_with_weights-{i}": 1 + i for i in range(2)}),
        *layers,
        *(variable("", str(i)) for i in range(4)),
    ]
    from xconvert.formats._bundle import files, write_bundle

    for text, keys in ((graph(*nodes), "12"), (graph(*counted), "0123")):
        with tempfile.TemporaryDirectory() as folder:
            write_bundle(Path(folder, "m"), {k: Tensor.of(np.full((1, 1), 2, np.float32)) for k in keys}, METADATA, text)
            shard, index = (path.read_bytes() for path in files(Path(folder, "m")))
        yield parsing.tabled(index), raw(shard), NONE, NONE
    shard, index = written("tensorflow-objects", given)
    yield parsing.tabled(index), raw(shard), NONE, NONE
    yield parsing.blocks(index), raw(shard), NONE, NONE


def tensorflow_v1() -> Iterator[Seed]:
    from tests.test_formats_tensorflow import DATA, FULL, V1, WHOLE, listed, saved
    from xconvert.formats._protobuf import block, number
    from xconvert.formats._slices import key
    from xconvert.formats._sstable import table

    for rows in (
        V1,
        {b"": block(1, listed("a", 9, WHOLE) + listed("b", 7)), key("a", FULL): saved(b"".join(number(10, n) for n in range(6)))},
        {b"": block(1, listed("a", 19, WHOLE)), key("a", FULL): saved(block(13, bytes(range(6))))},
        V1 | {key("a", FULL): saved(b"".join(b"\x2d" + DATA[i : i + 4] for i in range(0, 24, 4)))},
    ):
        content = table(sorted(rows.items()))
        yield (parsing.tabled(content),)
        yield (parsing.blocks(content),)


def mindspore() -> Iterator[Seed]:
    given = checkpoint("float32", "float16", "float64", "int64", names="conv{}.weight")
    for found in (given, network_file("xception", "mindcv")):
        yield (parsing.message(written("mindspore", found)[0], 3),)
    from tests.test_formats_mindspore import floats, value

    pieces = value("a", (4,), "Float32", bytes(8)) * 2
    text = value("note", (2,), "str", "hi".encode("utf-32-le"))
    yield (parsing.message(pieces + text + floats("ema.a", 1, 2, 3, 4) + value("map", (), None, b""), 3),)


def onnx() -> Iterator[Seed]:
    from tests.test_formats_onnx import kept, tiny
    from xconvert.formats._protobuf import block, number

    yield (parsing.message(written("onnx", tiny(**METADATA))[0]),)
    yield (parsing.message(kept((1, 1, 1, 1), number(1, 1) * 4, number(2, 10), block(5, b"\x01"))),)
    yield (parsing.message(written("onnx", _graph_file())[0], 4),)
    yield (parsing.message(written("onnx", network_file("xception", "onnx"))[0], 4),)


def _graph_file() -> Checkpoint:
    """A network of a few layers of every kind."""
    layers = (
        Layer("c", "conv", ("image",), kernel=3, stride=2, padding=1),
        Layer("n", "batch_norm", ("c",), epsilon=0.001, momentum=0.99),
        Layer("r", "relu", ("n",)),
        Layer("d", "depthwise", ("r",), kernel=3, padding="same_upper", dilation=2),
        Layer("p", "pointwise", ("d",)),
        Layer("m", "max_pool", ("p",), kernel=3, stride=2, padding=1),
        Layer("a", "add", ("m", "m")),
        Layer("g", "global_average", ("a",)),
        Layer("l", "linear", ("g",), scale=2.0),
    )
    from xconvert import onnx_graph

    weights = {}
    for layer in layers:
        for parameter, axes in layer.parameters.items():
            shape = [layer.kernel if axis in "HW" else 1 for axis in axes.split()]
            weights[f"{layer.name}.{parameter}"] = Tensor.of(np.ones(shape, np.float32))
    theirs = {}
    for layer in layers:
        for parameter, axes in layer.parameters.items():
            pattern = onnx_graph.AXES.get(layer.op, axes) if parameter == "weight" else axes
            name = f"{layer.name}.{parameter}"
            theirs[name] = loading.rearranged(weights[name], axes, pattern)
    return Checkpoint(theirs, METADATA, dialect="onnx", graph=Graph(layers, {x.name: x.name for x in layers}, weights))


def mappings() -> Iterator[Seed]:
    for path in sorted((Path(__file__).parents[2] / "mappings").glob("*/*.toml")):
        content = path.read_bytes()
        if len(content) < 6000:
            yield (parsing.lines(content),)


def dialects() -> Iterator[Seed]:
    yield (parsing.lines((Path(__file__).parents[2] / "mappings" / "dialects.toml").read_bytes()),)


def record() -> Iterator[Seed]:
    yield (parsing.json(json.dumps(RECORD).encode()),)


@cache
def seeds(target: str) -> tuple[Seed, ...]:
    """The seeds of a target."""
    found: Callable[[], Iterator[Seed]] = globals()[target.replace("-", "_")]
    return tuple(found())


ATTACKS = Path(__file__).parents[2] / "fixtures" / "hostile" / "attacks"
_PARSE: Mapping[str, Callable[[bytes], Node]] = {
    "torch": lambda content: parsing.zipped(content, parsing.torch_member),
    "torch-legacy": parsing.pickled,
    "paddle": parsing.pickled,
    "safetensors": parsing.safetensors,
    "npz": lambda content: parsing.zipped(content, parsing.numpy_member),
    "keras-h5": parsing.hdf5_image,
    "keras-weights": parsing.hdf5_image,
    "tensorflow-v1": parsing.tabled,
    "mindspore": lambda content: parsing.message(content, 3),
    "onnx": parsing.message,
}


@cache
def attacks(target: str, files: int) -> tuple[Seed, ...]:
    """The small hand-made attacks on a target, taken apart as far as they can be."""
    found = list[Seed]()
    for path in sorted((ATTACKS / target).glob("*")):
        if path.is_file() and 0 < path.stat().st_size < 30_000:
            content = path.read_bytes()
            try:
                node = _PARSE[target](content)
            except Exception:  # it is no valid file, after all
                node = raw(content)
            found.append((node, *[NONE] * (files - 1)))
    return tuple(found)


def pick(target: str, rng: random.Random) -> Seed:
    """One of a target's seeds, the shorter ones more often; now and then an attack."""
    if rng.random() < 0.08 and (hostile := attacks(target, len(seeds(target)[0]))):
        return rng.choice(hostile)
    return min(rng.choices(seeds(target), k=2), key=lambda seed: sum(len(node.content()) for node in seed))
