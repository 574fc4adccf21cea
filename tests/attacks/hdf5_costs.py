"""HDF5 files that take more than they hold: as Keras' ``.weights.h5``, some in its older layout."""

from __future__ import annotations

import struct
from typing import Any

import h5py
import numpy as np

from tests.attacks.hdf5 import KERNEL, dense, image, legacy, spoiled
from tests.attacks.registry import Contents, attack

_TERABYTE = "`{path}` is refused: `/layers/dense/vars/0` declares 4398046511104 bytes and stores 0"


def _replaced(root: Any, *arguments: Any, **options: Any) -> Any:
    del root[KERNEL]
    return root.create_dataset(KERNEL, *arguments, **options)


@spoiled("4 TB of nothing", _TERABYTE)
def a_terabyte_of_nothing(root: Any) -> None:
    _replaced(root, (2**20, 2**20), "<f4")


@spoiled("4 TB in chunks of which none is there", _TERABYTE, version="earliest")
def a_terabyte_of_no_chunks(root: Any) -> None:
    _replaced(root, (2**20, 2**20), "<f4", chunks=(16, 16))


@spoiled(
    "one chunk, 128 times: the others are not there",
    "`{path}` is refused: `/layers/dense/vars/0` declares 33554432 bytes and stores 281",
    version="earliest",
)
def compression_bomb(root: Any) -> None:
    _replaced(root, (2**23,), "<f4", chunks=(65536,), compression="gzip")[:65536] = 1


@spoiled(
    "a chunk of 3 GB for one number",
    "`{path}` is refused: `/layers/dense/vars/0` declares 3221225472 bytes and stores 0",
    version="earliest",
)
def a_huge_chunk_for_one_number(root: Any) -> None:
    _replaced(root, (1,), "u1", chunks=(3 << 30,), maxshape=(None,))


@spoiled(
    "a filter beyond the usual: a plug-in, for another", "`{path}` is refused: `/layers/dense/vars/0` is compressed by filter 6"
)
def scale_offset_filter(root: Any) -> None:
    _replaced(root, (2, 2), "i4", scaleoffset=4, chunks=(2, 2))


@attack(
    *("keras-weights", ".weights.h5", "a filter that is a library to load: blosc"),
    "`{path}` is refused: `/layers/dense/vars/0` is compressed by filter 32001",
)
def plug_in_filter() -> Contents:
    """h5py writes it as one that may be missing; then readers would pass over it."""

    def fill(root: Any) -> None:
        dense(root)
        del root[KERNEL]
        options = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        options.set_chunk((2, 2))
        options.set_filter(32001, h5py.h5z.FLAG_OPTIONAL, (2, 2, 4, 16, 5, 1, 0))
        space, place = h5py.h5s.create_simple((2, 2)), root["layers/dense/vars"].id
        h5py.h5d.create(place, b"0", h5py.h5t.IEEE_F32LE, space, options).write_direct_chunk((0, 0), bytes(16))

    content = image(fill, "earliest")
    at = content.index(struct.pack("<H", 32001)) + 4  # its flags
    assert content[at : at + 2] == b"\x01\x00"
    return content[:at] + b"\0" + content[at + 1 :]


@spoiled(
    "an index of chunks in a form that Keras never writes",
    "`{path}` is refused: `/layers/dense/vars/0` is stored in chunks, in a form that Keras does not use",
)
def newer_index_of_chunks(root: Any) -> None:
    _replaced(root, data=np.zeros((4, 4), "<f4"), chunks=(2, 2))


@spoiled("a dataset without a shape", "`{path}` is damaged: the shape of `/layers/dense/vars/0` is impossible")
def no_shape(root: Any) -> None:
    del root[KERNEL]
    root[KERNEL] = h5py.Empty("f4")


@spoiled("40 groups, each in the next", "`{path}` is refused: it nests groups more than 32 deep")
def deep_groups(root: Any) -> None:
    root.create_group("layers/" + "a/" * 40)


@spoiled("a name of 5 000 characters", "`{path}` is damaged: `" + "d" * 200 + "…` is not a name")
def a_long_name(root: Any) -> None:
    root.move("layers/dense", "layers/" + "d" * 5000)


@attack(
    "keras-h5",
    ".h5",
    "numbers behind the end of the file",
    "`{path}` is damaged: `/dense/dense/bias` lies outside the file",
)
def numbers_behind_the_end() -> Contents:
    offset = 0

    def fill(root: Any) -> None:
        nonlocal offset
        legacy(root)
        offset = root["dense/dense/bias"].id.get_offset()

    content = image(fill, "earliest")
    return content.replace(struct.pack("<QQ", offset, 8), struct.pack("<QQ", len(content) - 4, 8))


@attack(
    "keras-weights",
    ".weights.h5",
    "half of a file",
    "`{path}` is truncated or damaged: it ends at byte 671 of 1343",
)
def half_a_file() -> Contents:
    content = image(dense)
    return content[: len(content) // 2]


def _texts(content: bytes, size: int) -> int:
    """Where the reference to a text of variable length stands: its size, and where the collection of texts is that has it."""
    at = -1
    while (at := content.find(struct.pack("<L", size), at + 1)) >= 0:
        place = int.from_bytes(content[at + 4 : at + 12], "little")
        if content[place : place + 4] == b"GCOL":
            return at
    raise ValueError("no such text")


@attack(
    "keras-h5",
    ".h5",
    "a text of 4 GB among the attributes",
    "`{path}` would take more memory than it may: the attribute `backend` says that it holds 4 GiB of text",
)
def text_of_4_gb() -> Contents:
    content = image(lambda root: (legacy(root), root.attrs.create("backend", "a" * 77))[-1], "earliest")
    at = _texts(content, 77)
    return content[:at] + b"\xff\xff\xff\xff" + content[at + 4 :]


@attack(
    *("keras-h5", ".h5", "one text of 70 kB as the names of 4 000 layers"),
    "`{path}` would take more memory than it may: the attribute `layer_names` says that it holds 267 MiB of text",
    kept=False,
)
def one_text_many_times() -> Contents:
    def fill(root: Any) -> None:
        legacy(root)
        names = np.asarray(["d" * 70_000, *["x"] * 4000], object)
        root.attrs.create("layer_names", names.astype(h5py.string_dtype()))

    content = bytearray(image(fill, "earliest"))
    at = _texts(content, 70_000)
    for n in range(1, 4001):
        content[at + 16 * n : at + 16 * n + 16] = content[at : at + 16]
    return bytes(content)
