"""The wire format of protocol buffers, as far as checkpoints use it: https://protobuf.dev/programming-guides/encoding.

A message is read as the values of each field in their order: whole numbers for wire type 0, views of the bytes for types 1, 2
and 5. What they mean is known to who asks for a field.
"""

from __future__ import annotations

from collections.abc import Iterator

Field = int | memoryview
MAX_FIELDS = 250_000  # of one message; the graph of an Xception has 500 nodes, the object graph of a SavedModel 5,000


def fields(data: memoryview) -> Iterator[tuple[int, Field]]:
    """(number, value) of each field; raises ``ValueError`` for what is no message, or has more than ``MAX_FIELDS``."""
    at, end, count = 0, len(data), 0
    while at < end:
        if (count := count + 1) > MAX_FIELDS:
            raise ValueError(f"a message has more than {MAX_FIELDS} fields")
        tag, at = varint(data, at)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if kind == 0:
            value, at = varint(data, at)
            yield number, value
            continue
        if kind == 2:
            size, at = varint(data, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"a field has the wire type {kind}")
        if size > end - at:
            raise ValueError(f"a field of {size} bytes goes on past the end")
        yield number, data[at : at + size]
        at += size


def message(data: memoryview) -> dict[int, list[Field]]:
    """All values of every field by number; raises ``ValueError`` as ``fields`` does."""
    found: dict[int, list[Field]] = {}
    for number, value in fields(data):
        found.setdefault(number, []).append(value)
    return found


def whole(found: dict[int, list[Field]], field: int) -> int:
    """The whole number in ``field`` of a ``message``, 0 where it is absent; raises ``ValueError`` for anything else."""
    value = found.get(field, [0])[-1]  # of several the last counts
    if isinstance(value, int):
        return value
    raise ValueError(f"field {field} is no whole number")


def parts(found: dict[int, list[Field]], field: int) -> list[memoryview]:
    """The texts, bytes or messages in ``field`` of a ``message``; raises ``ValueError`` where there are whole numbers."""
    values = [value for value in found.get(field, ()) if isinstance(value, memoryview)]
    if len(values) != len(found.get(field, ())):
        raise ValueError(f"field {field} is a whole number")
    return values


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The whole number at ``at``, without sign, and where it ends."""
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a number goes on past its end")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7


def signed(value: int) -> int:
    """A whole number of 64 bits that was written in two's complement."""
    return value - (1 << 64) if value >> 63 else value


def packed(data: memoryview) -> Iterator[int]:
    """The whole numbers of a packed field."""
    at = 0
    while at < len(data):
        value, at = varint(data, at)
        yield value


def encoded(value: int) -> bytes:
    """A whole number as a varint; negative ones in two's complement of 64 bits."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def number(field: int, value: int) -> bytes:
    """A field of wire type 0."""
    return encoded(field << 3) + encoded(value)


def fixed32(field: int, value: int) -> bytes:
    """A field of wire type 5."""
    return encoded(field << 3 | 5) + value.to_bytes(4, "little")


def block(field: int, content: bytes | str) -> bytes:
    """A field of wire type 2: text, bytes, or a message."""
    raw = content.encode() if isinstance(content, str) else content
    return head(field, len(raw)) + raw


def head(field: int, size: int) -> bytes:
    """What stands before the ``size`` bytes of a field of wire type 2."""
    return encoded(field << 3 | 2) + encoded(size)
