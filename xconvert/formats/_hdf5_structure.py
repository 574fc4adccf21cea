"""Where things are in an HDF5 file, found without the library: superblock, groups, headers of objects.

From the HDF5 File Format Specification 3.0, sections II.A ("Superblock"), III.A.1 ("Version 1 B-trees"), III.B ("Symbol Table
Nodes"), III.D ("Local Heaps") and IV.A ("Object Headers"). That is the form in which Keras writes, and h5py unless it is told
otherwise; groups and attributes in fractal heaps, shared messages and extensions are left to the library. Every structure is
read once and checked to be in the file; nothing recurses.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence

from xconvert.formats import _hdf5_messages as said
from xconvert.formats._arrays import elements
from xconvert.formats._hdf5_objects import (
    ATTRIBUTE,
    ATTRIBUTE_INFO,
    COMPACT,
    CONTIGUOUS,
    EXTERNAL,
    FILTERS,
    HARD,
    LAYOUT,
    LINK,
    LINK_INFO,
    SOFT,
    SPACE,
    TABLE,
    TYPE,
    UNDEFINED,
    VIRTUAL,
    Dataset,
    Image,
    Node,
    Text,
    Unfamiliar,
    messages,
)
from xconvert.formats._hdf5_signature import SIGNATURE
from xconvert.formats._limits import Budget
from xconvert.tuples import NamedTuple

_CACHED_SOFT = 2  # an entry of a symbol table that is a soft link
_DEEPEST = 256  # levels of a B-tree: its level is a byte


def begin(data: memoryview) -> int:
    """Where the superblock is: at byte 0, 512, 1024, 2048 …; raises ``ValueError`` where there is none."""
    at = 0
    while at < len(data):
        if data[at : at + len(SIGNATURE)] == SIGNATURE:
            return at
        at = at * 2 or 512
    raise ValueError("file signature not found")


class _Header(NamedTuple):
    """An object's header: its messages by kind, of which it has one, its attributes and links, of which it may have many, and
    the kinds of those that are elsewhere.
    """

    found: dict[int, memoryview]
    many: dict[int, list[memoryview]]
    shared: set[int]

    def one(self, kind: int) -> memoryview:
        """The content of the one message of a kind."""
        if kind in self.shared:
            raise Unfamiliar
        if kind not in self.found:
            raise ValueError("an object lacks what it needs")
        return self.found[kind]


class Structure:
    """A ``Finder`` that reads the file itself. Raises ``Unfamiliar`` for a file that is left to the library as a whole."""

    def __init__(self, data: memoryview, budget: Budget) -> None:
        self.image = Image(data, begin(data), budget)
        self.root = Node(self._superblock(data, self.image.base), "")
        self._headers: dict[int, _Header] = {}
        self._links: dict[int, dict[bytes, tuple[int, int]]] = {}
        self._attributes: dict[int, dict[bytes, memoryview]] = {}

    def is_group(self, node: Node) -> bool:
        """Whether the object is a group: it has links."""
        found = self._header(node).found
        return TABLE in found or LINK_INFO in found

    def is_dataset(self, node: Node) -> bool:
        """Whether the object is a dataset: it has a type and a shape."""
        found = self._header(node).found
        return TYPE in found and SPACE in found and not self.is_group(node)

    def members(self, node: Node) -> list[bytes]:
        """The names in a group."""
        return list(self._members(node))

    def link(self, node: Node, name: bytes) -> tuple[int, int] | None:
        """Kind and address of the link ``name`` in a group; None where there is none, or no group."""
        return self._members(node).get(name) if self.is_group(node) else None

    def attributes(self, node: Node) -> list[bytes]:
        """The names of the attributes of an object."""
        return list(self._named(node))

    def attribute(self, node: Node, name: bytes) -> Text | None:
        """The attribute ``name`` of an object."""
        return said.text(self._named(node)[name])

    def dataset(self, node: Node) -> Dataset:
        """What is said of a dataset."""
        header = self._header(node)
        message = header.one(LAYOUT)
        layout = said.layout_class(message)
        if EXTERNAL in header.found or layout == VIRTUAL:
            return Dataset(external=True)
        shape, kind = said.dataspace(header.one(SPACE)), header.one(TYPE)
        dtype = said.plain(bytes(kind))
        if layout == CONTIGUOUS:
            stored, address = said.contiguous(message, elements(shape or ()) * said.width(kind))
            place = None if address is None else self.image.base + address
            return Dataset(shape, dtype, layout, stored=stored, offset=place, message=message)
        if layout == COMPACT:
            return Dataset(shape, dtype, layout, stored=len(said.compact(message) or b""), message=message)
        filters = said.pipeline(header.one(FILTERS)) if FILTERS in header.found else []
        return Dataset(shape, dtype, layout, filters=filters, message=message)

    def _superblock(self, data: memoryview, at: int) -> int:
        """The address of the root's header."""
        version = data[at + 8] if at + 8 < len(data) else 0
        if version in (0, 1):
            sizes: Sequence[int] = struct.unpack_from("<2B", data, at + 13)
            start = at + (24 if version == 0 else 28)
            base, _, end, driver, _, root = struct.unpack_from("<6Q", data, start)
            plain = driver == UNDEFINED
        elif version in (2, 3):
            *sizes, flags = struct.unpack_from("<3B", data, at + 9)
            base, extension, end, root = struct.unpack_from("<4Q", data, at + 12)
            plain = extension == UNDEFINED and not flags
        else:
            raise Unfamiliar
        if tuple(sizes) != (8, 8) or not plain:
            raise Unfamiliar
        if end - base + at > len(data):
            raise ValueError(f"it ends at byte {len(data)} of {end - base + at}")
        return int(root)

    def _header(self, node: Node) -> _Header:
        found = self._headers.get(node.address)
        if found is None:
            found = _Header({}, {ATTRIBUTE: [], LINK: []}, set())
            for kind, shared, content in messages(self.image, node.address):
                if kind in found.many:
                    found.many[kind].append(content)
                elif kind in found.found:
                    raise ValueError("an object says twice what it is")
                else:
                    found.found[kind] = content
                if shared:
                    found.shared.add(kind)
            self._headers[node.address] = found
        return found

    def _named(self, node: Node) -> dict[bytes, memoryview]:
        """The attributes of an object by name, in alphabetical order."""
        found = self._attributes.get(node.address)
        if found is None:
            header = self._header(node)
            if ATTRIBUTE in header.shared or (ATTRIBUTE_INFO in header.found and _in_heap(header.one(ATTRIBUTE_INFO), 2)):
                raise Unfamiliar
            pairs = sorted((said.attribute(content).name, number) for number, content in enumerate(header.many[ATTRIBUTE]))
            found = self._attributes[node.address] = {name: header.many[ATTRIBUTE][number] for name, number in pairs}
            if len(found) != len(pairs):
                raise ValueError("it has two attributes of one name")
        return found

    def _members(self, node: Node) -> dict[bytes, tuple[int, int]]:
        """(kind, address) of the links of a group by name, in its order."""
        found = self._links.get(node.address)
        if found is None:
            header = self._header(node)
            pairs = list(self._listed(header) if LINK_INFO in header.found else self._table(header.one(TABLE)))
            found = self._links[node.address] = dict(pairs)
            if len(found) != len(pairs):
                raise ValueError("a group has two members of one name")
        return found

    def _listed(self, header: _Header) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """The links that are messages: in the order of their creation where that is noted, else in alphabetical order."""
        info = header.one(LINK_INFO)
        if _in_heap(info, 8):
            raise Unfamiliar
        links = [said.link(content) for content in header.many[LINK]]
        for name, kind, address, _ in sorted(links, key=lambda link: link[3] if info[1] & 1 else link[0]):
            yield name, (kind, address)

    def _table(self, message: memoryview) -> Iterator[tuple[bytes, tuple[int, int]]]:
        """The links in a symbol table, in alphabetical order."""
        image, last = self.image, b""
        tree, heap = struct.unpack_from("<2Q", message)
        names = self._heap(image.base + heap)
        for at, left, right in self._leaves(image.base + tree):
            signature, version, count = struct.unpack_from("<4sBxH", image.data, at)
            if signature != b"SNOD" or version != 1:
                raise ValueError("the members of a group make no sense")
            image.spend(at, 8 + 40 * count)
            image.keep(count)
            # Readers that look for a name go by the order of names, and by the keys of the B-tree.
            last = max(last, self._name(names, left))
            for start, address, cached in struct.iter_unpack("<2QL20x", image.data[at + 8 : at + 8 + 40 * count]):
                name = self._name(names, start)
                if name <= last:
                    raise ValueError("the names of a group's members make no sense")
                last = name
                yield name, (SOFT, UNDEFINED) if cached == _CACHED_SOFT else (HARD, address)
            if last > self._name(names, right):
                raise ValueError("the names of a group's members make no sense")

    def _name(self, names: bytes, start: int) -> bytes:
        end = names.find(b"\0", start)
        if end < 0:
            raise ValueError("the names of a group's members make no sense")
        self.image.spend(0, end - start)
        return names[start:end]

    def _heap(self, at: int) -> bytes:
        """The names of a group's members."""
        signature, version, size, _, address = struct.unpack_from("<4sB3x3Q", self.image.data, at)
        if signature != b"HEAP" or version != 0:
            raise ValueError("the names of a group's members make no sense")
        start = self.image.base + address
        self.image.spend(start, size)
        return bytes(self.image.data[start : start + size])

    def _leaves(self, at: int) -> Iterator[tuple[int, int, int]]:
        """Where the nodes of the symbol table are that the B-tree at ``at`` lists, in its order, each with the keys around it."""
        data, pending = self.image.data, [(at, _DEEPEST, 0, 0)]
        while pending:
            at, above, left, right = pending.pop()
            if above == 0:
                yield at, left, right
                continue
            signature, kind, level, entries = struct.unpack_from("<4s2BH", data, at)
            if signature != b"TREE" or kind != 0 or level >= above:
                raise ValueError("the list of a group's members makes no sense")
            self.image.spend(at, 32 + 16 * entries)
            keys = struct.unpack_from(f"<{2 * entries + 1}Q", data, at + 24)  # and between them children
            for i in range(2 * entries, 0, -2):
                pending.append((self.image.base + keys[i - 1], level, keys[i - 2], keys[i]))


def _in_heap(info: memoryview, width: int) -> bool:
    """Whether links or attributes are in a fractal heap, by the message that has its address, after a number of ``width`` bytes
    where the order of creation is noted.
    """
    version, flags = info[0], info[1]
    if version != 0:
        raise ValueError("the header of an object makes no sense")
    return bool(struct.unpack_from("<Q", info, 2 + (width if flags & 1 else 0))[0] != UNDEFINED)
