"""Keras 3's ``.weights.h5``: layers by class and number, weights by number, no names that a user gave.

``layers/separable_conv2d_3/vars/1`` is the second weight of the fourth SeparableConv2D in the model's order
(keras/src/saving/saving_lib.py). Keras 2.12 has ``_layer_checkpoint_dependencies`` in the place of ``layers``.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xconvert.errors import UnreadableError, UsageError
from xconvert.formats import Choice, Format
from xconvert.formats._arrays import shown
from xconvert.formats._hdf5_signature import is_hdf5
from xconvert.formats._limits import Budget
from xconvert.formats._maps import mapped
from xconvert.model import Checkpoint, Tensor

if TYPE_CHECKING:
    from xconvert.formats._hdf5 import Hdf5
    from xconvert.formats._keras_config import Description
    from xconvert.formats._keras_models import Weight

_LISTS = {"layers", "_layer_checkpoint_dependencies"}  # groups that hold a model's layers and are none themselves
_OTHERS = {"optimizer": "optimizer's", "metrics": "metrics'"}  # what training added beside the model
PRESET, PRESET_HEAD = "model.weights.h5", "task.weights.h5"  # of a preset of keras-hub: the backbone, and its classifier
_LEGACY = {"layer_names", "layer_names0", "model_weights"}
_DEEPEST = 32  # groups; an Xception inside a task inside a pipeline has 8


def matches(data: mmap.mmap) -> bool:
    """Whether ``data`` is HDF5 with the groups of this layout and without the marks of the older one."""
    if not is_hdf5(data):
        return False
    from xconvert.formats._hdf5 import root_names

    names = root_names(data)
    return not names.isdisjoint(_LISTS | {"vars"}) and names.isdisjoint(_LEGACY)


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The weights as ``<class>[_<n>]/<i>``, views of the map; ``key`` names a nested model where two clash.

    Layers of one class are in the model's order. The backbone of a preset of keras-hub has the classifier that lies beside it.
    Raises ``UnreadableError`` for a damaged or hostile file and ``AmbiguousError`` where nested models use the same names.
    """
    found = read_store(path, memoryview(data), choice.key, choice.limits.budget(path, len(data)))
    beside = path.with_name(PRESET_HEAD)
    if path.name != PRESET or not beside.is_file():
        return found
    other = mapped(beside)
    if not matches(other):
        raise UnreadableError(f"`{beside}` is damaged: it holds no weights of Keras 3")
    head = read_store(beside, memoryview(other), None, choice.limits.budget(beside, len(other)))
    return found._replace(tensors={**head.tensors, **found.tensors}, notes=(*found.notes, *head.notes))


def read_store(path: Path, buffer: memoryview, key: str | None, budget: Budget, said: Description | None = None) -> Checkpoint:
    """As ``read``, for a file that is part of another, which has ``said`` what the layers are."""
    from xconvert.formats._hdf5 import open_hdf5
    from xconvert.formats._keras_config import Description
    from xconvert.formats._keras_models import natural_order, unwrap

    said = said or Description()
    with open_hdf5(path, buffer, budget) as file:
        groups, _ = file.children(file.root)
        counts = {name: _count(path, file, groups.pop(name)) for name in _OTHERS if name in groups}
        weights = [weight for name in natural_order(groups) for weight in _weights(path, file, groups[name], (name,))]
        tensors, notes = unwrap(path, weights, key)
        metadata = file.texts(file.root)
    notes += [f"left out the {_OTHERS[name]} {count} tensors" for name, count in counts.items() if count]
    stated = said.without(weight.model for weight in weights).stated
    return Checkpoint(tensors, metadata, said.evidence, stated, notes=(*notes, *said.notes), format="keras-weights")


def _weights(path: Path, file: Hdf5, group: Any, at: tuple[str, ...]) -> Iterator[Weight]:
    """What is in and below ``group``, which lies at ``at``."""
    from xconvert.formats._keras_models import Weight, natural_order

    groups, datasets = _children(path, file, group, at)
    if at[-1] == "vars":
        owners = [name for name in at[:-1] if name not in _LISTS]
        model, layer = "/".join(owners[:-1]), owners[-1] if owners else "vars"
        for name in sorted(datasets, key=lambda name: (len(name), name)):  # 10 after 9
            yield Weight(model, layer, name, file.tensor(group, name))
    for name in natural_order(groups):
        yield from _weights(path, file, groups[name], (*at, name))


def _count(path: Path, file: Hdf5, group: Any, at: tuple[str, ...] = ()) -> int:
    groups, datasets = _children(path, file, group, at)
    return len(datasets) + sum(_count(path, file, child, (*at, name)) for name, child in groups.items())


def _children(path: Path, file: Hdf5, group: Any, at: tuple[str, ...]) -> tuple[dict[str, Any], list[str]]:
    if len(at) > _DEEPEST:
        raise UnreadableError(f"`{path}` is refused: it nests groups more than {_DEEPEST} deep")
    return file.children(group)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create ``path``, which Keras 3 and tf_keras load into a model whose layers of each class are in the same order.

    Raises ``UsageError`` for names other than ``<class>[_<n>]/<i>`` and for dtypes that are no plain numbers.
    """
    layers: dict[str, dict[str, Tensor]] = {}
    for name, tensor in checkpoint.tensors.items():
        layer, _, index = name.rpartition("/")
        if not index.isdecimal() or "/" in layer or layer in {"", ".", "..", *_LISTS}:
            raise UsageError(f"`.weights.h5` files hold weights called `<class>_<n>/<i>`, not `{shown(name)}`")
        layers.setdefault(layer, {})[index] = tensor
    from xconvert.formats._hdf5_writing import create_hdf5

    with create_hdf5(path) as file:
        file.group(file.root, "vars")  # tf_keras looks for it
        parent = file.group(file.root, "layers")
        for layer, weights in layers.items():
            group = file.group(file.group(parent, layer), "vars")
            for index, tensor in weights.items():
                file.tensor(group, index, tensor)
        for name, text in checkpoint.metadata.items():
            file.text(file.root, name, text)


_DIALECTS = {"keras": "keras_weights", "keras_apart": "keras_apart_weights"}
FORMAT = Format("keras-weights", "Keras 3 weights", (".weights.h5",), matches, read, write, _DIALECTS)
