"""HDF5 files, distrusted: what Keras writes is read, everything else that the format can express is refused.

HDF5 can point into other files (external links and storage, virtual datasets), load compression plugins, contain itself, and
declare a petabyte in a kilobyte. What is in a file is found by code of our own (``_hdf5_structure``), which knows the forms that
Keras writes; what it does not know it asks of the HDF5 library (``_hdf5_library``), which is loaded only then. What may be done
with what was found is decided here, for both. Contiguous datasets, which is how Keras writes them, are viewed in the mapped file.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from itertools import count, takewhile
from math import prod
from pathlib import Path
from typing import TypeVar

from xconvert.deferred import np
from xconvert.errors import UnreadableError, UsageError
from xconvert.formats import _hdf5_messages as said
from xconvert.formats._arrays import CODES, Order, checked_shape, damaged, dtype_named, elements, shown, view
from xconvert.formats._hdf5_chunks import FILTERS, Chunked, chunk_counts, index
from xconvert.formats._hdf5_library import Library
from xconvert.formats._hdf5_objects import CHUNKED, COMPACT, HARD, NONSENSE, SOFT, Dataset, Finder, Image, Node, Text, Unfamiliar
from xconvert.formats._hdf5_structure import Structure
from xconvert.formats._hdf5_texts import lengths, texts
from xconvert.formats._limits import MAX_NAME, USUAL, Budget, told
from xconvert.model import Array, DType, Tensor

_MOST_OBJECTS = 10_000  # groups and datasets; an Xception in training has 1,300. The library takes 0.2 ms for each
_INFLATED = 1 << 24  # a compressed dataset may grow to this many bytes, or a thousandfold if that is more
_DEEPEST = 100  # names in a path
T = TypeVar("T")


def root_names(data: mmap.mmap) -> frozenset[str]:
    """The names of what the root holds, members and attributes; none where it is damaged. Never raises."""
    try:
        with open_hdf5(Path(), memoryview(data), USUAL.budget(Path(), len(data))) as file:
            return frozenset((*file.members(file.root), *file.attributes(file.root)))
    except (UnreadableError, UsageError):
        return frozenset()


class Hdf5:
    """An open file; ``root`` is its root group. Every method raises ``UnreadableError`` for what is damaged or refused.

    ``own`` finds what it can, the library the rest; without it everything. No method must be called after ``open_hdf5`` has
    ended; tensors may be read.
    """

    def __init__(self, path: Path, buffer: memoryview, budget: Budget, own: Structure | None) -> None:
        self._path, self._buffer, self.budget, self._own = path, buffer, budget, own
        self._library: Library | None = None
        self._reached: set[int] = set()  # addresses of the objects that were reached
        self.root: Node = own.root if own else self._ask(lambda finder: finder.root)

    def members(self, group: Node) -> list[str]:
        """The names in ``group``, checked, in the file's order."""
        return [self._checked(name.decode(errors="surrogateescape")) for name in self._ask(lambda finder: finder.members(group))]

    def group(self, parent: Node, name: str) -> Node:
        """The group ``name``, which may be a path of several names, below ``parent``; refused when it was reached before."""
        found = self._get(parent, name)
        if not self._ask(partial(_is_group, node=found)):
            raise damaged(self._path, f"`{shown(name)}` is not a group")
        self._once(found, name)
        return found

    def children(self, parent: Node) -> tuple[dict[str, Node], list[str]]:
        """(groups by name, names of datasets) directly in ``parent``; a group reached for the second time is refused."""
        groups, datasets = {}, []
        for name in self.members(parent):
            found = self._get(parent, name)
            if self._ask(partial(_is_group, node=found)):
                self._once(found, name)
                groups[name] = found
            else:
                datasets.append(name)
        return groups, datasets

    def attributes(self, node: Node) -> list[str]:
        """The names of the attributes of a group or dataset."""
        return [_text(name) for name in self._ask(lambda finder: finder.attributes(node))]

    def texts(self, node: Node) -> dict[str, str]:
        """Those attributes of a group or dataset that are single strings, bytes or not."""
        values = {name: self._attribute(node, name) for name in self._ask(lambda finder: finder.attributes(node))}
        return {_text(name): _text(value[1][0]) for name, value in values.items() if value and value[0] == ()}

    def strings(self, group: Node, name: str) -> list[str] | None:
        """The attribute ``name``, a list of strings, joined from ``name0``, ``name1`` … where it was split; None without it."""
        there = set(self._ask(lambda finder: finder.attributes(group)))
        split = (f"{name}{number}".encode() for number in count())
        parts = [name.encode()] if name.encode() in there else list(takewhile(there.__contains__, split))
        out = []
        for part in parts:
            # Keras stores an empty list as an array of no float64: np.asarray([]).
            value = self._attribute(group, part)
            if value is None:
                raise damaged(self._path, f"the attribute `{name}` is not a list of names")
            out += [_text(text) for text in value[1]]
        return out if parts else None

    def tensor(self, parent: Node, name: str) -> Tensor:
        """The dataset ``name``, which may be a path, below ``parent``; opaque pairs of bytes are bfloat16."""
        node = self._get(parent, name)
        if not self._ask(lambda finder: finder.is_dataset(node)):
            raise damaged(self._path, f"`{shown(name)}` is not a dataset")
        self._once(node, name)
        found = self._ask(lambda finder: finder.dataset(node))
        if found.external:
            raise self._refused(node.path, "keeps its numbers in other places or files")
        shape = checked_shape(self._path, node.path, found.shape)
        code = found.dtype
        # Keras says so in `.weights.h5`, and stores the same bytes without a word in `.h5`.
        if code is None or (code == said.BFLOAT16 and self.texts(node).get("dtype", "bfloat16") != "bfloat16"):
            raise self._refused(node.path, "does not hold plain numbers")
        dtype, order = _in_memory(code)
        size = elements(shape) * dtype.itemsize
        if found.layout == CHUNKED:
            return self._chunked(node.path, found, shape, code, dtype)
        if size != found.stored:
            raise self._refused(node.path, f"declares {size} bytes and stores {found.stored}")
        if found.layout == COMPACT and size:
            content = said.compact(found.message) if found.message else None
            if content is None or len(content) != size:
                raise self._refused(node.path, "is stored in a form that Keras does not use")
            return view(content, dtype, shape, order=order)
        if size and (found.offset is None or found.offset + size > len(self._buffer)):
            raise damaged(self._path, f"`{shown(node.path)}` lies outside the file")
        return view(self._buffer, dtype, shape, order=order, offset=found.offset or 0)

    def _chunked(self, where: str, found: Dataset, shape: tuple[int, ...], code: str, dtype: DType) -> Tensor:
        """The tensor of a dataset that is in chunks."""
        filters = {number for number, _ in found.filters}
        if not filters <= FILTERS:
            raise self._refused(where, f"is compressed by filter {min(filters - FILTERS)}")
        with self._sound():
            chunking = said.chunking(found.message) if found.message else None
        if chunking is None:
            raise self._refused(where, "is stored in chunks, in a form that Keras does not use")
        tree, chunk, width = chunking
        if len(chunk) != len(shape) or width != dtype.itemsize:
            raise damaged(self._path, f"the chunks of `{shown(where)}` are not parts of it")
        image = self._image()
        size = elements(shape) * width
        unpacked = prod(chunk_counts(shape, chunk)) * elements(chunk) * width  # a chunk may reach far beyond the shape
        if (largest := max(size, unpacked)) > _INFLATED:
            with self._sound(where):
                there = sum(len(part) for _, _, part in index(self._buffer, image.base, tree, chunk_counts(shape, chunk)))
            if largest > 1000 * there:
                raise self._refused(where, f"declares {largest} bytes and stores {there}")
        self.budget.take(size, f"`{shown(where)}` would expand to {told(size)}")
        chunked = Chunked(self._buffer, image.base, tree, shape, chunk, code, found.filters)

        def read() -> Array:
            with self._sound(where):
                array = chunked.read()
            if dtype == "bool":
                return np.not_equal(array.view(np.uint8), 0)  # any byte may be stored
            return np.asarray(array.view(dtype) if dtype == "bfloat16" else array.astype(dtype, copy=False))

        return Tensor(shape, dtype, read)

    def _attribute(self, node: Node, name: bytes) -> tuple[tuple[int, ...] | None, Sequence[bytes]] | None:
        """Shape and texts of the attribute ``name``; no texts if it has no elements, None if it has others."""
        found = self._ask(lambda finder: finder.attribute(node, name))
        if found is None or found.shape is None:
            return None
        if 0 in found.shape:
            return found.shape, []
        return found.shape, self._texts(found, _text(name))

    def _texts(self, found: Text, name: str) -> Sequence[bytes]:
        number = elements(found.shape or ())
        if found.read:
            size = number * found.size
            self.budget.take(size, f"the attribute `{shown(name)}` says that it holds {told(size)} of text")
            with _libhdf5(self._path):
                return found.read()
        sizes = None if found.references is None else lengths(found.references, number)
        if sizes is None or found.references is None:
            raise self._refused(name, "is an attribute stored in a form that Keras does not use")
        self.budget.take(sum(sizes), f"the attribute `{shown(name)}` says that it holds {told(sum(sizes))} of text")
        values = texts(self._image(), found.references, number)
        if values is None:
            raise damaged(self._path, f"the attribute `{shown(name)}` refers to text that is not there")
        return values

    def _get(self, parent: Node, name: str) -> Node:
        """The object at the path ``name`` below ``parent``, through hard links only."""
        found = parent
        parts = name.split("/")
        if len(parts) > _DEEPEST:
            raise damaged(self._path, f"`{shown(name)}` is not a name")
        for part in parts:
            link = self._link(found, self._checked(part).encode())
            if link is None:
                raise damaged(self._path, f"`{shown(name)}` is missing")
            kind, address = link
            if kind != HARD:
                what = "a soft link" if kind == SOFT else "an external link"
                raise self._refused(name, f"is {what}", "checkpoints have no use for links; they can lead to other files")
            found = Node(address, f"{found.path}/{part}")
        return found

    def _link(self, node: Node, name: bytes) -> tuple[int, int] | None:
        return self._ask(lambda finder: finder.link(node, name))

    def _checked(self, name: str) -> str:
        if name.isprintable() and name not in ("", ".", "..") and len(name) <= MAX_NAME:
            return name
        raise damaged(self._path, f"`{shown(name)}` is not a name")

    def _once(self, found: Node, name: str) -> None:
        """Refuse an object that was reached before: through a second link a group may contain itself."""
        if len(self._reached) >= _MOST_OBJECTS:
            raise UnreadableError(f"`{self._path}` is no checkpoint: it has more than {_MOST_OBJECTS} groups and datasets")
        if found.address in self._reached:
            raise self._refused(name, "leads to what has another name already", "a group may even contain itself that way")
        self._reached.add(found.address)

    def _ask(self, what: Callable[[Finder], T]) -> T:
        """What the file itself says, or else the library."""
        if self._own:
            try:
                return what(self._own)
            except Unfamiliar:
                pass
            except NONSENSE as error:
                raise _broken(self._path, _reason(error)) from None
        with _libhdf5(self._path):
            if self._library is None:
                self._library = Library(self._path, self._buffer, self.budget)
            return what(self._library)

    def close(self) -> None:
        """Let go of the library: a file that it has open when the interpreter ends crashes the process."""
        if self._library:
            self._library.close()

    def _image(self) -> Image:
        """Where addresses lead; the library was asked where ``own`` is not there."""
        return self._own.image if self._own else self._ask(lambda finder: finder.image)

    @contextmanager
    def _sound(self, where: str = "") -> Iterator[None]:
        """Turn what damage comes to, in the dataset ``where``, into an ``UnreadableError``."""
        try:
            yield
        except NONSENSE as error:
            if not where:
                raise _broken(self._path, _reason(error)) from None
            why = str(error) if isinstance(error, ValueError) else "its chunks are not complete"
            raise damaged(self._path, f"`{shown(where)}`: {why}") from None

    def _refused(self, name: str, what: str, *facts: str) -> UnreadableError:
        return UnreadableError(f"`{self._path}` is refused: `{shown(name)}` {what}", facts=facts)


