"""What every flat format needs: dtypes beyond NumPy's own, lazily viewed arrays, names safe to show, and the commonest errors."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

from xconvert.deferred import np
from xconvert.errors import UnreadableError, UsageError
from xconvert.formats._limits import MAX_NAME
from xconvert.formats._maps import let_go
from xconvert.model import Array, DType, Tensor

# NumPy's codes of its dtypes, as arrays are pickled with. Structures, text and objects are no tensors.
CODES = {"b1": "bool", "c8": "complex64", "c16": "complex128"}
CODES |= {f"f{size}": f"float{8 * size}" for size in (2, 4, 8)}
CODES |= {f"{kind[0]}{size}": f"{kind}{8 * size}" for kind in ("int", "uint") for size in (1, 2, 4, 8)}
STANDARD = {*CODES.values()}
EXTENDED = {"bfloat16", *(f"float8_{kind}" for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu"))}
Order = Literal["<", ">"]  # of the bytes in a file
_NATIVE: Order = "<" if sys.byteorder == "little" else ">"
MAX_DIMENSIONS = 32  # NumPy 1's limit; NumPy 2 allows 64


@cache
def dtype_named(name: str) -> DType:
    """The dtype called ``name``, one of ``STANDARD`` or ``EXTENDED``.

    Raises ``UsageError`` where the name needs ``ml_dtypes`` and it is not installed.
    """
    if name in EXTENDED:
        try:
            import ml_dtypes  # noqa: F401  (from then on NumPy knows its names)
        except ImportError:
            raise UsageError(f"`{name}` tensors need the `ml_dtypes` package", hints=["pip install ml_dtypes"]) from None
    return DType(name)


def shown(name: str, most: int = 200) -> str:
    """``name`` with everything that a terminal would act on escaped, cut to a readable length."""
    if name.isprintable() and len(name) <= most:
        return name
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in name[:most])
    return text if len(name) <= most else text + "…"


def damaged(path: Path, why: str) -> UnreadableError:
    """The error for a file that contradicts itself."""
    return UnreadableError(f"`{path}` is damaged: {why}", hints=["fetch or save it again"])


def truncated(path: Path, why: str) -> UnreadableError:
    """The error for a file whose end is missing."""
    return UnreadableError(f"`{path}` is truncated: {why}", hints=["fetch or save it again"])


def checked_name(path: Path, name: str) -> str:
    """``name`` itself; raises ``UnreadableError`` when it is empty, longer than ``MAX_NAME``, or holds control characters."""
    if name and name.isprintable() and len(name) <= MAX_NAME:
        return name
    length = f" … of {len(name)} characters" if len(name) > MAX_NAME else ""
    raise UnreadableError(
        f"`{path}` holds a tensor called `{shown(name)}`{length}",
        facts=[f"a name has 1 to {MAX_NAME} characters, and no control characters among them"],
    )


def is_text(value: Any) -> bool:
    """Whether ``value`` is text that a file can hold: JSON and pickles may have lone surrogates, UTF-8 has none."""
    try:
        return isinstance(value, str) and isinstance(value.encode(), bytes)
    except UnicodeEncodeError:
        return False


def elements(shape: Sequence[int]) -> int:
    """How many numbers an array of ``shape`` holds."""
    return 0 if 0 in shape else math.prod(shape)


def checked_shape(path: Path, name: str, shape: Any) -> tuple[int, ...]:
    """``shape`` as a tuple; raises ``UnreadableError`` unless it is a short sequence of whole numbers that NumPy can hold."""
    whole = isinstance(shape, (tuple, list)) and len(shape) <= MAX_DIMENSIONS and all(type(d) is int and d >= 0 for d in shape)
    # NumPy multiplies the other dimensions of an empty array too, and must not overflow.
    if whole and math.prod(d for d in shape if d) < 2**56:
        return tuple(shape)
    raise damaged(path, f"the shape of `{shown(name)}` is impossible")


def strides_of(shape: Sequence[int], itemsize: int) -> tuple[int, ...]:
    """Of an array in C order, in bytes."""
    found = [itemsize]
    for size in shape[:0:-1]:
        found.insert(0, found[0] * size)
    return tuple(found[: len(shape)])


def view(
    buffer: memoryview,
    dtype: DType,
    shape: tuple[int, ...],
    *,
    order: Order = "<",
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
    then: Callable[[Array], Array] | None = None,
) -> Tensor:
    """A tensor over ``buffer``, which must be large enough; nothing is read before ``Tensor.read``.

    ``order``: ``"<"`` or ``">"``, the byte order in the buffer. ``offset`` and ``strides`` are in bytes; without strides the
    array is in C order. ``then`` is applied to the array read. Booleans other than 0 and 1 become 1.
    """

    def read() -> Array:
        if elements(shape) == 0:
            return np.empty(shape, dtype)
        there, carrier = _carried(dtype, order)
        array: Array = np.ndarray(shape, there, buffer, offset, strides)
        array = array.astype(carrier, copy=False)
        array = array != 0 if dtype == "bool" else array.view(dtype)
        return then(array) if then else array

    def stored() -> memoryview:
        return buffer[offset : offset + elements(shape) * dtype.itemsize]

    plain = not then and order == _NATIVE and dtype != "bool" and strides in (None, strides_of(shape, dtype.itemsize))
    return Tensor(shape, dtype, read, stored=stored if plain else None)


@cache
def _carried(dtype: DType, order: Order) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """What ``dtype`` is read as, in the order of the file and in this machine's: ml_dtypes have no byte order of their own, and
    booleans may be any byte, so both travel as whole numbers.
    """
    carrier = np.dtype(f"u{dtype.itemsize}" if dtype in EXTENDED or dtype == "bool" else dtype)
    return carrier.newbyteorder(order), carrier


def extremes(tensor: Tensor) -> tuple[bool, float]:
    """Whether all numbers of ``tensor`` are finite, and if so the least; without NumPy where they are few and stored plainly."""
    code = {"float32": "f", "float64": "d"}.get(tensor.dtype)
    if tensor.stored and code and 0 < tensor.nbytes <= _FEW:
        numbers = tensor.stored().cast(code)  # type: ignore[call-overload]
        # what is not finite makes no finite sum; large numbers in float64 may not either
        finite, least = math.isfinite(sum(numbers)) or all(map(math.isfinite, numbers)), min(numbers)
    else:
        array = tensor.read()
        finite = bool(np.isfinite(array).all())
        least = float(array.min()) if finite and array.size else math.inf
    passed(tensor.nbytes)
    return finite, least


def contents(name: str, tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of ``tensor``: C order, little-endian, in pieces, each valid until the next one and at most ``_CHUNK`` long, but
    for longer rows. What was read of mapped files is let go of; a ``tensor`` that wants to be ``told`` of each piece is. Raises
    ``ValueError`` where it is not what it announced.
    """
    for piece in _little_endian(name, tensor):
        if tensor.told:
            tensor.told(piece)
        yield piece


