"""Every operation against loops that say what it is, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xconvert.backends.numpy import OPERATIONS
from xconvert.model import Array, Layer
from xconvert.padding import output_size, pads, window

RNG = np.random.default_rng(0)


def looped(layer: Layer, x: Array, weight: Array | None = None) -> Array:
    """A convolution, depthwise convolution or max-pool of (H, W, C) by its definition."""
    (top, _), (left, _) = pads(x.shape[0], layer), pads(x.shape[1], layer)
    height, width = (output_size(n, layer) for n in x.shape[:2])
    channels = weight.shape[3] if layer.op == "conv" and weight is not None else x.shape[2]
    out = np.full((height, width, channels), -np.inf if layer.op == "max_pool" else 0.0)
    for row, column, i, j in np.ndindex(height, width, layer.kernel, layer.kernel):
        y, z = row * layer.stride + i * layer.dilation - top, column * layer.stride + j * layer.dilation - left
        if not (0 <= y < x.shape[0] and 0 <= z < x.shape[1]):
            continue
        if weight is None:
            out[row, column] = np.maximum(out[row, column], x[y, z])
        else:
            out[row, column] += x[y, z] @ weight[i, j] if layer.op == "conv" else x[y, z] * weight[i, j]
    return out


@given(
    op=st.sampled_from(["conv", "depthwise", "max_pool"]),
    kernel=st.integers(1, 4),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 3),
    padding=st.sampled_from([0, 1, 2, "same_upper"]),
    size=st.tuples(st.integers(10, 13), st.integers(10, 13)),
)
def test_windows_are_what_their_definition_says(
    op: str, kernel: int, stride: int, dilation: int, padding: int | str, size: tuple[int, int]
) -> None:
    layer = Layer("x", op, ("image",), kernel, stride, padding, dilation=1 if op == "max_pool" else dilation)
    shapes = {"conv": (kernel, kernel, 3, 2), "depthwise": (kernel, kernel, 3)}
    weights = [RNG.standard_normal(shapes[op])] if op in shapes else []
    x = RNG.standard_normal((*size, 3))
    out = OPERATIONS[op](x, layer, *weights)
    expected = looped(layer, x, *weights)
    assert out.shape == expected.shape
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("kernel", "dilation", "expected"), [(1, 1, 1), (3, 1, 3), (3, 2, 5), (2, 3, 4), (1, 2, 1)])
def test_a_window_spans_its_dilated_kernel(kernel: int, dilation: int, expected: int) -> None:
    assert window(Layer("x", "conv", ("image",), kernel=kernel, dilation=dilation)) == expected


def test_a_dilated_depthwise_convolution_with_its_padding_keeps_the_size() -> None:
    layer = Layer("x", "depthwise", ("image",), kernel=3, padding=2, dilation=2)
    assert [output_size(size, layer) for size in (1, 2, 10, 19)] == [1, 2, 10, 19]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_classifier_scales_its_input_and_not_its_bias(dtype: str) -> None:
    x, weight, bias = np.array([1, 2], dtype), np.array([[1, 2, 3], [4, 5, 6]], dtype), np.array([10, 20, 30], dtype)
    out = OPERATIONS["linear"](x, Layer("fc", "linear", ("image",), scale=0.5), weight, bias)
    assert out.dtype == dtype
    assert out.tolist() == [14.5, 26, 37.5]
