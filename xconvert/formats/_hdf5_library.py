"""Where things are in an HDF5 file, asked of the HDF5 library: for the forms that ``_hdf5_structure`` does not know.

The library is C code, loaded when it is needed. It must be done before a reader returns: a file that h5py still has open over a
Python buffer when the interpreter ends crashes the process (h5py 3.16).
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from xconvert.deferred import np
from xconvert.errors import UsageError
from xconvert.formats import _hdf5_messages as said
from xconvert.formats._hdf5_objects import (
    ATTRIBUTE,
    HARD,
    LAYOUT,
    NONSENSE,
    UNDEFINED,
    Dataset,
    Image,
    Node,
    Text,
    Unfamiliar,
    messages,
)
from xconvert.formats._limits import Budget


class Library:
    """A ``Finder`` that asks h5py, by its low-level interface, which is four times as fast as its groups and datasets.

    Objects are opened by their paths, through hard links only, and must be where the path led before.
    """

    def __init__(self, path: Path, data: memoryview, budget: Budget) -> None:
        self._h5py = h5py_for(path)
        self._file = self._h5py.File(_Buffer(data), "r")
        try:
            root = self._h5py.h5g.open(self._file.id, b"/")
            properties = self._file.id.get_create_plist()
            self.root = Node(self._h5py.h5o.get_info(root).addr, "")
        except BaseException:
            self.close()
            raise
        self._opened = {"": root}
        self.image = Image(data, properties.get_userblock(), budget)
        self._usual = properties.get_sizes() == (8, 8)  # of addresses and lengths

    def close(self) -> None:
        """Be done with the file."""
        self._file.close()

    def is_group(self, node: Node) -> bool:
        """Whether the object is a group."""
        return isinstance(self._object(node), self._h5py.h5g.GroupID)

    def is_dataset(self, node: Node) -> bool:
        """Whether the object is a dataset."""
        return isinstance(self._object(node), self._h5py.h5d.DatasetID)

    def members(self, node: Node) -> list[bytes]:
        """The names in a group."""
        return list(self._object(node))

    def link(self, node: Node, name: bytes) -> tuple[int, int] | None:
        """Kind and address of the link ``name`` in a group; None where there is none, or no group."""
        group = self._object(node)
        if not self.is_group(node) or not group.links.exists(name):
            return None
        kind = group.links.get_info(name).type
        if kind != self._h5py.h5l.TYPE_HARD:
            return int(kind), UNDEFINED
        return HARD, self._h5py.h5o.get_info(self._h5py.h5o.open(group, name)).addr

    def attributes(self, node: Node) -> list[bytes]:
        """The names of the attributes of an object."""
        h5a, found = self._h5py.h5a, self._object(node)
        return [h5a.open(found, index=i).name for i in range(h5a.get_num_attrs(found))]

    def attribute(self, node: Node, name: bytes) -> Text | None:
        """The attribute ``name`` of an object. Only texts are read: on types that make no sense the library crashes."""
        stored = self._h5py.h5a.open(self._object(node), name)
        space, kind = stored.get_space(), stored.get_type()
        shape = self._shape(space)
        if shape is not None and 0 in shape:
            return Text(shape, 0)
        if not isinstance(kind, self._h5py.h5t.TypeStringID):
            return None
        if kind.is_variable_str():
            return Text(shape, 0, references=self._references(node, name))
        size = kind.get_size()

        def read() -> Sequence[bytes]:
            values = np.empty(shape or (), f"S{size}")
            stored.read(values)
            return [bytes(value) for value in values.reshape(-1)]

        return Text(shape, size, read)

    def dataset(self, node: Node) -> Dataset:
        """What is said of a dataset."""
        h5d, found = self._h5py.h5d, self._object(node)
        properties = found.get_create_plist()
        layout = properties.get_layout()
        if properties.get_external_count() or layout == h5d.VIRTUAL:
            return Dataset(external=True)
        filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
        return Dataset(
            self._shape(found.get_space()),
            self._dtype(found.get_type()),
            layout,
            stored=0 if layout == h5d.CHUNKED else found.get_storage_size(),  # of an index that is damaged the library crashes
            offset=found.get_offset() if layout == h5d.CONTIGUOUS else None,
            filters=[(number, values[0] if values else 1) for number, _, values, _ in filters],
            message=self._message(node),
        )

    def _object(self, node: Node) -> Any:
        found = self._opened.get(node.path)
        if found is None:
            parent, _, name = node.path.rpartition("/")
            group = self._object(Node(UNDEFINED, parent))
            if group.links.get_info(name.encode()).type != self._h5py.h5l.TYPE_HARD:
                raise ValueError("a link leads to two places")
            found = self._opened[node.path] = self._h5py.h5o.open(group, name.encode())
        if node.address not in (UNDEFINED, self._h5py.h5o.get_info(found).addr):
            raise ValueError("a link leads to two places")
        return found

    def _shape(self, space: Any) -> tuple[int, ...] | None:
        null = space.get_simple_extent_type() == self._h5py.h5s.NULL
        return None if null else tuple(space.shape)

    def _dtype(self, stored: Any) -> str | None:
        """NumPy's code of plain numbers, whose bytes need no conversion by the library."""
        try:
            dtype: np.dtype[Any] = stored.dtype
            same = stored.equal(self._h5py.h5t.py_create(dtype, logical=True))
        except TypeError:  # NumPy has nothing like it
            return None
        plain = dtype == np.dtype(said.BFLOAT16) or (dtype.kind in "fiub" and dtype.itemsize <= 8)
        return dtype.str if same and plain else None

    def _references(self, node: Node, name: bytes) -> memoryview | None:
        """The value of the attribute ``name`` where it is in the object's header."""
        try:
            parts = [said.attribute(content) for content in self._messages(node, ATTRIBUTE)]
        except NONSENSE:
            return None
        values = [part.value for part in parts if part.name == name]
        return values[0] if len(values) == 1 else None

    def _message(self, node: Node) -> memoryview | None:
        """The message that says how a dataset is laid out."""
        found = self._messages(node, LAYOUT)
        return found[0] if len(found) == 1 else None

    def _messages(self, node: Node, wanted: int) -> list[memoryview]:
        """The messages of the kind ``wanted`` that are in the object's header itself."""
        try:
            found = list(messages(self.image, node.address)) if self._usual else []
        except (*NONSENSE, Unfamiliar):
            return []
        return [content for kind, shared, content in found if kind == wanted and not shared]


def h5py_for(path: Path) -> ModuleType:
    """The package h5py, which ``path`` needs; raises ``UsageError`` where it is not installed."""
    import platform

    known = platform.uname().__dict__  # h5py asks for the system, and Python would run `uname -p` for the processor: 10 ms
    unasked = "processor" not in known
    known.setdefault("processor", "")
    try:
        import h5py
    except ImportError:
        raise UsageError(f"`{path}` needs the `h5py` package", hints=["pip install h5py"]) from None
    finally:
        if unasked:  # whoever wants to know it gets the truth
            del known["processor"]
    module: ModuleType = h5py
    return module


class _Buffer(io.RawIOBase):
    """A file whose contents are ``buffer``, which is copied once: to where it is read."""

    def __init__(self, buffer: memoryview) -> None:
        super().__init__()
        self._buffer, self._at = buffer, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, len(self._buffer))[whence]
        return self._at

    def readinto(self, target: Any) -> int:
        part = self._buffer[self._at : self._at + len(target)]
        target[: len(part)] = part
        self._at += len(part)
        return len(part)