@contextmanager
def open_hdf5(path: Path, buffer: memoryview, budget: Budget, own: bool = True) -> Iterator[Hdf5]:
    """The HDF5 file in ``buffer``, for as long as the block lasts; ``path`` is for messages, ``budget`` what it may expand to.

    Raises ``UnreadableError`` when it is damaged and ``UsageError`` when it takes ``h5py``, which is not installed. Without
    ``own`` the library is asked for everything.
    """
    try:
        structure = Structure(buffer, budget) if own else None
    except Unfamiliar:
        structure = None
    except NONSENSE as error:
        raise _broken(path, _reason(error)) from None
    file = Hdf5(path, buffer, budget, structure)
    try:
        yield file
    finally:
        file.close()


@cache
def _in_memory(code: str) -> tuple[DType, Order]:
    """The dtype of a tensor, and the order of the bytes in the file, of NumPy's code."""
    return dtype_named("bfloat16" if code == said.BFLOAT16 else CODES[code[1:]]), ">" if code[0] == ">" else "<"


def _is_group(finder: Finder, node: Node) -> bool:
    return finder.is_group(node)


def _text(value: bytes) -> str:
    """``value`` as text with a replacement character for what is not UTF-8."""
    return value.decode(errors="replace")


def _reason(error: Exception) -> str:
    """What is wrong, by what damage came to: our own words, or the lack of any."""
    return str(error) if type(error) is ValueError else "it refers to what is not there"


def _broken(path: Path, reason: str) -> UnreadableError:
    return UnreadableError(f"`{path}` is truncated or damaged: {reason}", hints=["fetch or save it again"])


@contextmanager
def _libhdf5(path: Path) -> Iterator[None]:
    """Turn whatever the library finds wrong into an ``UnreadableError``: it raises these, whichever fits least badly."""
    try:
        yield
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError) as error:
        raise _broken(path, shown(str(error.args[0] if error.args else error)).rpartition(" (")[2].removesuffix(")")) from None
