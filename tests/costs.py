"""Small files that ask for much work or memory, each by its own kind of repetition; ``tests/test_limits.py`` opens them."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator

from tests import costs_hdf5
from tests.pickles import opcodes, tensor, zipped
from xconvert.formats import _sstable
from xconvert.formats._crc32c import checksum
from xconvert.formats._protobuf import block, encoded, number
from xconvert.formats._slices import key

COSTS: dict[str, tuple[str, Callable[[], bytes]]] = {}  # by what is repeated: suffix, and what makes the content


def _cost(what: str, suffix: str) -> Callable[[Callable[[], bytes]], Callable[[], bytes]]:
    def enter(build: Callable[[], bytes]) -> Callable[[], bytes]:
        COSTS[what] = suffix, build
        return build

    return enter


def _pickled(body: bytes) -> bytes:
    return zipped([("x/data.pkl", b"\x80\x02" + body + b".")])


def _remembered(text: str) -> bytes:
    return opcodes(text) + b"q\x00"


@_cost("a global of a hundred thousand parts", ".pth")
def many_parts() -> bytes:
    return _pickled(_remembered("a." * 50_000) + b"h\x00\x93")


@_cost("globals of the same long text", ".pth")
def long_globals() -> bytes:
    return _pickled(_remembered("a" * 1_000_000) + b"h\x00h\x00\x93" * 1000)


@_cost("globals of the same short text", ".pth")
def short_globals() -> bytes:
    return _pickled(_remembered("a." * 249) + b"h\x00h\x00\x93" * 150_000)


@_cost("text that one character makes four times as wide", ".pdparams")
def wide_text() -> bytes:
    return b"\x80\x02" + opcodes("a" * 20_000_000 + "\U0001f600") + b"]" * 400_000 + b"."


@_cost("tuples of one hash as keys", ".pth")
def tuples_of_one_hash() -> bytes:
    return _pickled(b"}(" + b"".join(opcodes(pair)[1:-1] + b"\x86N" for pair in _of_one_hash(40_000)) + b"u")


def _of_one_hash(count: int) -> Iterator[tuple[int, int]]:
    """Pairs that hash alike: CPython's ``tuplehash``, an xxHash without a seed, from its end to its second number."""
    mask, first, second, seed = (1 << 64) - 1, 11400714785074694791, 14029467366897019727, 2870177450012600261
    goal = pow(first, -1, 1 << 64) * 0x123456789ABCDEF0 & mask
    goal = (goal >> 31 | goal << 33) & mask
    a = 0
    while count:
        a += 1
        state = seed + a * second & mask
        state = (state << 31 | state >> 33) * first & mask
        b = (goal - state) * pow(second, -1, 1 << 64) & mask
        b -= (b >> 63) << 64
        if b != -1 and abs(b) < (1 << 61) - 1:  # it is its own hash
            count -= 1
            yield a, b


@_cost("names of one tensor", ".pth")
def many_names() -> bytes:
    return _deflated(f"module.block1.conv1.{i}.weight" for i in range(10_000))


@_cost("names of nothing but digits", ".pth")
def names_of_digits() -> bytes:
    return _deflated(f"{'1' * 900}{i}" for i in range(10_000))


def _deflated(names: Iterator[str]) -> bytes:
    """An archive with one tensor under all of ``names``, its pickle deflated."""
    first = opcodes("a") + opcodes(tensor()) + b"q\x00"
    pickled = b"\x80\x02}(" + first + b"".join(opcodes(name) + b"h\x00" for name in names) + b"u."
    return _packed(iter([("x/data.pkl", pickled), ("x/version", b"3\n"), ("x/data/0", bytes(16))]))


@_cost("optimizers that share one list", ".pth")
def optimizers_of_one_list() -> bytes:
    shared = opcodes("x") + b"]q\x01(" + b"]" * 60_000 + b"e"
    return _pickled(b"}(" + shared + b"".join(opcodes(f"opt_{i}") + b"](h\x01e" for i in range(1000)) + b"u")


@_cost("long names of dicts in dicts", ".pth")
def long_paths() -> bytes:
    wide = b"(" + b"".join(b"J" + struct.pack("<l", i) + b"}" for i in range(150_000)) + b"u"
    return _pickled(_remembered("z" * 200) + b"}" + b"h\x00}" * 6 + wide + b"s" * 6)


