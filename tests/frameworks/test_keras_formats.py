"""What Keras writes is read to the bit under its names, and what is written here it loads; each in a process of its
own."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import xconvert
from tests.frameworks import warm
from xconvert.errors import NetworkError
from xconvert.formats import format_for_writing, read
from xconvert.model import Checkpoint, Tensor

pytestmark = [
    pytest.mark.framework,
    pytest.mark.skipif(importlib.util.find_spec("keras") is None, reason="Keras is not installed"),
]

# A network with everything that matters in Xception: named layers, automatic names, a shortcut, a separable convolution.
MODELS = """
import importlib, itertools, json, os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
import numpy as np
keras = importlib.import_module(sys.argv[1])
folder = sys.argv[2]
L = keras.layers
policy = getattr(keras, "config", None) and keras.config.set_dtype_policy

def small(head=True, name="xception"):
    start = L.Input((16, 16, 3))
    x = L.Conv2D(4, 3, use_bias=False, name="block1_conv1")(start)
    x = L.BatchNormalization(name="block1_conv1_bn")(x)
    for _ in range(3):
        side = L.Conv2D(4, 1, strides=2, padding="same", use_bias=False)(x)
        side = L.BatchNormalization()(side)
        x = L.SeparableConv2D(4, 3, padding="same", use_bias=False)(x)
        x = L.MaxPooling2D(3, strides=2, padding="same")(x)
        x = L.add([x, side])
    x = L.GlobalAveragePooling2D()(x)
    return keras.Model(start, L.Dense(5, name="predictions")(x) if head else x, name=name)

def nested(trainable):
    inner = small(head=False)
    inner.trainable = trainable is not False
    if trainable == "partly":
        for layer in inner.layers[:7]:
            layer.trainable = False
    start = L.Input((16, 16, 3))
    return keras.Model(start, L.Dense(2, name="outer")(L.Dropout(0.5)(inner(start))))

def fill(model, seed=0):
    random = np.random.default_rng(seed)
    model.set_weights([random.uniform(0.5, 2, w.shape) for w in model.get_weights()])
    return model

def layers(model):
    for layer in model.layers:
        yield from layers(layer) if hasattr(layer, "layers") else [layer]

def told(model):  # (name in .h5, name in .weights.h5, values) of every weight, in the model's order
    count, out = {}, []
    for layer in layers(model):
        kind = {"Conv2D": "conv2d", "SeparableConv2D": "separable_conv2d", "Dense": "dense",
                "BatchNormalization": "batch_normalization"}.get(type(layer).__name__)
        if kind:
            n = count[kind] = count.get(kind, -1) + 1
            for i, w in enumerate(layer.weights):
                name = layer.name + "/" + w.name.rpartition("/")[2].removesuffix(":0")
                out.append((name, f"{kind}_{n}/{i}" if n else f"{kind}/{i}", np.asarray(w).astype("float64").tolist()))
    return out
"""
SAVE = """
def save(name, model, *suffixes):
    json.dump(told(model), open(f"{folder}/{name}.json", "w"))
    for suffix in suffixes:
        (model.save_weights if suffix == ".weights.h5" else model.save)(f"{folder}/{name}{suffix}")

for dtype in ("float32", "float16", "bfloat16"):
    policy(dtype)
    save(dtype, fill(small()), ".h5", ".weights.h5", ".keras")
policy("float32")
save("second", fill(small()), ".h5", ".weights.h5", ".keras")
for trainable in (True, False, "partly"):
    model = fill(nested(trainable))
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    save(f"nested-{trainable}", model, ".h5", ".weights.h5", ".keras")
"""
LOAD = """
for name, dtype in zip(sys.argv[3::2], sys.argv[4::2]):
    keras.backend.clear_session()  # automatic names start again
    if dtype != "float32":
        policy(dtype)
    model = fill(small(), seed=1)
    model.load_weights(f"{folder}/{name}")
    json.dump(told(model), open(f"{folder}/{name}.json", "w"))
"""
XCEPTION = """
model = keras.applications.Xception(weights=None)
for name in sys.argv[3:]:
    model.set_weights([np.zeros(w.shape, "float32") for w in model.get_weights()])
    model.load_weights(f"{folder}/{name}")
    print(json.dumps([float(np.asarray(w).reshape(-1)[-1]) for layer in model.layers for w in layer.weights]))
