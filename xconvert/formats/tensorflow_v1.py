"""TensorFlow's first checkpoint format: one table that holds the numbers too (``Saver(write_version=V1)``).

From TensorFlow's ``core/util/saved_tensor_slice.proto`` and ``tensor_slice_writer.cc``: under the key ``""`` the names, shapes
and parts of all tensors, under the key of each part its numbers, in the field of their kind. It is read, not written.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from xconvert.deferred import np
from xconvert.errors import UnreadableError
from xconvert.formats import Choice, Format, no_choice
from xconvert.formats._arrays import checked_name, checked_shape, damaged, dtype_named, elements, shown, view
from xconvert.formats._protobuf import fields, message, packed, parts, signed, whole
from xconvert.formats._slices import extents, key, size_of, whole_tensor, within
from xconvert.formats._sstable import entries, kind, parsing
from xconvert.model import Array, Checkpoint, Tensor

# Where a TensorProto keeps numbers (core/framework/tensor.proto): as themselves, or each as a varint.
_PLAIN = {"float32": 5, "float64": 6, "complex64": 9, "complex128": 12}
_VARINTS = {"int64": 10, "bool": 11, "float16": 13, "bfloat16": 13, "uint32": 16, "uint64": 17}
_VARINTS |= dict.fromkeys(("int8", "int16", "int32", "uint8", "uint16"), 7)


def matches(data: mmap.mmap) -> bool:
    """Whether ``data`` is a table whose first entry lists tensors."""
    return kind(data) == "v1"


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The tensors in ``data``, in the order in which it lists them; there is no choice. All checksums are verified now.

    Raises ``UnreadableError`` for a damaged or hostile file.
    """
    from xconvert.formats._bundle import OTHERS, TEXT

    no_choice(path, choice)
    tensors, texts = dict[str, Tensor](), 0
    with parsing(path):
        rows = dict(entries(path, data, budget=choice.limits.budget(path, len(data))))
        for listed in parts(message(parts(message(rows.pop(b"")), 1)[-1]), 1):
            meta = message(listed)
            name = checked_name(path, bytes(parts(meta, 1)[-1]).decode())
            if name in tensors:
                raise ValueError(f"it lists `{shown(name)}` twice")
            if whole(meta, 3) in {TEXT, *OTHERS}:
                texts += 1
                continue
            dims = [signed(whole(message(dim), 1)) for shape in parts(meta, 2) for dim in parts(message(shape), 2)]
            tensors[name] = _tensor(path, name, checked_shape(path, name, dims), whole(meta, 3), parts(meta, 4), rows)
    notes = (f"left out {texts} tensors of text or handles",) if texts else ()
    return Checkpoint(tensors, notes=notes, format="tensorflow-v1")


def _tensor(
    path: Path, name: str, shape: tuple[int, ...], code: int, slices: list[memoryview], rows: dict[bytes, memoryview]
) -> Tensor:
    """The tensor that ``slices`` of ``rows`` make; each part belongs to one tensor only."""
    from xconvert.formats._bundle import DTYPES

    dtype = DTYPES.get(code, "")
    if dtype not in _PLAIN and dtype not in _VARINTS:
        raise UnreadableError(f"`{path}` holds `{shown(name)}` as TensorFlow's dtype {code}, which xconvert does not read")
    pieces = []
    for part in map(extents, slices):
        place = within(name, shape, part)
        saved = rows.pop(key(name, part), None)
        if saved is None:
            raise ValueError(f"a part of `{shown(name)}` is missing")
        proto = parts(message(parts(message(saved), 2)[-1]), 3)[-1]
        pieces.append((place, _part(path, name, dtype, size_of(place), proto)))
    return whole_tensor(name, shape, pieces)


def _part(path: Path, name: str, dtype: str, shape: tuple[int, ...], proto: memoryview) -> Tensor:
    found = dtype_named(dtype)
    if dtype in _PLAIN:
        stored = list(_stored(proto, _PLAIN[dtype]))
        data = stored[0] if len(stored) == 1 else memoryview(b"".join(stored))
        if len(data) != elements(shape) * found.itemsize:
            raise ValueError(f"`{shown(name)}` does not have the size of its shape")
        return view(data, found, shape)
    if elements(shape) > len(proto):
        raise ValueError(f"`{shown(name)}` does not have the size of its shape")

    def read() -> Array:
        with parsing(path):
            numbers = np.fromiter(_varints(proto, _VARINTS[dtype]), np.uint64)
        if numbers.size != elements(shape):
            raise damaged(path, f"`{shown(name)}` does not have the size of its shape")
        if dtype in ("float16", "bfloat16"):  # their bits
            return numbers.astype(np.uint16).view(found).reshape(shape)
        return numbers.astype(found).reshape(shape)  # negative ones are in two's complement

    return Tensor(shape, found, read)


def _stored(proto: memoryview, field: int) -> Iterator[memoryview]:
    for number, value in fields(proto):
        if number == field:
            if isinstance(value, int):
                raise ValueError("its numbers are of another kind than it says")
            yield value


def _varints(proto: memoryview, field: int) -> Iterator[int]:
    for number, value in fields(proto):
        if number == field:
            yield from [value] if isinstance(value, int) else packed(value)


FORMAT = Format("tensorflow-v1", "TensorFlow V1 checkpoint", (), matches, read)
