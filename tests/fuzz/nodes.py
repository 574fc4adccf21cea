"""What files are made of, as trees that are changed anywhere and written again, with lengths and checksums right.

A node is never changed in place: a change makes new nodes on the way from the root to where it is, and shares the others, whose
bytes are written once.
"""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Sequence
from typing import Any

from tests.fuzz import json_values, mutate
from tests.fuzz.hdf5 import Image
from tests.fuzz.mutate import edge, varint
from xconvert.formats._crc32c import checksum
from xconvert.formats._sstable import table

Tokens = Sequence[bytes]


class Node:
    """A piece of a file: ``kind`` says how ``children`` and ``value`` become bytes."""

    __slots__ = ("_content", "children", "kind", "value")

    def __init__(self, kind: str, value: Any = None, children: Sequence[Node] = ()) -> None:
        self.kind, self.value, self.children = kind, value, children
        self._content: bytes | None = None

    def content(self) -> bytes:
        """The bytes of the node."""
        if self._content is None:
            self._content = _CONTENT[self.kind](self)
        return self._content


def raw(content: bytes) -> Node:
    """Bytes without a known structure."""
    return Node("raw", content)


def cat(children: Sequence[Node]) -> Node:
    """Pieces one after the other."""
    return Node("cat", None, children)


def _field(node: Node) -> bytes:
    """A field of a protocol buffer; ``value`` is (number, wire type), its child what is in it."""
    number, kind = node.value
    inner = node.children[0].content()
    return varint(number << 3 | kind) + (varint(len(inner)) if kind == 2 else b"") + inner


def _sized(node: Node) -> bytes:
    """What is preceded by its length in 8 bytes, plus ``value``."""
    inner = node.children[0].content()
    return ((len(inner) + node.value) & ((1 << 64) - 1)).to_bytes(8, "little") + inner


def _rows(node: Node) -> bytes:
    """A table of TensorFlow; children are its keys and values in turn, sorted as it asks unless ``value`` says otherwise."""
    contents = [child.content() for child in node.children]
    items = list(zip(contents[::2], contents[1::2], strict=False))
    return table(items if node.value else sorted(items))


def _tabled(node: Node) -> bytes:
    """A table whose blocks, ``children``, are any bytes: each gets its checksum, ``value`` gives compression and footer."""
    out, places = bytearray(), []
    for child in node.children:
        content = child.content()
        places.append((len(out), len(content)))
        body = content + bytes([node.value])
        out += body + checksum([body]).to_bytes(4, "little")
    (at, size), empty = places[-1] if places else (0, 0), varint(0) + varint(0)
    return bytes(out + (empty + varint(at) + varint(size)).ljust(40, b"\0") + bytes.fromhex("57fb808b247547db"))


def _zip(node: Node) -> bytes:
    """An archive of ``children``, members; ``value`` is its comment and what in its end is otherwise than it should be."""
    comment, odd = node.value
    out, directory = bytearray(), bytearray()
    for member in node.children:
        at = len(out)
        local, central = _member(member, at)
        out += local
        directory += central
    count, start = len(node.children), len(out)
    end = [0, 0, count, count, len(directory), start, len(comment)]
    for place, value in odd:
        end[place % 7] = value & (0xFFFFFFFF if place % 7 in (4, 5) else 0xFFFF)
    return bytes(out + directory) + struct.pack("<4s4H2LH", b"PK\x05\x06", *end) + comment


def _member(node: Node, at: int) -> tuple[bytes, bytes]:
    """(local header and data, directory entry) of a member: ``value`` is (method, alignment, odd fields)."""
    method, odd = node.value
    name, inner = node.children[0].content()[:0xFFFF], node.children[1].content()
    flags = 0 if name.isascii() else 0x800
    packed = zlib.compressobj(6, zlib.DEFLATED, -15)
    data = inner if method != 8 else packed.compress(inner) + packed.flush()
    fields = [20, flags, method, 0, 0x21, zlib.crc32(inner), len(data), len(inner), len(name), 0]
    central = [20, *fields, 0, 0, 0, 0, at]
    limits = [16] * 5 + [32] * 3 + [16] * 2
    for where, place, value in odd:
        if where in ("local", "both"):
            fields[place % 10] = value & ((1 << limits[place % 10]) - 1)
        if where in ("central", "both"):
            central[1 + place % 10] = value & ((1 << limits[place % 10]) - 1)
        if where == "place":
            central[-1] = value & 0xFFFFFFFF
    return struct.pack("<4s5H3L2H", b"PK\x03\x04", *fields) + name + data, struct.pack(
        "<4s6H3L5H2L", b"PK\x01\x02", *central
    ) + name


_CONTENT: dict[str, Callable[[Node], bytes]] = {
    "raw": lambda node: node.value,
    "cat": lambda node: b"".join(child.content() for child in node.children),
    "varint": lambda node: varint(node.value),
    "field": _field,
    "sized": _sized,
    "json": lambda node: json_values.written(node.value),
    "table": _rows,
    "blocks": _tabled,
    "member": lambda node: b"",
    "zip": _zip,
    "hdf5": lambda node: node.value.content,
}


