"""NumPy's archives: a zip of ``.npy`` files, one for each tensor. No pickles are read.

Layout from ``numpy/lib/format.py`` (format versions 1 to 3). What an ``.npy`` cannot say travels in the archive's comment,
where ``np.load`` does not see it: the metadata, and the names of dtypes that NumPy does not have, whose numbers are stored as
unsigned ones.
"""

from __future__ import annotations

import io
import json
import mmap
import re
from itertools import chain
from pathlib import Path

from xconvert.deferred import np
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
from xconvert.tuples import NamedTuple

_MAX_HEADER = 1_000  # that of an array of numbers has 118, in 32 dimensions of 20 digits each 780
# Expressions are compiled where one is needed: most files are none of this format.
_PREFIX = rb"(?s)\x93NUMPY(?:\x01\0(..)|[\x02\x03]\0(....))"
# NumPy evaluates the header as a Python literal, for which a compiler runs; these are all the values that arrays of numbers need.
_ENTRY = r"""(?a)\s*(['"])(descr|fortran_order|shape)\1\s*:\s*(True|False|'[^']*'|"[^"]*"|\([-\dL,\s]*\)|\[.*\])\s*(?:,|\Z)"""
_DTYPE = r"(?a)[<>=|]?[biufcSUVOMm]\d{0,9}"


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
    try:
        described, fortran, shape, start = _header(index.head(member, _MAX_HEADER + 12))
        stored = np.dtype(described if re.fullmatch(_DTYPE, described) else object)
    except (ValueError, TypeError):
        raise damaged(path, f"`{shown(member)}` has no NumPy header") from None
    if stored.name not in STANDARD:
        hint = "bfloat16 that NumPy saved" if described.endswith("V2") else "no numbers that a network has"
        raise UnreadableError(f"`{path}` holds `{shown(member)}` as `{shown(described)}`, {hint}")
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


class _Header(NamedTuple):
    """An ``.npy`` file's: its dtype as it says it, whether the first index varies fastest, and where the numbers start."""

    described: str
    fortran: bool
    shape: tuple[int, ...]
    start: int


def _header(head: bytes) -> _Header:
    """What an ``.npy`` file's start says; raises ``ValueError`` for anything else, and for what it says twice."""
    prefix = re.match(_PREFIX, head)
    size = int.from_bytes(prefix[1] or prefix[2], "little") if prefix else 0
    if prefix is None or size > min(_MAX_HEADER, len(head) - prefix.end()):
        raise ValueError("no header")
    start, found = prefix.end() + size, dict[str, str]()
    text = head[prefix.end() : start].decode("latin-1").strip()
    at, end, entries = 1, len(text) - 1, re.compile(_ENTRY)
    while at < end and (entry := entries.match(text, at, end)):
        if entry[2] in found:
            raise ValueError("an entry is there twice")
        found[entry[2]], at = entry[3], entry.end()
    fortran, shape = found.get("fortran_order", ""), found.get("shape", "")
    sizes = shape[1:-1].split(",")
    if (text[:1] + text[-1:], text[at:end].strip()) != ("{}", "") or len(found) != 3 or fortran[0] not in "TF" or shape[0] != "(":
        raise ValueError("no header")
    if sizes[-1].strip() == "":
        sizes.pop()
    elif len(sizes) == 1:  # a number in brackets
        raise ValueError("no shape")
    return _Header(found["descr"].strip("'\""), fortran == "True", tuple(int(n.strip().removesuffix("L")) for n in sizes), start)


def read_bytes(path: Path) -> Array:
    """The array of 8-bit numbers in the lone ``.npy`` file ``path``; raises ``UnreadableError`` for anything else.

    Reads the whole file: whoever calls looks at its size before.
    """
    data = path.read_bytes()
    try:
        described, fortran, shape, start = _header(data[: _MAX_HEADER + 12])
    except ValueError:
        raise damaged(path, "it has no NumPy header") from None
    if described not in ("|u1", "u1", "<u1", ">u1"):
        raise UnreadableError(f"`{path}` holds `{shown(described)}`, no 8-bit numbers", facts=["expected uint8 (`|u1`)"])
    shape = checked_shape(path, path.name, shape)
    if len(data) - start != elements(shape):
        raise damaged(path, "it does not have the size of its shape")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape, order="F" if fortran else "C")


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create ``path``, readable by ``np.load``; raises ``UsageError`` for dtypes that are no numbers."""
    tensors = checkpoint.tensors
    dtypes = {name: tensor.dtype for name, tensor in tensors.items() if tensor.dtype in EXTENDED}
    with path.open("wb") as file:
        archive = ZipWriter(file)
        for name, tensor in tensors.items():
            header = _npy_header(name, tensor)
            archive.stream(f"{name}.npy", len(header) + tensor.nbytes, chain([header], contents(name, tensor)))
        record = {"metadata": dict(checkpoint.metadata), "dtypes": dtypes}
        archive.close(json.dumps(record, separators=(",", ":")).encode() if any(record.values()) else b"")


def _npy_header(name: str, tensor: Tensor) -> bytes:
    dtype = tensor.dtype
    if dtype not in STANDARD | EXTENDED:
        raise UsageError(f"`.npz` files cannot hold `{shown(name)}` of dtype `{dtype}`")
    stored = np.dtype(f"u{dtype.itemsize}" if dtype in EXTENDED else dtype)
    file = io.BytesIO()
    descr = np.lib.format.dtype_to_descr(stored.newbyteorder("<"))
    np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": tensor.shape})
    return file.getvalue()


FORMAT = Format("npz", "NumPy archive", (".npz",), matches, read, write)
