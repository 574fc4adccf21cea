"""HDF5 files, distrusted: what Keras writes is read, everything else that the format can express is refused.

HDF5 can point into other files (external links and storage, virtual datasets), load compression plugins, contain itself, and
declare a petabyte in a kilobyte. h5py finds the datasets; contiguous ones, which is how Keras writes them, are then viewed in the
mapped file, so that the library is done before a reader returns. It must be: a file that h5py still has open over a Python
buffer when the interpreter ends crashes the process (h5py 3.16).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count, takewhile
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from xconvert.errors import UnreadableError, UsageError
from xconvert.formats._arrays import checked_shape, dtype_named, elements, shown, view
from xconvert.formats._hdf5_buffer import Buffer
from xconvert.formats._hdf5_chunks import FILTERS, NONSENSE, Chunked, compact, tree_of
from xconvert.formats._hdf5_texts import Headers
from xconvert.formats._limits import MAX_NAME, USUAL, Budget, told
from xconvert.model import Array, Tensor

_SIGNATURE = b"\x89HDF\r\n\x1a\n"
_VERSIONS = (b"\0", b"\1", b"\2", b"\3")  # of the superblock, the byte after the signature
_INFLATED = 1 << 24  # a compressed dataset may grow to this many bytes, or a thousandfold if that is more
_MOST_OBJECTS = 10_000  # groups and datasets; a Xception in training has 1,300. The library takes 0.2 ms for each
_MOST_ATTRIBUTES = 1_000  # of one object
BFLOAT16 = np.dtype("V2")  # HDF5 has no such type; Keras stores opaque pairs of bytes


def is_hdf5(data: mmap.mmap | memoryview) -> bool:
    """Whether the signature is at byte 0, 512, 1024, 2048 …, where HDF5 looks for it, and is not a part of something else."""
    if data[:4] == b"PK\x03\x04":  # a zip archive may hold HDF5, and tensors any bytes
        return False
    places = (0, *takewhile(lambda at: at < len(data), (512 << i for i in count())))
    signed = (at for at in places if data[at : at + len(_SIGNATURE)] == _SIGNATURE)
    return any(at == 0 or data[at + 8 : at + 9] in _VERSIONS for at in signed)


def root_names(data: mmap.mmap) -> frozenset[str]:
    """The names of what the root holds, members and attributes; none where ``data`` is not HDF5 or damaged. Never raises."""
    if not is_hdf5(data):
        return frozenset()
    try:
        with open_hdf5(Path(), memoryview(data), USUAL.budget(Path(), len(data))) as file:
            return frozenset((*file.members(file.root), *file.attributes(file.root)))
    except (UnreadableError, UsageError):
        return frozenset()


class Hdf5:
    """An open file; ``root`` is its root group. Every method raises ``UnreadableError`` for what is damaged or refused.

    Groups are ``h5py.h5g.GroupID`` and must not be used after ``open_hdf5`` has ended; tensors may. h5py's own groups and
    datasets take four times as long.
    """

    def __init__(self, path: Path, buffer: memoryview, root: Any, budget: Budget) -> None:
        self._path, self._buffer, self._h5py, self.root, self.budget = path, buffer, h5py_for(path), root, budget
        self._reached: set[int] = set()  # addresses of the objects that were reached
        self._headers: Headers | None = None
        with _libhdf5(path):
            properties = self._h5py.h5i.get_file_id(root).get_create_plist()
            if properties.get_sizes() == (8, 8):  # bytes of an address and of a length, as ever
                self._headers = Headers(buffer, properties.get_userblock(), budget)

    def members(self, group: Any) -> list[str]:
        """The names in ``group``, checked, in the file's order."""
        with _libhdf5(self._path):
            names = list(group)
        return [self._checked(_decoded(name)) for name in names]

    def group(self, parent: Any, name: str) -> Any:
        """The group ``name``, which may be a path of several names, below ``parent``; refused when it was reached before."""
        found = self._get(parent, name)
        if not isinstance(found, self._h5py.h5g.GroupID):
            raise self._damaged(f"`{shown(name)}` is not a group")
        self._once(found, name)
        return found

    def children(self, parent: Any) -> tuple[dict[str, Any], list[str]]:
        """(groups by name, names of datasets) directly in ``parent``; a group reached for the second time is refused."""
        groups, datasets = {}, []
        for name in self.members(parent):
            found = self._get(parent, name)
            if isinstance(found, self._h5py.h5g.GroupID):
                self._once(found, name)
                groups[name] = found
            else:
                datasets.append(name)
        return groups, datasets

    def attributes(self, node: Any) -> list[str]:
        """The names of the attributes of a group or dataset."""
        with _libhdf5(self._path):
            return self._names(node)

    def texts(self, node: Any) -> dict[str, str]:
        """Those attributes of a group or dataset that are single strings, bytes or not."""
        with _libhdf5(self._path):
            values = {name: self._attribute(node, name) for name in self._names(node)}
        return {name: _text(value) for name, value in values.items() if isinstance(value, (str, bytes))}

    def strings(self, group: Any, name: str) -> list[str] | None:
        """The attribute ``name``, a list of strings, joined from ``name0``, ``name1`` … where it was split; None without it."""
        with _libhdf5(self._path):
            names = set(self._names(group))
            parts = [name] if name in names else list(takewhile(names.__contains__, (f"{name}{number}" for number in count())))
            # Keras stores an empty list as an array of no float64: np.asarray([]).
            values = [value for part in parts for value in np.asarray(self._attribute(group, part)).reshape(-1)]
        if not all(isinstance(value, (str, bytes)) for value in values):
            raise self._damaged(f"the attribute `{name}` is not a list of names")
        return [_text(value) for value in values] if parts else None

    def tensor(self, parent: Any, name: str) -> Tensor:
        """The dataset ``name``, which may be a path, below ``parent``; opaque pairs of bytes are bfloat16."""
        dataset = self._get(parent, name)
        if not isinstance(dataset, self._h5py.h5d.DatasetID):
            raise self._damaged(f"`{shown(name)}` is not a dataset")
        self._once(dataset, name)
        with _libhdf5(self._path):
            where = _decoded(self._h5py.h5i.get_name(dataset) or name.encode())
            space, properties = dataset.get_space(), dataset.get_create_plist()
            shape = space.shape if space.get_simple_extent_type() != self._h5py.h5s.NULL else None
            external = properties.get_external_count() or properties.get_layout() == self._h5py.h5d.VIRTUAL
        if external:
            raise self._refused(where, "keeps its numbers in other places or files")
        stored = self._stored_dtype(dataset, where)
        shape = checked_shape(self._path, where, shape)
        dtype = dtype_named("bfloat16" if stored == BFLOAT16 else stored.name)
        offset = self._offset(dataset, properties, where, elements(shape) * dtype.itemsize)
        if offset is not None:
            return view(self._buffer, dtype, shape, order=">" if stored.str[0] == ">" else "<", offset=offset)
        self.budget.take(
            elements(shape) * dtype.itemsize, f"`{shown(where)}` would expand to {told(elements(shape) * dtype.itemsize)}"
        )
        return self._apart(dataset, properties, where, shape, stored, dtype)

    def _attribute(self, node: Any, name: str) -> Any:
        """The attribute ``name`` if it has strings, an empty list if it has no elements, None otherwise.

        Only strings are read: on types that make no sense the library crashes.
        """
        stored = self._h5py.h5a.open(node, name.encode(errors="surrogateescape"))
        space = stored.get_space()
        shape = space.shape if space.get_simple_extent_type() != self._h5py.h5s.NULL else None
        if shape is not None and 0 in shape:
            return []
        kind = stored.get_type()
        if not isinstance(kind, self._h5py.h5t.TypeStringID):
            return None
        count = elements(shape or ())
        if kind.is_variable_str():
            return self._referred(node, name, count, shape)
        size = count * kind.get_size()
        self.budget.take(size, f"the attribute `{shown(name)}` says that it holds {told(size)} of text")
        if shape is None:
            return None
        values = np.empty(shape, f"S{kind.get_size()}")
        stored.read(values)
        return values if shape else bytes(values[()])

    def _referred(self, node: Any, name: str, count: int, shape: tuple[int, ...] | None) -> Any:
        """The ``count`` texts of variable length in the attribute ``name``, read without the library."""
        address, raw = self._address(node), name.encode(errors="surrogateescape")
        said = self._headers.lengths(address, raw, count) if self._headers else None
        if said is None or self._headers is None:
            raise self._refused(name, "is an attribute stored in a form that Keras does not use")
        self.budget.take(sum(said), f"the attribute `{shown(name)}` says that it holds {told(sum(said))} of text")
        found = self._headers.texts(address, raw, count)
        if found is None:
            raise self._damaged(f"the attribute `{shown(name)}` refers to text that is not there")
        return found if shape else found[0]

    def _address(self, node: Any) -> int:
        """Where the header of ``node`` is."""
        return int(self._h5py.h5o.get_info(node).addr)

    def _names(self, node: Any) -> list[str]:
        """The names of the attributes of ``node``, of which the library finds one by looking at all."""
        h5a = self._h5py.h5a
        if (count := h5a.get_num_attrs(node)) > _MOST_ATTRIBUTES:
            raise self._refused(
                _decoded(self._h5py.h5i.get_name(node) or b"/"), f"has {count} attributes, more than {_MOST_ATTRIBUTES}"
            )
        return [_decoded(h5a.open(node, index=i).name) for i in range(count)]

    def _get(self, parent: Any, name: str) -> Any:
        """The object at the path ``name`` below ``parent``, through hard links only."""
        h5py, found = self._h5py, parent
        for part in name.split("/"):
            key = self._checked(part).encode()
            with _libhdf5(self._path):
                there = isinstance(found, h5py.h5g.GroupID) and found.links.exists(key)
                link = found.links.get_info(key).type if there else None
                if link == h5py.h5l.TYPE_HARD:
                    found = h5py.h5o.open(found, key)
            if link is None:
                raise self._damaged(f"`{shown(name)}` is missing")
            if link != h5py.h5l.TYPE_HARD:
                kind = "a soft link" if link == h5py.h5l.TYPE_SOFT else "an external link"
                raise self._refused(name, f"is {kind}", "checkpoints have no use for links; they can lead to other files")
        return found

    def _checked(self, name: Any) -> str:
        if isinstance(name, str) and name.isprintable() and name not in ("", ".", "..") and len(name) <= MAX_NAME:
            return name
        raise self._damaged(f"`{shown(name)}` is not a name")

    def _once(self, found: Any, name: str) -> None:
        """Refuse an object that was reached before: through a second link a group may contain itself."""
        with _libhdf5(self._path):
            address = self._address(found)
        if len(self._reached) >= _MOST_OBJECTS:
            raise UnreadableError(f"`{self._path}` is no checkpoint: it has more than {_MOST_OBJECTS} groups and datasets")
        if address in self._reached:
            raise self._refused(name, "leads to what has another name already", "a group may even contain itself that way")
        self._reached.add(address)

    def _stored_dtype(self, dataset: Any, where: str) -> np.dtype[Any]:
        """The dtype in the file, with its byte order; only plain numbers, whose bytes need no conversion by the library."""
        h5t = self._h5py.h5t
        with _libhdf5(self._path):
            stored = dataset.get_type()
            try:
                dtype: np.dtype[Any] = stored.dtype
                plain = bool(stored.equal(h5t.py_create(dtype, logical=True)))
            except TypeError:  # NumPy has nothing like it
                plain = False
        # Keras says so in `.weights.h5`, and stores the same bytes without a word in `.h5`.
        bfloat16 = plain and dtype == BFLOAT16 and self.texts(dataset).get("dtype", "bfloat16") == "bfloat16"
        if bfloat16 or (plain and dtype.kind in "fiub" and dtype.itemsize <= 8):
            return dtype
        raise self._refused(where, "does not hold plain numbers")

    def _offset(self, dataset: Any, properties: Any, where: str, size: int) -> int | None:
        """Where the ``size`` bytes of a dataset start in the file; None for one that is in chunks, or in its own header."""
        h5d = self._h5py.h5d
        with _libhdf5(self._path):
            layout, stored, offset = properties.get_layout(), dataset.get_storage_size(), dataset.get_offset()
        if layout == h5d.CHUNKED:
            with _libhdf5(self._path):
                filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
                chunks = properties.get_chunk()
                counts = (-(-d // c) for d, c in zip(dataset.shape or (), chunks, strict=False))
                unpacked = prod(counts) * elements(chunks) * dataset.dtype.itemsize  # a chunk may reach far beyond the shape
            if not filters <= FILTERS:
                raise self._refused(where, f"is compressed by filter {min(filters - FILTERS)}")
            if max(size, unpacked) > max(_INFLATED, 1000 * stored):
                raise self._refused(where, f"declares {max(size, unpacked)} bytes and stores {stored}")
            return None
        if size != stored:
            raise self._refused(where, f"declares {size} bytes and stores {stored}")
        if layout == h5d.COMPACT or size == 0:
            return 0 if size == 0 else None
        if offset is None or offset + size > len(self._buffer):
            raise self._damaged(f"`{shown(where)}` lies outside the file")
        return int(offset)

    def _apart(
        self, dataset: Any, properties: Any, where: str, shape: tuple[int, ...], stored: np.dtype[Any], dtype: np.dtype[Any]
    ) -> Tensor:
        """The tensor of a dataset that is in chunks, or in its own header."""
        with _libhdf5(self._path):
            address = self._address(dataset)
            chunks = properties.get_chunk() if properties.get_layout() == self._h5py.h5d.CHUNKED else None
            filters = [properties.get_filter(i) for i in range(properties.get_nfilters())]
        message = self._headers.layout(address) if self._headers else None
        if self._headers is None or message is None or len(message) < 12:
            raise self._refused(where, "is stored in a form that Keras does not use")
        if chunks is None:
            content = compact(message, elements(shape) * dtype.itemsize)
            if content is None:
                raise self._damaged(f"`{shown(where)}` does not have the size of its shape")
            return view(content, dtype, shape, order=">" if stored.str[0] == ">" else "<")
        tree = tree_of(message)
        if tree is None:
            raise self._refused(where, "is stored in chunks, in a form that Keras does not use")
        kinds = [(number, values[0] if values else 1) for number, _, values, _ in filters]
        chunked = Chunked(self._buffer, self._headers.base, tree, shape, chunks, stored, kinds)

        def read() -> Array:
            try:
                array = chunked.read()
            except NONSENSE as error:
                why = str(error) if isinstance(error, ValueError) else "its chunks are not complete"
                raise self._damaged(f"`{shown(where)}`: {why}") from None
            if dtype == np.bool_:
                return np.not_equal(array.view(np.uint8), 0)  # any byte may be stored
            return np.asarray(array.view(dtype) if dtype.name == "bfloat16" else array.astype(dtype, copy=False))

        return Tensor(shape, dtype, read)

    def _damaged(self, why: str) -> UnreadableError:
        return UnreadableError(f"`{self._path}` is damaged: {why}", hints=["fetch or save it again"])

    def _refused(self, name: str, what: str, *facts: str) -> UnreadableError:
        return UnreadableError(f"`{self._path}` is refused: `{shown(name)}` {what}", facts=facts)


@contextmanager
def open_hdf5(path: Path, buffer: memoryview, budget: Budget) -> Iterator[Hdf5]:
    """The HDF5 file in ``buffer``, for as long as the block lasts; ``path`` is for messages, ``budget`` what it may expand to.

    Raises ``UnreadableError`` when it is damaged and ``UsageError`` when ``h5py`` is not installed.
    """
    h5py = h5py_for(path)
    with _libhdf5(path):
        root = h5py.File(Buffer(buffer), "r")
    try:
        yield Hdf5(path, buffer, h5py.h5g.open(root.id, b"/"), budget)
    finally:
        root.close()


def _text(value: str | bytes) -> str:
    """``value`` as text with a replacement character for what is not UTF-8, which h5py puts into strings as lone surrogates."""
    raw = value if isinstance(value, bytes) else value.encode(errors="surrogateescape")
    return raw.decode(errors="replace")


def _decoded(name: bytes) -> str:
    return name.decode(errors="surrogateescape")


def h5py_for(path: Path) -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise UsageError(f"`{path}` needs the `h5py` package", hints=["pip install h5py"]) from None
    module: ModuleType = h5py
    return module


@contextmanager
def _libhdf5(path: Path) -> Iterator[None]:
    """Turn whatever the library finds wrong into an ``UnreadableError``: it raises these, whichever fits least badly."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError) as error:
        reason = shown(str(error.args[0] if error.args else error)).rpartition(" (")[2].removesuffix(")")
        raise UnreadableError(f"`{path}` is truncated or damaged: {reason}", hints=["fetch or save it again"]) from None
