"""An inert pickle machine: it builds what a stream describes and calls nothing that the stream names.

A pickle is a program, and loading one with the standard library runs it. Here a global is a mere name (``Global``), and
calling one gives a record of the call (``Opaque``), unless the name belongs to a handful of containers or to the handlers of
the caller. Names that only an attack writes are refused outright. Opcodes and their meaning are those of the standard
library's ``pickletools``, protocols 0 to 5.

Work is bounded by the size of the file: no recursion, keys that cost nothing to hash, a memo that is a dict, and a budget.
"""

from __future__ import annotations

import codecs
import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xconvert.errors import UnreadableError
from xconvert.formats._arrays import damaged, shown, truncated
from xconvert.formats._globals import CONTAINERS, Dict, Global, Handler, Leaf, Opaque, fill, is_hostile, key_of
from xconvert.formats._limits import MAX_NAME, USUAL, Budget

__all__ = ["Dict", "Global", "Handler", "Leaf", "Opaque", "asks_to_run", "load"]

MAX_OPCODES = 500_000  # a quarter of a second; an Xception has 11 000, the largest with optimizer and moving averages 220 000
MAX_MARKS = 1_000
MAX_LINE = 4_096
MAX_LONG = 1_024
# Bytes of memory that an opcode may take (CPython 3.11, 64 bits): an object on the stack, an entry of the memo, a container.
_OBJECT, _ENTRY, _CONTAINER = 64, 128, 320


def load(
    path: Path,
    data: memoryview,
    handlers: Mapping[str, Handler],
    *,
    persistent: Callable[[Any], Any] | None = None,
    start: int = 0,
    budget: Budget | None = None,
) -> tuple[Any, int]:
    """The object that the pickle at ``start`` of ``data`` describes, and the position after it.

    ``handlers``: functions called in place of the globals of that (Python 3) name, with the file's arguments; they may raise
    ``TypeError`` or ``ValueError`` for arguments that make no sense. ``persistent`` turns the identity of what lies outside the
    pickle into a value. Byte strings of 256 bytes and more are views of ``data``; text of Python 2 is decoded as latin-1, which
    keeps every byte. ``budget``: the memory that it may take, by default what is usual for the size of ``data``.

    Raises ``UnreadableError`` for a pickle that is damaged, hostile, or out of all proportion. ``path`` is for messages.
    """
    machine = _Machine(path, data, handlers, persistent, start, budget or USUAL.budget(path, len(data)))
    try:
        return machine.run(), machine.at
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError):
        raise damaged(path, f"its pickle makes no sense at byte {machine.at}") from None


def asks_to_run(path: Path, name: str) -> UnreadableError:
    """The error for a file that names ``name``, which no checkpoint needs."""
    return UnreadableError(f"`{path}` asks to run `{shown(name)}`; nothing was run")


