"""TensorFlow's second checkpoint format: an index, which is a table, and the numbers in files called shards beside it.

From TensorFlow's ``core/util/tensor_bundle`` and ``core/protobuf/tensor_bundle.proto``. For the prefix ``model.ckpt`` the index
is ``model.ckpt.index`` and the first of two shards ``model.ckpt.data-00000-of-00002``; no name in a file is used to find another.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path

from xconvert.errors import UnreadableError, UsageError
from xconvert.formats._arrays import (
    Order,
    checked_name,
    checked_shape,
    contents,
    damaged,
    dtype_named,
    elements,
    pieces,
    shown,
    truncated,
    view,
)
from xconvert.formats._bundle_files import VERSION, files, header, shard_name
from xconvert.formats._crc32c import checksum
from xconvert.formats._limits import Limits
from xconvert.formats._maps import mapped
from xconvert.formats._protobuf import Field, block, encoded, fixed32, message, number, parts, signed, varint, whole
from xconvert.formats._slices import Extents, extents, key, size_of, whole_tensor, within
from xconvert.formats._sstable import GRAPH, entries, kind, parsing, table
from xconvert.model import Array, Tensor
from xconvert.tuples import NamedTuple

MAX_SHARDS = 1000  # that are looked for; DeepLab's checkpoints have one

RECORD = "xconvert"  # the texts under this name and below it are our metadata
DTYPES = {  # core/framework/types.proto
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    8: "complex64",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    18: "complex128",
    19: "float16",
    22: "uint32",
    23: "uint64",
    24: "float8_e5m2",
    25: "float8_e4m3fn",
    26: "float8_e4m3fnuz",
    28: "float8_e5m2fnuz",
}
_CODES = {name: code for code, name in DTYPES.items()}
TEXT = 7
OTHERS = {20, 21}  # handles and variants: what no network is made of


class Bundle(NamedTuple):
    """What an index and its shards hold: ``tensors`` of numbers and ``texts`` by name, and notes on what is neither."""

    tensors: dict[str, Tensor]
    texts: dict[str, bytes]
    notes: list[str]


class _Entry(NamedTuple):
    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int
    crc: int
    slices: tuple[Extents, ...]


class _Shards(NamedTuple):
    """The mapped files by number, and the order of bytes in them."""

    maps: dict[int, memoryview]
    order: Order


def open_bundle(path: Path, data: mmap.mmap, limits: Limits) -> Bundle:
    """What the index ``data`` at ``path`` tells of, tensors unread; their checksums are verified when they are read.

    Raises ``UnreadableError`` when index or shards are damaged or hostile or a shard is missing.
    """
    with parsing(path):
        rows = entries(path, data, budget=limits.budget(path, len(data)))
        head = _head(rows)
        count, big = whole(head, 1), whole(head, 2)
        if big > 1 or any(whole(message(version), 2) > VERSION for version in parts(head, 3)):
            raise ValueError("its index is of a version that is not known")
        listed = {name: _entry(path, name, value) for name, value in rows}
        shards = _shards(path, listed, count, ">" if big else "<")
        return _contents(path, listed, shards)


def _head(rows: Iterator[tuple[bytes, memoryview]]) -> dict[int, list[Field]]:
    """The BundleHeaderProto that comes before the entries ``rows``; raises ``ValueError``."""
    first, header = next(rows, (b"", memoryview(b"")))
    if first != b"" or not header:
        raise ValueError("its index has no header")
    return message(header)


def shard_names(path: Path) -> list[str]:
    """The names of the shards of which the index ``path`` tells, whether they are there or not; none for a file that is no
    index. Raises ``UnreadableError`` for a damaged one.
    """
    data = mapped(path)
    if kind(data) not in ("v2", "objects"):
        return []
    with parsing(path):
        count = min(whole(_head(entries(path, data)), 1), MAX_SHARDS)
    return [shard_name(path, shard, count).name for shard in range(count)]


def _entry(path: Path, name: bytes, value: memoryview) -> _Entry:
    """A BundleEntryProto; raises ``ValueError``."""
    fields = message(value)
    dims = [signed(whole(message(dim), 1)) for shape in parts(fields, 2) for dim in parts(message(shape), 2)]
    crc = parts(fields, 6)
    return _Entry(
        whole(fields, 1),
        checked_shape(path, name.decode(errors="replace"), dims),
        whole(fields, 3),
        whole(fields, 4),
        whole(fields, 5),
        int.from_bytes(crc[-1], "little") if crc else 0,
        tuple(extents(part) for part in parts(fields, 7)),
    )


def _shards(path: Path, listed: Mapping[bytes, _Entry], count: int, order: Order) -> _Shards:
    """The shards that anything lies in, checked: they are there, large enough, and no byte belongs to two tensors."""
    if not path.name.endswith(".index"):
        raise UnreadableError(
            f"`{path}` is the index of a TensorFlow checkpoint under another name",
            hints=["call it `<prefix>.index`, beside its `<prefix>.data-00000-of-00001`"],
        )
    spans: dict[int, list[tuple[int, int]]] = {}
    for entry in listed.values():
        if not entry.slices:
            spans.setdefault(entry.shard, []).append((entry.offset, entry.offset + entry.size))
    maps = {}
    for shard, found in sorted(spans.items()):
        if shard >= count:
            raise ValueError(f"a tensor of it lies in shard {shard + 1} of {count}")
        file = shard_name(path, shard, count)
        empty = file.is_file() and file.stat().st_size == 0  # where every tensor is
        maps[shard] = memoryview(b"") if empty else memoryview(mapped(file))
        end = 0
        for start, stop in sorted(span for span in found if span[0] != span[1]):
            if start < end:
                raise ValueError(f"two of its tensors overlap in `{file.name}`")
            end = stop
        if end > len(maps[shard]):
            raise truncated(file, f"its tensors go on to byte {end} of {len(maps[shard])}")
    return _Shards(maps, order)


def _contents(path: Path, listed: dict[bytes, _Entry], shards: _Shards) -> Bundle:
    tensors, texts, notes = dict[str, Tensor](), dict[str, bytes](), list[str]()
    others, used = 0, 0
    for raw, entry in listed.items():
        if raw.startswith(b"\0"):
            continue
        name = checked_name(path, raw.decode())
        if entry.dtype in OTHERS or (entry.dtype == TEXT and entry.shape != ()):
            others += 1
        elif entry.dtype == TEXT:
            texts[name] = _text(path, name, entry, shards)
        elif entry.slices:
            pieces = []
            for part in entry.slices:
                place = within(name, entry.shape, part)
                piece = listed.get(key(name, part))
                if piece is None or piece.slices or (piece.dtype, piece.shape) != (entry.dtype, size_of(place)):
                    raise ValueError(f"a part of `{shown(name)}` is missing or of another shape")
                pieces.append((place, _tensor(path, name, piece, shards)))
            tensors[name], used = whole_tensor(name, entry.shape, pieces), used + len(pieces)
        else:
            tensors[name] = _tensor(path, name, entry, shards)
    if others:
        notes.append(f"left out {others} tensors of text or handles")
    if unused := sum(raw.startswith(b"\0") for raw in listed) - used:
        notes.append(f"left out {unused} parts of tensors that its index does not list")
    return Bundle(tensors, texts, notes)


def _tensor(path: Path, name: str, entry: _Entry, shards: _Shards) -> Tensor:
    if entry.dtype not in DTYPES:
        raise UnreadableError(f"`{path}` holds `{shown(name)}` as TensorFlow's dtype {entry.dtype}, which xconvert does not read")
    dtype = dtype_named(DTYPES[entry.dtype])
    if entry.size != elements(entry.shape) * dtype.itemsize:
        raise ValueError(f"`{shown(name)}` does not have the size of its shape")
    buffer = shards.maps[entry.shard][entry.offset : entry.offset + entry.size]
    tensor = view(buffer, dtype, entry.shape, order=shards.order)

    def sound() -> memoryview:
        if checksum(pieces(buffer)) != entry.crc:
            raise damaged(path, f"`{shown(name)}` does not have its checksum")
        return buffer

    def read() -> Array:
        sound()
        return tensor.read()

    return tensor._replace(read=read, stored=tensor.stored and sound)


def _text(path: Path, name: str, entry: _Entry, shards: _Shards) -> bytes:
    """The one text of a scalar: its length, the checksum of that as a number of 4 or 8 bytes, itself."""
    data = shards.maps[entry.shard][entry.offset : entry.offset + entry.size]
    length, at = varint(data, 0)
    if len(data) != at + 4 + length:
        raise ValueError(f"`{shown(name)}` does not have the length that it says")
    size = length.to_bytes(4 if length < 2**32 else 8, "little" if shards.order == "<" else "big")
    if checksum([size, data[at : at + 4], data[at + 4 :]]) != entry.crc:
        raise ValueError(f"`{shown(name)}` does not have its checksum")
    return bytes(data[at + 4 :])


def take_metadata(path: Path, bundle: Bundle) -> dict[str, str]:
    """Our metadata, taken out of the texts of ``bundle``; what remains there is noted as left out."""
    with parsing(path):
        ours = [name for name in bundle.texts if name == RECORD or name.startswith(f"{RECORD}/")]
        metadata = {name.removeprefix(f"{RECORD}/"): bundle.texts.pop(name).decode() for name in ours}
    if bundle.texts:
        names = ", ".join(f"`{shown(name)}`" for name in list(bundle.texts)[:3])
        bundle.notes.append(f"left out {len(bundle.texts)} texts: {names}{', …' * (len(bundle.texts) > 3)}")
    return metadata


def write_bundle(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], graph: bytes | None = None) -> None:
    """Create the files of the prefix ``path``: ``tensors`` in the order of their names as bytes, one shard, and after them
    ``graph`` and ``metadata`` as texts. Raises ``UsageError`` for dtypes that TensorFlow does not have and for names that are
    taken.
    """
    texts = {name if name == RECORD else f"{RECORD}/{name}": name for name in metadata}
    for name, tensor in tensors.items():
        if tensor.dtype not in _CODES:
            raise UsageError(f"TensorFlow checkpoints cannot hold `{shown(name)}` of dtype `{tensor.dtype}`")
        if name in texts or name == GRAPH:
            raise UsageError(f"a tensor in a TensorFlow checkpoint cannot be called `{name}`")
    data, index = files(path)
    rows = {b"": header(1)}
    with data.open("wb") as file:

        def written(pieces: Iterable[bytes | memoryview]) -> Iterator[bytes | memoryview]:
            for piece in pieces:
                file.write(piece)
                yield piece

        def add(
            name: str, described: bytes, pieces: Iterable[bytes | memoryview], length: bytes = b"", size: bytes = b""
        ) -> None:
            """Write ``length`` and ``pieces``; the checksum is that of ``size`` and ``pieces``."""
            at = file.tell()
            file.write(length)
            crc, many = checksum(chain([size], written(pieces))), file.tell() - at
            place = (number(4, at) if at else b"") + (number(5, many) if many else b"")
            rows[name.encode()] = described + place + fixed32(6, crc)

        for name in sorted(tensors, key=str.encode):
            tensor = tensors[name]
            described = number(1, _CODES[tensor.dtype]) + block(2, b"".join(_dims(tensor.shape)))
            add(name, described, contents(name, tensor))
        if graph is not None:
            add(GRAPH, _TEXT_ENTRY, *_encoded(graph))
        for name, key in sorted(texts.items()):
            add(name, _TEXT_ENTRY, *_encoded(metadata[key].encode()))
    index.write_bytes(table(sorted(rows.items())))


_TEXT_ENTRY = number(1, TEXT) + block(2, b"")  # dtype and shape in its entry


def _encoded(text: bytes) -> tuple[list[bytes], bytes, bytes]:
    """What is written of a text behind its length; this, and what is summed up of it."""
    size = len(text).to_bytes(4, "little")  # 8 bytes from 4 GiB on
    return [checksum([size]).to_bytes(4, "little"), text], encoded(len(text)), size


def _dims(shape: tuple[int, ...]) -> Iterator[bytes]:
    for size in shape:
        yield block(2, number(1, size) if size else b"")
