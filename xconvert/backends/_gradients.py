"""One step of training by the reference: batch norms take the statistics of the batch, and the derivative of every operation is
one small function. Maps are (N, H, W, C), computed as one batch, because those statistics couple its images.

A derivative takes the gradient of the layer's output, the layer, its inputs and its parameters, and returns the gradients of the
inputs, and those of the parameters by name. They are held to central finite differences in ``tests/test_training.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from xconvert.backends import Job
from xconvert.backends.numpy import OPERATIONS
from xconvert.model import Array, Layer
from xconvert.padding import pads, window
from xconvert.tuples import NamedTuple

Back = tuple[tuple[Array, ...], dict[str, Array]]
DECIDE = ("relu", "max_pool")  # which gradient passes depends on the input


def _padded(x: Array, layer: Layer, value: float) -> Array:
    return np.pad(x, ((0, 0), pads(x.shape[1], layer), pads(x.shape[2], layer), (0, 0)), constant_values=value)


def _cropped(padded: Array, layer: Layer, x: Array) -> Array:
    """What of a gradient of the padded map is the gradient of ``x``."""
    (top, _), (left, _) = pads(x.shape[1], layer), pads(x.shape[2], layer)
    return padded[:, top : top + x.shape[1], left : left + x.shape[2]]


def _seen(padded: Array, layer: Layer) -> Iterator[tuple[tuple[int, int], Array]]:
    """For each pixel of the kernel, row by row, what all outputs see through it: a view (N, H', W', C) of ``padded``."""
    s, d = layer.stride, layer.dilation
    height, width = ((n - window(layer)) // s + 1 for n in padded.shape[1:3])
    for i, j in np.ndindex(layer.kernel, layer.kernel):
        yield (i, j), padded[:, i * d : i * d + s * (height - 1) + 1 : s, j * d : j * d + s * (width - 1) + 1 : s]


def conv(gradient: Array, layer: Layer, x: Array, weight: Array) -> Back:
    """Of ``x`` (N, H, W, I) and ``weight`` (kernel, kernel, I, O), one product each for every pixel of the kernel."""
    padded = _padded(x, layer, 0.0)
    back, of_weight = np.zeros_like(padded), np.empty_like(weight)
    rows = gradient.reshape(-1, weight.shape[3])
    for (at, seen), (_, into) in zip(_seen(padded, layer), _seen(back, layer), strict=True):
        of_weight[at] = seen.reshape(-1, weight.shape[2]).T @ rows
        into += (rows @ weight[at].T).reshape(into.shape)
    return (_cropped(back, layer, x),), {"weight": of_weight}


def depthwise(gradient: Array, layer: Layer, x: Array, weight: Array) -> Back:
    """Of ``x`` (N, H, W, C) and ``weight`` (kernel, kernel, C)."""
    padded = _padded(x, layer, 0.0)
    back, of_weight = np.zeros_like(padded), np.empty_like(weight)
    for (at, seen), (_, into) in zip(_seen(padded, layer), _seen(back, layer), strict=True):
        of_weight[at] = np.einsum("nhwc,nhwc->c", seen, gradient)
        into += gradient * weight[at]
    return (_cropped(back, layer, x),), {"weight": of_weight}


def pointwise(gradient: Array, layer: Layer, x: Array, weight: Array) -> Back:
    """Of ``x`` (N, H, W, I) and ``weight`` (I, O)."""
    rows = gradient.reshape(-1, weight.shape[1])
    return ((rows @ weight.T).reshape(x.shape),), {"weight": x.reshape(-1, weight.shape[0]).T @ rows}


def moments(x: Array) -> tuple[Array, Array]:
    """Mean and biased variance of each channel of (N, H, W, C), over images and pixels: (C,) each."""
    return x.mean((0, 1, 2)), x.var((0, 1, 2))


def normalised(x: Array, layer: Layer, gamma: Array, beta: Array, *_: Array) -> Array:
    """gamma · (x - mean) / sqrt(variance + epsilon) + beta, with the statistics of the batch itself (training)."""
    mean, variance = moments(x)
    return OPERATIONS["batch_norm"](x, layer, gamma, beta, mean, variance)


def batch_norm(gradient: Array, layer: Layer, x: Array, gamma: Array, *_: Array) -> Back:
    """Of ``x`` (N, H, W, C), gamma and beta, through the statistics too (Ioffe and Szegedy 2015, section 3)."""
    mean, variance = moments(x)
    scale = 1 / np.sqrt(variance + x.dtype.type(layer.epsilon))
    unit = (x - mean) * scale
    of_gamma, of_beta = (gradient * unit).sum((0, 1, 2)), gradient.sum((0, 1, 2))
    count = x.dtype.type(x.size // x.shape[3])
    back = (gamma * scale) * (gradient - of_beta / count - unit * (of_gamma / count))
    return (back,), {"gamma": of_gamma, "beta": of_beta}


def relu(gradient: Array, layer: Layer, x: Array, doubt: Doubt | None = None) -> Back:
    """Passes where ``x`` is positive; at zero the gradient is zero, as in every framework.

    With ``doubt`` a gradient is added, or taken away, where ``x`` is as good as zero.
    """
    passes = (x > 0).astype(gradient.dtype)
    return (gradient * (passes + doubt.signs(np.abs(x)) if doubt else passes),), {}


def max_pool(gradient: Array, layer: Layer, x: Array, doubt: Doubt | None = None) -> Back:
    """Goes to the largest pixel of each window; where several are, to the first of them, row by row.

    With ``doubt`` a gradient moves from it to the second largest, or away from that, where they are as good as equal.
    """
    padded = _padded(x, layer, -np.inf)
    seen = np.stack([view for _, view in _seen(padded, layer)])
    parts = [(seen.argmax(0), gradient)]
    if doubt:
        largest = seen.max(0)
        np.put_along_axis(seen, parts[0][0][None], -np.inf, 0)
        moved = gradient * doubt.signs(largest - seen.max(0))
        parts += [(parts[0][0], -moved), (seen.argmax(0), moved)]
    back = np.zeros(padded.shape, gradient.dtype)
    for i, (_, into) in enumerate(_seen(back, layer)):
        for winner, part in parts:
            into += part * (winner == i)
    return (_cropped(back, layer, x),), {}


def add(gradient: Array, layer: Layer, x: Array, y: Array) -> Back:
    """The same for both."""
    return (gradient, gradient), {}


def global_average(gradient: Array, layer: Layer, x: Array) -> Back:
    """(N, C) → (N, H, W, C): an equal part for every pixel."""
    part = gradient / x.dtype.type(x.shape[1] * x.shape[2])
    return (np.broadcast_to(part[:, None, None], x.shape),), {}


def linear(gradient: Array, layer: Layer, x: Array, weight: Array, bias: Array) -> Back:
    """Of ``x`` (N, I), ``weight`` (I, O) and ``bias`` (O,); the scale is that of the input."""
    scale = x.dtype.type(layer.scale)
    return ((gradient @ weight.T) * scale,), {"weight": (x * scale).T @ gradient, "bias": gradient.sum(0)}


class Doubt(NamedTuple):
    """Decisions that rounding may turn: those whose values are closer to each other than ``margin``."""

    margin: float
    rng: np.random.Generator

    def signs(self, distance: Array) -> Array:
        """1 or -1 at random where ``distance`` is below the margin, else 0."""
        drawn = 2 * self.rng.integers(0, 2, distance.shape, np.int8) - 1
        signs: Array = np.where(distance < self.margin, drawn, 0).astype(distance.dtype)
        return signs


DERIVATIVES: Mapping[str, Callable[..., Back]] = {
    f.__name__: f for f in (conv, depthwise, pointwise, batch_norm, relu, max_pool, add, global_average, linear)
}


def cross_entropy(logits: Array, labels: Array) -> tuple[Array, Array]:
    """Mean over the images of -log softmax at the label, and its gradient; logits (N, classes), labels (N,)."""
    shifted = logits - logits.max(1, keepdims=True)
    log = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    hit = np.arange(logits.shape[1]) == labels[:, None]
    return -log[hit].mean(), (np.exp(log) - hit).astype(log.dtype) / log.dtype.type(len(log))


def loss_of(output: Array, labels: Array | None) -> tuple[Array, Array]:
    """What a network is trained for, by its logits (N, classes) and labels (N,), or its features (N, H, W, C); its gradient."""
    return half_mean_square(output) if labels is None else cross_entropy(output, labels)


def half_mean_square(features: Array) -> tuple[Array, Array]:
    """mean(features²) / 2, what a network without classes is trained for here, and its gradient."""
    half = features.dtype.type(0.5)
    return np.square(features).mean() * half, features / features.dtype.type(features.size)


class Tape(NamedTuple):
    """What a forward pass leaves for the way back: every layer's output, and the image's own."""

    layers: Sequence[Layer]
    weights: Mapping[str, Array]
    outputs: Mapping[str, Array]

    def inputs(self, layer: Layer) -> list[Array]:
        """What ``layer`` was given."""
        return [self.outputs[name] for name in layer.inputs]

    def parameters(self, layer: Layer) -> list[Array]:
        """The parameters of ``layer``, in order."""
        return [self.weights[f"{layer.name}.{parameter}"] for parameter in layer.parameters]


class Decisions(NamedTuple):
    """By what ReLUs and pools decide which gradient passes, where it is not simply what they were given.

    A value within rounding of zero, or of its rival in a window, lets a gradient pass whole or not at all; both are there to tell
    this from rounding itself. ``activations``: of layers before them, which they decide by instead, as another run had them.
    ``margins``: ReLU or pool → how close a value must be for its gradient to be added or taken away once more, at random by
    ``seed``: the square of what this changes is on average the sum of the squares of what each such value can change.
    """

    activations: Mapping[str, Array] = {}
    margins: Mapping[str, float] = {}
    seed: int = 0


def forward(job: Job) -> Tape:
    """The forward pass in training mode, in ``job.dtype``: the reference's own operations but for the batch norms."""
    weights = {name: np.ascontiguousarray(array, job.dtype) for name, array in job.weights.items()}
    outputs = {"image": job.images.astype(job.dtype)}
    tape = Tape(job.layers, weights, outputs)
    for layer in job.layers:
        inputs, parameters = tape.inputs(layer), tape.parameters(layer)
        if layer.op == "batch_norm":
            outputs[layer.name] = normalised(inputs[0], layer, *parameters)
        else:
            single = [OPERATIONS[layer.op](*maps, layer, *parameters) for maps in zip(*inputs, strict=True)]
            outputs[layer.name] = np.stack(single)
    return tape


