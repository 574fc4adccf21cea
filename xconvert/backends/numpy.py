"""The reference: every operation as one small NumPy function, in the field's own terms. Maps are (N, H, W, C).

Sums run in a fixed order and each image is computed by itself, so results do not depend on the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.lib.stride_tricks import as_strided, sliding_window_view

from xconvert.backends import Backend, Job, Serve
from xconvert.backends._graph import execute
from xconvert.model import Array, Layer


def window(layer: Layer) -> int:
    """Pixels along an axis that one output pixel of ``layer`` sees: from the first of its kernel to the last."""
    return (layer.kernel - 1) * layer.dilation + 1


def pads(size: int, layer: Layer) -> tuple[int, int]:
    """Pixels that ``layer`` adds before and after an axis of ``size`` pixels.

    ``"same_upper"`` is TensorFlow's SAME (tensorflow/core/framework/common_shape_fns.cc): the output has ceil(size /
    stride) pixels and an odd one goes to the end.
    """
    if isinstance(layer.padding, int):
        return layer.padding, layer.padding
    total = max((-(-size // layer.stride) - 1) * layer.stride + window(layer) - size, 0)
    return total // 2, total - total // 2


def output_size(size: int, layer: Layer) -> int:
    """Pixels along an axis after ``layer``, given ``size`` before it."""
    return (size + sum(pads(size, layer)) - window(layer)) // layer.stride + 1


def _padded(x: Array, layer: Layer, value: float) -> Array:
    rows, columns = pads(x.shape[0], layer), pads(x.shape[1], layer)
    if not any(rows + columns):
        return x
    return np.pad(x, (rows, columns, (0, 0)), constant_values=value)


def conv(x: Array, layer: Layer, weight: Array) -> Array:
    """(H, W, I) * (kernel, kernel, I, O) → (H', W', O); zero padding, no bias."""
    s = layer.stride
    if layer.kernel == 1:
        out: Array = np.matmul(_padded(x, layer, 0.0)[::s, ::s], weight[0, 0])
        return out
    windows = sliding_window_view(_padded(x, layer, 0.0), (window(layer),) * 2, axis=(0, 1))
    windows = windows[::s, ::s, :, :: layer.dilation, :: layer.dilation]  # (H', W', I, kernel, kernel)
    rows = windows.transpose(0, 1, 3, 4, 2).reshape(-1, weight[..., 0].size)
    out = np.matmul(rows, weight.reshape(-1, weight.shape[3]))
    return out.reshape(*windows.shape[:2], -1)


def depthwise(x: Array, layer: Layer, weight: Array) -> Array:
    """(H, W, C) * (kernel, kernel, C) → (H', W', C); zero padding, no bias.

    Rows of W·C are multiplied with the kernel repeated W times: one pass of ``einsum`` without a temporary, 1.8 times
    the speed of shifting and adding (shared/facts/performance.md, B2).
    """
    x = np.ascontiguousarray(_padded(x, layer, 0.0))
    k, s, d, channels = layer.kernel, layer.stride, layer.dilation, x.shape[2]
    height, width = ((n - window(layer)) // s + 1 for n in x.shape[:2])
    row, column, item = x.strides
    if s > 1:
        view = as_strided(x, (height, width, k, k, channels), (row * s, column * s, row * d, column * d, item))
        out: Array = np.einsum("hwijc,ijc->hwc", view, weight)
        return out
    view = as_strided(x, (height, k, k, width * channels), (row, row * d, column * d, item))
    out = np.einsum("hijm,ijm->hm", view, np.tile(weight, (1, 1, width)))
    return out.reshape(height, width, channels)


def pointwise(x: Array, layer: Layer, weight: Array) -> Array:
    """(H, W, I) * (I, O) → (H, W, O)."""
    out: Array = np.matmul(x.reshape(-1, x.shape[2]), weight)
    return out.reshape(*x.shape[:2], -1)


def batch_norm(x: Array, layer: Layer, gamma: Array, beta: Array, mean: Array, variance: Array) -> Array:
    """gamma · (x - mean) / sqrt(variance + epsilon) + beta, with stored statistics (inference)."""
    scale = gamma / np.sqrt(variance + x.dtype.type(layer.epsilon))
    out: Array = x * scale + (beta - mean * scale)
    return out


def relu(x: Array, layer: Layer) -> Array:
    """max(x, 0)."""
    out: Array = np.maximum(x, 0)
    return out


def max_pool(x: Array, layer: Layer) -> Array:
    """Largest value under each kernel x kernel window; the border counts as minus infinity."""
    x, k, s = _padded(x, layer, -np.inf), layer.kernel, layer.stride
    height, width = (x.shape[0] - k) // s + 1, (x.shape[1] - k) // s + 1
    rows = x[: s * height : s]
    for i in range(1, k):
        rows = np.maximum(rows, x[i : i + s * (height - 1) + 1 : s])
    out = rows[:, : s * width : s]
    for i in range(1, k):
        out = np.maximum(out, rows[:, i : i + s * (width - 1) + 1 : s])
    return out


def add(x: Array, y: Array, layer: Layer) -> Array:
    """x + y."""
    out: Array = x + y
    return out


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
    images = job.images.astype(job.dtype)
    wanted = {*job.taps, job.layers[-1].name}
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is the verifier's to tell
        weights = {name: np.ascontiguousarray(array, job.dtype) for name, array in job.weights.items()}
        single = [execute(job.layers, image, lambda layer, inputs: _step(layer, inputs, weights), wanted) for image in images]
    return {name: np.stack([outputs[name] for outputs in single]) for name in single[0]}


def _step(layer: Layer, inputs: list[Array], weights: Mapping[str, Array]) -> Array:
    return OPERATIONS[layer.op](*inputs, layer, *(weights[f"{layer.name}.{parameter}"] for parameter in layer.parameters))


def train(job: Job) -> dict[str, Array]:
    """One step of training in ``job.dtype``, by derivatives written out; the running variance takes the biased one."""
    from xconvert.backends import _gradients  # which needs the operations above

    return _gradients.train(job)


def serve(job: Job) -> Serve:
    """The reference, ready to answer in ``job.dtype``."""
    last = job.layers[-1].name
    return lambda images: run(replace(job, images=images, taps=()))[last]


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
