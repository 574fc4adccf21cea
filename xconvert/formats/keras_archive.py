"""Keras 3's ``.keras``: a zip of ``metadata.json``, ``config.json`` and ``model.weights.h5``.

The weights are read in place, without unpacking. The configuration says what the layers are and is never evaluated: it may
carry Python bytecode (Lambda layers). One is written for the graph of a checkpoint.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from xconvert.errors import UnreadableError, UsageError
from xconvert.formats import Choice, Format, keras_weights
from xconvert.formats._maps import mapped
from xconvert.formats._zip import ZipWriter, open_zip, sniff
from xconvert.formats.keras_weights import read_store
from xconvert.model import Checkpoint

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"
_METADATA = b'{"keras_version":"3.0.0","date_saved":"1980-01-01@00:00:00"}'  # the same whenever it is written


def matches(data: mmap.mmap) -> bool:
    """Whether the archive has Keras' members; of a truncated one, which has no directory, the first is enough."""
    names = sniff(data)
    return _WEIGHTS in names or names == ("metadata.json",)


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The weights as ``<class>[_<n>]/<i>``, views of the map where the member is stored.

    ``key`` names a nested model where two clash. Raises ``UnreadableError`` for a damaged or hostile file and
    ``AmbiguousError`` where nested models use the same names.
    """
    index = open_zip(path, data, choice.limits)
    if _WEIGHTS not in index.names:
        raise UnreadableError(f"`{path}` holds no `{_WEIGHTS}`", facts=[f"it holds {len(index.names)} other files"])
    from xconvert.formats._keras_config import Description, describe

    said = Description()
    if _CONFIG in index.names:
        index.budget.parse(index.size(_CONFIG), f"`{_CONFIG}`")
        said = describe(bytes(index.view(_CONFIG)), _CONFIG, key=choice.key, numbered=True)
    return read_store(path, index.view(_WEIGHTS), choice.key, index.budget, said)._replace(format="keras-archive")


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create ``path``, which ``keras.saving.load_model`` opens: the model itself, built from the checkpoint's graph.

    A model with symmetric pools holds ``SymmetricMaxPooling2D``, which must have been imported from ``xconvert.backends.keras``
    before. Raises ``UsageError`` where there is no graph, and as ``.weights.h5`` does.
    """
    if checkpoint.graph is None:
        raise UsageError("a `.keras` file holds the model itself, and only weights are there", hints=["write `.weights.h5`"])
    import tempfile

    from xconvert.formats._keras_graph import configuration

    config = configuration(checkpoint.graph).encode()
    with tempfile.TemporaryDirectory(prefix=".xconvert-", dir=path.parent) as folder:
        store = Path(folder, _WEIGHTS)
        keras_weights.write(store, checkpoint)
        with path.open("wb") as file:
            archive = ZipWriter(file)
            archive.add("metadata.json", _METADATA)
            archive.add(_CONFIG, config)
            archive.add(_WEIGHTS, memoryview(mapped(store)))
            archive.close()


FORMAT = Format("keras-archive", "Keras 3 archive", (".keras",), matches, read, write, keras_weights.FORMAT.dialects)