def _little_endian(name: str, tensor: Tensor) -> Iterator[memoryview]:
    if tensor.stored and _NATIVE == "<":
        there = tensor.stored()
        if there.nbytes != tensor.nbytes:
            raise ValueError(f"{name}: {there.nbytes} bytes are stored, {tensor.dtype}{tensor.shape} announced")
        return pieces(there)
    array = tensor.read()
    if array.shape != tensor.shape or array.dtype != np.dtype(tensor.dtype):
        raise ValueError(f"{name}: {array.dtype}{array.shape} was read, {tensor.dtype}{tensor.shape} announced")
    if _NATIVE == ">":
        array = array.byteswap()
    return pieces(array.reshape(-1).view(np.uint8).data) if array.flags.c_contiguous else _in_order(array)


class _Room(threading.local):
    """What ``contents`` keeps for its next call: room for a copy, and how much of mapped files was read since ``let_go``."""

    def __init__(self) -> None:
        self.copy, self.read = bytearray(), 0


_STRIP = 16  # numbers of float32 in a line of cache: a matrix on its side is copied 1.3 to 4 times faster in such strips
_CHUNK = 1 << 20  # bytes of mapped files that are read before they are let go of, and of a copy, which then stays in the cache
_FEW = 1 << 16  # bytes of a tensor whose numbers are looked at one by one
_AROUND = 1 << 16  # bytes that the kernel maps around the least that is read
_room = _Room()


def pieces(data: memoryview | bytes) -> Iterator[memoryview]:
    """``data`` in pieces of a size that is let go of: for what may be a whole file. At least one, even of nothing."""
    whole = memoryview(data)
    for at in range(0, max(len(whole), 1), _CHUNK):
        piece = whole[at : at + _CHUNK]
        yield piece
        passed(len(piece))


def passed(size: int) -> None:
    """Note that ``size`` bytes in one place of a mapped file were read, and let go of what was when it is enough."""
    _room.read += max(size, _AROUND)
    if _room.read > _CHUNK:
        let_go()
        _room.read = 0


def _in_order(array: Array) -> Iterator[memoryview]:
    """The bytes of ``array`` in C order, as many rows at a time as there is room for: what was just copied is summed and written
    from the cache, and fresh memory costs as much as the copying.
    """
    rows = array.squeeze()
    size = rows[:1].nbytes
    if len(_room.copy) < max(size, _CHUNK):
        _room.copy = bytearray(max(size, _CHUNK))
    room = np.frombuffer(_room.copy, np.uint8)
    many = max(_CHUNK // size, 1)
    for at in range(0, len(rows), many):
        part = rows[at : at + many]
        out: Array = room[: part.nbytes].view(array.dtype).reshape(part.shape)
        _copy(part, out)
        yield out.reshape(-1).view(np.uint8).data
    passed(array.nbytes)  # not before: every copy reads from everywhere in the tensor


def _copy(array: Array, out: Array) -> None:
    if array.ndim != 2:
        np.copyto(out, array)
        return
    step = _STRIP if array.strides[1] % 1024 == 0 else 4 * _STRIP  # only at such strides lines of cache push each other out
    for at in range(0, array.shape[1], step):
        out[:, at : at + step] = array[:, at : at + step]
