"""The reference: every operation as one small NumPy function, in the field's own terms. Maps are (N, H, W, C).

Sums run in a fixed order and each image is computed by itself, so results do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import numpy as np
from numpy.lib.stride_tricks import as_strided

from xconvert.backends import Backend, Job, Serve
from xconvert.model import Array, Layer
from xconvert.padding import pads, window

TOGETHER = 2048  # numbers that a depthwise convolution takes as one: with nine of the kernel and three rows they fill 100 KB


def padded(x: Array, layer: Layer) -> Array:
    """``x`` with the border that ``layer`` adds, ``border(layer)``; ``x`` itself where it adds none."""
    rows, columns = pads(x.shape[0], layer), pads(x.shape[1], layer)
    if not any(rows + columns):
        return x
    return np.pad(x, (rows, columns, (0, 0)), constant_values=border(layer))


def border(layer: Layer) -> float:
    """What ``layer`` takes for the pixels that it adds: zero, or minus infinity where it pools."""
    return -np.inf if layer.op == "max_pool" else 0.0


# Every operation takes its inputs (H, W, C), the layer and its parameters, and writes into ``out`` where that is given.


def conv(x: Array, layer: Layer, weight: Array, out: Array | None = None) -> Array:
    """(H, W, I) * (kernel, kernel, I, O) → (H', W', O); zero padding, no bias.

    What each output pixel sees is copied side by side into one row, and the rows are multiplied with the kernel.
    """
    x = padded(x, layer)
    k, s, d, inputs = layer.kernel, layer.stride, layer.dilation, x.shape[2]
    height, width = ((n - window(layer)) // s + 1 for n in x.shape[:2])
    row, column, item = x.strides
    if k == 1:
        return pointwise(x[::s, ::s], layer, weight[0, 0], out)
    view = as_strided(x, (height, width, k, k, inputs), (row * s, column * s, row * d, column * d, item))
    return pointwise(view.reshape(height, width, -1), layer, weight.reshape(-1, weight.shape[3]), out)


def depthwise(x: Array, layer: Layer, weight: Array, out: Array | None = None) -> Array:
    """(H, W, C) * (kernel, kernel, C) → (H', W', C); zero padding, no bias; ``out`` is contiguous.

    ``einsum`` multiplies and adds in one pass without a temporary. Where the stride is 1, neighbouring pixels are taken together
    as one long pixel, with the kernel repeated for each (1.8 times the speed of shifting and adding: shared/facts/performance.md,
    B2), but no more of them than the fastest cache holds with the kernel (a third faster again than whole rows).
    """
    x = np.ascontiguousarray(padded(x, layer))
    k, s, d, channels = layer.kernel, layer.stride, layer.dilation, x.shape[2]
    height, width = ((n - window(layer)) // s + 1 for n in x.shape[:2])
    out = np.empty((height, width, channels), x.dtype) if out is None else out
    row, column, item = x.strides
    together = max(TOGETHER // channels, 1) if s == 1 else 1
    repeated = np.tile(weight, (1, 1, together))
    whole = width - width % together
    for start, stop, pixels in ((0, whole, together), (whole, width, width - whole)):  # what is left over goes by itself
        if start < stop:
            shape, size = (height, (stop - start) // pixels), pixels * channels
            strides = (row * s, column * s * pixels, row * d, column * d, item)
            view = np.ndarray((*shape, k, k, size), x.dtype, x, start * column * s, strides)
            into = np.ndarray((*shape, size), x.dtype, out, start * column, (width * column, pixels * column, item))
            np.einsum("hwijc,ijc->hwc", view, repeated[..., :size], out=into)
    return out


def pointwise(x: Array, layer: Layer, weight: Array, out: Array | None = None) -> Array:
    """(H, W, I) * (I, O) → (H, W, O)."""
    into = None if out is None else out.reshape(-1, weight.shape[1])
    product: Array = np.matmul(x.reshape(-1, x.shape[2]), weight, out=into)
    return product.reshape(*x.shape[:2], -1)


def batch_norm(
    x: Array, layer: Layer, gamma: Array, beta: Array, mean: Array, variance: Array, out: Array | None = None
) -> Array:
    """gamma · (x - mean) / sqrt(variance + epsilon) + beta, with stored statistics (inference)."""
    scale = gamma / np.sqrt(variance + x.dtype.type(layer.epsilon))
    out = np.multiply(x, scale, out=out)
    out += beta - mean * scale
    return out


def relu(x: Array, layer: Layer, out: Array | None = None) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0, out=out)


def max_pool(x: Array, layer: Layer, out: Array | None = None) -> Array:
    """Largest value under each kernel x kernel window; the border counts as minus infinity."""
    x, k, s = padded(x, layer), layer.kernel, layer.stride
    height, width = (x.shape[0] - k) // s + 1, (x.shape[1] - k) // s + 1
    rows = _largest([x[i : i + s * (height - 1) + 1 : s] for i in range(k)])
    return _largest([rows[:, i : i + s * (width - 1) + 1 : s] for i in range(k)], out)


def _largest(views: Sequence[Array], out: Array | None = None) -> Array:
    """The largest of several arrays, element by element."""
    out = np.maximum(views[0], views[-1], out=out)
    for view in views[1:-1]:
        np.maximum(out, view, out=out)
    return out


def add(x: Array, y: Array, layer: Layer, out: Array | None = None) -> Array:
    """x + y."""
    return np.add(x, y, out=out)


def global_average(x: Array, layer: Layer) -> Array:
    """(H, W, C) → (C,): mean over all pixels."""
    out: Array = x.mean((0, 1))
    return out


def linear(x: Array, layer: Layer, weight: Array, bias: Array) -> Array:
    """scale · (I,) * (I, O) + (O,) → (O,)."""
    scaled = x if layer.scale == 1 else x * x.dtype.type(layer.scale)
    out: Array = np.matmul(scaled, weight) + bias
    return out


OPERATIONS: Mapping[str, Callable[..., Array]] = {
    f.__name__: f for f in (conv, depthwise, pointwise, batch_norm, relu, max_pool, add, global_average, linear)
}


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps`` and of the last layer, in ``job.dtype``, by layer name."""
    from xconvert.backends import _pass  # which needs the operations above

    return _pass.run(job)


