"""What a pickle may name: inert stand-ins, the containers that are built for real, and names that only an attack writes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

Handler = Callable[..., Any]

# Modules, and functions of other modules, that show what the file is after. Being refused by name is a courtesy to the user: none
# of them would have been called.
_HOSTILE_MODULES = """
    posix nt os subprocess commands popen2 sys socket shutil runpy importlib imp pty ctypes _ctypes code codeop webbrowser
    pickle _pickle marshal multiprocessing asyncio http.client urllib.request requests aiohttp httpx smtplib ftplib
    telnetlib pdb bdb cProfile profile timeit pydoc pip ensurepip venv
"""
_HOSTILE_NAMES = """
    builtins.eval builtins.exec builtins.execfile builtins.compile builtins.open builtins.file builtins.__import__
    builtins.input builtins.getattr builtins.setattr builtins.delattr builtins.globals builtins.locals builtins.vars
    builtins.apply builtins.breakpoint builtins.help io.open io.open_code _io.open _io.FileIO codecs.open
    operator.attrgetter operator.methodcaller types.FunctionType types.CodeType torch.load torch.serialization.load
    torch.hub.load numpy.load numpy.testing._private.utils.runstring
"""
_HOSTILE = frozenset(_HOSTILE_MODULES.split()), frozenset(_HOSTILE_NAMES.split())
_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # Python 2's names
_SCALARS = (str, int, bool, float, bytes, type(None))


# Plain classes: dataclasses, and what that module imports, would be a tenth of the time that reading a file takes.


class Global:
    """Something of a module, by ``name`` as the file writes it; never imported. ``modern``: the name that Python 3 has for it."""

    __slots__ = ("modern", "name")

    def __init__(self, name: str) -> None:
        module, _, rest = name.partition(".")
        self.name = name
        self.modern = f"{_RENAMED[module]}.{rest}" if module in _RENAMED else name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Global) and other.name == self.name

    def __hash__(self) -> int:
        return hash(self.name)


class Opaque:
    """A call that was not made: of what, with which arguments, and what the file then put into the result."""

    __slots__ = ("arguments", "elements", "items", "name", "state")

    def __init__(self, name: str, arguments: tuple[Any, ...], state: Any = None) -> None:
        self.name, self.arguments, self.state = name, arguments, state
        self.items: dict[Any, Any] = {}
        self.elements: list[Any] = []


class Key(tuple[Any, ...]):
    """A tuple as a key. The hash of a tuple of numbers is no secret, and tuples that share one make a dict take quadratic time;
    that of text has a salt.
    """

    __slots__ = ()

    def __hash__(self) -> int:
        return hash(repr([*map(hash, self)]))


class Leaf:
    """What a reader takes for a tensor: base of what its handlers return."""

    __slots__ = ()


class Dict(dict[Any, Any]):
    """An OrderedDict, defaultdict or Counter; ``state`` holds the attributes that the file gives it."""

    state: Any = None


def is_hostile(name: str) -> bool:
    """Whether ``name``, in Python 3's spelling, has no business in a checkpoint."""
    (modules, names), outer, inner = _HOSTILE, name.split(".", 2), name.rsplit(".", 2)
    # Protocol 4 reaches through attributes, `torch.serialization` `os.system`: a module may stand before the last name as well.
    return (
        name in names
        or any(".".join(outer[:n]) in modules for n in range(1, len(outer)))  # none of them has more than two parts
        or (len(inner) > 2 and inner[1] in {"os", "posix", "nt", "sys", "subprocess", "builtins"})
    )


def key_of(value: Any) -> Any:
    """``value``, a tuple as ``Key``, if hashing it is harmless: deep tuples overflow the C stack, huge integers can all share one
    hash.
    """
    short = type(value) is tuple and len(value) <= 16
    for item in value if short else (value,):
        if not isinstance(item, (*_SCALARS, Global, Opaque)) or (isinstance(item, int) and abs(item) >> 64):
            raise TypeError("no key for a dict")
    return Key(value) if short else value


def fill(target: dict[Any, Any], pairs: Iterable[Any]) -> None:
    """``target`` with ``pairs`` put into it; raises ``TypeError`` for keys that ``key_of`` refuses."""
    for key, value in pairs:
        target[key_of(key)] = value


def _dict(items: Any = ()) -> Dict:
    result = Dict()
    fill(result, items.items() if isinstance(items, dict) else items)
    return result


def _default_dict(factory: Any = None, items: Any = ()) -> Dict:
    return _dict(items)


def _bytes(text: Any = b"", encoding: str = "latin-1", errors: str = "strict") -> Any:
    """Protocol 2 writes byte strings as latin-1 text. Numbers, which would ask for that much memory, are no text."""
    if isinstance(text, str) and encoding in ("latin1", "latin-1", "utf-8", "ascii"):
        return text.encode(encoding)
    if isinstance(text, (bytes, memoryview)):
        return text
    raise TypeError("no text")


CONTAINERS: Mapping[str, Handler] = {
    "collections.OrderedDict": _dict,
    "collections.Counter": _dict,
    "collections.defaultdict": _default_dict,
    "builtins.dict": _dict,
    "builtins.list": lambda items=(): list(items),
    "builtins.tuple": lambda items=(): tuple(items),
    "builtins.set": lambda items=(): {key_of(item) for item in items},
    "builtins.frozenset": lambda items=(): frozenset(key_of(item) for item in items),
    "builtins.bytes": _bytes,
    "builtins.bytearray": _bytes,
    "builtins.complex": complex,
    "_codecs.encode": _bytes,
}
