"""Changes to bytes that know nothing of the format: flips, numbers at the edges, blocks moved, cut, doubled and spliced."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Sequence

_EDGES = [
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    15,
    16,
    31,
    32,
    33,
    63,
    64,
    100,
    127,
    128,
    255,
    256,
    511,
    512,
    1000,
    1024,
    4096,
    32767,
    32768,
    65535,
]
_EDGES += [65536, 100_000, 1 << 20, 1 << 24, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, 1 << 40, 1 << 56, (1 << 63) - 1]
EDGES = tuple(_EDGES + [1 << 63, (1 << 64) - 1] + [-n for n in (1, 2, 8, 128, 129, 32768, 1 << 31, 1 << 63)])

# What some format gives a meaning to, wherever it stands.
TOKENS: tuple[bytes, ...] = (
    *(
        b"\0",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\xff" * 8,
        b"\n",
        b"\x1b[2J",
        b"..",
        b"../",
        b"/",
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
    ),
    *(
        b'"',
        b":",
        b",",
        b"null",
        b"true",
        b"1e999",
        b"-1",
        b"NaN",
        b"\xed\xa0\x80",
        b"\xe2\x80\xae",
        b"\xc3\x28",
        b"\xef\xbb\xbf",
    ),
)
PICKLE = tuple(
    bytes([c]) for c in b"(.0123FGIJKLMNPQRSTUVXabcdghijlopqrstu]e})\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8e\x8f\x90"
)
PICKLE += (
    *tuple(bytes([c]) for c in b"\x91\x92\x93\x94\x95\x96\x97\x98"),
    *(b"cos\nsystem\n", b"c__builtin__\neval\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch._utils\n_rebuild_tensor_v3\n"),
    *(
        b"ccollections\nOrderedDict\n",
        b"cbuiltins\nlist\n",
        b"cbuiltins\ntuple\n",
        b"cbuiltins\ncomplex\n",
        b"c_codecs\nencode\n",
    ),
    *(
        b"cnumpy.core.multiarray\n_reconstruct\n",
        b"cnumpy\nndarray\n",
        b"cnumpy\ndtype\n",
        b"ctorch\nFloatStorage\n",
        b"ctorch\nSize\n",
    ),
    *(
        b"ctorch._utils\n_rebuild_parameter\n",
        b"ctorch._tensor\n_rebuild_from_type_v2\n",
        b"ctorch\nBFloat16Storage\n",
        b"cbuiltins\nset\n",
    ),
    *(
        b"cbuiltins\nbytearray\n",
        b"cbuiltins\ndict\n",
        b"ccollections\ndefaultdict\n",
        b"ctorch\nfloat8_e5m2\n",
        b"cbuiltins\nfrozenset\n",
    ),
    *(
        b"X\x02\x00\x00\x00hi",
        b"\x8c\x02hi",
        b"U\x02hi",
        b"S'a'\n",
        b"I1\n",
        b"L9\n",
        b"F1.5\n",
        b"K\x01",
        b"M\xff\xff",
        b"J\xff\xff\xff\xff",
    ),
    *(
        b"\x8a\x08" + b"\xff" * 7 + b"\x7f",
        b"G\x7f\xf0\x00\x00\x00\x00\x00\x00",
        b"C\x02ab",
        b"h\x00",
        b"q\x00",
        b"j\x00\x00\x00\x00",
        b"p1\n",
        b"g1\n",
    ),
    *(
        b"Pid\n",
        b"iposix\nsystem\n",
        b"X\n\x00\x00\x00state_dict",
        b"X\t\x00\x00\x00_metadata",
        b"U\x08_modules",
        b"((((((((",
        b"2R",
        b")R",
    ),
)
ZIP = (
    b"PK\x03\x04",
    b"PK\x01\x02",
    b"PK\x05\x06",
    b"PK\x06\x06",
    b"PK\x06\x07",
    b"\x01\0\x10\0",
    b".npy",
    b"data.pkl",
    b"config.json",
)
HDF5 = (
    b"\x89HDF\r\n\x1a\n",
    b"TREE",
    b"HEAP",
    b"SNOD",
    b"GCOL",
    b"OHDR",
    b"OCHK",
    b"FRHP",
    b"FHDB",
    b"FHIB",
    b"BTHD",
    b"BTLF",
    b"FSHD",
)
HDF5 += (
    b"layer_names",
    b"weight_names",
    b"model_weights",
    b"layers",
    b"vars",
    b"model_config",
    b"undef\x00",
    *tuple(struct.pack("<HHB3x", kind, size, flags) for kind in (*range(23), 255) for size, flags in ((8, 0), (24, 2))),
)
NUMPY = (
    b"\x93NUMPY\x01\0",
    b"\x93NUMPY\x02\0",
    b"'descr': '<f4'",
    b"'|O'",
    b"'<V2'",
    b"'fortran_order': True",
    b"'shape': (",
    b"(1,)*9",
    b"'>c16'",
)
JSON = (
    b'"__metadata__"',
    b'"dtype"',
    b'"shape"',
    b'"data_offsets"',
    b'"BF16"',
    b"[]",
    b"{}",
    b"[[[[[[[[",
    b'"\\ud800"',
    b'"\\u0000"',
    b"1e400",
)
TOML = (
    b"[layers]\n",
    b"[attributes]\n",
    b"[published.x]\n",
    b'""',
    b"'''",
    b'"""',
    b"{i}",
    b"{i+1}",
    b"{3*i-2}",
    b"{",
    b"}",
    b"names_of = ",
    b"= [",
)
TOML += (
    b"= {",
    b"1979-05-27",
    b"0x7f",
    b"inf",
    b"nan",
    b"[[",
    b"]]",
    b".",
    b"\\u202e",
    b"\t",
    b"#",
    b"{i+MIDDLE-1}",
    b"{middle}",
    b"= 9" + b"9" * 30,
)


