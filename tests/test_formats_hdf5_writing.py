"""HDF5 as we write it, held against the HDF5 library: it must read all of it, and be able to go on writing into it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import h5py
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xconvert.errors import UsageError
from xconvert.formats._hdf5 import open_hdf5
from xconvert.formats._hdf5_writing import create_hdf5
from xconvert.formats._limits import USUAL
from xconvert.model import Array, Tensor

DTYPES = ["?", "i1", "u1", "<i2", "<u2", "<i4", "<u4", "<i8", "<u8", "<f2", "<f4", "<f8"]
SHAPES: list[tuple[int, ...]] = [(), (0,), (3,), (2, 0, 3), (3, 2, 1, 4)]
# What a group must hold to fill a node of symbols, a node of its B-tree, and to need a second level and a third root.
COUNTS = [0, 1, 7, 8, 9, 255, 256, 257, pytest.param(8193, marks=pytest.mark.slow)]


def numbers(shape: tuple[int, ...], dtype: Any) -> Array:
    return np.random.default_rng(0).integers(0, 100, shape).astype(dtype)


@pytest.mark.parametrize("count", COUNTS)
def test_a_group_of_any_size_is_read_and_written_on_by_the_library(tmp_path: Path, count: int) -> None:
    path, names = tmp_path / "x.h5", [f"layer_{i}ä" for i in range(count)]
    with create_hdf5(path) as file:
        group = file.group(file.root, "all")
        for i, name in enumerate(names):
            file.tensor(group, name, Tensor.of(np.int64(i)[None]))
    with h5py.File(path) as found:
        assert [*found["all"]] == sorted(names, key=str.encode)
        assert [int(found["all"][name][0]) for name in names] == [*range(count)]
    with h5py.File(path, "r+") as found:
        for name in names[::3]:
            del found["all"][name]
        for i in range(40):
            found["all"][f"new{i}"] = np.full(1, -i)
        found.attrs["more"] = "text"
        found.create_group("beside")["x"] = 1.5
    left = {name: i for i, name in enumerate(names) if i % 3}
    with h5py.File(path) as found:
        assert {name: int(array[0]) for name, array in found["all"].items()} == left | {f"new{i}": -i for i in range(40)}
        assert (found.attrs["more"], found["beside/x"][()]) == ("text", 1.5)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_datasets_are_what_the_library_itself_would_write(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    array = numbers(shape, dtype)
    with create_hdf5(tmp_path / "x.h5") as file:
        file.tensor(file.root, "x", Tensor.of(array))
    with h5py.File(tmp_path / "y.h5", "w") as theirs:
        theirs["x"] = array
    with h5py.File(tmp_path / "x.h5") as ours, h5py.File(tmp_path / "y.h5") as theirs:
        for found in (ours["x"], theirs["x"]):
            assert (found.dtype, found.shape, found.chunks, found.maxshape) == (array.dtype, shape, None, shape)
            assert np.array_equal(found[()], array)
        assert ours["x"].id.get_type().equal(theirs["x"].id.get_type())


def test_bfloat16_is_opaque_pairs_of_bytes(tmp_path: Path) -> None:
    array = numbers((3, 2), ml_dtypes.bfloat16)
    with create_hdf5(tmp_path / "x.h5") as file:
        file.tensor(file.root, "x", Tensor.of(array))
    with h5py.File(tmp_path / "x.h5") as found:
        assert (found["x"].dtype, found["x"].attrs["dtype"]) == (np.dtype("V2"), "bfloat16")
        assert found["x"][()].tobytes() == array.tobytes()


CHARACTERS = st.characters(codec="utf-8", exclude_characters="\0")
TEXTS = st.dictionaries(st.text("abcäß漢_ ", min_size=1, max_size=9), st.text(CHARACTERS))


@pytest.mark.slow
@settings(deadline=None, max_examples=50)
@given(TEXTS, st.lists(st.text("abc/é", min_size=1), max_size=30))
def test_texts_and_names_come_back(tmp_path_factory: pytest.TempPathFactory, texts: dict[str, str], names: list[str]) -> None:
    path = tmp_path_factory.mktemp("texts") / "x.h5"
    with create_hdf5(path) as file:
        file.tensor(file.root, "numbers", Tensor.of(np.zeros(100_000)))  # a reader may look at any byte four times
        file.strings(file.root, "the names", names)
        for name, text in texts.items():
            file.text(file.group(file.root, name), "told", text)
            file.text(file.root, name, text)
    with h5py.File(path) as found:
        assert [name.decode() for name in found.attrs["the names"]] == names
        assert {name: found.attrs[name] for name in texts} == texts
        assert {name: found[name].attrs["told"] for name in texts} == texts
    content = path.read_bytes()
    for own in (True, False):  # our reader finds what the library finds
        with open_hdf5(path, memoryview(content), USUAL.budget(path, len(content)), own) as again:
            assert {name: again.texts(again.root)[name] for name in texts} == texts
            assert (again.strings(again.root, "the names") or []) == names


@pytest.mark.slow
def test_a_text_may_be_long_and_said_often(tmp_path: Path) -> None:
    long = "é" * 1_000_000
    with create_hdf5(tmp_path / "x.h5") as file:
        for i in range(100):
            file.text(file.group(file.root, str(i)), "told", long)
    assert (tmp_path / "x.h5").stat().st_size < 2_200_000
    with h5py.File(tmp_path / "x.h5") as found:
        assert all(found[str(i)].attrs["told"] == long for i in range(100))


def test_numbers_lie_where_they_can_be_viewed_and_the_same_contents_give_the_same_bytes(tmp_path: Path) -> None:
    arrays = {f"x{i}": numbers((i,), dtype) for i, dtype in enumerate(DTYPES)}
    for name in ("a.h5", "b.h5"):
        with create_hdf5(tmp_path / name) as file:
            for key, array in arrays.items():
                file.tensor(file.root, key, Tensor.of(array))
            file.text(file.root, "told", "é")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()
    with h5py.File(tmp_path / "a.h5") as found:
        assert all((found[key].id.get_offset() or 0) % 8 == 0 for key in arrays if arrays[key].size)


def test_what_hdf5_has_no_room_for_is_refused(tmp_path: Path) -> None:
    with create_hdf5(tmp_path / "x.h5") as file:
        file.group(file.root, "x")
        with pytest.raises(UsageError, match="two members called `x`"):
            file.group(file.root, "x")
        with pytest.raises(UsageError, match="at most 65528 bytes, and one of"):
            file.array(file.root, "x" * 40_000, np.zeros(4000))
        with pytest.raises(UsageError, match="dtype `complex64`"):
            file.tensor(file.root, "z", Tensor.of(np.zeros(2, np.complex64)))
    with h5py.File(tmp_path / "x.h5") as found:
        assert [*found] == ["x"]


def test_more_texts_than_can_be_counted_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="room for 65535 texts, and 65536 are wanted"), create_hdf5(tmp_path / "x.h5") as file:
        for i in range(65536):
            file.text(file.root, f"t{i}", str(i))
    with (
        pytest.raises(UsageError, match="room for 65535 attributes, and 65537 are wanted"),
        create_hdf5(tmp_path / "x.h5") as file,
    ):
        for i in range(65536):
            file.text(file.root, f"t{i}", "the same")


def test_what_describes_a_dataset_takes_little_memory(tmp_path: Path) -> None:
    zero = Tensor.of(np.zeros(1, np.float32))
    with create_hdf5(tmp_path / "x.h5") as file:
        file.tensor(file.root, "first", zero)
        tracemalloc.start()
        for i in range(2000):
            file.tensor(file.group(file.root, str(i)), "x", zero)
        taken, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert taken < 2000 * 2500
