"""MindSpore's ``.ckpt``: a protocol buffer of named tensors, without magic number or header.

From ``checkpoint.proto`` and ``mindspore/train/serialization.py`` (1.0 to 2.10): Checkpoint {1: value*}, value {1: tag, 2: tensor
{1: dims*, 2: type, 3: content}, 3: map tensor}. Content over 512 MiB is cut into consecutive values of one tag, each with the
whole shape. ``save_checkpoint(crc_check=True)`` appends ``crc_num`` and ten bytes.

What xconvert has to tell stands in fields that ``checkpoint.proto`` does not have, which protocol buffers pass over: a value of
type ``str``, MindSpore's own way, would be one more name among those that ``load_param_into_net`` says it could not load.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Iterator
from pathlib import Path

from xconvert.errors import AmbiguousError, UnreadableError, UsageError
from xconvert.formats import Choice, Format, no_choice
from xconvert.formats._arrays import (
    MAX_DIMENSIONS,
    checked_name,
    checked_shape,
    contents,
    damaged,
    dtype_named,
    elements,
    shown,
    view,
)
from xconvert.formats._limits import MAX_TENSORS
from xconvert.formats._protobuf import block, fields, head, number, packed, signed, varint
from xconvert.model import Array, Checkpoint, Tensor
from xconvert.tuples import NamedTuple

_NAMES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
_DTYPES = {name.title().replace("Ui", "UI"): name for name in _NAMES} | {"BFloat16": "bfloat16"}
_UNLOADABLE = {"Complex64": "complex64", "Complex128": "complex128"}  # MindSpore 2.10 saves them and cannot load them
_TYPES = {name: kind for kind, name in _DTYPES.items()}
_TEXT = "str"
_METADATA = 1000  # field of Checkpoint: {1: key, 2: text}, as a map<string, string> is written
_CRC, _CRC_BYTES = b"crc_num", 17  # before the last ten bytes; with them
_CIPHERS = (b"\xd8\x5e\x3a\x7f", b"\xd9\x5e\x3a\x7f", b"\xda\x5e\x3a\x7f")  # how `save_checkpoint(enc_key=…)` starts a block
_CHUNK = 512 << 20  # bytes: SLICE_SIZE
_MAX_PARTS = MAX_DIMENSIONS + 8  # fields of one value or tensor
_EMA = "ema."  # before the names of the averages that MindCV keeps beside the weights


def matches(data: mmap.mmap) -> bool:
    """Whether the file starts with a value that has a tag and a tensor, or is encrypted by MindSpore."""
    if data[:4] in _CIPHERS:
        return True
    start = memoryview(data[: 1 << 12])
    try:
        if start[0] != 0x0A:
            return False
        size, at = varint(start, 1)
        tag, after = varint(start, at + 1)
        following = start[after + tag] if after + tag < len(start) else 0
        return start[at] == 0x0A and after + tag - at < size <= len(data) - at and tag > 0 and following in (0x12, 0x1A)
    except (IndexError, ValueError):
        return False


class _Value(NamedTuple):
    """One tag: its type, its dimensions, and the pieces of its content; a map tensor has no type. ``size``: of all pieces, in
    bytes.
    """

    kind: str
    dims: tuple[int, ...]
    pieces: list[memoryview]
    size: int


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The tensors in ``data`` as views of the map, in the order of the file; its values of type ``str`` as metadata.

    MindCV keeps the moving averages of the weights beside them, called ``ema.…``: raises ``AmbiguousError`` when the file has
    both and ``choice`` does not say which.
    """
    no_choice(path, choice)
    if data[:4] in _CIPHERS:
        raise UnreadableError(
            f"`{path}` is encrypted", hints=["load it with its key in MindSpore, and save it without `enc_key`"]
        )
    notes = list[str]()
    body = memoryview(data)
    if data[-_CRC_BYTES:-10] == _CRC:
        body = body[:-_CRC_BYTES]
        if zlib.crc32(body) != int.from_bytes(data[-10:], "big"):
            raise damaged(path, "its checksum is not that of its content")
        notes.append("left out `crc_num`, a checksum; it is right")
    values, metadata = _values(path, body)
    tensors = dict[str, Tensor]()
    for tag, value in values.items():
        if value.kind == _TEXT:
            metadata[tag] = _text(path, tag, value)
        elif value.kind:
            tensors[tag] = _tensor(path, tag, value)
        else:
            notes.append(f"left out `{tag}`, not a tensor")
    tensors, more = _averages(path, tensors, choice.ema)
    return Checkpoint(tensors, metadata, averages=bool(choice.ema), notes=(*notes, *more), format="mindspore")


def _values(path: Path, body: memoryview) -> tuple[dict[str, _Value], dict[str, str]]:
    """What the file has under each tag, pieces of one tag together; and the texts of xconvert."""
    values, metadata, last = dict[str, _Value](), dict[str, str](), ""
    try:
        for count, (key, raw) in enumerate(fields(body)):
            if count >= MAX_TENSORS:
                raise UnreadableError(f"`{path}` is no checkpoint: it has more than {MAX_TENSORS} values")
            if key == _METADATA and not isinstance(raw, int):
                parts = dict(_few(raw))
                metadata[_string(parts[1])] = _string(parts[2])
            if key != 1 or isinstance(raw, int):
                continue
            tag, value = _value(raw)
            known = values.get(tag)
            if known is None:
                values[checked_name(path, tag)] = value
            elif tag == last and _continues(known, value):
                known.pieces.extend(value.pieces)  # in place: a value may have a hundred thousand
                values[tag] = known._replace(size=known.size + value.size)
            else:
                raise damaged(path, f"it holds `{shown(tag)}` twice")
            last = tag
    except (IndexError, KeyError, TypeError, ValueError):
        raise damaged(path, "it is no whole list of MindSpore's values; its end may be missing") from None
    return values, metadata


