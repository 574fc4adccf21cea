"""NumPy arrays as pickles describe them, read without NumPy's unpickler and written opcode by opcode.

Layout from ``array_reduce`` and ``arraydescr_reduce`` in NumPy's ``multiarray/methods.c`` and ``descriptor.c``: an array is
``_reconstruct(ndarray, (0,), b"b")`` with the state (1, shape, dtype, Fortran order, bytes), a dtype ``dtype("f4", False, True)``
with the state (3, byte order, …). Protocol 2 has no bytes and writes them as latin-1 text.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xconvert.errors import UnreadableError
from xconvert.formats._arrays import CODES, Order, checked_shape, damaged, dtype_named, elements, shown, strides_of, view
from xconvert.formats._pickle import Handler, Leaf, Opaque
from xconvert.model import Array, DType, Tensor

_PACKAGES = ("numpy.core", "numpy._core")  # before and since NumPy 2


class PickledArray(Opaque, Leaf):
    """An array whose ``state`` is what the file says of it; ``label`` the name it was saved with, if any."""

    __slots__ = ("label",)

    def __init__(self, arguments: tuple[Any, ...] = (), state: Any = None, label: str = "") -> None:
        super().__init__("numpy.ndarray", arguments, state)
        self.label = label


def handlers() -> dict[str, Handler]:
    """What the pickle machine calls in place of NumPy's functions: they return ``PickledArray``; a dtype stays ``Opaque``."""

    def from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> PickledArray:  # protocol 5
        return PickledArray((), (1, shape, dtype, order == "F", raw))

    found: dict[str, Handler] = {f"{p}.multiarray._reconstruct": lambda *arguments: PickledArray(arguments) for p in _PACKAGES}
    return found | {f"{p}.numeric._frombuffer": from_buffer for p in _PACKAGES}


def tensor_of(path: Path, name: str, array: PickledArray) -> Tensor:
    """``array``, called ``name`` in the file, as a view of its bytes; raises ``UnreadableError`` where they do not fit."""
    try:
        *_, shape, dtype, fortran, raw = array.state
    except (TypeError, ValueError):
        raise damaged(path, f"`{shown(name)}` is no whole array") from None
    kind, order = _dtype(path, name, dtype)
    shape = checked_shape(path, name, shape)
    if not isinstance(raw, (str, bytes, memoryview)) or len(raw) != elements(shape) * kind.itemsize:
        raise damaged(path, f"`{shown(name)}` does not have the size of its shape")
    strides = strides_of(shape[::-1], kind.itemsize)[::-1] if fortran is True else None
    if not isinstance(raw, str):
        return view(memoryview(raw), kind, shape, order=order, strides=strides)

    def read() -> Array:  # Python 2's byte strings; encoded when asked for, because many arrays may share one
        try:
            return view(memoryview(raw.encode("latin-1")), kind, shape, order=order, strides=strides).read()
        except UnicodeEncodeError:
            raise damaged(path, f"the numbers of `{shown(name)}` are text") from None

    return Tensor(shape, kind, read)


def _dtype(path: Path, name: str, dtype: Any) -> tuple[DType, Order]:
    """The dtype that the pickle describes, and its byte order."""
    whole = isinstance(dtype, Opaque) and dtype.name == "numpy.dtype" and dtype.arguments[:1] and isinstance(dtype.state, tuple)
    code = dtype.arguments[0] if whole else None
    if not isinstance(code, str) or code not in CODES or dtype.state[1:2] not in (("<",), (">",), ("|",), ("=",)):
        what = f"an array of `{shown(code)}`" if isinstance(code, str) else "an array of no dtype"
        raise UnreadableError(f"`{path}` holds `{shown(name)}` as {what}", hints=["save a plain, dense float tensor"])
    return dtype_named(CODES[code]), ">" if dtype.state[1] == ">" else "<"


def head(shape: Sequence[int], dtype: DType, protocol: int) -> bytes:
    """The opcodes of an array up to its bytes; ``tail`` comes after them. ``dtype`` is one of ``CODES``."""
    code = next(code for code, name in CODES.items() if name == dtype)
    parts = [
        # NumPy 1 does not know `numpy._core`; NumPy 2 knows both
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85" + octets(b"b", protocol) + b"\x87R",
        b"(K\x01(" + b"".join(map(integer, shape)) + b"t",
        b"cnumpy\ndtype\n" + text(code) + b"\x89\x88\x87R(K\x03" + text("<" if dtype.itemsize > 1 else "|"),
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89",
    ]
    return b"".join(parts)


def octets(raw: bytes, protocol: int) -> bytes:
    """The opcodes of a byte string."""
    return octets_head(len(raw), protocol) + as_carried(memoryview(raw), protocol) + octets_tail(protocol)


tail = b"tb"  # of an array: its state is complete, and built into it


def octets_head(size: int, protocol: int) -> bytes:
    """What stands before a byte string that takes ``size`` bytes as the protocol carries it."""
    if protocol < 3:
        return b"c_codecs\nencode\nX" + struct.pack("<L", size)
    return b"B" + struct.pack("<L", size) if size < 1 << 32 else b"\x8e" + struct.pack("<Q", size)


def as_carried(raw: memoryview, protocol: int) -> bytes | memoryview:
    """``raw`` as the protocol carries it: the UTF-8 of latin-1 text before protocol 3."""
    return str(raw, "latin-1").encode() if protocol < 3 else raw


def octets_tail(protocol: int) -> bytes:
    """What stands after a byte string."""
    return text("latin1") + b"\x86R" if protocol < 3 else b""


def text(value: str) -> bytes:
    """The opcodes of a string."""
    raw = value.encode()
    return b"X" + struct.pack("<L", len(raw)) + raw


def integer(value: int) -> bytes:
    """The opcodes of a whole number, not negative."""
    return b"K" + bytes([value]) if value < 256 else b"\x8a\x08" + struct.pack("<q", value)