class Walk(Protocol):
    """A forward pass that is asked for the output of one layer after another."""

    def output(self, name: str) -> list[Array] | None:
        """The output of a layer for each image, to be looked at before another layer is asked for; None where it has no such."""


Read = Callable[[], Array]  # gives a weight when it is needed
Start = Callable[[Sequence[Layer], Mapping[str, Read], Sequence[Array], str], Sequence[Walk]]


def walking() -> AbstractContextManager[Start]:
    """Starts passes that go along with each other, and share what they can. Given the layers of a network, what reads its
    weights, batches of images (N, H, W, C) of any sizes, and a dtype, it returns a walk for each batch. A weight is read once for
    all of them, also for several networks that read theirs by the same function.
    """
    from xconvert.backends import _walks

    return _walks.walking()


def train(job: Job) -> dict[str, Array]:
    """One step of training in ``job.dtype``, by derivatives written out; the running variance takes the biased one."""
    from xconvert.backends import _gradients  # which needs the operations above

    return _gradients.train(job)


def serve(job: Job) -> Serve:
    """The reference, ready to answer in ``job.dtype``: what ``run`` would copy of the weights for each batch is copied once."""
    from xconvert.backends._pass import ready

    last, dtype = job.layers[-1].name, np.dtype(job.dtype)
    prepared = job._replace(weights={name: ready(array, dtype) for name, array in job.weights.items()}, taps=())
    return lambda images: run(prepared._replace(images=images))[last]


BACKEND = Backend(
    "numpy",
    "the reference, in NumPy alone",
    requires=(),
    kind="graph",
    run=run,
    serve=serve,
    serves="one image after the other",
    train=train,
)
