"""What each opcode of a pickle does to the machine of ``_pickle.py``, and the memory that it may take."""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from xconvert.errors import UnreadableError
from xconvert.formats._globals import Opaque, key_of

if TYPE_CHECKING:
    from xconvert.formats._pickle import _Machine as Machine

MAX_LONG = 1_024
MAX_MARKS = 1_000
# Bytes of memory that an opcode may take (CPython 3.11, 64 bits): an object on the stack, an entry of the memo, a container.
OBJECT, _ENTRY, _CONTAINER = 64, 128, 320
_half, _word = (struct.Struct(f"<{size}").unpack_from for size in "HI")  # raise `struct.error` where the data end before


def _long(machine: Machine, size: int) -> None:
    if size > MAX_LONG:
        raise UnreadableError(f"`{machine.path}` is no checkpoint: its pickle holds an integer of {size} bytes")
    machine.push(machine.number(size, signed=True))


def _integer(line: bytes) -> int | bool:
    return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line.rstrip(b"L"))


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
        raise ValueError("no quoted string")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _short(m: Machine) -> None:
    """BININT1, and below the other opcodes that a checkpoint is full of: without a call inside they take half the time."""
    m.stack.append(m.data[m.at])
    m.at += 1


def _put(m: Machine) -> None:
    m.memo[m.data[m.at]] = m.stack[-1]
    m.at += 1


def _long_put(m: Machine) -> None:
    m.memo[_word(m.data, m.at)[0]] = m.stack[-1]
    m.at += 4


def _get(m: Machine) -> None:
    m.stack.append(m.memo[m.data[m.at]])
    m.at += 1


def _long_get(m: Machine) -> None:
    m.stack.append(m.memo[_word(m.data, m.at)[0]])
    m.at += 4


def _two_bytes(m: Machine) -> None:
    m.stack.append(_half(m.data, m.at)[0])
    m.at += 2


def _unicode(m: Machine) -> None:
    size = _word(m.data, m.at)[0]
    m.at += 4
    m.unicode(size)


def _mark(m: Machine) -> None:
    if len(m.marks) >= MAX_MARKS:
        raise UnreadableError(f"`{m.path}` is no checkpoint: its pickle nests more than {MAX_MARKS} deep")
    m.marks.append(m.stack)
    m.stack = []


def _tuple(m: Machine) -> None:
    items = m.stack
    m.stack = m.marks.pop()
    m.stack.append(tuple(items))


def _call(m: Machine) -> None:
    arguments = m.stack.pop()
    m.call(m.stack.pop(), arguments)


def _pop_mark_or_one(m: Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.unmark()


def _new_dict(m: Machine) -> None:
    items = m.unmark()
    m.push({})
    m.set_items(items)


def _protocol(m: Machine) -> None:
    if m.number(1) > 5:
        raise ValueError("no such protocol")


def _new_instance(m: Machine) -> None:
    """INST: a class by name, with the arguments since the mark."""
    arguments = tuple(m.unmark())
    m.name(m.line().decode(), m.line().decode())
    m.call(m.stack.pop(), arguments)


def _new_object(m: Machine) -> None:
    """OBJ: a class and its arguments since the mark."""
    items = m.unmark()
    m.call(items[0], tuple(items[1:]))


def _new_with_keywords(m: Machine) -> None:
    """NEWOBJ_EX: no class that has a handler takes keywords."""
    function, arguments, keywords = m.pop(3)
    m.push(Opaque(function.name, (arguments, keywords)))


STOP = ord(".")
OPCODES: Mapping[int, Callable[[Machine], Any]] = {
    code[0]: operation
    for code, operation in {
        # stack
        b"(": _mark,
        b"0": _pop_mark_or_one,
        b"1": lambda m: m.unmark(),
        b"2": lambda m: m.push(m.stack[-1]),
        # constants and numbers
        b"N": lambda m: m.stack.append(None),
        b"\x88": lambda m: m.stack.append(True),
        b"\x89": lambda m: m.stack.append(False),
        b"I": lambda m: m.push(_integer(m.line())),
        b"L": lambda m: m.push(_integer(m.line())),
        b"F": lambda m: m.push(float(m.line())),
        b"J": lambda m: m.push(m.number(4, signed=True)),
        b"K": _short,
        b"M": _two_bytes,
        b"\x8a": lambda m: _long(m, m.number(1)),
        b"\x8b": lambda m: _long(m, m.number(4)),
        b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        # text and bytes
        b"S": lambda m: m.push(_quoted(m.line())),
        b"T": lambda m: m.text(m.take(m.number(4))),
        b"U": lambda m: m.text(m.take(m.byte())),
        b"V": lambda m: m.text(m.line(), "raw-unicode-escape"),
        b"X": _unicode,
        b"\x8c": lambda m: m.unicode(m.byte()),
        b"\x8d": lambda m: m.unicode(m.number(8)),
        b"B": lambda m: m.octets(m.number(4)),
        b"C": lambda m: m.octets(m.byte()),
        b"\x8e": lambda m: m.octets(m.number(8)),
        b"\x96": lambda m: m.octets(m.number(8)),
        # containers
        b"]": lambda m: m.push([]),
        b"}": lambda m: m.stack.append({}),
        b")": lambda m: m.stack.append(()),
        b"\x8f": lambda m: m.push(set()),
        b"l": lambda m: m.push(m.unmark()),
        b"d": _new_dict,
        b"t": _tuple,
        b"\x91": lambda m: m.push(frozenset(key_of(item) for item in m.unmark())),
        b"\x85": lambda m: m.stack.append((m.stack.pop(),)),
        b"\x86": lambda m: m.push(tuple(m.pop(2))),
        b"\x87": lambda m: m.push(tuple(m.pop(3))),
        b"a": lambda m: m.append(m.pop(1)),
        b"e": lambda m: m.append(m.unmark()),
        b"\x90": lambda m: m.append(m.unmark()),
        b"s": lambda m: m.set_items(m.pop(2)),
        b"u": lambda m: m.set_items(m.unmark()),
        # memo
        b"p": lambda m: m.remember(int(m.line())),
        b"q": _put,
        b"r": _long_put,
        b"\x94": lambda m: m.remember(len(m.memo)),
        b"g": lambda m: m.push(m.memo[int(m.line())]),
        b"h": _get,
        b"j": _long_get,
        # globals, calls and what lies outside; out-of-band buffers and the copyreg extensions are for programs that talk live
        b"c": lambda m: m.name(m.line().decode(), m.line().decode()),
        b"\x93": lambda m: m.name(*m.pop(2)),
        b"R": _call,
        b"\x81": _call,
        b"\x92": _new_with_keywords,
        b"i": _new_instance,
        b"o": _new_object,
        b"b": lambda m: m.build(),
        b"P": lambda m: m.persist(m.line().decode()),
        b"Q": lambda m: m.persist(m.stack.pop()),
        # framing
        b"\x80": _protocol,
        b"\x95": lambda m: m.take(8),
    }.items()
}
_DEAR = dict.fromkeys(b"]}\x8fldt\x91\x85\x86\x87R\x81\x92io", _CONTAINER) | dict.fromkeys(b"pqr\x94", _ENTRY)
COSTS = [_DEAR.get(code, OBJECT) for code in range(256)]