"""

Told = list[tuple[str, str, np.ndarray]]


def run(code: str, folder: Path, *arguments: str, keras: str = "keras") -> str:
    """What ``code`` prints, run after ``MODELS`` by a Python of its own."""
    done = subprocess.run(
        [*warm.python("keras"), "-c", MODELS + code, keras, folder, *arguments], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def told(path: Path) -> Told:
    """What the framework says about its weights: (name in ``.h5``, name in ``.weights.h5``, values)."""
    return [(name, number, np.array(values)) for name, number, values in json.loads(path.read_text())]


def same(tensors: Mapping[str, Tensor], expected: Mapping[str, np.ndarray], dtype: str) -> None:
    assert set(tensors) == set(expected)
    for name, values in expected.items():
        assert tensors[name].dtype == dtype
        assert np.array_equal(tensors[name].read().astype(np.float64), values), name


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keras")
    run(SAVE, folder)
    return folder


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5", ".keras"])
@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16", "second", "nested-True", "nested-False", "nested-partly"])
def test_every_weight_is_read_under_its_name(saved: Path, name: str, suffix: str) -> None:
    expected = told(saved / f"{name}.json")
    checkpoint = read(saved / f"{name}{suffix}")
    names = [legacy if suffix == ".h5" else number for legacy, number, _ in expected]
    dtype = name if "float" in name else "float32"
    same(checkpoint.tensors, dict(zip(names, (values for *_, values in expected), strict=True)), dtype)
    if suffix != ".weights.h5":  # which says nothing about the model
        source = "model_config" if suffix == ".h5" else "config.json"
        stated = {"bn_epsilon": 1e-3, "pool_padding": "same_upper", "bn_momentum": 0.99}
        assert checkpoint.evidence == {name: (value, source) for name, value in stated.items()}
    if "nested" in name:
        inner = "xception" if suffix == ".h5" else "functional"
        assert checkpoint.notes[0] == f"unwrapped the nested model `{inner}`"
        assert checkpoint.notes[1].startswith("left out the optimizer's ")
    else:
        assert checkpoint.notes == ()


@pytest.mark.parametrize("suffix", [".h5", ".weights.h5"])
@pytest.mark.parametrize("name", ["float32", "second", "nested-True", "nested-False", "nested-partly"])
def test_layers_of_one_kind_are_in_the_models_order(saved: Path, name: str, suffix: str) -> None:
    automatic = ("conv2d", "batch_normalization", "separable_conv2d")
    expected = [legacy if suffix == ".h5" else number for legacy, number, _ in told(saved / f"{name}.json")]
    found = list(read(saved / f"{name}{suffix}").tensors)
    for stem in automatic:
        assert [n for n in found if n.startswith(stem)] == [n for n in expected if n.startswith(stem)]
    if suffix == ".h5" and name != "nested-partly":
        assert found == expected


@pytest.mark.parametrize("keras", ["keras", "tf_keras"])
def test_keras_loads_what_is_written_here(saved: Path, tmp_path: Path, keras: str) -> None:
    if importlib.util.find_spec(keras) is None:
        pytest.skip(f"{keras} is not installed")
    files = {"a.h5": "float32", "a.weights.h5": "float32"}
    if keras == "keras":
        files |= {"b.h5": "float16", "b.weights.h5": "float16", "c.weights.h5": "bfloat16"}
    random = np.random.default_rng(2)
    written: dict[str, dict[str, np.ndarray]] = {}
    for name, dtype in files.items():
        kind = ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype
        shapes = [(legacy if ".weights" not in name else number, v.shape) for legacy, number, v in told(saved / "float32.json")]
        written[name] = {n: random.uniform(0.5, 2, shape).astype(kind) for n, shape in shapes}
        checkpoint = Checkpoint({n: Tensor.of(array) for n, array in written[name].items()}, {"xconvert": "x" * 100_000})
        write = format_for_writing(tmp_path / name, "keras").write
        assert write is not None
        write(tmp_path / name, checkpoint)
    run(LOAD, tmp_path, *(word for pair in files.items() for word in pair), keras=keras)
    for name in files:
        loaded = {
            (number if ".weights" in name else legacy): values for legacy, number, values in told(tmp_path / f"{name}.json")
        }
        assert loaded.keys() == written[name].keys()
        for key, array in written[name].items():
            assert np.array_equal(loaded[key], array.astype(np.float64)), (name, key)


def test_keras_2_weights(tmp_path: Path) -> None:
    if importlib.util.find_spec("tf_keras") is None:
        pytest.skip("tf_keras is not installed")
    code = """
model = fill(nested("partly"))
json.dump(told(model), open(f"{folder}/a.json", "w"))
for name in ("a.h5", "a.weights.h5"):
    model.save_weights(f"{folder}/{name}")
"""
    run(code, tmp_path, keras="tf_keras")
    expected = told(tmp_path / "a.json")
    same(read(tmp_path / "a.h5").tensors, {legacy: values for legacy, _, values in expected}, "float32")
    same(read(tmp_path / "a.weights.h5").tensors, {number: values for _, number, values in expected}, "float32")


def test_the_whole_xception_loads(tmp_path: Path) -> None:
    code = """
model = keras.applications.Xception(weights=None)
shapes = [(name, number, list(np.shape(values))) for name, number, values in told(model)]
print(json.dumps(shapes))
"""
    shapes = json.loads(run(code, tmp_path))
    assert len(shapes) == 236
    for column, name in enumerate(("a.h5", "a.weights.h5")):
        tensors = {s[column]: Tensor.of(np.full(s[2], i + 1, np.float32)) for i, s in enumerate(shapes)}
        write = format_for_writing(tmp_path / name, "keras").write
        assert write is not None
        write(tmp_path / name, Checkpoint(tensors))
    for line in run(XCEPTION, tmp_path, "a.h5", "a.weights.h5").splitlines():
        assert json.loads(line) == list(range(1, 237))


# Narrow Xceptions of the real class, and what is done to them; `keep` are those that stay the same function.
VARIANTS = """
from tests.frameworks.make_keras import _hub, _narrow
xception = _narrow(16)
image = lambda: L.Input((96, 96, 3))
whole = lambda **how: xception.Xception(weights=None, classes=4, **how)
base = lambda: xception.Xception(weights=None, include_top=False, input_shape=(96, 96, 3))
pooled = L.GlobalAveragePooling2D