class _Machine:
    def __init__(
        self,
        path: Path,
        data: memoryview,
        handlers: Mapping[str, Handler],
        persistent: Callable[[Any], Any] | None,
        at: int,
        budget: Budget,
    ) -> None:
        self.path, self.data, self.at = path, data, at
        self.handlers, self.persistent = {**CONTAINERS, **handlers}, persistent
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: dict[int, Any] = {}
        self.budget = budget

    def run(self) -> Any:
        for _ in range(MAX_OPCODES):
            code = self.take(1)[0]
            if code == _STOP:
                return self.stack.pop()
            self.budget.take(_COSTS.get(code, _OBJECT), "its pickle makes endlessly many objects")
            _OPCODES[code](self)
        raise UnreadableError(f"`{self.path}` is no checkpoint: its pickle has more than {MAX_OPCODES} opcodes")

    def take(self, size: int) -> memoryview:
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise truncated(self.path, f"its pickle breaks off at byte {len(self.data)}")
        return self.data[start : self.at]

    def number(self, size: int, signed: bool = False) -> int:
        return int.from_bytes(self.take(size), "little", signed=signed)

    def line(self) -> bytes:
        head, newline, _ = bytes(self.data[self.at : self.at + MAX_LINE]).partition(b"\n")
        self.take(len(head) + 1)
        if not newline:
            raise ValueError("no end of line")
        return head

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        if len(self.marks) >= MAX_MARKS:
            raise UnreadableError(f"`{self.path}` is no checkpoint: its pickle nests more than {MAX_MARKS} deep")
        self.marks.append(self.stack)
        self.stack = []

    def unmark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a global's name is text")
        size = len(module) + len(name)
        if size > MAX_NAME:
            raise UnreadableError(f"`{self.path}` is no checkpoint: its pickle names something in {size} characters")
        self.budget.take(size, "its pickle names endlessly many things")
        found = Global(f"{module}.{name}")
        if found.modern not in self.handlers and is_hostile(found.modern):
            raise asks_to_run(self.path, found.name)
        self.push(found)

    def call(self, function: Any, arguments: Any) -> None:
        if not isinstance(arguments, tuple):
            raise TypeError("arguments are a tuple")
        if not isinstance(function, (Global, Opaque)):
            raise TypeError("not callable")
        handler = self.handlers.get(function.modern) if isinstance(function, Global) else None
        if handler is None:
            self.push(Opaque(function.name, arguments))
            return
        copied = sum(len(a) for a in arguments if isinstance(a, (str, bytes)))
        copied += sum(_OBJECT * len(a) for a in arguments if isinstance(a, (list, tuple, dict, set)))
        self.budget.take(copied, "its pickle copies the same data over and over")
        self.push(handler(*arguments))

    def persist(self, identity: Any) -> None:
        if self.persistent is None:
            raise ValueError("nothing lies outside this pickle")
        self.push(self.persistent(identity))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, (Opaque, Dict)):
            target.state = state
        elif isinstance(target, Global):  # of a function or class, for as long as the program runs
            raise UnreadableError(f"`{self.path}` gives `{shown(target.name)}` other attributes; nothing was changed")
        elif isinstance(target, (dict, list, set, tuple, str, int)):
            raise TypeError("holds no attributes")

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        target = target.items if isinstance(target, Opaque) else target
        if not isinstance(target, dict):
            raise TypeError("no dict")
        fill(target, zip(items[::2], items[1::2], strict=True))

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1]
        target = target.elements if isinstance(target, Opaque) else target
        if isinstance(target, set):
            target.update(key_of(item) for item in items)
        elif isinstance(target, list):
            target += items
        else:
            raise TypeError("no list")

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def text(self, raw: bytes | memoryview, encoding: str = "latin-1", errors: str = "strict") -> None:
        value = str(raw, encoding, errors)
        self.budget.take(sys.getsizeof(value), "its pickle is all text")  # one character may make all of them four bytes wide
        self.push(value)

    def unicode(self, size: int) -> None:
        self.text(self.take(size), "utf-8", "surrogatepass")

    def octets(self, size: int) -> None:
        taken = self.take(size)
        self.push(taken if size >= 256 else bytes(taken))

    def pop(self, count: int) -> list[Any]:
        items = self.stack[-count:]
        if len(items) < count:
            raise IndexError("empty stack")
        del self.stack[-count:]
        return items


def _long(machine: _Machine, size: int) -> None:
    if size > MAX_LONG:
        raise UnreadableError(f"`{machine.path}` is no checkpoint: its pickle holds an integer of {size} bytes")
    machine.push(machine.number(size, signed=True))


def _integer(line: bytes) -> int | bool:
    return {b"00": False, b"01": True}[line] if line in (b"00", b"01") else int(line.rstrip(b"L"))


def _quoted(line: bytes) -> str:
    if len(line) < 2 or line[:1] not in b"'\"" or line[:1] != line[-1:]:
        raise ValueError("no quoted string")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _pop_mark_or_one(m: _Machine) -> None:
    if m.stack:
        m.stack.pop()
    else:
        m.unmark()


def _new_dict(m: _Machine) -> None:
    items = m.unmark()
    m.push({})
    m.set_items(items)


def _protocol(m: _Machine) -> None:
    if m.number(1) > 5:
        raise ValueError("no such protocol")


def _new_instance(m: _Machine) -> None:
    """INST: a class by name, with the arguments since the mark."""
    arguments = tuple(m.unmark())
    m.name(m.line().decode(), m.line().decode())
    m.call(m.stack.pop(), arguments)


def _new_object(m: _Machine) -> None:
    """OBJ: a class and its arguments since the mark."""
    items = m.unmark()
    m.call(items[0], tuple(items[1:]))