def backward(tape: Tape, gradient: Array, decisions: Decisions) -> dict[str, Array]:
    """``"<layer>.<parameter>"`` → gradient, given that of the last layer's output."""
    waiting = {tape.layers[-1].name: gradient}
    found: dict[str, Array] = {}
    rng = np.random.default_rng(decisions.seed)
    for layer in reversed(tape.layers):
        gradient, inputs = waiting.pop(layer.name), tape.inputs(layer)
        if layer.op in DECIDE:
            margin = decisions.margins.get(layer.name)
            doubt = None if margin is None else Doubt(margin, rng)
            back, own = DERIVATIVES[layer.op](gradient, layer, decisions.activations.get(layer.inputs[0], inputs[0]), doubt)
        else:
            back, own = DERIVATIVES[layer.op](gradient, layer, *inputs, *tape.parameters(layer))
        found.update({f"{layer.name}.{parameter}": array for parameter, array in own.items()})
        for name, part in zip(layer.inputs, back, strict=True):
            if name != "image":
                waiting[name] = waiting[name] + part if name in waiting else part
    return found


def statistics(tape: Tape) -> dict[str, Array]:
    """The running mean and variance of every batch norm after the step, with the biased variance of the batch."""
    found = {}
    for layer in tape.layers:
        if layer.op == "batch_norm":
            for parameter, now in zip(("mean", "variance"), moments(*tape.inputs(layer)), strict=True):
                name, kept = f"{layer.name}.{parameter}", now.dtype.type(layer.momentum)
                found[name] = tape.weights[name] * kept + now * (1 - kept)
    return found


def train(job: Job) -> dict[str, Array]:
    """One step, as ``Backend.train`` says: loss, gradients, running statistics, and activations of ``job.taps``."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is the verifier's to tell
        tape = forward(job)
        return {**numbers(tape, job.labels), **{name: tape.outputs[name] for name in job.taps}}


def numbers(tape: Tape, labels: Array | None, decisions: Decisions | None = None) -> dict[str, Array]:
    """Loss, gradients and running statistics of a step whose forward pass is on ``tape``; labels (N,) of a classifier."""
    output = tape.outputs[tape.layers[-1].name]
    loss, gradient = loss_of(output, labels)
    return {"loss": np.asarray(loss), **backward(tape, gradient, decisions or Decisions()), **statistics(tape)}
