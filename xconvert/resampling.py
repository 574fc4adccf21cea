"""Images of another size: separable filters, in NumPy alone, to the bit as Pillow computes them.

Pillow (``src/libImaging/Resample.c``) filters one axis, then the other, with weights of 22 bits after the point, and rounds to 8
bits after each; a filter is as wide as the pixels that become one. OpenCV (``INTER_LINEAR``) and TensorFlow leave it two pixels
wide. What is not wanted of the result is not computed, so a crop of an image a hundred thousand pixels wide costs what the crop
costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from xconvert.model import Array
from xconvert.tuples import NamedTuple

_BLOCK = 64  # lines that are filtered at a time
_BITS = 22  # after the point, in Pillow's weights: 32 less 8 for the pixel and 2 for sums that overshoot


class Span(NamedTuple):
    """What is wanted of an axis that becomes ``size`` pixels: ``wanted`` of them from ``start`` on."""

    size: int
    start: int
    wanted: int


class Manner(NamedTuple):
    """How an image is resized; the values are those of a preprocessing table."""

    interpolation: str = "bilinear"
    antialias: bool = True
    rounding: str = "per axis"
    grid: str = "centres"


class Taps(NamedTuple):
    """A filter at each wanted pixel: ``first`` (count,) input pixel that it sees, ``weights`` (count, taps) float64."""

    first: Array
    weights: Array


def _box(x: Array) -> Array:
    return ((x > -0.5) & (x <= 0.5)).astype(np.float64)


def _bilinear(x: Array) -> Array:
    found: Array = np.maximum(1 - np.abs(x), 0)
    return found


def _bicubic(x: Array) -> Array:
    """Keys' cubic with a = -1/2, as Pillow writes it."""
    a, x = -0.5, np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    found: Array = np.where(x < 1, near, np.where(x < 2, far, 0.0))
    return found


def _lanczos(x: Array) -> Array:
    found: Array = np.where((x >= -3) & (x < 3), _sinc(x) * _sinc(x / 3), 0.0)
    return found


def _sinc(x: Array) -> Array:
    scaled = np.where(x == 0, 1.0, x * np.pi)
    return np.where(x == 0, 1.0, np.sin(scaled) / scaled)


FILTERS: Mapping[str, tuple[float, Callable[[Array], Array]]] = {  # half its width in pixels, and the filter
    "box": (0.5, _box),
    "bilinear": (1.0, _bilinear),
    "bicubic": (2.0, _bicubic),
    "lanczos": (3.0, _lanczos),
}


def resize(image: Array, rows: Span, columns: Span, manner: Manner) -> Array:
    """What is wanted of ``image`` (H, W, C) uint8 when it is resized: (rows.wanted, columns.wanted, C), uint8, or float32 where
    ``manner`` does not round.
    """
    if manner.interpolation == "nearest":
        return image[_nearest(image.shape[0], rows)[:, None], _nearest(image.shape[1], columns)]
    spans = (rows, columns)
    taps = [taps_of(size, span, manner) for size, span in zip(image.shape[:2], spans, strict=True)]
    if manner.rounding == "per axis":
        for axis in _order(image.shape[:2], spans):
            image = _along(image, spans[axis], taps[axis], axis)
        return image
    if manner.rounding == "once" and manner.interpolation == "bilinear" and not manner.antialias:
        return _as_opencv(image, taps)
    exact = _filtered(_filtered(image, taps[1], 1), taps[0], 0)
    return exact.astype(np.float32) if manner.rounding == "none" else _whole(np.floor(exact + 0.5))


def _as_opencv(image: Array, taps: list[Taps]) -> Array:
    """Rounded once, in OpenCV's fixed point: weights of 11 bits, and sums of which bits are dropped before the last
    (``VResizeLinear`` in modules/imgproc/src/resize.cpp), which makes an image an eighth of a level darker on average.
    """
    rows, columns = (Taps(tap.first, np.rint(tap.weights * 2048).astype(np.int32)) for tap in taps)
    sums = _filtered(image, columns, 1) >> 4
    total: Array = np.zeros((len(rows.first), *sums.shape[1:]), np.int32)
    for tap in range(rows.weights.shape[1]):
        weights = rows.weights[:, tap, None, None]
        total += (sums.take(np.minimum(rows.first + tap, len(sums) - 1), 0) * weights) >> 16
    return _whole((total + 2) >> 2)


