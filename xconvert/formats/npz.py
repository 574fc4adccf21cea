"""NumPy's archives: a zip of ``.npy`` files, one for each tensor. No pickles are read.

Layout from ``numpy/lib/format.py`` (format versions 1 to 3). What an ``.npy`` cannot say travels in the archive's comment,
where ``np.load`` does not see it: the metadata, and the names of dtypes that NumPy does not have, whose numbers are stored as
unsigned ones.
"""

from __future__ import annotations

import io
import json
import mmap
import tokenize
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from xconvert.errors import UnreadableError, UsageError
from xconvert.formats import Choice, Format, no_choice
from xconvert.formats._arrays import (
    EXTENDED,
    STANDARD,
    Order,
    checked_name,
    checked_shape,
    contents,
    damaged,
    dtype_named,
    elements,
    is_text,
    shown,
    view,
)
from xconvert.formats._zip import ZipIndex, ZipWriter, open_zip, sniff
from xconvert.model import Array, Checkpoint, Tensor

_MAX_HEADER = 10_000  # NumPy's own; it evaluates the header as a Python literal


def matches(data: mmap.mmap) -> bool:
    """Whether every member of the archive is an ``.npy`` file."""
    names = sniff(data)
    return bool(names) and all(name.endswith(".npy") for name in names)


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The arrays in ``data``: views of the map where stored, inflated when read where deflated. There is no choice."""
    no_choice(path, choice)
    index = open_zip(path, data, choice.limits)
    metadata, dtypes = _comment(index.comment)
    tensors = {}
    for member in index.names:
        name = checked_name(path, member.removesuffix(".npy"))
        tensors[name] = _tensor(path, index, member, dtypes.get(name))
    index.budget.hold(tensors.values(), len(data) + index.inflated)
    return Checkpoint(tensors, metadata, format="npz")


def _comment(comment: bytes) -> tuple[dict[str, str], dict[str, str]]:
    """(metadata, dtype names) from the archive's comment; both empty where it is not ours."""
    try:
        record = json.loads(comment)
        parts = record["metadata"], record["dtypes"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}, {}
    metadata, dtypes = ({k: v for k, v in p.items() if is_text(k) and is_text(v)} if isinstance(p, dict) else {} for p in parts)
    return metadata, dtypes


def _tensor(path: Path, index: ZipIndex, member: str, stated: str | None) -> Tensor:
    """The array in ``member``; ``stated`` is the name of a dtype that NumPy does not have."""
    shape, fortran, stored, start = _header(path, index.head(member, _MAX_HEADER + 12), member)
    if stored.name not in STANDARD:
        hint = "bfloat16 that NumPy saved" if stored.str.endswith("V2") else "no numbers that a network has"
        raise UnreadableError(f"`{path}` holds `{shown(member)}` as `{shown(stored.str)}`, {hint}")
    shape = checked_shape(path, member, shape)
    if index.size(member) - start != elements(shape) * stored.itemsize:
        raise damaged(path, f"`{shown(member)}` does not have the size of its shape")
    dtype = dtype_named(stored.name)
    if stated is not None:
        dtype = dtype_named(stated) if stated in EXTENDED else dtype
        if stated not in EXTENDED or stored.name != f"uint{8 * dtype.itemsize}":
            raise damaged(path, f"`{shown(member)}` cannot be `{shown(stated)}`")
    order: Order = ">" if stored.byteorder == ">" else "<"
    outer = shape[::-1] if fortran else shape

    def load() -> Array:
        array = view(index.view(member)[start:], dtype, outer, order=order).read()
        return array.T if fortran else array

    return Tensor(shape, dtype, load)


def _header(path: Path, head: bytes, member: str) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    """(shape, whether the first index varies fastest, dtype, where the numbers start) from an ``.npy`` file's start."""
    file = io.BytesIO(head)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python 2's headers are as good
            version = np.lib.format.read_magic(file)
            parse = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = parse(file, max_header_size=_MAX_HEADER)
    except (ValueError, SyntaxError, tokenize.TokenError, TypeError, MemoryError, RecursionError):
        raise damaged(path, f"`{shown(member)}` has no NumPy header") from None
    return shape, fortran, dtype, file.tell()


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create ``path``, readable by ``np.load``; raises ``UsageError`` for dtypes that are no numbers."""
    tensors = checkpoint.tensors
    dtypes = {name: tensor.dtype.name for name, tensor in tensors.items() if tensor.dtype.name in EXTENDED}
    with path.open("wb") as file:
        archive = ZipWriter(file)
        for name, tensor in tensors.items():
            archive.add(f"{name}.npy", _npy_header(name, tensor), contents(name, tensor))
        record = {"metadata": dict(checkpoint.metadata), "dtypes": dtypes}
        archive.close(json.dumps(record, separators=(",", ":")).encode() if any(record.values()) else b"")


def _npy_header(name: str, tensor: Tensor) -> bytes:
    dtype = tensor.dtype
    if dtype.name not in STANDARD and dtype.name not in EXTENDED:
        raise UsageError(f"`.npz` files cannot hold `{shown(name)}` of dtype `{dtype.name}`")
    stored = np.dtype(f"u{dtype.itemsize}") if dtype.name in EXTENDED else dtype
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(stored.newbyteorder("<"))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": tensor.shape})
    return file.getvalue()


FORMAT = Format("npz", "NumPy archive", (".npz",), matches, read, write)
