"""The safetensors format: a JSON header that says where each tensor lies, then the numbers.

From the specification at https://github.com/huggingface/safetensors: u64 length of the header, the header, the data; every
byte of the data belongs to exactly one tensor. What the official reader refuses is refused here.
"""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

from xconvert.errors import UnreadableError, UsageError
from xconvert.formats import Choice, Format, no_choice
from xconvert.formats._arrays import (
    checked_name,
    checked_shape,
    contents,
    damaged,
    dtype_named,
    elements,
    is_text,
    shown,
    truncated,
    view,
)
from xconvert.formats._limits import check_count
from xconvert.formats._timm_config import stated_beside
from xconvert.model import Checkpoint, Tensor

_MAX_HEADER = 100_000_000  # the official reader's
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": "bfloat16",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2": "float8_e5m2",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "F8_E8M0": "float8_e8m0fnu",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "C64": "complex64",
}
_CODES = {name: code for code, name in _DTYPES.items()}
_METADATA = "__metadata__"
_FRAMEWORKS = {"torch": "pt", "tensorflow": "tf", "keras": "tf", "mindspore": "ms", "paddle": "pd"}  # as their loaders want it


def matches(data: mmap.mmap) -> bool:
    """Whether a header of a possible length starts with a brace."""
    return data[8:10] in (b'{"', b"{}") and int.from_bytes(data[:8], "little") <= _MAX_HEADER


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The tensors in ``data`` as views of the map, in the order of the header; there is no choice.

    The configuration that timm puts beside the weights tells how images become inputs.
    """
    no_choice(path, choice)
    size = int.from_bytes(data[:8], "little")
    if size > len(data) - 8:
        raise truncated(path, f"its header goes on to byte {8 + size}")
    choice.limits.budget(path, len(data)).parse(size, "its header")
    header, body = _header(path, data[8 : 8 + size]), memoryview(data)[8 + size :]
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(is_text(text) for pair in metadata.items() for text in pair):
        raise damaged(path, "its metadata are not text")
    check_count(path, len(header))
    tensors, spans = dict[str, Tensor](), list[tuple[int, int]]()
    for name, entry in header.items():
        tensors[checked_name(path, name)], span = _tensor(path, name, entry, body)
        spans.append(span)
    _check_cover(path, spans, len(body))
    return Checkpoint(tensors, metadata, preprocessing=stated_beside(path), format="safetensors")


def _header(path: Path, text: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for name, value in pairs:
            if name in entries:
                raise damaged(path, f"its header holds `{shown(name)}` twice")
            entries[name] = value
        return entries

    try:
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique)
    except (ValueError, RecursionError):
        raise damaged(path, "its header is not JSON") from None
    if not isinstance(header, dict):
        raise damaged(path, "its header is not JSON")
    return header


def _tensor(path: Path, name: str, entry: Any, body: memoryview) -> tuple[Tensor, tuple[int, int]]:
    """The tensor that ``entry`` describes, and its span in ``body``."""
    try:
        code, shape, (start, stop) = entry["dtype"], entry["shape"], entry["data_offsets"]
        whole = type(start) is int and type(stop) is int and isinstance(code, str)
    except (KeyError, TypeError, ValueError):
        whole = False
    if not whole:
        raise damaged(path, f"the entry of `{shown(name)}` is incomplete")
    if code not in _DTYPES:
        raise UnreadableError(f"`{path}` holds `{shown(name)}` as `{shown(code)}`, which is no dtype that xconvert reads")
    dtype, shape = dtype_named(_DTYPES[code]), checked_shape(path, name, shape)
    if not 0 <= start <= stop or stop - start != elements(shape) * dtype.itemsize:
        raise damaged(path, f"`{shown(name)}` does not have the size of its shape")
    if stop > len(body):
        raise truncated(path, f"`{shown(name)}` goes on to byte {stop} of {len(body)}")
    return view(body[start:stop], dtype, shape), (start, stop)


def _check_cover(path: Path, spans: list[tuple[int, int]], size: int) -> None:
    at = 0
    for start, stop in sorted(spans):
        if start != at:
            raise damaged(path, "its tensors overlap" if start < at else f"nothing lies at byte {at} of its data")
        at = stop
    if at != size:
        raise damaged(path, f"{size - at} bytes after its last tensor belong to nothing")


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create ``path``; the header keeps the order of the tensors, the data are sorted by size of number.

    The official readers view the numbers in place, which needs each tensor at a multiple of its own; the largest first
    does that without gaps, which are not allowed. Raises ``UsageError`` for dtypes that the format does not have.
    """
    tensors = checkpoint.tensors
    codes = {name: _CODES.get(tensor.dtype) for name, tensor in tensors.items()}
    for name, code in codes.items():
        if name == _METADATA or code is None:
            raise UsageError(f"safetensors files cannot hold `{shown(name)}` of dtype `{tensors[name].dtype}`")
    placed = sorted(tensors, key=lambda name: -tensors[name].dtype.itemsize)
    offsets, at = dict[str, list[int]](), 0
    for name in placed:
        offsets[name], at = [at, at + tensors[name].nbytes], at + tensors[name].nbytes
    entries = {
        name: {"dtype": codes[name], "shape": tensor.shape, "data_offsets": offsets[name]} for name, tensor in tensors.items()
    }

    def head() -> bytes:
        told = {"format": _FRAMEWORKS.get(checkpoint.dialect, "pt"), **checkpoint.metadata}
        text = json.dumps({_METADATA: told, **entries}, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    with path.open("wb") as file:
        file.write(head())
        for name in placed:
            for piece in contents(name, tensors[name]):
                file.write(piece)
        file.seek(0)
        file.write(head())  # of the same length; now the digest of what was written is known


FORMAT = Format("safetensors", "safetensors", (".safetensors",), matches, read, write)