def _value(raw: memoryview) -> tuple[str, _Value]:
    """Tag and value of one message; raises ``ValueError``, ``KeyError`` or ``TypeError`` for what is none."""
    parts = dict(_few(raw))
    tag = _string(parts[1])
    if 2 not in parts:
        return tag, _Value("", (), [], 0)
    kind, dims, pieces = "", list[int](), list[memoryview]()
    for key, part in _few(_raw(parts[2])):
        if key == 1:
            dims += [signed(d) for d in ([part] if isinstance(part, int) else packed(part[: _MAX_PARTS * 10]))]
        elif key == 2:
            kind = _string(part)
        elif key == 3:
            pieces = [_raw(part)]
    if not kind:
        raise ValueError("no type")
    return tag, _Value(kind, tuple(dims), pieces, sum(map(len, pieces)))


def _few(raw: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message that has no more than a tensor needs."""
    for count, part in enumerate(fields(raw)):
        if count == _MAX_PARTS:
            raise ValueError("too many fields")
        yield part


def _raw(part: int | memoryview) -> memoryview:
    if isinstance(part, int):
        raise TypeError("a number")
    return part


def _string(part: int | memoryview) -> str:
    return str(_raw(part), "utf-8")


def _continues(known: _Value, value: _Value) -> bool:
    """Whether ``value``, which comes next, is a further piece of a tensor that is not complete without it."""
    if (known.kind, known.dims) != (value.kind, value.dims) or known.kind not in _DTYPES:
        return False
    return known.size < elements(known.dims) * dtype_named(_DTYPES[known.kind]).itemsize


def _text(path: Path, tag: str, value: _Value) -> str:
    """What a value of type ``str`` says: NumPy's text, four bytes for each character."""
    try:
        return b"".join(value.pieces).decode("utf-32-le")
    except UnicodeDecodeError:
        raise damaged(path, f"the text of `{tag}` is none") from None


def _tensor(path: Path, tag: str, value: _Value) -> Tensor:
    name = (_DTYPES | _UNLOADABLE).get(value.kind)
    if name is None:
        raise UnreadableError(f"`{path}` holds `{tag}` as `{shown(value.kind)}`, which is no dtype that xconvert reads")
    dtype, size = dtype_named(name), value.size
    shape = checked_shape(path, tag, value.dims)
    if shape == (0,) and size == dtype.itemsize:
        shape = ()  # a scalar, before MindSpore 2
    if size != elements(shape) * dtype.itemsize:
        raise damaged(path, f"`{tag}` has {size} bytes, its shape {shape} takes {elements(shape) * dtype.itemsize}")
    if len(value.pieces) == 1:
        return view(value.pieces[0], dtype, shape)

    def read() -> Array:
        return view(memoryview(b"".join(value.pieces)), dtype, shape).read()

    return Tensor(shape, dtype, read)


def _averages(path: Path, tensors: dict[str, Tensor], ema: bool | None) -> tuple[dict[str, Tensor], list[str]]:
    """The weights or their moving averages, which have their names after ``ema.``, and a note on those left out."""
    averaged = {name.removeprefix(_EMA): tensor for name, tensor in tensors.items() if name.startswith(_EMA)}
    others = {name: tensor for name, tensor in tensors.items() if not name.startswith(_EMA)}
    if ema and not averaged:
        raise UnreadableError(f"`{path}` holds no averaged weights", hints=["leave `--ema` away"])
    if not averaged:
        return tensors, []
    if ema is None:
        raise AmbiguousError(
            f"`{path}` holds weights and averages of them",
            facts=[f"{len(others)} tensors, and {len(averaged)} called `{_EMA}…`"],
            hints=["pass `--ema` for the averaged weights, `--no-ema` for the others"],
        )
    chosen, rest = (averaged, f"{len(others)} tensors that are no averages") if ema else (others, f"{len(averaged)} averages")
    return chosen, [f"left out {rest}"]


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create ``path`` as ``mindspore.save_checkpoint`` does, without a checksum; metadata in fields of their own.

    Raises ``UsageError`` for tensors without elements, which MindSpore itself drops, and for dtypes that it cannot load.
    """
    tensors = checkpoint.tensors
    for name, tensor in tensors.items():
        if tensor.dtype not in _TYPES:
            raise UsageError(f"MindSpore files cannot hold `{shown(name)}` of dtype `{tensor.dtype}`")
        if elements(tensor.shape) == 0:
            raise UsageError(f"MindSpore files cannot hold `{shown(name)}`, which has no elements")
    with path.open("wb") as file:
        for name, tensor in tensors.items():
            dims = b"".join(number(1, d) for d in tensor.shape) + block(2, _TYPES[tensor.dtype])
            left, room = tensor.nbytes, 0
            for piece in contents(name, tensor):
                while piece:
                    if not room:
                        room = min(left, _CHUNK)
                        before = dims + head(3, room)
                        inner = block(1, name) + head(2, len(before) + room) + before
                        file.write(head(1, len(inner) + room) + inner)
                    part, piece = piece[:room], piece[room:]
                    file.write(part)
                    left, room = left - len(part), room - len(part)
        for key, text in checkpoint.metadata.items():
            file.write(block(_METADATA, block(1, key) + block(2, text)))


FORMAT = Format("mindspore", "MindSpore checkpoint", (".ckpt",), matches, read, write, dialects={"mindspore": "mindspore"})