def _new_with_keywords(m: _Machine) -> None:
    """NEWOBJ_EX: no class that has a handler takes keywords."""
    function, arguments, keywords = m.pop(3)
    m.push(Opaque(function.name, (arguments, keywords)))


_STOP = ord(".")
_OPCODES: Mapping[int, Callable[[_Machine], Any]] = {
    code[0]: operation
    for code, operation in {
        # stack
        b"(": _Machine.mark,
        b"0": _pop_mark_or_one,
        b"1": _Machine.unmark,
        b"2": lambda m: m.push(m.stack[-1]),
        # constants and numbers
        b"N": lambda m: m.push(None),
        b"\x88": lambda m: m.push(True),
        b"\x89": lambda m: m.push(False),
        b"I": lambda m: m.push(_integer(m.line())),
        b"L": lambda m: m.push(_integer(m.line())),
        b"F": lambda m: m.push(float(m.line())),
        b"J": lambda m: m.push(m.number(4, signed=True)),
        b"K": lambda m: m.push(m.number(1)),
        b"M": lambda m: m.push(m.number(2)),
        b"\x8a": lambda m: _long(m, m.number(1)),
        b"\x8b": lambda m: _long(m, m.number(4)),
        b"G": lambda m: m.push(struct.unpack(">d", m.take(8))[0]),
        # text and bytes
        b"S": lambda m: m.push(_quoted(m.line())),
        b"T": lambda m: m.text(m.take(m.number(4))),
        b"U": lambda m: m.text(m.take(m.number(1))),
        b"V": lambda m: m.text(m.line(), "raw-unicode-escape"),
        b"X": lambda m: m.unicode(m.number(4)),
        b"\x8c": lambda m: m.unicode(m.number(1)),
        b"\x8d": lambda m: m.unicode(m.number(8)),
        b"B": lambda m: m.octets(m.number(4)),
        b"C": lambda m: m.octets(m.number(1)),
        b"\x8e": lambda m: m.octets(m.number(8)),
        b"\x96": lambda m: m.octets(m.number(8)),
        # containers
        b"]": lambda m: m.push([]),
        b"}": lambda m: m.push({}),
        b")": lambda m: m.push(()),
        b"\x8f": lambda m: m.push(set()),
        b"l": lambda m: m.push(m.unmark()),
        b"d": _new_dict,
        b"t": lambda m: m.push(tuple(m.unmark())),
        b"\x91": lambda m: m.push(frozenset(key_of(item) for item in m.unmark())),
        b"\x85": lambda m: m.push(tuple(m.pop(1))),
        b"\x86": lambda m: m.push(tuple(m.pop(2))),
        b"\x87": lambda m: m.push(tuple(m.pop(3))),
        b"a": lambda m: m.append(m.pop(1)),
        b"e": lambda m: m.append(m.unmark()),
        b"\x90": lambda m: m.append(m.unmark()),
        b"s": lambda m: m.set_items(m.pop(2)),
        b"u": lambda m: m.set_items(m.unmark()),
        # memo
        b"p": lambda m: m.remember(int(m.line())),
        b"q": lambda m: m.remember(m.number(1)),
        b"r": lambda m: m.remember(m.number(4)),
        b"\x94": lambda m: m.remember(len(m.memo)),
        b"g": lambda m: m.push(m.memo[int(m.line())]),
        b"h": lambda m: m.push(m.memo[m.number(1)]),
        b"j": lambda m: m.push(m.memo[m.number(4)]),
        # globals, calls and what lies outside; out-of-band buffers and the copyreg extensions are for programs that talk live
        b"c": lambda m: m.name(m.line().decode(), m.line().decode()),
        b"\x93": lambda m: m.name(*m.pop(2)),
        b"R": lambda m: m.call(*m.pop(2)),
        b"\x81": lambda m: m.call(*m.pop(2)),
        b"\x92": _new_with_keywords,
        b"i": _new_instance,
        b"o": _new_object,
        b"b": _Machine.build,
        b"P": lambda m: m.persist(m.line().decode()),
        b"Q": lambda m: m.persist(m.stack.pop()),
        # framing
        b"\x80": _protocol,
        b"\x95": lambda m: m.take(8),
    }.items()
}
_COSTS = dict.fromkeys(b"]}\x8fldt\x91\x85\x86\x87R\x81\x92io", _CONTAINER) | dict.fromkeys(b"pqr\x94", _ENTRY)
