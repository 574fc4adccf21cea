"""Axis notation: moving axes there and back changes nothing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xconvert import axes
from xconvert.formats._arrays import contents, view
from xconvert.loading import rearranged
from xconvert.model import DType

LETTERS = "OIHW"


@st.composite
def patterns(draw: st.DrawFn) -> tuple[str, str, tuple[int, ...]]:
    """Two orders of the same letters, each with ones strewn in, and a shape for the first."""

    def pattern() -> list[str]:
        order = list(draw(st.permutations(LETTERS)))
        for _ in range(draw(st.integers(0, 2))):
            order.insert(draw(st.integers(0, len(order))), "1")
        return order

    source, target = pattern(), pattern()
    shape = tuple(1 if axis == "1" else draw(st.integers(1, 4)) for axis in source)
    return " ".join(source), " ".join(target), shape


@given(patterns())
def test_there_and_back_is_the_identity(case: tuple[str, str, tuple[int, ...]]) -> None:
    source, target, shape = case
    array = np.arange(np.prod(shape)).reshape(shape)
    moved = axes.rearrange(array, source, target)
    assert moved.shape == axes.reshape(shape, source, target)
    assert np.array_equal(axes.rearrange(moved, target, source), array)


@given(patterns(), patterns())
def test_what_lies_in_the_file_in_the_order_wanted_is_taken_as_it_is(
    case: tuple[str, str, tuple[int, ...]], other: tuple[str, str, tuple[int, ...]]
) -> None:
    source, canonical, shape = case
    target = other[1]
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    first = rearranged(view(memoryview(array.tobytes()), DType("float32"), shape), source, canonical)
    for wanted in (target, source):
        moved = rearranged(first, canonical, wanted)
        expected = axes.rearrange(axes.rearrange(array, source, canonical), canonical, wanted)
        assert moved.shape == expected.shape
        assert b"".join(map(bytes, contents("x", moved))) == expected.tobytes()
        assert b"".join(map(bytes, contents("x", moved._replace(stored=None)))) == expected.tobytes()
        assert (moved.stored is not None) == (axes.letters(wanted) == axes.letters(source))


@given(patterns())
def test_every_element_keeps_its_named_coordinates(case: tuple[str, str, tuple[int, ...]]) -> None:
    source, target, shape = case
    array = np.arange(np.prod(shape)).reshape(shape)
    moved = axes.rearrange(array, source, target)
    for index in np.ndindex(shape):
        where = dict(zip(source.split(), index, strict=True))
        assert moved[tuple(0 if axis == "1" else where[axis] for axis in target.split())] == array[index]


def test_a_depthwise_kernel_moves_as_torch_and_keras_lay_it_out() -> None:
    torch = np.random.default_rng(0).standard_normal((7, 1, 3, 3))
    assert np.array_equal(axes.rearrange(torch, "C 1 H W", "H W C 1"), torch.transpose(2, 3, 0, 1))


@pytest.mark.parametrize("pattern", ["O O", "OI H", "O 2", "O-I"])
def test_what_is_no_pattern_is_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="no list of distinct axes"):
        axes.parse(pattern)


def test_a_shape_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 2\) does not have the axes `C 1`"):
        axes.rearrange(np.zeros((2, 2)), "C 1", "C")
    with pytest.raises(ValueError, match="different axes"):
        axes.rearrange(np.zeros((2, 2)), "I O", "I C")
