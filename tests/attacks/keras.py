"""Keras' archives and whole models: configurations that carry code or name modules, and stores inside that are hostile."""

from __future__ import annotations

import base64
import io
import json
import marshal
import zipfile
from typing import Any

import h5py

from tests.attacks.hdf5 import KERNEL, dense, image, legacy, spoiled
from tests.attacks.pickles_that_run import OPEN, TOUCH
from tests.attacks.registry import Contents, attack
from tests.pickles import deflated, zipped

_METADATA = b'{"keras_version":"3.15.1","date_saved":"1980-01-01@00:00:00"}'
_NO_NETWORK = "`{path}` holds no network that xconvert knows"


def archived(config: Any, store: bytes | None = None) -> bytes:
    """A `.keras` file with the configuration and, unless ``store`` is another, the weights of one dense layer."""
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    weights = image(dense) if store is None else store
    return zipped([("metadata.json", _METADATA), ("config.json", text), ("model.weights.h5", weights)])


def layer(kind: str, name: str, module: str = "keras.layers", **config: Any) -> dict[str, Any]:
    return {"module": module, "class_name": kind, "config": {"name": name, **config}, "registered_name": None}


def sequential(*layers: dict[str, Any]) -> dict[str, Any]:
    first = layer("InputLayer", "input", batch_shape=[None, 2], dtype="float32")
    kernel = layer("Dense", "dense", units=2, activation="linear", use_bias=True)
    return layer("Sequential", "sequential", "keras", layers=[first, kernel, *layers])


def bytecode() -> dict[str, Any]:
    """A Lambda layer of Keras 3, whose function is code of Python's own machine."""
    code = compile(f"lambda x: ({OPEN}, x)[1]", "<attack>", "eval").co_consts[0]
    inner = {"code": base64.encodebytes(marshal.dumps(code)).decode("ascii"), "defaults": None, "closure": None}
    return layer("Lambda", "lambda", function={"class_name": "__lambda__", "config": inner}, arguments={})


@attack("keras-archive", ".keras", "a Lambda layer with bytecode", _NO_NETWORK)
def lambda_with_bytecode() -> Contents:
    return archived(sequential(bytecode()))


@attack("keras-archive", ".keras", "a layer that is `os.system`", _NO_NETWORK)
def layer_of_another_module() -> Contents:
    named = {"module": "os", "class_name": "system", "config": TOUCH, "registered_name": None}
    return archived(sequential(named))


@attack("keras-archive", ".keras", "a model that is `subprocess.check_call`", _NO_NETWORK)
def model_that_is_a_function() -> Contents:
    config = {"args": TOUCH.split()}
    return archived({"module": "subprocess", "class_name": "check_call", "config": config, "registered_name": None})


@attack("keras-archive", ".keras", "no weights", "`{path}` is not a checkpoint that xconvert can read")
def no_weights() -> Contents:
    return zipped([("metadata.json", _METADATA), ("config.json", b"{}"), ("weights.pkl", b"")])


@attack("keras-archive", ".keras", "weights twice: one for each reader", "`{path}` is damaged: it holds `model.weights.h5` twice")
def weights_twice() -> Contents:
    store = image(dense)
    parts = [("metadata.json", _METADATA), ("config.json", json.dumps(sequential()).encode()), ("model.weights.h5", store)]
    return zipped([*parts, ("model.weights.h5", store)])


@attack("keras-archive", ".keras", "numbers in another file", "`{path}` is refused: `0` is an external link")
def external_link() -> Contents:
    def fill(root: Any) -> None:
        dense(root)
        del root[KERNEL]
        root[KERNEL] = h5py.ExternalLink("/etc/passwd", "x")

    return archived(sequential(), image(fill))


@attack(
    "keras-archive", ".keras", "weights that are a page of HTML", "`{path}` is truncated or damaged: file signature not found"
)
def weights_that_are_none() -> Contents:
    return archived(sequential(), b"<!doctype html><title>404</title>")


@attack(
    *("keras-archive", ".keras", "a configuration of 16 MB of brackets in 16 kB"),
    "`{path}` would take more memory than it may: `config.json` has 16 MiB",
)
def configuration_of_brackets() -> Contents:
    file = io.BytesIO(deflated(b""))
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        contents = {"metadata.json": _METADATA, "config.json": b"[" * (16 << 20), "model.weights.h5": image(dense)}
        for name, content in contents.items():
            target.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED, 9)
    return file.getvalue()


@spoiled("a Lambda layer with bytecode, in the older format", _NO_NETWORK, legacy)
def lambda_with_bytecode_(root: Any) -> None:
    weights = root.create_group("model_weights")
    root.move("dense", "model_weights/dense")
    for name in list(root.attrs):
        weights.attrs[name] = root.attrs[name]
    del root.attrs["layer_names"]
    root.attrs["model_config"] = json.dumps(sequential(bytecode()))