def _order(sizes: tuple[int, ...], spans: tuple[Span, Span]) -> tuple[int, int]:
    """Which axis Pillow filters first: columns across rows, unless the image loses more than twice as many rows as columns.

    Found by trying Pillow 13; older ones filter across rows first, always, which may round a pixel of a tall image otherwise.
    """
    fewer_rows, fewer_columns = (size - span.size for size, span in zip(sizes, spans, strict=True))
    return (0, 1) if fewer_rows > max(2 * fewer_columns, 0) else (1, 0)


def _along(image: Array, span: Span, taps: Taps, axis: int) -> Array:
    """``image`` resized along ``axis`` and rounded to 8 bits; as it is where that changes nothing, as Pillow does."""
    if image.shape[axis] == span.size:
        return image.take(range(span.start, span.start + span.wanted), axis)
    return _clipped(_filtered(image, Taps(taps.first, _fixed(taps.weights)), axis))


def taps_of(size: int, span: Span, manner: Manner) -> Taps:
    """The filter of an axis of ``size`` pixels, as ``precompute_coeffs`` in Pillow computes it, with weights that sum to 1."""
    half, function = FILTERS[manner.interpolation]
    scale = size / span.size
    widened = max(scale, 1.0) if manner.antialias else 1.0
    reach = half * widened
    at = np.arange(span.start, span.start + span.wanted)
    centres = (at + 0.5) * scale if manner.grid == "centres" else at * scale + 0.5
    first = np.maximum(np.trunc(centres - reach + 0.5), 0).astype(np.int64)
    last = np.minimum(np.trunc(centres + reach + 0.5), size).astype(np.int64)
    first = np.minimum(first, size - 1)
    offsets = np.arange(math.ceil(reach) * 2 + 1)
    weights = function((offsets + first[:, None] - centres[:, None] + 0.5) * (1.0 / widened))
    weights = np.where(offsets < np.maximum(last - first, 1)[:, None], weights, 0.0)
    total = np.add.accumulate(weights, 1)[:, -1:]  # in the order in which Pillow adds, so to the same bits
    return Taps(first, weights / np.where(total == 0, 1.0, total))


def _fixed(weights: Array) -> Array:
    """Weights as whole numbers; sums of 8-bit pixels times them fit 32 bits, as in Pillow."""
    scaled = weights * (1 << _BITS)
    found: Array = np.trunc(np.where(weights < 0, scaled - 0.5, scaled + 0.5)).astype(np.int32)
    return found


def _clipped(sums: Array) -> Array:
    """Sums of fixed-point products as 8-bit pixels."""
    return _whole((sums + (1 << (_BITS - 1))) >> _BITS)


def _whole(numbers: Array) -> Array:
    found: Array = np.clip(numbers, 0, 255).astype(np.uint8)
    return found


def _filtered(image: Array, taps: Taps, axis: int) -> Array:
    """``image`` (H, W, C) filtered along ``axis``: (count, W, C) or (H, count, C), of the dtype of the weights."""
    shape = list(image.shape)
    shape[axis] = len(taps.first)
    found = np.empty(shape, taps.weights.dtype)
    used = [tap for tap in range(taps.weights.shape[1]) if taps.weights[:, tap].any()]
    seen = [np.minimum(taps.first + tap, image.shape[axis] - 1) for tap in used]
    for at in range(0, image.shape[1 - axis], _BLOCK):  # what stays in the processor's cache is three times as fast
        block = (slice(None), slice(at, at + _BLOCK)) if axis == 0 else (slice(at, at + _BLOCK),)
        sums: Array = np.zeros(found[block].shape, found.dtype)
        for tap, pixels in zip(used, seen, strict=True):
            weights = taps.weights[:, tap]
            sums += image[block].take(pixels, axis) * (weights[:, None, None] if axis == 0 else weights[:, None])
        found[block] = sums
    return found


def _nearest(size: int, span: Span) -> Array:
    """The input pixel of each wanted one; Pillow adds the scale up from the first pixel on (``ImagingScaleAffine``)."""
    scale = size / span.size
    steps = np.full(span.start + span.wanted, scale)
    steps[0] = scale * 0.5
    return np.minimum(np.add.accumulate(steps)[span.start :].astype(np.int64), size - 1)
