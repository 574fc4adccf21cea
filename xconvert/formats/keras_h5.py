"""Keras' older HDF5 layout: weights of Keras 1 and 2, and whole models of Keras 1, 2 and 3.

The attribute ``layer_names`` lists the layers in the model's order, ``weight_names`` of a layer's group the paths of its datasets
(keras/src/legacy/saving/legacy_h5_format.py). Groups themselves are in alphabetical order, which means nothing.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xconvert.deferred import np
from xconvert.errors import UnreadableError, UsageError
from xconvert.formats import Choice, Format, keras_weights
from xconvert.formats._arrays import shown
from xconvert.formats._hdf5_signature import is_hdf5
from xconvert.model import Checkpoint, Tensor

if TYPE_CHECKING:
    from xconvert.formats._hdf5 import Hdf5
    from xconvert.formats._keras_models import Weight

_KERAS = {"backend", "keras_version", "layer_names", "model_config", "training_config"}  # attributes with a meaning to Keras
_TOP_LEVEL = "top_level_model_weights"  # what belongs to the model itself and to none of its layers


_DIALECTS = {"keras": "keras", "keras_apart": "keras_apart"}


def matches(data: mmap.mmap) -> bool:
    """Whether ``data`` is HDF5 of this layout, or of none that is known: ``read`` then says what is wrong with it."""
    return is_hdf5(data) and not keras_weights.matches(data)


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The weights as ``<layer>/<weight>`` in the model's order, views of the map; ``key`` names a nested model where two clash.

    Layers of nested models come under their own names. Raises ``UnreadableError`` for a damaged or hostile file, or
    another program's, and ``AmbiguousError`` where nested models use the same names.
    """
    from xconvert.formats._hdf5 import open_hdf5
    from xconvert.formats._keras_config import Description, describe
    from xconvert.formats._keras_models import unwrap

    with open_hdf5(path, memoryview(data), choice.limits.budget(path, len(data))) as file:
        group = _weights_group(path, file)
        texts = file.texts(file.root)
        file.budget.parse(len(texts.get("model_config", "")), "`model_config`")
        said = describe(texts["model_config"], "model_config", key=choice.key) if "model_config" in texts else Description()
        weights = list(_weights(file, group, said.models))
        tensors, notes = unwrap(path, weights, choice.key)
        notes += _optimizer(file)
    metadata = {name: text for name, text in texts.items() if name not in _KERAS}
    stated = said.without(weight.model for weight in weights).stated
    return Checkpoint(tensors, metadata, said.evidence, stated, notes=(*notes, *said.notes), format="keras-h5")


def _weights_group(path: Path, file: Hdf5) -> Any:
    if file.strings(file.root, "layer_names") is not None:
        return file.root
    members = file.members(file.root)
    if "model_weights" in members:
        return file.group(file.root, "model_weights")
    raise UnreadableError(
        f"`{path}` is an HDF5 file, but not one of Keras",
        facts=[
            "it has neither `layer_names` nor `model_weights` nor `layers`",
            f"its root holds {', '.join(f'`{name}`' for name in members[:5]) or 'nothing'}",
        ],
    )


def _weights(file: Hdf5, group: Any, models: Collection[str] | None) -> Iterator[Weight]:
    from xconvert.formats._keras_models import Weight

    layers = file.strings(group, "layer_names") or []
    if _TOP_LEVEL not in layers and _TOP_LEVEL in file.members(group):
        layers = [*layers, _TOP_LEVEL]
    for layer in layers:
        inner = file.group(group, layer)
        names = file.strings(inner, "weight_names") or []
        for model, owner, name in _owners(layer, names, models):
            yield Weight(model, owner, re.sub(r":[0-9]+$", "", name.rpartition("/")[2]), file.tensor(inner, name))


def _owners(layer: str, names: list[str], models: Collection[str] | None) -> list[tuple[str, str, str]]:
    """(nested model or "", layer, weight name) for each of a group's ``weight_names``.

    A weight name is the path that TensorFlow gave the variable, ``block1_conv1/kernel:0``. A group with several
    parents is a nested model. So is one with a single parent if the configuration says so, which lists the ``models``, or, where
    there is none, if the parent is called like another layer; TensorFlow 1 made names unique, ``block1_conv1_1/kernel:0``.
    """
    from xconvert.formats._keras_models import natural_order, stem

    parents = {name: name.rpartition("/")[0] for name in names}
    if len(set(parents.values())) <= 1:
        owner = next(iter(parents.values()), "").rpartition("/")[2]
        own = stem(owner) in (layer, stem(layer)) if models is None else layer not in models
        if own or not owner:
            return [("", layer, name) for name in names]
    nested: dict[str, dict[str, list[str]]] = {}
    for name, parent in parents.items():
        outer, _, owner = parent.rpartition("/")
        scopes = outer.split("/")  # may begin with those of models around this one
        model = "/".join(scopes[scopes.index(layer) :]) if layer in scopes else f"{layer}/{outer}".rstrip("/")
        nested.setdefault(model, {}).setdefault(owner or layer, []).append(name)
    # A partly frozen model lists what is trainable first; numbers that Keras gave still tell the order of layers.
    return [(model, owner, name) for model, owned in nested.items() for owner in natural_order(owned) for name in owned[owner]]


def _optimizer(file: Hdf5) -> list[str]:
    if "optimizer_weights" not in file.members(file.root):
        return []
    names = file.strings(file.group(file.root, "optimizer_weights"), "weight_names") or []
    return [f"left out the optimizer's {len(names)} tensors"] if names else []


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create ``path``, which Keras 2 and 3 load into a model that lists its layers in the same order.

    Raises ``UsageError`` for names other than ``<layer>/<weight>``, and for bfloat16, which Keras stores in this layout but
    cannot load ("No cast function available", 3.15).
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        layer, _, weight = name.rpartition("/")
        if not weight or "/" in layer or not {layer, weight}.isdisjoint(("", ".", "..")):
            raise UsageError(f"`.h5` files hold weights called `<layer>/<weight>`, not `{shown(name)}`")
        if tensor.dtype == "bfloat16":
            raise UsageError("Keras cannot load bfloat16 weights from `.h5`", hints=["write `.weights.h5` instead"])
        layers.setdefault(layer, {})[weight] = tensor
    from xconvert.formats._hdf5_writing import create_hdf5

    with create_hdf5(path) as file:
        file.strings(file.root, "layer_names", list(layers))
        # Anything but an absent version, which means Keras 1, and a backend that flips no kernels.
        file.array(file.root, "backend", np.bytes_(b"tensorflow"))
        file.array(file.root, "keras_version", np.bytes_(b"3.0.0"))
        for layer, weights in layers.items():
            group = file.group(file.root, layer)
            file.strings(group, "weight_names", [f"{layer}/{weight}" for weight in weights])
            inner = file.group(group, layer)
            for weight, tensor in weights.items():
                file.tensor(inner, weight, tensor)
        for name, text in checkpoint.metadata.items():
            if name not in _KERAS:
                file.text(file.root, name, text)


FORMAT = Format("keras-h5", "HDF5 of Keras 1, 2 and 3", (".h5", ".hdf5"), matches, read, write, _DIALECTS)
