"""What every flat format needs: dtypes beyond NumPy's own, lazily viewed arrays, names safe to show, and the commonest errors."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xconvert.errors import UnreadableError, UsageError
from xconvert.formats._limits import MAX_NAME
from xconvert.formats._maps import let_go
from xconvert.model import Array, Tensor

STANDARD = {"bool", "float16", "float32", "float64", "complex64", "complex128"}
STANDARD |= {f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)}
EXTENDED = {"bfloat16", *(f"float8_{kind}" for kind in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu"))}
Order = Literal["<", ">"]  # of the bytes in a file
MAX_DIMENSIONS = 32  # NumPy 1's limit; NumPy 2 allows 64


@cache
def dtype_named(name: str) -> np.dtype[Any]:
    """The NumPy dtype called ``name``, one of ``STANDARD`` or ``EXTENDED``, in native byte order.

    Raises ``UsageError`` where the name needs ``ml_dtypes`` and it is not installed.
    """
    if name in STANDARD:
        return np.dtype(name)
    try:
        import ml_dtypes
    except ImportError:
        raise UsageError(f"`{name}` tensors need the `ml_dtypes` package", hints=["pip install ml_dtypes"]) from None
    found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
    return found


def shown(name: str, most: int = 200) -> str:
    """``name`` with everything that a terminal would act on escaped, cut to a readable length."""
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


def view(
    buffer: memoryview,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    *,
    order: Order = "<",
    offset: int = 0,
    strides: tuple[int, ...] | None = None,
    then: Callable[[Array], Array] = lambda array: array,
) -> Tensor:
    """A tensor over ``buffer``, which must be large enough; nothing is read before ``Tensor.read``.

    ``order``: ``"<"`` or ``">"``, the byte order in the buffer. ``offset`` and ``strides`` are in bytes; without strides the
    array is in C order. ``then`` is applied to the array read. Booleans other than 0 and 1 become 1.
    """

    def read() -> Array:
        if elements(shape) == 0:
            return np.empty(shape, dtype)
        stored, carrier = _carried(dtype, order)
        array: Array = np.ndarray(shape, stored, buffer, offset, strides)
        array = array.astype(carrier, copy=False)
        return then(array != 0 if dtype == np.bool_ else array.view(dtype))

    return Tensor(shape, dtype, read)


@cache
def _carried(dtype: np.dtype[Any], order: Order) -> tuple[np.dtype[Any], np.dtype[Any]]:
    """What ``dtype`` is read as, in the order of the file and in this machine's: ml_dtypes have no byte order of their own, and
    booleans may be any byte, so both travel as whole numbers.
    """
    carrier = np.dtype(f"u{dtype.itemsize}") if dtype.name in EXTENDED or dtype == np.bool_ else dtype
    return carrier.newbyteorder(order), carrier


def contents(name: str, tensor: Tensor) -> Iterator[memoryview]:
    """The bytes of ``tensor``: C order, little-endian, in pieces, each valid until the next one and at most ``_CHUNK`` long, but
    for longer rows. What was read of mapped files is let go of; a ``tensor`` that wants to be ``told`` of each piece is. Raises
    ``ValueError`` where it is not what it announced.
    """
    array = tensor.read()
    if (array.shape, array.dtype) != (tensor.shape, tensor.dtype):
        raise ValueError(f"{name}: {array.dtype}{array.shape} was read, {tensor.dtype}{tensor.shape} announced")
    if sys.byteorder == "big":
        array = array.byteswap()
    for piece in pieces(array.reshape(-1).view(np.uint8).data) if array.flags.c_contiguous else _in_order(array):
        if tensor.told:
            tensor.told(piece)
        yield piece


class _Room(threading.local):
    """What ``contents`` keeps for its next call: room for a copy, and how much of mapped files was read since ``let_go``."""

    def __init__(self) -> None:
        self.copy, self.read = np.empty(_CHUNK, np.uint8), 0


_STRIP = 16  # numbers of float32 in a line of cache: a matrix on its side is copied 1.3 to 4 times faster in such strips
_CHUNK = 1 << 20  # bytes of mapped files that are read before they are let go of, and of a copy, which then stays in the cache
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
    if _room.copy.nbytes < size:
        _room.copy = np.empty(size, np.uint8)
    many = max(_CHUNK // size, 1)
    for at in range(0, len(rows), many):
        part = rows[at : at + many]
        out: Array = _room.copy[: part.nbytes].view(array.dtype).reshape(part.shape)
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
