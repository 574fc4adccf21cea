"""PaddlePaddle's networks for inference: ``.pdiparams``, tensors one after the other without names, and the program beside it.

``paddle.jit.save`` and ``paddle.static.save_inference_model`` write the tensors sorted by internal name; the names stand in the
program, ``.json`` since Paddle 3.0 (``paddle/fluid/pir/serialize_deserialize``) and ``.pdmodel`` before (``ProgramDesc`` of
``paddle/fluid/framework/framework.proto``). Beside a ``.pdmodel`` lies ``.pdiparams.info``, a pickle that gives each internal
name (``conv2d_0.w_0``) the structured one (``conv1.weight``). Read only.

A tensor (``SerializeToStream`` in ``paddle/phi/core/framework/dense_tensor_serialize.cc``): u32 0; u64 levels of detail, for each
u64 bytes and the bytes; u32 0; i32 size of a ``TensorDesc``, {1: data type, 2: dimensions}; the numbers.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from xconvert.errors import UnreadableError
from xconvert.formats import Choice, Format, no_choice
from xconvert.formats._arrays import checked_name, checked_shape, damaged, dtype_named, elements, shown, truncated, view
from xconvert.formats._limits import MAX_TENSORS, Limits
from xconvert.formats._pickle import load
from xconvert.formats._protobuf import fields, message, packed, signed
from xconvert.model import Checkpoint, Tensor

# VarType.Type in framework.proto
_DTYPES = dict(enumerate(("bool", "int16", "int32", "int64", "float16", "float32", "float64")))
_DTYPES |= {20: "uint8", 21: "int8", 22: "bfloat16", 23: "complex64", 24: "complex128"}
_MAX_DESCRIPTION = 512  # bytes; that of 32 dimensions has 360
_MAX_LEVELS = 16  # of detail: how ragged a batch is; a weight has none
_MAX_NAMES = 1 << 24  # bytes of the table of names; that of an Xception has 20 000


def matches(data: mmap.mmap) -> bool:
    """Whether the file starts with a tensor of version 0 without levels of detail, whose description begins as one does."""
    size = int.from_bytes(data[16:20], "little")
    return data[:16] == bytes(16) and 2 <= size <= _MAX_DESCRIPTION and len(data) >= 20 + size and data[20] == 0x08


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The tensors in ``data`` as views of the map, under the names that the program beside it gives them.

    Names are structured where ``.pdiparams.info`` has them, else internal. Raises ``UnreadableError`` when there is no program,
    or when its parameters are not those of the file.
    """
    no_choice(path, choice)
    names, shapes = _program(path, choice.limits)
    found = list(_tensors(path, memoryview(data)))
    if len(found) != len(names):
        raise UnreadableError(f"`{path}` holds {len(found)} tensors, the program beside it names {len(names)}")
    tensors = dict(zip(names, found, strict=True))
    for name, tensor in tensors.items():
        if shapes[name] != tensor.shape:
            raise UnreadableError(f"`{path}` holds a tensor of shape {tensor.shape} where the program has `{shown(name)}`")
    return Checkpoint(_structured(path, tensors), format="paddle-inference")


def _tensors(path: Path, data: memoryview) -> Iterator[Tensor]:
    at = 0
    for index in range(MAX_TENSORS):
        if at == len(data):
            return
        tensor, at = _tensor(path, data, at, f"tensor {index}")
        yield tensor
    raise UnreadableError(f"`{path}` is no checkpoint: it has more than {MAX_TENSORS} tensors")


def _tensor(path: Path, data: memoryview, at: int, what: str) -> tuple[Tensor, int]:
    """The tensor at ``at``, and where it ends."""

    def take(size: int) -> memoryview:
        nonlocal at
        if size > len(data) - at:
            raise truncated(path, f"{what} goes on to byte {at + size} of {len(data)}")
        at += size
        return data[at - size : at]

    def whole(size: int) -> int:
        return int.from_bytes(take(size), "little")

    if whole(4) != 0 or (levels := whole(8)) > _MAX_LEVELS:
        raise damaged(path, f"{what} has no head of version 0")
    for _ in range(levels):
        take(whole(8))
    if whole(4) != 0:
        raise damaged(path, f"{what} is not of version 0")
    if (size := whole(4)) > _MAX_DESCRIPTION:
        raise damaged(path, f"the description of {what} has {size} bytes")
    try:
        code, shape = _description(take(size))
    except ValueError:
        raise damaged(path, f"the description of {what} makes no sense") from None
    if code not in _DTYPES:
        raise UnreadableError(f"`{path}` holds {what} as data type {code}, which is none that xconvert reads")
    dtype, shape = dtype_named(_DTYPES[code]), checked_shape(path, what, shape)
    return view(take(elements(shape) * dtype.itemsize), dtype, shape), at


