"""PaddlePaddle's ``.pdparams``: a pickle of a dict of NumPy arrays, read by the inert machine and written opcode by opcode.

From ``paddle/framework/io.py`` (2.0 to 3.3). ``paddle.save`` of a state dict adds the entry ``StructuredToParameterName@@``,
the internal name of each parameter (``conv2d_0.w_0``), to which optimizers refer; other objects hold each tensor as
``tuple((internal name, array))``, and ``paddle.static.save`` knows internal names only. Paddle writes bfloat16 as uint16 and
reads every uint16 as bfloat16. Protocols 2 and 3 cut arrays of 2^30 bytes and more into pieces, which ``UnpackBigParamInfor@@``
joins.

``paddle.load`` stops at the end of the first pickle, so our record is a second one behind it, a dict of texts.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xconvert.deferred import np
from xconvert.errors import UsageError
from xconvert.formats import Choice, Format
from xconvert.formats._arrays import CODES, checked_name, checked_shape, contents, damaged, dtype_named, elements, shown
from xconvert.formats._ndarray import PickledArray, as_carried, head, octets_head, octets_tail, tail, tensor_of, text
from xconvert.formats._ndarray import handlers as array_handlers
from xconvert.formats._pickle import Handler, asks_to_run, load
from xconvert.formats._state_dict import choose, left_out
from xconvert.formats.torch_legacy import matches as is_torch
from xconvert.model import Array, Checkpoint, DType, Tensor

NAMES = "StructuredToParameterName@@"  # also the key in `Checkpoint.metadata`, as JSON: {structured name: internal name}
PIECES = "UnpackBigParamInfor@@"
SAVE = "paddle.save(model.state_dict(), path)"
_WRITTEN = {*CODES.values(), "bfloat16"} - {"uint16", "uint32", "uint64"}  # Paddle has no wider whole numbers without sign
_MAX_TEXT = (1 << 32) - 1  # bytes of one text in protocol 2, which has no longer ones


def matches(data: mmap.mmap) -> bool:
    """Whether the file starts as a pickle of protocol 2 to 5, and not as PyTorch's old format."""
    return data[:1] == b"\x80" and data[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and not is_torch(data)


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The state dict in ``data``, its tensors views of the map; under protocol 2 copies of them.

    The table of internal names, where there is one, is in the metadata under ``NAMES``.
    """
    whole = memoryview(data)
    budget = choice.limits.budget(path, len(data))
    root, end = load(path, whole, _handlers(path), budget=budget)
    chosen, notes = choose(path, root, choice, SAVE)
    entries = dict(chosen)
    table, pieces = entries.pop(NAMES, {}), entries.pop(PIECES, {})
    arrays = {name: value for name, value in entries.items() if isinstance(value, PickledArray)}
    tensors = {checked_name(path, name): _half(tensor_of(path, name, array)) for name, array in arrays.items()}
    notes += left_out([name for name in entries if name not in arrays])
    labels = {name: array.label for name, array in arrays.items() if array.label}
    budget.hold(tensors.values(), len(data))
    metadata, more = _behind(path, whole, end)
    if names := _texts(path, table) or labels:
        metadata = {**metadata, NAMES: json.dumps(names)}
    return Checkpoint(_joined(path, tensors, pieces), metadata, averages=bool(choice.ema), notes=(*notes, *more), format="paddle")


def _handlers(path: Path) -> dict[str, Handler]:
    def named(items: Any = ()) -> Any:
        """``tuple((internal name, array))`` is how Paddle saves a tensor in any object but a state dict."""
        if isinstance(items, tuple) and len(items) == 2 and isinstance(items[1], PickledArray) and isinstance(items[0], str):
            return PickledArray(items[1].arguments, items[1].state, items[0])
        return tuple(items)

    def evaluated(source: Any, variables: Any = None, *rest: Any) -> Any:
        """``eval("data", {"data": array})`` is how Paddle saves a DenseTensor: the array. No other text is looked at."""
        found = variables.get("data") if isinstance(variables, dict) and len(variables) == 1 else None
        if source != "data" or rest or not isinstance(found, PickledArray):
            raise asks_to_run(path, "eval")
        return found

    return {**array_handlers(), "builtins.tuple": named, "builtins.eval": evaluated}


def _half(tensor: Tensor) -> Tensor:
    """What Paddle makes of an array: numbers of the dtype uint16 are the bits of bfloat16."""
    if tensor.dtype != "uint16":
        return tensor
    bfloat16 = dtype_named("bfloat16")
    return Tensor(tensor.shape, bfloat16, lambda: np.asarray(tensor.read(), order="C").view(bfloat16))


def _texts(path: Path, table: Any) -> dict[str, str]:
    """``table``, which must map text to text."""
    if not _all_text(table):
        raise damaged(path, f"its `{NAMES}` is no table of names")
    return dict(table)


def _all_text(table: Any) -> bool:
    """Whether ``table`` is a dict of texts that a file can hold: a pickle may have surrogates, UTF-8 has none."""
    try:
        return isinstance(table, dict) and all(isinstance(t.encode(), bytes) for pair in table.items() for t in pair)
    except (AttributeError, UnicodeEncodeError):
        return False


def _behind(path: Path, whole: memoryview, end: int) -> tuple[dict[str, str], list[str]]:
    """The texts in the pickle behind the first, and a note on anything else that is there."""
    if end == len(whole):
        return {}, []
    if whole[end] == 0x80:
        found, stop = load(path, whole, {}, start=end)
        if stop == len(whole) and _all_text(found):
            return dict(found), []
    return {}, [f"left out {len(whole) - end} bytes behind its pickle"]


def _joined(path: Path, tensors: dict[str, Tensor], pieces: Any) -> dict[str, Tensor]:
    """``tensors`` with those that the table ``pieces`` describes put together, at the end, as Paddle does."""
    if not isinstance(pieces, dict):
        raise damaged(path, f"its `{PIECES}` is no table")
    for name, told in pieces.items():
        slices = told.get("slices") if isinstance(told, dict) else None
        if not isinstance(name, str) or name in tensors or not isinstance(slices, list) or not slices:
            raise damaged(path, f"its `{PIECES}` is incomplete")
        parts = [tensors.pop(part, None) if isinstance(part, str) else None for part in slices]
        tensors[checked_name(path, name)] = _concatenated(path, name, parts, told.get("OriginShape"))
    return tensors


def _concatenated(path: Path, name: str, parts: list[Tensor | None], shape: Any) -> Tensor:
    found = [part for part in parts if part is not None]
    shape = checked_shape(path, name, shape)
    if len(found) != len(parts) or sum(elements(part.shape) for part in found) != elements(shape):
        raise damaged(path, f"the pieces of `{shown(name)}` do not make up its shape")
    if len({part.dtype for part in found}) != 1:
        raise damaged(path, f"the pieces of `{shown(name)}` have several dtypes")

    def read() -> Array:
        return np.concatenate([part.read().reshape(-1) for part in found]).reshape(shape)

    return Tensor(shape, found[0].dtype, read)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create ``path`` as ``paddle.save`` writes a state dict today, with protocol 4."""
    write_pickle(path, checkpoint, 4)


def write_pickle(path: Path, checkpoint: Checkpoint, protocol: int) -> None:
    """Create ``path`` with pickle protocol 4, or 2, which Paddle 1 wrote and Python 2 reads.

    The table of internal names is that of ``checkpoint.metadata[NAMES]``; a tensor that it does not have goes by its own name,
    which Paddle accepts: only the state of an optimizer refers to the others. Raises ``UsageError`` for dtypes that Paddle
    would take for others, for names that it reserves, and for what protocol 2 cannot hold.
    """
    if protocol not in (2, 4):
        raise ValueError(f"protocol {protocol} is not written")
    tensors, known = checkpoint.tensors, _table(checkpoint)
    for name, tensor in tensors.items():
        if name in (NAMES, PIECES):
            raise UsageError(f"Paddle files cannot hold a tensor called `{name}`")
        if tensor.dtype not in _WRITTEN:
            raise UsageError(f"Paddle files cannot hold `{shown(name)}` of dtype `{tensor.dtype}`")
    version = bytes([0x80, protocol])
    with path.open("wb") as file:
        file.write(version + b"}(")
        for name, tensor in tensors.items():
            carrier = DType("uint16") if tensor.dtype == "bfloat16" else tensor.dtype
            file.write(text(name) + head(tensor.shape, carrier, protocol))
            if protocol == 2:
                raw = as_carried(memoryview(b"".join(map(bytes, contents(name, tensor)))), protocol)
                if len(raw) > _MAX_TEXT:
                    raise UsageError(f"pickle protocol 2 cannot hold `{shown(name)}` of {math.prod(tensor.shape)} numbers")
                file.write(octets_head(len(raw), protocol) + raw)
            else:
                file.write(octets_head(tensor.nbytes, protocol))
                file.writelines(contents(name, tensor))
            file.write(octets_tail(protocol) + tail)
        file.write(text(NAMES) + _dict({name: known.get(name, name) for name in tensors}) + b"u.")
        if told := {key: value for key, value in checkpoint.metadata.items() if key != NAMES}:
            file.write(version + _dict(told) + b".")


def _dict(texts: Mapping[str, str]) -> bytes:
    return b"}(" + b"".join(text(key) + text(value) for key, value in texts.items()) + b"u"


def _table(checkpoint: Checkpoint) -> dict[str, str]:
    """The internal names that the checkpoint came with; none where the text in its metadata is no such table."""
    try:
        table = json.loads(checkpoint.metadata.get(NAMES, "{}"))
    except ValueError:
        return {}
    return table if _all_text(table) else {}


FORMAT = Format("paddle", "PaddlePaddle pickle", (".pdparams",), matches, read, write, dialects={"paddle": "paddle"})