def edge(rng: random.Random) -> int:
    """A number at which something may change, or one beside it."""
    return rng.choice(EDGES) + rng.choice((0, 0, 0, 0, -1, 1))


def encoded(value: int, rng: random.Random) -> bytes:
    """A number in some width, order of bytes, or as a varint."""
    size = rng.choice((1, 2, 4, 4, 8, 8, 0))
    if size:
        return (value & ((1 << 8 * size) - 1)).to_bytes(size, rng.choice(("little", "big")))
    return varint(value)


def varint(value: int) -> bytes:
    """A whole number as protocol buffers write it."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


Mutation = Callable[[bytearray, random.Random, Sequence[bytes]], None]


def _flip(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _byte(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    data[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFE, 0xFF, rng.randrange(256)))


def _step(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data))
    data[at] = (data[at] + rng.choice((-2, -1, 1, 2, 16))) & 255


def _number(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    raw = encoded(edge(rng), rng)
    at = rng.randrange(len(data))
    data[at : at + len(raw)] = raw


def _token(data: bytearray, rng: random.Random, tokens: Sequence[bytes]) -> None:
    raw, at = rng.choice(tokens or TOKENS), rng.randrange(len(data) + 1)
    data[at : at + rng.choice((0, len(raw)))] = raw


def _delete(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data))
    del data[at : at + _length(data, rng)]


def _double(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    at, size = rng.randrange(len(data)), _length(data, rng)
    data[at:at] = data[at : at + size] * rng.choice((1, 1, 1, 2, 30))


def _copy(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    start, at, size = rng.randrange(len(data)), rng.randrange(len(data)), _length(data, rng)
    piece = data[start : start + size]
    data[at : at + len(piece)] = piece


def _insert(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    data[at:at] = rng.randbytes(rng.choice((1, 2, 4, 8))) if rng.random() < 0.6 else bytes(rng.choice((1, 2, 8, 64)))


def _truncate(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    del data[rng.randrange(len(data)) :]


def _swap(data: bytearray, rng: random.Random, _: Sequence[bytes]) -> None:
    size = _length(data, rng)
    a, b = sorted((rng.randrange(len(data)), rng.randrange(len(data))))
    if a + size <= b:
        data[a : a + size], data[b : b + size] = data[b : b + size], data[a : a + size]


def _length(data: bytearray, rng: random.Random) -> int:
    return min(rng.choice((1, 1, 2, 4, 8, 8, 16, 40, 100)), len(data))


MUTATIONS: tuple[Mutation, ...] = (
    *(_flip, _flip, _flip, _byte, _byte, _step, _step, _number, _number, _number, _token, _token),
    *(_delete, _double, _copy, _copy, _insert, _truncate, _swap),
)


def mutated(data: bytes, rng: random.Random, tokens: Sequence[bytes] = (), other: bytes = b"") -> bytes:
    """``data`` with one to a few changes; with ``other``, sometimes spliced with that."""
    out = bytearray(data)
    if other and rng.random() < 0.1:
        return bytes(out[: rng.randrange(len(out) + 1)]) + other[rng.randrange(len(other)) :]
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 5))):
        if not out:
            out += rng.choice(tokens or TOKENS)
        rng.choice(MUTATIONS)(out, rng, tokens if rng.random() < 0.8 else TOKENS)
    return bytes(out)
