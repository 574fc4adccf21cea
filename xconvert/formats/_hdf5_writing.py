"""Writing HDF5 files as Keras does: contiguous datasets and lists of names, the same bytes for the same contents.

Numbers go into the file as they come. What says where they are is small and comes last, when all of it is known; until then the
file is none. The HDF5 library is not needed: loading it takes as long as converting half of a checkpoint, it keeps 7 kB for
every dataset, and on a full disk it crashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from xconvert.deferred import np
from xconvert.errors import UsageError
from xconvert.formats import _hdf5_encoding as encoding
from xconvert.formats._arrays import contents, shown
from xconvert.model import Tensor

_ATTRIBUTE_LIMIT = 64512  # bytes; HDF5_OBJECT_HEADER_LIMIT in keras/src/legacy/saving/legacy_h5_format.py


class Node:
    """A group, with its ``members``, or a dataset, with the ``messages`` that describe it; and their attributes."""

    def __init__(self, messages: Sequence[bytes] | None = None) -> None:
        self.members: dict[str, Node] = {}
        self.messages = messages
        self.attributes: list[bytes] = []
        self.texts: list[tuple[str, int]] = []  # attributes that are texts: name and number of the text


class NewHdf5:
    """A file that is being written; ``root`` is its root group."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.root = file, Node()
        self._texts: dict[bytes, int] = {}  # → their numbers
        self._made = bytearray()  # what follows the numbers

    def group(self, parent: Node, name: str) -> Node:
        """A new group ``name`` in ``parent``."""
        return self._put(parent, name, Node())

    def tensor(self, parent: Node, name: str, tensor: Tensor) -> None:
        """Write the contiguous, little-endian dataset ``name`` as Keras does; raises ``UsageError`` for what is no number."""
        bfloat16 = tensor.dtype == "bfloat16"
        if not bfloat16 and (tensor.dtype.kind not in "fiub" or tensor.dtype.itemsize > 8):
            raise UsageError(f"Keras files cannot hold `{shown(name)}` of dtype `{tensor.dtype}`")
        self._file.write(bytes(-self._file.tell() % 8))
        dataset = Node(encoding.dataset(tensor.shape, tensor.dtype, self._file.tell()))
        self._file.writelines(contents(name, tensor))
        self._put(parent, name, dataset)
        if bfloat16:
            self.text(dataset, "dtype", "bfloat16")

    def text(self, node: Node, name: str, text: str) -> None:
        """Store the attribute ``name``, a text of any length."""
        node.texts.append((name, self._texts.setdefault(text.encode(), len(self._texts) + 1)))

    def strings(self, node: Node, name: str, values: Sequence[str]) -> None:
        """Store the attribute ``name`` as strings of one length, split into ``name0``, ``name1`` … where HDF5 has no room for it.

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

    def array(self, node: Node, name: str, array: Any) -> None:
        """Store the attribute ``name``: strings of one length, or numbers."""
        array = np.asarray(array)
        kind = encoding.datatype(array.dtype.kind, array.dtype.itemsize)
        node.attributes.append(encoding.attribute(name, kind, array.shape, array.astype(array.dtype.newbyteorder("<")).tobytes()))

    def finish(self) -> None:
        """Write what says where everything is."""
        self._file.write(bytes(-self._file.tell() % 8))
        self._start = self._file.tell()
        self._values = [*self._texts]
        self._collection = self._place(encoding.texts(self._values)) if self._values else 0
        root, members = self._described(self.root)
        self._file.write(self._made)
        self._file.seek(0)
        self._file.write(encoding.superblock(root, members, self._start + len(self._made)))

    def _put(self, parent: Node, name: str, node: Node) -> Node:
        if name in parent.members:
            raise UsageError(f"a group of an HDF5 file cannot have two members called `{shown(name)}`")
        parent.members[name] = node
        return node

    def _place(self, content: bytes) -> int:
        """Where ``content`` will be."""
        place = self._start + len(self._made)
        self._made += encoding.padded(content)
        return place

    def _described(self, node: Node) -> tuple[int, bytes]:
        """Where the header of an object is, and of a group where its members are, as an entry has it."""
        messages, members = node.messages, b""
        if messages is None:
            message, members = self._group(node)
            messages = [message]
        texts = [
            encoding.attribute(name, encoding.TEXT, (), encoding.reference(self._values[n - 1], self._collection, n))
            for name, n in node.texts
        ]
        return self._place(encoding.header([*messages, *node.attributes, *texts])), members

    def _group(self, node: Node) -> tuple[bytes, bytes]:
        """Place the members of a group; the message that says where they are, and the same as an entry has it."""
        there = {name.encode(): self._described(member) for name, member in node.members.items()}
        names = sorted(there)
        content, offsets = encoding.heap(names, self._start + len(self._made))
        heap = self._place(content)
        entries = [encoding.entry(offsets[name], *there[name]) for name in names]
        many, nodes = 2 * encoding.LEAF, list[tuple[int, int]]()
        for i in range(0, len(names), many):
            last = offsets[names[min(i + many, len(names)) - 1]]
            nodes.append((self._place(encoding.symbols(entries[i : i + many])), last))
        below = 0
        while True:
            content, nodes = encoding.level(nodes, below, self._start + len(self._made))
            self._place(content)
            below += 1
            if len(nodes) == 1:
                return encoding.table(nodes[0][0], heap)


@contextmanager
def create_hdf5(path: Path) -> Iterator[NewHdf5]:
    """A new file at ``path``, complete at the end of the block; the same contents give the same bytes."""
    with path.open("wb") as file:
        file.write(bytes(encoding.SUPERBLOCK))
        made = NewHdf5(file)
        yield made
        made.finish()
