"""Writing HDF5 files as Keras does: contiguous datasets and lists of names, the same bytes for the same contents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xconvert.errors import UsageError
from xconvert.formats._arrays import shown
from xconvert.formats._hdf5 import BFLOAT16, h5py_for
from xconvert.model import Tensor

_ATTRIBUTE_LIMIT = 64512  # bytes; HDF5_OBJECT_HEADER_LIMIT in keras/src/legacy/saving/legacy_h5_format.py


@contextmanager
def create_hdf5(path: Path) -> Iterator[Any]:
    """A new ``h5py.File``, written to ``path`` at the end of the block; the same contents give the same bytes.

    It is built in memory: where a disk is full, HDF5 prints a thousand lines and crashes, Python raises ``OSError``.
    """
    with h5py_for(path).File("memory", "w", driver="core", backing_store=False) as root:
        yield root
        root.flush()
        image = root.id.get_file_image()
    path.write_bytes(image)


def put_tensor(group: Any, name: str, tensor: Tensor) -> None:
    """Create the contiguous, little-endian dataset ``name`` as Keras does; raises ``UsageError`` for what is no plain number."""
    bfloat16 = tensor.dtype.name == "bfloat16"
    if not bfloat16 and (tensor.dtype.kind not in "fiub" or tensor.dtype.itemsize > 8):
        raise UsageError(f"Keras files cannot hold `{shown(name)}` of dtype `{tensor.dtype.name}`")
    array = np.asarray(tensor.read(), order="C")
    if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
        raise ValueError(f"{name}: {array.dtype}{array.shape} was read, {tensor.dtype}{tensor.shape} announced")
    array = array.view(BFLOAT16) if bfloat16 else array.astype(array.dtype.newbyteorder("<"), copy=False)
    dataset = group.create_dataset(name, data=array, track_times=False)
    if bfloat16:
        dataset.attrs["dtype"] = "bfloat16"


def put_strings(group: Any, name: str, values: Sequence[str]) -> None:
    """Store the attribute ``name`` as fixed-length strings, split into ``name0``, ``name1`` … where HDF5 has no room for it.

    Raises ``UsageError`` for a single string longer than HDF5 allows.
    """
    array = np.array([value.encode() for value in values]) if values else np.empty(0)
    if array.itemsize > _ATTRIBUTE_LIMIT:
        raise UsageError(f"HDF5 attributes cannot hold the name `{shown(max(values, key=len))}`")
    each = _ATTRIBUTE_LIMIT // array.itemsize
    if len(values) <= each:
        group.attrs[name] = array
        return
    for number, start in enumerate(range(0, len(values), each)):
        group.attrs[f"{name}{number}"] = array[start : start + each]
