"""NumPy's archives whose arrays are not what they say."""

from __future__ import annotations

import io
import struct
import zipfile

import numpy as np

from tests.attacks.pickles_that_run import OPEN, TOUCH
from tests.attacks.registry import Contents, attack
from tests.headers import numpy_file
from tests.pickles import call, opcodes, patched, zipped

THREE = numpy_file(np.arange(3, dtype="<f4"))
NO_HEADER = "`{path}` is damaged: `a.npy` has no NumPy header"


def _header(text: bytes) -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def _enter(name: str, tries: str, message: str, content: bytes) -> None:
    @attack("npz", ".npz", tries, message, name=name)
    def _() -> Contents:
        return zipped([("a.npy", content)])


_RUNS = b"\x80\x02" + opcodes(call("posix.system", TOUCH)) + b"."
_OBJECTS = _header(b"{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n")
_enter(
    "objects",
    "an array of objects: a pickle that runs `os.system`",
    "`{path}` holds `a.npy` as `|O`, no numbers that a network has",
    _OBJECTS + _RUNS,
)
_enter("pickle-for-an-array", "a pickle in the place of an array", NO_HEADER, _RUNS)
_enter("header-that-is-code", "Python in the place of the header", NO_HEADER, _header(OPEN.encode()))
_enter("deep-header", "9 000 brackets in the header", NO_HEADER, _header(b"{'descr': " + b"[" * 9000))
_enter("header-past-the-end", "a header that is not there", NO_HEADER, b"\x93NUMPY\x01\x00\xff\xff{")
_enter("unknown-version", "version 9 of the format", NO_HEADER, b"\x93NUMPY\x09\x00\x02\x00{}")
_enter(
    *("shape-bomb", "4 TB in 12 bytes", "`{path}` is damaged: `a.npy` does not have the size of its shape"),
    _header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,)}\n") + bytes(12),
)
_enter(
    *("negative-dimension", "a dimension of -3", "`{path}` is damaged: the shape of `a.npy` is impossible"),
    _header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (-3,)}\n") + bytes(12),
)
_enter(
    *("shape-overflow", "2^128 numbers: 0 in 64 bits", "`{path}` is damaged: the shape of `a.npy` is impossible"),
    _header(b"{'descr': '<f4', 'fortran_order': False, 'shape': (18446744073709551616, 18446744073709551616)}\n"),
)
_enter(
    *(
        "structure",
        "structures in the place of numbers",
        "`{path}` holds `a.npy` as `[('f0', '<f4'), ('f1', '<i4')]`, no numbers that a network has",
    ),
    numpy_file(np.zeros(2, "f4,i4")),
)
_enter("no-array", "a member that is no array", NO_HEADER, b"no array at all")


@attack("npz", ".npz", "one name twice", "`{path}` is damaged: it holds `a.npy` twice")
def one_name_twice() -> Contents:
    return zipped([("a.npy", THREE), ("a.npy", numpy_file(np.zeros(3, "<f4")))])


@attack("npz", ".npz", "a terminal's escape code in a name", r"`{path}` holds a tensor called `a\x1b[2J`")
def name_with_escape_code() -> Contents:
    return zipped([("a\x1b[2J.npy", THREE)])


@attack(
    *("npz", ".npz", "numbers that differ from their checksum, with `--verify-checksums`"),
    "`{path}` is damaged: `a.npy` does not have its checksum",
    checksums=True,
)
def wrong_checksum() -> Contents:
    return patched(zipped([("a.npy", THREE)]), struct.pack("<f", 2), 0, struct.pack("<f", 3))


@attack(
    *("npz", ".npz", "8 MB of zeros in 8 kB, 4 GB says the directory"),
    "`{path}` would take more memory than it may: it would inflate to 4 GiB",
)
def deflate_bomb() -> Contents:
    array = _header(b"{'descr': '|u1', 'fortran_order': False, 'shape': (4294967176,)}\n".rjust(118))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as target:
        target.writestr(zipfile.ZipInfo("a.npy"), array + bytes(8 << 20), zipfile.ZIP_DEFLATED, 9)
    data = patched(file.getvalue(), b"PK\x01\x02", 24, struct.pack("<L", 0xFFFFFF00))
    return patched(data, b"PK\x03\x04", 22, struct.pack("<L", 0xFFFFFF00))
