"""The bytes of tensors as writers take them: all of them, in order, in pieces that stay in the cache."""

from __future__ import annotations

import mmap
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from xconvert.formats import _arrays, _maps
from xconvert.formats._arrays import contents, pieces
from xconvert.model import Array, DType, Tensor

ROOM = 48  # bytes of a piece, here: a few rows of what is drawn


@st.composite
def laid_out(draw: st.DrawFn) -> Array:
    """An array with its axes exchanged, and some of its elements left out."""
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=7))
    dtype = draw(st.sampled_from([np.float32, np.float16, np.int64, np.bool_, ml_dtypes.bfloat16]))
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    array = array.transpose(draw(st.permutations(range(array.ndim))))
    return array[tuple(slice(None, None, draw(st.sampled_from([1, 2, -1]))) for _ in range(array.ndim))]


@pytest.fixture
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_arrays, "_CHUNK", ROOM)
    monkeypatch.setattr(_arrays, "_room", _arrays._Room())


@pytest.mark.slow
@pytest.mark.usefixtures("little_room")
@settings(max_examples=400, deadline=None)
@given(laid_out())
def test_pieces_make_up_the_tensor_in_c_order(array: Array) -> None:
    told: list[bytes] = []
    taken = [bytes(piece) for piece in contents("x", Tensor.of(array)._replace(told=lambda piece: told.append(bytes(piece))))]
    assert b"".join(taken) == array.tobytes()
    assert taken == told
    assert taken  # who waits for the last tensor is told of an empty one too
    rows = array.squeeze()
    row = rows[:1].nbytes if rows.ndim else array.nbytes
    assert all(len(piece) <= max(ROOM, row) for piece in taken)


def test_large_matrices_are_copied_piece_by_piece() -> None:
    for shape in ((2048, 1000), (728, 728), (3, 500_000), (500_000, 3)):
        array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape).T
        sizes, at, flat = [], 0, array.tobytes()
        for piece in contents("x", Tensor.of(array)):
            sizes.append(len(piece))
            assert piece == flat[at : at + len(piece)]
            at += len(piece)
        assert at == array.nbytes
        assert max(sizes) <= max(1 << 20, array[:1].nbytes)


def test_a_tensor_that_is_not_what_it_announced_is_not_written() -> None:
    with pytest.raises(ValueError, match=r"x: float32\(2,\) was read, float32\(3,\) announced"):
        [*contents("x", Tensor((3,), DType("float32"), lambda: np.zeros(2, np.float32)))]


def test_a_tensor_that_has_fewer_bytes_than_it_announced_is_not_written() -> None:
    with pytest.raises(ValueError, match=r"x: 4 bytes are stored, float32\(3,\) announced"):
        [*contents("x", _arrays.view(memoryview(b"1234"), DType("float32"), (3,)))]


def test_of_a_mapped_file_no_more_is_held_than_was_read_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_bytes(bytes(5 << 20))
    data, passed = _maps.mapped(tmp_path / "x"), [0]
    monkeypatch.setattr(_arrays, "let_go", lambda: passed.append(0))
    for piece in pieces(memoryview(data)):
        passed[-1] += len(piece)
    assert max(passed) <= 2 << 20
    assert isinstance(data, mmap.mmap)


@pytest.mark.parametrize("name", sorted(_arrays.STANDARD | _arrays.EXTENDED))
def test_a_dtype_is_what_numpy_says_of_it(name: str) -> None:
    ours = _arrays.dtype_named(name)
    theirs = np.dtype(getattr(ml_dtypes, name) if name in _arrays.EXTENDED else name)
    assert np.dtype(ours) == theirs
    assert (ours, ours.itemsize) == (theirs.name, theirs.itemsize)
    assert ours.kind == ("V" if name in _arrays.EXTENDED else theirs.kind)  # ml_dtypes says f of one of its own, V of the others
    assert Tensor.of(np.zeros(2, theirs)).dtype == ours
    other = np.dtype("int16" if name != "int16" else "int32")
    for there in (theirs, theirs.type, name):
        assert ours == there == ours
        assert not ours != there  # noqa: SIM202  (the other operator)
        assert ours != other.type != ours


NUMBERS = st.floats(width=32) | st.sampled_from([np.nan, np.inf, -np.inf, -0.0, -1e-30])


@given(hnp.arrays(np.float32, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=5), elements=NUMBERS))
def test_the_least_of_a_tensor_is_found_with_and_without_numpy(array: Array) -> None:
    with np.errstate(all="ignore"):
        kinds = [array.astype(kind) for kind in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16)]
    for each in kinds:
        stored = _arrays.view(memoryview(each.tobytes()), Tensor.of(each).dtype, each.shape)
        assert stored.stored is not None
        plainly, read = _arrays.extremes(stored), _arrays.extremes(Tensor.of(each))
        assert plainly[0] == read[0] == np.isfinite(each).all()
        assert not plainly[0] or plainly[1] == read[1] == each.astype(np.float64).min(initial=np.inf)


@given(laid_out(), st.sampled_from("<>"))
def test_only_what_lies_as_this_machine_has_it_is_stored(array: Array, order: _arrays.Order) -> None:
    dtype = Tensor.of(array).dtype
    carrier = array.view(f"u{dtype.itemsize}")
    data = memoryview(carrier.astype(carrier.dtype.newbyteorder(order)).tobytes("A"))
    tensor = _arrays.view(data, dtype, array.shape, order=order)
    assert (tensor.stored is not None) == (order == "<" and dtype != "bool")  # which may be any byte in a file
    if tensor.stored:
        assert tensor.read().tobytes() == bytes(tensor.stored())
    turned = _arrays.view(data, dtype, array.shape, strides=(dtype.itemsize,) * array.ndim)
    if turned.stored:
        assert turned.read().tobytes() == bytes(turned.stored())
    then = _arrays.view(data, dtype, array.shape, then=np.negative)
    assert then.stored is None
