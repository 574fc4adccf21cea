"""HDF5 datasets in chunks, and texts of variable length, read without the library: as it reads them, and bounded."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pickles import mapped
from xconvert.errors import UnreadableError
from xconvert.formats import Choice, keras_weights
from xconvert.formats._hdf5_chunks import _unlzf
from xconvert.model import Checkpoint

AT = "layers/dense/vars/0"


def made(array: Any, **options: Any) -> bytearray:
    """A file with one dataset."""
    file = io.BytesIO()
    with h5py.File(file, "w", userblock_size=options.pop("userblock", 0)) as root:
        root.create_dataset(AT, data=array, **options)
    return bytearray(file.getvalue())


def read(content: bytes | bytearray) -> Checkpoint:
    return keras_weights.FORMAT.read(Path("x.weights.h5"), mapped(bytes(content)), Choice())


def numbers(content: bytes | bytearray) -> np.ndarray:
    return read(content).tensors["dense/0"].read()


@pytest.mark.slow
@given(
    st.data(),
    st.lists(st.integers(1, 9), min_size=1, max_size=3),
    st.sampled_from(["<f4", ">f8", "<i2", "?", "<f2", ">u8"]),
    st.sampled_from([None, "gzip", "lzf"]),
    *(st.booleans(), st.booleans(), st.sampled_from([0, 512])),
)
@settings(max_examples=80, deadline=None)
def test_chunks_are_read_as_the_library_reads_them(
    data: st.DataObject, shape: list[int], dtype: str, compression: Any, shuffle: bool, fletcher32: bool, userblock: int
) -> None:
    chunks = tuple(data.draw(st.integers(1, size)) for size in shape)
    repeated = data.draw(st.booleans())
    array = (np.arange(np.prod(shape)) * (0 if repeated else 7) % 251).reshape(shape).astype(dtype)
    options = {"compression": compression, "shuffle": shuffle, "fletcher32": fletcher32, "userblock": userblock}
    found = numbers(made(array, chunks=chunks, **options))
    assert found.dtype == np.dtype(dtype).newbyteorder("=")
    np.testing.assert_array_equal(found, array)


@given(st.binary(max_size=200), st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_lzf_is_unpacked_as_it_was_packed(text: bytes, times: int) -> None:
    array = np.frombuffer(text * times + b"\1", np.uint8)
    np.testing.assert_array_equal(numbers(made(array, compression="lzf", chunks=(len(array),))), array)


def test_bfloat16_in_chunks() -> None:
    array = np.arange(6).astype(ml_dtypes.bfloat16)
    found = numbers(made(array.view("V2"), chunks=(4,)))
    assert (found.dtype, found.tobytes()) == (array.dtype, array.tobytes())


def test_numbers_in_the_header_itself() -> None:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_layout(h5py.h5d.COMPACT)
        group = root.create_group("layers/dense/vars")
        space = h5py.h5s.create_simple((3,))
        h5py.h5d.create(group.id, b"0", h5py.h5t.IEEE_F32BE, space, properties).write(space, space, np.array([1, 2, 3], ">f4"))
    np.testing.assert_array_equal(numbers(file.getvalue()), np.array([1, 2, 3], np.float32), strict=True)


def test_the_newer_index_of_chunks_is_refused() -> None:
    file = io.BytesIO()
    with h5py.File(file, "w", libver="latest") as root:
        root.create_dataset(AT, data=np.zeros((4, 4)), chunks=(2, 2))
    with pytest.raises(UnreadableError, match=f"is refused: `/{AT}` is stored in chunks, in a form that Keras does not use"):
        read(file.getvalue())


def damaged(find: bytes, offset: int, new: bytes, **options: Any) -> str:
    """What is said of a compressed dataset with ``new`` some bytes after the last ``find``."""
    content = made(np.arange(16.0).reshape(4, 4), chunks=(2, 2), **options)
    at = content.rindex(find) + offset
    content[at : at + len(new)] = new
    with pytest.raises(UnreadableError) as caught:
        numbers(content)
    return caught.value.message.removeprefix(f"`x.weights.h5` is damaged: `/{AT}`: ")


@pytest.mark.parametrize(
    ("offset", "new", "message"),
    [
        (0, b"EERT", "the index of its chunks makes no sense"),
        (5, b"\1", "the index of its chunks makes no sense"),  # a level below that is none
        (6, b"\3", "some of its chunks are missing"),
        (6, b"\5", "the index of its chunks makes no sense"),
        (24, b"\0\0\0\x7f", "the index of its chunks makes no sense"),  # size of the first chunk
        (24, b"\2", "a chunk of it does not have its size"),
        (32, b"\1", "a chunk of it is not where one can be"),
        (32, b"\2", "a chunk of it is not where one can be"),  # where another one is
        (32, b"\xff" * 8, "a chunk of it is not where one can be"),
        (56, b"\xff" * 8, "the index of its chunks makes no sense"),  # address
    ],
)
def test_damaged_indexes(offset: int, new: bytes, message: str) -> None:
    told = damaged(b"TREE\1", offset, new)
    assert told == message or told.startswith("`x.weights.h5` is truncated or damaged: ")  # the library adds up what is stored


def test_damaged_filters() -> None:
    assert damaged(b"TREE\1", 24, b"\3", fletcher32=True) == "a chunk of it does not have its checksum"
    assert damaged(b"TREE\1", 56, b"\0", compression="gzip") == "a chunk of it cannot be inflated"
    for content in (b"\1a", b"\x20\xff", b"\x20", b"\xe0"):
        with pytest.raises((ValueError, IndexError)):
            _unlzf(content, 100)
    with pytest.raises(ValueError, match="does not have its size"):
        _unlzf(b"\0a" + b"\xe0\xff\0" * 9, 1000)


def texts() -> bytearray:
    file = io.BytesIO()
    with h5py.File(file, "w") as root:
        root[AT] = np.float32(1)
        root.attrs["note"], root.attrs["none"] = "text of any length", ""
    return bytearray(file.getvalue())


def test_texts_of_any_length() -> None:
    assert read(texts()).metadata == {"note": "text of any length", "none": ""}


@pytest.mark.parametrize(
    ("offset", "new"), [(0, b"LOCG"), (4, b"\2"), (8, b"\xff" * 8), (16, b"\7"), (24, b"\xff" * 8), (24, bytes(8))]
)
def test_damaged_texts(offset: int, new: bytes) -> None:
    """On some of these libhdf5 loops for ever."""
    content = texts()
    at = content.index(b"GCOL") + offset
    content[at : at + len(new)] = new
    with pytest.raises(UnreadableError, match="the attribute `note` refers to text that is not there"):
        read(content)
