"""TensorFlow's V2 checkpoints of objects: ``tf.train.Checkpoint``, ``save_weights`` of Keras 2, and SavedModels.

Beside the tensors lies a graph of the objects that own them (``core/protobuf/trackable_object_graph.proto``). A tensor's key is a
path through that graph, which says little (``layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE``, or
``variables/17/…``); the variable's own name stands in the graph, and is the name here: ``block1_conv1/kernel``.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from xconvert.errors import UsageError
from xconvert.formats import Choice, Format
from xconvert.formats._arrays import damaged, shown
from xconvert.formats._bundle_files import files, publish
from xconvert.formats._protobuf import block, number
from xconvert.formats._sstable import GRAPH, kind, parsing
from xconvert.model import Checkpoint, Tensor

if TYPE_CHECKING:
    from xconvert.formats._objects import Variable

_VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"


def matches(data: mmap.mmap) -> bool:
    """Whether ``data`` is the index of a checkpoint with an object graph."""
    return kind(data) == "objects"


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The network's tensors under their variables' names, in the order of the graph, views of the shards beside the index.

    ``key`` names one of the root's objects where several have variables of the same name. What training added is left out.
    Raises ``UnreadableError`` for damaged, missing or hostile files, ``AmbiguousError`` when a choice is needed.
    """
    from xconvert.formats._bundle import open_bundle, take_metadata
    from xconvert.formats._objects import named, variables

    bundle = open_bundle(path, data, choice.limits)
    if GRAPH not in bundle.texts:
        raise damaged(path, "its object graph is no text")
    graph = memoryview(bundle.texts.pop(GRAPH))
    choice.limits.budget(path, len(graph)).parse(len(graph), "its object graph")
    metadata = take_metadata(path, bundle)
    with parsing(path):
        found, notes = variables(graph, bundle.tensors)
        tensors, more = named(path, graph, found, bundle.tensors, choice.key)
    return Checkpoint(tensors, metadata, notes=(*bundle.notes, *notes, *more), format="tensorflow-objects")


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create the shard and the index of the prefix ``path``, with the object graph of a Keras 2 model.

    ``model.load_weights(path)`` of tf_keras takes them into a model that lists its layers in the same order, and so does
    ``tf.train.Checkpoint(model)`` or ``(model=model)``. Raises ``UsageError`` for names other than ``<layer>/<weight>`` and for
    dtypes that TensorFlow does not have.
    """
    from xconvert.formats._bundle import write_bundle
    from xconvert.formats._objects import Variable

    layers: dict[str, dict[str, str]] = {}
    for name in checkpoint.tensors:
        layer, _, weight = name.rpartition("/")
        if not layer or not weight or "/" in layer:
            raise UsageError(f"TensorFlow checkpoints of Keras hold weights called `<layer>/<weight>`, not `{shown(name)}`")
        layers.setdefault(layer, {})[weight] = name
    found = [
        Variable(0, name, f"layer_with_weights-{i}/{weight.replace('.', '..')}{_VALUE}")
        for i, weights in enumerate(layers.values())
        for weight, name in weights.items()
    ]
    tensors: Mapping[str, Tensor] = {variable.key: checkpoint.tensors[variable.name] for variable in found}
    write_bundle(path, tensors, checkpoint.metadata, _graph(layers, found))


def _graph(layers: Mapping[str, Mapping[str, str]], found: Iterable[Variable]) -> bytes:
    """The object graph: a root, a model that both is the root's and has the same layers, these, and their variables."""
    children = [(f"layer_with_weights-{i}", 2 + i) for i in range(len(layers))]
    nodes, at = [_node([("model", 1), *children]), _node(children)], 2 + len(layers)
    for weights in layers.values():
        nodes.append(_node([(weight, at + i) for i, weight in enumerate(weights)]))
        at += len(weights)
    nodes += [block(2, block(1, "VARIABLE_VALUE") + block(2, v.name) + block(3, v.key)) for v in found]
    return b"".join(block(1, node) for node in nodes)


def _node(children: Iterable[tuple[str, int]]) -> bytes:
    return b"".join(block(1, number(1, node) + block(2, name)) for name, node in children)


FORMAT = Format(
    "tensorflow-objects",
    "TensorFlow V2, by object",
    (".ckpt",),
    matches,
    read,
    write,
    dialects={"keras": "keras", "keras_apart": "keras_apart"},
    files=files,
    publish=publish,
    inside=("variables/variables.index",),
)
