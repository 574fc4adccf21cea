"""Valid files taken apart into nodes: once for each seed, and so neither fast nor careful about files that are not valid."""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Callable

import h5py

from tests.fuzz import hdf5, json_values
from tests.fuzz.nodes import Node, cat, raw
from xconvert.formats._protobuf import fields, varint
from xconvert.formats._sstable import entries


def pickled(content: bytes) -> Node:
    """A pickle, opcode by opcode, or several one after the other, and whatever follows them."""
    children, at = list[Node](), 0
    while content[at : at + 1] == b"\x80":
        stream = io.BytesIO(content[at:])
        starts = [position for _, _, position in pickletools.genops(stream) if position is not None]
        ends = [*starts[1:], stream.tell()]
        children.append(cat([raw(content[at + start : at + end]) for start, end in zip(starts, ends, strict=True)]))
        at += stream.tell()
    children += [raw(content[at:])] if at < len(content) else []
    return children[0] if len(children) == 1 else cat(children)


def message(content: bytes | memoryview, deep: int = 5) -> Node:
    """A protocol buffer, and as far as they parse the messages in it."""
    out = []
    for number, kind, value in _fields(memoryview(content)):
        out.append(Node("field", (number, kind), [_value(value, deep)]))
    return cat(out)


def _fields(content: memoryview) -> list[tuple[int, int, int | memoryview]]:
    found = []
    for number, value in fields(content):
        kind = 0 if isinstance(value, int) else 2
        found.append((number, kind, value))
    at, told = 0, []
    for number, _, value in found:  # the wire type of what has a fixed width
        tag, at = varint(content, at)
        if tag & 7 == 0:
            _, at = varint(content, at)
        elif tag & 7 == 2:
            size, at = varint(content, at)
            at += size
        else:
            at += 8 if tag & 7 == 1 else 4
        told.append((number, tag & 7, value))
    return told


def _value(value: int | memoryview, deep: int) -> Node:
    if isinstance(value, int):
        return Node("varint", value)
    if deep and len(value) > 2 and not bytes(value).decode("latin-1").isprintable():
        try:
            if all(0 < number < 1100 for number, _ in fields(value)):
                return message(value, deep - 1)
        except ValueError:
            pass
    return raw(bytes(value))


def zipped(content: bytes, parse: Callable[[str, bytes], Node] = lambda name, inner: raw(inner)) -> Node:
    """An archive, its members as ``parse`` takes them apart."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = [
            Node("member", (info.compress_type, []), [raw(info.filename.encode()), parse(info.filename, archive.read(info))])
            for info in archive.infolist()
        ]
        return Node("zip", (archive.comment, []), members)


def torch_member(name: str, inner: bytes) -> Node:
    """A member of PyTorch's archives."""
    return pickled(inner) if name.endswith(".pkl") else raw(inner)


def keras_member(name: str, inner: bytes) -> Node:
    """A member of Keras' archives."""
    return hdf5_image(inner) if name.endswith(".h5") else json(inner)


def numpy_member(name: str, inner: bytes) -> Node:
    """A member of NumPy's archives: magic number, length and header, numbers."""
    size = int.from_bytes(inner[8:10], "little") if inner[6] == 1 else int.from_bytes(inner[8:12], "little")
    start = 10 if inner[6] == 1 else 12
    return cat([raw(inner[:start]), raw(inner[start : start + size]), raw(inner[start + size :])])


def tabled(content: bytes) -> Node:
    """A table of TensorFlow: keys, and values as messages."""
    children = []
    for key, value in entries(None, memoryview(content)):  # type: ignore[arg-type]
        children += [raw(key), message(value)]
    return Node("table", False, children)


def blocks(content: bytes) -> Node:
    """The same table as blocks of bytes: first the data, last the index."""
    footer = memoryview(content)[-48:]
    _, at = varint(footer, 0)
    _, at = varint(footer, at)
    offset, at = varint(footer, at)
    size, _ = varint(footer, at)
    (first, length), data = _places(content, offset, size)
    return Node("blocks", 0, [raw(content[first : first + length]), *data, raw(content[offset : offset + size])])


def _places(content: bytes, offset: int, size: int) -> tuple[tuple[int, int], list[Node]]:
    block = memoryview(content)[offset : offset + size]
    _, at = varint(block, 0)
    fresh, at = varint(block, at)
    _, at = varint(block, at)
    start, at = varint(block, at + fresh)
    length, _ = varint(block, at)
    return (start, length), []


def safetensors(content: bytes) -> Node:
    """A header of JSON behind its length, and the numbers."""
    size = int.from_bytes(content[:8], "little")
    return cat([Node("sized", 0, [json(content[8 : 8 + size])]), raw(content[8 + size :])])


def json(content: bytes) -> Node:
    """JSON text."""
    return Node("json", json_values.parsed(content))


def hdf5_image(content: bytes) -> Node:
    """An HDF5 file, with the spans of its datasets."""
    spans: list[tuple[int, int]] = []

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset) and item.id.get_offset() is not None:
            spans.append((item.id.get_offset(), item.id.get_offset() + item.id.get_storage_size()))

    with h5py.File(io.BytesIO(content), "r") as file:
        file.visititems(visit)
    return Node("hdf5", hdf5.image(content, tuple(spans)))


def lines(content: bytes) -> Node:
    """Text, line by line."""
    return cat([raw(line) for line in content.splitlines(keepends=True)])