def _description(data: memoryview) -> tuple[int, tuple[int, ...]]:
    """Data type and shape of a ``TensorDesc``."""
    code, shape = -1, list[int]()
    for number, value in fields(data):
        if number == 1 and isinstance(value, int):
            code = value
        elif number == 2:
            shape += [signed(d) for d in ([value] if isinstance(value, int) else packed(value))]
    return code, tuple(shape)


def _program(path: Path, limits: Limits) -> tuple[list[str], dict[str, tuple[int, ...]]]:
    """Names of the parameters in the order of the file, and their shapes."""
    for suffix, parse in ((".json", _parameters_of_json), (".pdmodel", _parameters_of_protobuf)):
        beside = path.with_suffix(suffix)
        if beside.is_file():
            size = beside.stat().st_size
            limits.budget(beside, size).parse(size, "the program")
            try:
                shapes = {checked_name(beside, n): checked_shape(beside, n, s) for n, s in parse(beside.read_bytes())}
            except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
                raise damaged(beside, "it is no program of PaddlePaddle") from None
            return sorted(shapes, key=str.encode), shapes
    raise UnreadableError(
        f"`{path}` holds tensors without names",
        facts=[f"neither `{path.with_suffix('.json').name}` nor `{path.with_suffix('.pdmodel').name}` lies beside it"],
        hints=["put the program that was saved with it into the same folder, under the same name"],
    )


def _parameters_of_json(text: bytes) -> Iterator[tuple[str, Any]]:
    """(name, shape) of every operation ``p``, a parameter: ``"A"`` ends in its name, its output's type has the shape."""
    for operation in json.loads(text)["program"]["regions"][0]["blocks"][0]["ops"]:
        if operation["#"] == "p":
            yield operation["A"][3], operation["O"]["TT"]["D"][1]


def _parameters_of_protobuf(data: bytes) -> Iterator[tuple[str, Any]]:
    """(name, shape) of every persistable variable of the first block: ProgramDesc.blocks[0].vars."""
    blocks = message(memoryview(data))[1]
    for raw in message(_inner(blocks[0])).get(3, []):
        variable = message(_inner(raw))  # VarDesc: 1 name, 2 type, 3 persistable
        kind = message(_inner(variable[2][0]))  # VarType: 1 type, 3 the description of a dense tensor
        if variable.get(3, [0])[0] and 3 in kind:  # feed and fetch are persistable too, and no tensors
            yield bytes(_inner(variable[1][0])).decode(), _description(_inner(message(_inner(kind[3][0]))[1][0]))[1]


def _inner(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise TypeError("no message")
    return value


def _structured(path: Path, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """``tensors`` under the names in ``.pdiparams.info``; as they are where there is none, or none for one of them."""
    beside = path.with_name(path.name + ".info")
    if not beside.is_file() or not 0 < beside.stat().st_size <= _MAX_NAMES:
        return tensors
    told, _ = load(beside, memoryview(beside.read_bytes()), {})
    entries = [told.get(name) for name in tensors] if isinstance(told, dict) else []
    given = [entry.get("structured_name") for entry in entries if isinstance(entry, dict)]
    names = [name for name in given if isinstance(name, str)]
    if len(names) != len(tensors) or len(set(names)) != len(tensors):
        return tensors
    return {checked_name(beside, name): tensor for name, tensor in zip(names, tensors.values(), strict=True)}


FORMAT = Format("paddle-inference", "Paddle, for inference", (".pdiparams",), matches, read, inside=("*.pdiparams",))
