"""Tensors that TensorFlow keeps in parts, such as partitioned variables: which part is where, and the whole again.

A part is called by the tensor's name and by the start and length of each of its dimensions, in a code whose order as bytes is
the order of what it says (TensorFlow's ``core/lib/strings/ordered_code.cc`` and ``core/util/saved_tensor_slice_util.cc``).
"""

from __future__ import annotations

from collections.abc import Sequence

from xconvert.deferred import np
from xconvert.formats._arrays import MAX_DIMENSIONS, elements, shown
from xconvert.formats._protobuf import message, parts, signed, whole
from xconvert.model import Array, Tensor

Extents = tuple[tuple[int, int], ...]  # (start, length) of each dimension; length −1: all of it


def extents(data: memoryview) -> Extents:
    """What a TensorSliceProto says; raises ``ValueError`` for what is none."""
    found = []
    told = parts(message(data), 1)
    if len(told) > MAX_DIMENSIONS:
        raise ValueError(f"a part of a tensor has {len(told)} dimensions")
    for extent in told:
        fields = message(extent)
        found.append((signed(whole(fields, 1)), signed(whole(fields, 2)) if 2 in fields else -1))
    return tuple(found)


def within(name: str, shape: tuple[int, ...], part: Extents) -> tuple[slice, ...]:
    """Where ``part`` lies in a tensor of ``shape``; raises ``ValueError`` when it lies outside."""
    if len(part) != len(shape):
        raise ValueError(f"a part of `{shown(name)}` has {len(part)} dimensions instead of {len(shape)}")
    place = []
    for (start, length), size in zip(part, shape, strict=True):
        start, stop = (0, size) if length == -1 else (start, start + length)
        if not 0 <= start <= stop <= size:
            raise ValueError(f"a part of `{shown(name)}` lies outside of it")
        place.append(slice(start, stop))
    return tuple(place)


def size_of(place: Sequence[slice]) -> tuple[int, ...]:
    """The shape of what lies at ``place``."""
    return tuple(at.stop - at.start for at in place)


def whole_tensor(name: str, shape: tuple[int, ...], pieces: Sequence[tuple[tuple[slice, ...], Tensor]]) -> Tensor:
    """The tensor of ``shape`` whose parts lie at the given places; one that is all of it is returned itself.

    Raises ``ValueError`` unless they cover it exactly once. Needs a byte per element for that, so the bytes of the parts must
    be known to exist.
    """
    if sum(elements(tensor.shape) for _, tensor in pieces) != elements(shape):
        raise ValueError(f"the parts of `{shown(name)}` do not make a whole")
    if len(pieces) == 1:
        return pieces[0][1]
    if not pieces:
        raise ValueError(f"`{shown(name)}` has no parts")
    covered = np.zeros(shape, np.bool_)
    for place, _ in pieces:
        if covered[place].any():
            raise ValueError(f"the parts of `{shown(name)}` overlap")
        covered[place] = True
    dtype = pieces[0][1].dtype

    def read() -> Array:
        array = np.empty(shape, dtype)
        for place, tensor in pieces:
            array[place] = tensor.read()
        return array

    return Tensor(shape, dtype, read)


def key(name: str, part: Extents) -> bytes:
    """The key of a part of ``name``, which holds no zero byte; every such key starts with one, and no other does."""
    out = b"\0" + name.encode() + b"\0\x01" + _unsigned(len(part))
    return out + b"".join(_signed(number) for pair in part for number in pair)


def _unsigned(value: int) -> bytes:
    size = (value.bit_length() + 7) // 8
    return bytes([size]) + value.to_bytes(size, "big")


def _signed(value: int) -> bytes:
    """Seven bits a byte; the length is told by the number of ones at the start, inverted where the number is negative."""
    bits = (~value if value < 0 else value).bit_length()
    size = bits // 7 + 1
    header = ((1 << size) - 1) << (16 - size)  # the first two bytes
    number = (value & ((1 << 8 * size) - 1)) ^ (header >> 8 if size == 1 else header << 8 * (size - 2))
    return number.to_bytes(size, "big")
