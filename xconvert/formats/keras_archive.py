"""Keras 3's ``.keras``: a zip of ``metadata.json``, ``config.json`` and ``model.weights.h5``.

The weights are read in place, without unpacking. The configuration says what the layers are and is never evaluated: it may
carry Python bytecode (Lambda layers). Not written: that takes the complete configuration of a model.
"""

from __future__ import annotations

import mmap
from dataclasses import replace
from pathlib import Path

from xconvert.errors import UnreadableError
from xconvert.formats import Choice, Format
from xconvert.formats._keras_config import Description, describe
from xconvert.formats._zip import open_zip, sniff
from xconvert.formats.keras_weights import read_store
from xconvert.model import Checkpoint

_WEIGHTS, _CONFIG = "model.weights.h5", "config.json"


def matches(data: mmap.mmap) -> bool:
    """Whether the archive has Keras' members; of a truncated one, which has no directory, the first is enough."""
    names = sniff(data)
    return _WEIGHTS in names or names == ("metadata.json",)


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The weights as ``<class>[_<n>]/<i>``, views of the map where the member is stored.

    ``key`` names a nested model where two clash. Raises ``UnreadableError`` for a damaged or hostile file and
    ``AmbiguousError`` where nested models use the same names.
    """
    index = open_zip(path, data)
    if _WEIGHTS not in index.names:
        raise UnreadableError(f"`{path}` holds no `{_WEIGHTS}`", facts=[f"it holds {len(index.names)} other files"])
    said = Description()
    if _CONFIG in index.names:
        said = describe(bytes(index.view(_CONFIG)), _CONFIG, key=choice.key, numbered=True)
    return replace(read_store(path, index.view(_WEIGHTS), choice.key, said), format="keras-archive")


FORMAT = Format("keras-archive", "Keras 3 archive", (".keras",), matches, read, dialects={"keras": "keras_weights"})