def mutated(node: Node, rng: random.Random, tokens: Tokens = ()) -> Node:
    """``node`` with one change, to itself or somewhere below."""
    children = node.children
    if children and rng.random() < 0.8:
        at = rng.randrange(len(children))
        return Node(node.kind, node.value, [*children[:at], mutated(children[at], rng, tokens), *children[at + 1 :]])
    return _CHANGES.get(node.kind, _anything)(node, rng, tokens)


def _anything(node: Node, rng: random.Random, tokens: Tokens) -> Node:
    return raw(mutate.mutated(node.content(), rng, tokens))


def _sequence(node: Node, rng: random.Random, tokens: Tokens) -> Node:
    """Pieces deleted, doubled, swapped, moved, put in."""
    out, at = list(node.children), rng.randrange(len(node.children) + 1)
    other = rng.randrange(len(out) + 1)
    low, high = sorted((at, other))
    match rng.randrange(8) if out else 4:
        case 0:
            del out[at : at + rng.choice((1, 1, 2, 5))]
        case 1:
            out[at:at] = out[other : other + rng.choice((1, 1, 2, 5, 50))]
        case 2 if high < len(out):
            out[low], out[high] = out[high], out[low]
        case 3:
            out[at : at + 1] = out[other : other + 1]
        case 5:
            del out[at:]
        case 6:
            out[at:at] = out[at : at + 1] * rng.choice((1, 3, 100))
        case _:
            out.insert(at, raw(rng.choice(tokens or mutate.TOKENS)))
    return Node(node.kind, node.value, out)


def _fields(node: Node, rng: random.Random, tokens: Tokens) -> Node:
    """A field under another number, with another wire type, or in place of its contents a number."""
    number, kind = node.value
    match rng.randrange(4):
        case 0:
            return Node("field", (rng.choice((0, 1, 2, 3, 4, 5, 6, 7, 8, 13, 14, 15, 16, 1000, 1 << 28)), kind), node.children)
        case 1:
            return Node("field", (number, rng.randrange(8)), node.children)
        case 2:
            return Node("field", (number, 0), [Node("varint", edge(rng))])
        case _:
            return Node("field", (number, 2), [raw(mutate.mutated(node.children[0].content(), rng, tokens))])


def _archive(node: Node, rng: random.Random, tokens: Tokens) -> Node:
    comment, odd = node.value
    match rng.randrange(5):
        case 0:
            return Node("zip", (comment, [*odd, (rng.randrange(7), edge(rng))]), node.children)
        case 1:
            return Node("zip", (mutate.mutated(comment or b"{}", rng, mutate.JSON), odd), node.children)
        case _:
            members = [child for child in _sequence(node, rng, tokens).children if child.kind == "member"]
            return Node("zip", node.value, members)


def _odd_member(node: Node, rng: random.Random, tokens: Tokens) -> Node:
    method, odd = node.value
    match rng.randrange(4):
        case 0:
            return Node("member", (rng.choice((0, 8, 8, 9, 12)), odd), node.children)
        case 1:
            return Node("member", node.value, [raw(rng.choice((b"", b"\0", b"a/data.pkl", b"x.npy", b"../x"))), node.children[1]])
        case _:
            return Node(
                "member",
                (method, [*odd, (rng.choice(("local", "central", "both", "place")), rng.randrange(10), edge(rng))]),
                node.children,
            )


def _table(node: Node, rng: random.Random, tokens: Tokens) -> Node:
    if rng.random() < 0.1:
        return Node("table", True, node.children)
    at = rng.randrange(0, len(node.children) - 1, 2) if len(node.children) > 1 else 0
    pair, out = list(node.children[at : at + 2]), list(node.children)
    match rng.randrange(4):
        case 0:
            del out[at : at + 2]
        case 1:
            out[at:at] = [mutated(pair[0], rng, tokens), pair[1]] if pair else []
        case 2:
            other = rng.randrange(0, len(out), 2) if out else 0
            out[at + 1 : at + 2] = out[other + 1 : other + 2]
        case _:
            out += [raw(rng.randbytes(3)), raw(rng.randbytes(8))]
    return Node("table", node.value, out)


_CHANGES: dict[str, Callable[[Node, random.Random, Tokens], Node]] = {
    "cat": _sequence,
    "field": _fields,
    "varint": lambda node, rng, _: Node("varint", rng.choice((edge(rng), node.value + 1, node.value - 1, -node.value))),
    "sized": lambda node, rng, _: Node("sized", rng.choice((1, -1, 8, -8, edge(rng))), node.children),
    "json": lambda node, rng, _: Node("json", json_values.changed(node.value, rng)),
    "table": _table,
    "blocks": lambda node, rng, tokens: (
        Node("blocks", rng.choice((0, 1, 1, 2)), node.children) if rng.random() < 0.3 else _sequence(node, rng, tokens)
    ),
    "zip": _archive,
    "member": _odd_member,
    "hdf5": lambda node, rng, _: Node("hdf5", node.value.mutated(rng)),
    "raw": lambda node, rng, tokens: raw(mutate.mutated(node.value, rng, tokens)),
}
__all__ = ["Image", "Node", "cat", "mutated", "raw"]
