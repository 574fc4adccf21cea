"""An inert pickle machine: it builds what a stream describes and calls nothing that the stream names.

A pickle is a program, and loading one with the standard library runs it. Here a global is a mere name (``Global``), and
calling one gives a record of the call (``Opaque``), unless the name belongs to a handful of containers or to the handlers of
the caller. Names that only an attack writes are refused outright. Opcodes and their meaning are those of the standard
library's ``pickletools``, protocols 0 to 5.

Work is bounded by the size of the file: no recursion, keys that cost nothing to hash, a memo that is a dict, and a budget.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from xconvert.errors import UnreadableError
from xconvert.formats._arrays import damaged, shown, truncated
from xconvert.formats._globals import CONTAINERS, Dict, Global, Handler, Leaf, Opaque, fill, is_hostile, key_of
from xconvert.formats._limits import MAX_NAME, USUAL, Budget
from xconvert.formats._opcodes import COSTS, OBJECT, OPCODES, STOP

__all__ = ["Dict", "Global", "Handler", "Leaf", "Opaque", "asks_to_run", "load"]

MAX_OPCODES = 500_000  # a quarter of a second; an Xception has 11 000, the largest with optimizer and moving averages 220 000
_FEW = 250_000  # that any file may have beyond one for each of its bytes: PyTorch stores pickles as they are, attackers deflate
MAX_LINE = 4_096
_SETTLED = 1 << 16  # bytes after which what opcodes took is taken from the budget


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
    except struct.error:
        raise _breaks_off(path, data) from None
    except IndexError:
        if machine.at >= len(data):
            raise _breaks_off(path, data) from None
        raise damaged(path, f"its pickle makes no sense at byte {machine.at}") from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RecursionError, TypeError, ValueError):
        raise damaged(path, f"its pickle makes no sense at byte {machine.at}") from None


def _breaks_off(path: Path, data: memoryview) -> UnreadableError:
    return truncated(path, f"its pickle breaks off at byte {len(data)}")


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
        data, spent = self.data, 0
        for _ in range(min(MAX_OPCODES, _FEW + self.budget.size)):
            code = data[self.at]
            self.at += 1
            if code == STOP:
                return self.stack.pop()
            spent += COSTS[code]
            if spent > _SETTLED:
                self.budget.take(spent, "its pickle makes endlessly many objects")
                spent = 0
            OPCODES[code](self)
        raise UnreadableError(f"`{self.path}` is no checkpoint: its pickle has more opcodes than one of its size")

    def take(self, size: int) -> memoryview:
        start, self.at = self.at, self.at + size
        if self.at > len(self.data):
            raise _breaks_off(self.path, self.data)
        return self.data[start : self.at]

    def byte(self) -> int:
        self.at += 1
        return self.data[self.at - 1]

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

    def unmark(self) -> list[Any]:
        items, self.stack = self.stack, self.marks.pop()
        return items

    def name(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise TypeError("a global's name is text")
        size = len(module) + len(name)
        if size > MAX_NAME:
            raise UnreadableError(f"`{self.path}` is no checkpoint: its pickle names something in {size} characters")
        found = Global(f"{module}.{name}")
        second = 0 if found.modern is found.name else OBJECT + size
        self.budget.take(size + second, "its pickle names endlessly many things")
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
        copied = 0
        for argument in arguments:
            if isinstance(argument, (str, bytes)):
                copied += len(argument)
            elif isinstance(argument, (list, tuple, dict, set)):
                copied += OBJECT * len(argument)
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
