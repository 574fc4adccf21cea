"""TensorFlow's V2 checkpoints of variables by name, as ``tf.train.Saver`` writes them and DeepLab's models were released."""

from __future__ import annotations

import mmap
from pathlib import Path

from xconvert.formats import Choice, Format, no_choice
from xconvert.formats._bundle_files import files, publish
from xconvert.formats._sstable import kind
from xconvert.model import Checkpoint


def matches(data: mmap.mmap) -> bool:
    """Whether ``data`` is the index of such a checkpoint, without an object graph."""
    return kind(data) == "v2"


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The tensors as views of the shards beside the index ``data``, sorted by name; there is no choice.

    Everything a training run adds is among them. Raises ``UnreadableError`` for damaged, missing or hostile files.
    """
    from xconvert.formats._bundle import open_bundle, take_metadata

    no_choice(path, choice)
    bundle = open_bundle(path, data, choice.limits)
    metadata = take_metadata(path, bundle)
    return Checkpoint(bundle.tensors, metadata, notes=tuple(bundle.notes), format="tensorflow")


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create the shard and the index of the prefix ``path``, which ``tf.train.load_checkpoint`` and ``Saver.restore`` read.

    Raises ``UsageError`` for dtypes and names that TensorFlow does not have.
    """
    from xconvert.formats._bundle import write_bundle

    write_bundle(path, checkpoint.tensors, checkpoint.metadata)


FORMAT = Format(
    "tensorflow",
    "TensorFlow V2 checkpoint",
    (".ckpt",),
    matches,
    read,
    write,
    dialects={"tensorflow": "tensorflow"},
    files=files,
    publish=publish,
    inside=("*.index",),
)
