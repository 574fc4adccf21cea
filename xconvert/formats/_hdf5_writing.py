"""Writing HDF5 files as Keras does: contiguous datasets and lists of names, the same bytes for the same contents."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from xconvert.errors import UsageError
from xconvert.formats._arrays import contents, elements, shown
from xconvert.formats._hdf5_library import h5py_for
from xconvert.formats._hdf5_messages import BFLOAT16
from xconvert.model import Tensor

_ATTRIBUTE_LIMIT = 64512  # bytes; HDF5_OBJECT_HEADER_LIMIT in keras/src/legacy/saving/legacy_h5_format.py


class NewHdf5:
    """A file that is being written; ``root`` is its root group. Groups are ``h5py.h5g.GroupID``: for what Keras writes, h5py's
    own groups and datasets take ten times as long.
    """

    def __init__(self, path: Path, sink: _Sink, root: Any) -> None:
        self._h5py, self._sink, self.root = h5py_for(path), sink, root
        properties = self._h5py.h5p.create(self._h5py.h5p.DATASET_CREATE)
        properties.set_obj_track_times(False)
        properties.set_alloc_time(self._h5py.h5d.ALLOC_TIME_EARLY)  # then the place of the numbers is known, and the numbers
        properties.set_fill_time(self._h5py.h5d.FILL_TIME_NEVER)  # need not pass through the library
        self._properties = properties

    def group(self, parent: Any, name: str) -> Any:
        """A new group ``name`` in ``parent``."""
        return self._h5py.h5g.create(parent, name.encode())

    def tensor(self, group: Any, name: str, tensor: Tensor) -> None:
        """Create the contiguous, little-endian dataset ``name`` as Keras does; raises ``UsageError`` for what is no number."""
        bfloat16 = tensor.dtype.name == "bfloat16"
        if not bfloat16 and (tensor.dtype.kind not in "fiub" or tensor.dtype.itemsize > 8):
            raise UsageError(f"Keras files cannot hold `{shown(name)}` of dtype `{tensor.dtype.name}`")
        stored = self._type(BFLOAT16 if bfloat16 else tensor.dtype.newbyteorder("<"))
        dataset = self._h5py.h5d.create(group, name.encode(), stored, self._space(tensor.shape), self._properties)
        self._sink.put(dataset.get_offset() if elements(tensor.shape) else 0, contents(name, tensor))
        if bfloat16:
            self.text(dataset, "dtype", "bfloat16")

    @cache  # noqa: B019 (a file has a handful of dtypes)
    def _type(self, dtype: np.dtype[Any]) -> Any:
        return self._h5py.h5t.py_create(dtype, logical=True)

    def _space(self, shape: tuple[int, ...]) -> Any:
        return self._h5py.h5s.create_simple(shape) if shape else self._h5py.h5s.create(self._h5py.h5s.SCALAR)

    def text(self, node: Any, name: str, text: str) -> None:
        """Store the attribute ``name``, a string of variable length."""
        self._h5py.AttributeManager(_Node(node))[name] = text

    def strings(self, node: Any, name: str, values: Sequence[str]) -> None:
        """Store the attribute ``name`` as fixed-length strings, split into ``name0``, ``name1`` … where HDF5 has no room for it.

        Raises ``UsageError`` for a single string longer than HDF5 allows.
        """
        array = np.array([value.encode() for value in values]) if values else np.empty(0)
        if array.itemsize > _ATTRIBUTE_LIMIT:
            raise UsageError(f"HDF5 attributes cannot hold the name `{shown(max(values, key=len))}`")
        each = _ATTRIBUTE_LIMIT // array.itemsize
        if len(values) <= each:
            self.array(node, name, array)
            return
        for number, start in enumerate(range(0, len(values), each)):
            self.array(node, f"{name}{number}", array[start : start + each])

    def array(self, node: Any, name: str, array: Any) -> None:
        """Store the attribute ``name``: fixed-length strings, or numbers."""
        array = np.asarray(array)
        kind = self._type(array.dtype)
        self._h5py.h5a.create(node, name.encode(), kind, self._space(array.shape)).write(array, mtype=kind)


class _Node:
    """What ``h5py.AttributeManager`` wants of a group."""

    def __init__(self, identifier: Any) -> None:
        self.id = identifier


@contextmanager
def create_hdf5(path: Path) -> Iterator[NewHdf5]:
    """A new file at ``path``, complete at the end of the block; the same contents give the same bytes.

    The library writes its part through ``_Sink``; raises ``OSError`` where the disk is full, when the library is done.
    """
    with path.open("w+b", buffering=0) as file:
        sink = _Sink(file)
        with h5py_for(path).File(sink, "w") as root:
            yield NewHdf5(path, sink, root.id)
        if sink.problem:
            raise sink.problem


class _Sink(io.RawIOBase):
    """A file that fails to nobody: on a full disk HDF5 would print a thousand lines and crash. The first ``problem`` is kept."""

    def __init__(self, file: io.FileIO) -> None:
        super().__init__()
        self._file = file
        self.problem: OSError | None = None

    def put(self, offset: int, pieces: Iterable[memoryview]) -> None:
        """Write ``pieces`` from ``offset`` on, which the library has given away."""
        at = self._file.tell()
        self._file.seek(offset)
        for piece in pieces:
            self.write(piece)
        self._file.seek(at)

    def write(self, data: Any) -> int:
        whole = memoryview(data)
        try:
            rest = whole if not self.problem else whole[:0]
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self.problem = error
        return len(whole)

    def truncate(self, size: int | None = None) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self.problem = self.problem or error
            return size or 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def readinto(self, target: Any) -> int:
        return self._file.readinto(target) or 0