def _packed(members: Iterator[tuple[str, bytes]], extra: bytes = b"") -> bytes:
    """A zip archive of deflated ``members``."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            told = zipfile.ZipInfo(name)
            told.extra, told.compress_type = extra, zipfile.ZIP_DEFLATED
            archive.writestr(told, content)
    return file.getvalue()


@_cost("fields without content in a zip directory", ".npz")
def empty_extra_fields() -> bytes:
    return _packed(((f"{i}.npy", b"") for i in range(100)), struct.pack("<2H", 9, 0) * 16_000)


@_cost("long headers of arrays, deflated", ".npz")
def long_headers() -> bytes:
    text = b"{'descr': '<f4', 'fortran_order': False, 'shape': (" + b"0," * 4000 + b")}\n"
    header = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text
    return _packed((f"{i}.npy", header) for i in range(7000))


@_cost("pieces of nothing of one tensor", ".ckpt")
def empty_pieces() -> bytes:
    tensor = number(1, 200_000) + block(2, "Float32") + block(3, b"")
    return block(1, block(1, "a") + block(2, tensor)) * 60_000


def _model(*fields: bytes) -> bytes:
    return number(1, 8) + b"".join(fields)


def _node(*fields: bytes) -> bytes:
    return _model(block(7, block(1, block(4, "Conv") + block(6, "conv") + b"".join(fields))))


for _what, _content in {
    "attributes of a node of ONNX": lambda: _node(block(5, b"") * 4_000_000),
    "numbers of an attribute of ONNX": lambda: _node(block(5, block(1, "x") + block(8, b"\xff\x7f" * 10_000_000))),
    "graphs of ONNX": lambda: _model(block(7, b"") * 5_000_000),
    "operators of ONNX": lambda: _model(block(7, b""), block(8, b"") * 5_000_000),
}.items():
    _cost(_what, ".onnx")(_content)


@_cost("metadata of ONNX", ".onnx")
def many_metadata() -> bytes:
    return _model(block(7, b""), *(block(14, block(1, f"{i:x}")) for i in range(2_000_000)))


@_cost("texts in compressed blocks of a TensorFlow table", ".ckpt")
def compressed_blocks() -> bytes:
    """Each of 10 MB of zeros, by copies of 64 that are written as 3 bytes."""
    blocks = [(b"", _entry(b"", 0, block(1, b"")) + _RESTARTS, 0)]
    for i in range(40):
        head = _entry(b"%02d" % i, 0, b"", 10_000_000)
        size = encoded(len(head) + 10_000_000 + len(_RESTARTS))
        zeros = b"\0\0" + b"\xfe\x01\0" * 156_249 + b"\xfa\x01\0"
        packed = bytes([len(head) - 1 << 2]) + head + zeros + bytes([len(_RESTARTS) - 1 << 2]) + _RESTARTS
        blocks.append((b"%02d" % i, size + packed, 1))
    return _table(blocks)


@_cost("long keys of a TensorFlow table", ".ckpt")
def long_keys() -> bytes:
    """Names of 10 000 characters that are told apart by their last six."""
    blocks = [(b"", _entry(b"", 0, block(1, b"")) + _RESTARTS, 0)]
    for i in range(900):
        start = b"%04d" % i + b"k" * 10_000
        first = _entry(start + b"%06d" % 0, 0, b"")
        others = b"".join(_entry(b"%06d" % n, len(start), b"v" * 80) for n in range(1, 80))
        blocks.append((start + b"%06d" % 79, first + others + _RESTARTS, 0))
    return _table(blocks)


_RESTARTS = struct.pack("<2L", 0, 1)


def _entry(fresh: bytes, shared: int, value: bytes, size: int | None = None) -> bytes:
    return encoded(shared) + encoded(len(fresh)) + encoded(len(value) if size is None else size) + fresh + value


def _table(blocks: list[tuple[bytes, bytes, int]]) -> bytes:
    """A table of (last key, content, compression) of each block."""
    out, index = bytearray(), _sstable._Block(1)
    for last, content, compression in blocks:
        index.add(last, encoded(len(out)) + encoded(len(content)))
        body = content + bytes([compression])
        out += body + checksum([body]).to_bytes(4, "little")
    footer = _sstable._append(out, _sstable._Block(16)) + _sstable._append(out, index)
    return bytes(out + footer.ljust(40, b"\0") + _sstable.MAGIC)


@_cost("numbers of TensorFlow, each a field of its own", ".ckpt")
def numbers_as_fields() -> bytes:
    count = 3_000_000
    listed = block(1, "t") + block(2, block(2, number(1, count))) + number(3, 1) + block(4, block(1, b""))
    saved = block(2, block(3, b"\x2d\0\0\0\0" * count))
    return _sstable.table([(b"", block(1, block(1, listed))), (key("t", ((0, -1),)), saved)])


COSTS |= {
    "attributes of HDF5 that are texts": (".weights.h5", lambda: costs_hdf5.attributes_of_text(5000)),
    "texts of HDF5 among many others": (".weights.h5", costs_hdf5.one_large_collection),
    "groups of HDF5": (".weights.h5", costs_hdf5.groups),
    "names of one layer": (".h5", costs_hdf5.names_of_one_layer),
    "chunks that reach far beyond their shape": (".weights.h5", costs_hdf5.chunks_beyond_the_shape),
    "layers of one name in a configuration": (".h5", costs_hdf5.layers_of_one_name),
}