def ended(x, *layers):
    for layer in layers:
        x = layer(x)
    return x

def around(*layers):
    start = image()
    return keras.Model(start, ended(start, *layers))

def edited(*kinds, start="", last=0, **changed):
    config = json.loads(whole(classifier_activation=None).to_json())
    for kind in kinds:
        named = [layer["config"] for layer in config["config"]["layers"] if layer["class_name"] == kind]
        for layer in [layer for layer in named if layer["name"].startswith(start)][-last:]:
            layer.update(changed)
    return keras.models.model_from_json(json.dumps(config))

def save(name, model):
    for suffix in (".h5", ".keras"):
        model.save(f"{folder}/{name}{suffix}")

save("keep-softmax", whole())
save("keep-headless", base())
save("keep-nested", around(base(), pooled(), L.Dropout(0.1), L.Dense(4)))
head = keras.Sequential([pooled(), L.Dropout(0.1), L.Dense(4)])
save("keep-sequential", keras.Sequential([L.Input((96, 96, 3)), base(), head]))
save("keep-hub", _hub(np.zeros((128, 4)), 3, 16))
save("keep-hub-nested", around(_hub(None, 3, 16), pooled(), L.Dense(4)))
save("max", around(base(), L.GlobalMaxPooling2D(), L.Dense(4)))
save("swish", edited("Activation", activation="swish"))
save("stride", edited("MaxPooling2D", "Conv2D", last=1, strides=[1, 1]))
save("epsilon", edited("BatchNormalization", start="block1_", epsilon=0.01))
save("conv", edited("SeparableConv2D", start="block14", dilation_rate=[2, 2]))
save("rescaling", around(L.Rescaling(1 / 127.5, -1), base(), pooled(), L.Dense(4)))
save("operations", around(lambda x: x / 127.5 - 1, base(), pooled(), L.Dense(4)))
"""


@pytest.fixture(scope="module")
def variants(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("keras_hub") is None:
        pytest.skip("keras-hub is not installed")
    folder = tmp_path_factory.mktemp("variants")
    run(VARIANTS, folder)
    return folder


def test_what_keras_says_of_its_layers_is_held_against_the_graph(variants: Path) -> None:
    files = sorted(variants.iterdir())
    assert len(files) == 26
    for path in files:
        if path.stem.startswith("keep"):
            model = xconvert.load(path)
            assert model.depth == (3, 8)
            assert ("left off the final `softmax`; answers are logits" in model.notes) is ("softmax" in path.stem)
            assert "hub" in path.stem or model.attributes["bn_epsilon"].source.startswith("the file's ")
        else:
            with pytest.raises(NetworkError, match="is not the Xception that its weights fit"):
                xconvert.load(path)


@pytest.mark.parametrize("suffix", [".h5", ".keras"])
def test_what_is_built_here_and_saved_by_keras_agrees(tmp_path: Path, suffix: str) -> None:
    code = """
import xconvert
xconvert.build(sys.argv[3], "keras").save(sys.argv[4])
"""
    run(code, tmp_path, str(Path(__file__).parents[2] / "fixtures" / "timm.pth"), str(tmp_path / f"a{suffix}"))
    model = xconvert.load(tmp_path / f"a{suffix}", implementation="keras.applications")
    assert model.values == {"bn_epsilon": 1e-5, "pool_padding": "symmetric", "bn_momentum": 0.9}


def test_what_keras_2_says_of_its_layers_agrees(tmp_path: Path) -> None:
    if importlib.util.find_spec("tf_keras") is None:
        pytest.skip("tf_keras is not installed")
    code = """
base = keras.applications.Xception(weights=None, include_top=False, pooling="avg", input_shape=(96, 96, 3))
end = keras.Sequential([L.Dropout(0.1), L.Dense(5, activation="softmax")])
for name in ("a.h5", "a.keras"):
    keras.Sequential([base, end]).save(f"{folder}/{name}")
start = L.Input((96, 96, 3))
keras.Model(start, L.Dense(5)(base(keras.applications.xception.preprocess_input(start)))).save(f"{folder}/b.keras")
"""
    run(code, tmp_path, keras="tf_keras")
    for name in ("a.h5", "a.keras"):
        assert "left off the final `softmax`; answers are logits" in xconvert.load(tmp_path / name).notes
    with pytest.raises(NetworkError) as caught:
        xconvert.load(tmp_path / "b.keras")
    assert caught.value.facts[0] == "`tf.math.truediv` (TFOpLambda) is not part of it"
