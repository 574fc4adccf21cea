"""Whether two networks take the same step of training: loss, the gradient of every parameter, running statistics after it.

What a gradient is off by is measured in shares of its length, ||other - reference|| / ||reference||, as one vector. Two kinds of
numbers are sums that cancel by nature, and have another measure:

* a batch norm that another linear layer and batch norm follow gets no gradient for its beta at all, but for rounding: what its
  gamma and beta get is measured by the length of both together;
* a channel's mean may be next to nothing beside its values: it is measured by the root of their mean square.

In float64 all must agree to ``compare.EXACT`` (measured: at the most 4e-12). In float32 each may be off by 8 times what the
reference's own float32 is off by, where ReLUs and pools decide as in float64; and by what they may decide otherwise: a value
within rounding of zero lets a gradient pass whole or not at all, which no average evens out (measured: one such pixel moved the
gradients of the layers before it by 4e-3, where rounding alone makes 1e-5). So the reference goes back twice more, and wherever a
value is within 8 times its rounding it adds its gradient once more or takes it away, at random; by what both times change
together a gradient may be off too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from xconvert.attributes import answering
from xconvert.backends import Backend, Job, find, train
from xconvert.backends import _gradients as reference
from xconvert.backends._graph import STATISTICS
from xconvert.compare import EXACT, ROUNDINGS, allowed_for
from xconvert.errors import VerificationError
from xconvert.model import Array, Layer, Model
from xconvert.probe import images as probe
from xconvert.report import LayerError, Step
from xconvert.tuples import NamedTuple

SIZE = 96  # the last map of every Xception has 3 by 3 pixels then, and pools see uneven edges
BATCH = 4
DRAWS = 2
MOST = 0.5  # what turned decisions may excuse, so that a gradient that is missing is told in the smallest of networks


class Measured(NamedTuple):
    """The reference's step in float64: the numbers by name, by what each is measured, what each is off by in float32, and how
    much of it hangs on values within rounding of zero; the latter two are empty where nothing is rounded.
    """

    numbers: Mapping[str, Array]
    measures: Mapping[str, float]
    roundings: Mapping[str, float]
    kinks: Mapping[str, float]


def compare_step(
    a: Model,
    b: Model,
    *,
    calibrated: bool | None = None,
    size: int = SIZE,
    batch: int = BATCH,
    seed: int = 0,
    tolerance: float | None = None,
) -> Step:
    """One step of both by the reference in float64, with ``batch`` seeded images of ``size`` pixels and seeded labels.

    Where weights of one were rounded once more, as by a fold, the tolerance is that of float32, else ``EXACT``. ``calibrated``
    says whether; by default where an attribute differs that the answer depends on. ``tolerance`` overrides both. Raises
    ``VerificationError`` when the step of ``a`` is not finite.
    """
    images, labels = _batch(a, size, batch, seed)
    rounded = answering(a.values) != answering(b.values) if calibrated is None else calibrated
    measured = _measure(a, images, labels, calibrated=rounded)
    other = train(b, images, labels, dtype="float64")
    return _step(a, measured, other, size, tolerance, _differences(a, b))


def compare_step_backend(
    model: Model,
    executed: Model,
    backend: str,
    dtype: str = "float32",
    names: Mapping[str, str] | None = None,
    published: str = "",
    path: Path | None = None,
    *,
    size: int = SIZE,
    batch: int = BATCH,
    seed: int = 0,
    tolerance: float | None = None,
) -> Step:
    """One step of ``model`` by the reference in float64, against one of ``executed`` by a backend in ``dtype``.

    ``executed`` is ``model`` with the attributes of the backend's class; ``names``, ``published`` and ``path`` are those of
    ``backends.train``. Conventions of the framework (``Backend.variance``, ``Backend.single``) are made up for in the reference,
    and told. Where attributes differ the step does too: the reasons name them, and whether they are all that differs. Raises
    ``UsageError`` for a backend that cannot train, ``VerificationError`` when the step of ``model`` is not finite.
    """
    executor = find(backend)
    images, labels = _batch(model, size, batch, seed)
    other = train(executed, images, labels, backend=backend, dtype=dtype, names=names, published=published, path=path)
    calibrated = dtype != "float64" or answering(model.values) != answering(executed.values)
    measured = _measure(model, images, labels, calibrated, executor)
    step = _step(model, measured, other, size, tolerance, [*_conventions(executor, dtype), *_differences(model, executed)])
    if dtype != "float64" and tolerance is None:
        most = max(error.allowed for error in step.gradients)
        told = f"in {dtype} rounding decides at a ReLU what passes: gradients are held to no more than {most:.0e}, in float64 to"
        step = step._replace(reasons=(*step.reasons, f"{told} {EXACT:.0e}"))
    if step.ok or model.values == executed.values:
        return step
    own = _step(executed, _measure(executed, images, labels, dtype != "float64", executor), other, size, tolerance, [])
    return step._replace(reasons=(*step.reasons, _explained(own)))


def _batch(model: Model, size: int, batch: int, seed: int) -> tuple[Array, Array | None]:
    """Images (N, H, W, channels) and labels (N,); no labels for a network without a head."""
    images = probe(size, batch, model.weights[f"{model.layers[0].name}.weight"].shape[2], seed)
    if not model.head:
        return images, None
    classes = model.weights[f"{model.layers[-1].name}.bias"].shape[0]
    return images, np.random.default_rng([seed, size, batch]).integers(0, classes, batch)


def _measure(model: Model, images: Array, labels: Array | None, calibrated: bool, executor: Backend | None = None) -> Measured:
    """The reference's step as ``executor`` would have it; ``calibrated``: with what float32 makes of it."""
    layers = tuple(_single(layer, executor) for layer in model.layers)
    weights = {name: tensor.read() for name, tensor in model.weights.items()}
    job = Job(layers, weights, images, "float64", labels=labels)
    with np.errstate(all="ignore"):  # what is not finite is told below
        tape = reference.forward(job)
        exact = reference.numbers(tape, labels)
        numbers = _corrected(tape, exact, executor)
        _check_finite(numbers)
        measures = {name: _length(name, numbers) for name in numbers}
        if not calibrated:
            return Measured(numbers, measures, {}, {})
        single = reference.forward(job._replace(dtype="float32"))
        rounded = _corrected(single, reference.numbers(single, labels, reference.Decisions(activations=tape.outputs)), executor)
        roundings = {name: _apart(numbers[name], rounded[name], measures[name]) for name in numbers}
        roundings["loss"] = max(roundings["loss"], _rounding_of_loss(tape, single, labels))
        margins, kinks = _margins(tape, single), dict.fromkeys(numbers, 0.0)
        for draw in range(DRAWS):
            turned = reference.numbers(tape, labels, reference.Decisions(margins=margins, seed=draw))
            for name in turned:
                kinks[name] += _apart(exact[name], turned[name], measures[name])
    return Measured(numbers, measures, roundings, kinks)


def _single(layer: Layer, executor: Backend | None) -> Layer:
    """A layer with the numbers that a framework holds in float32, whatever it computes in."""
    held = executor.single if executor else ()
    if "epsilon" in held:
        layer = layer._replace(epsilon=float(np.float32(layer.epsilon)))
    if "momentum" in held:
        layer = layer._replace(momentum=float(np.float32(layer.momentum)))
    return layer


def _corrected(tape: reference.Tape, step: Mapping[str, Array], executor: Backend | None) -> dict[str, Array]:
    """The numbers of a step by the conventions of ``executor``."""
    numbers = dict(step)
    if executor and "average" in executor.single:
        numbers |= _averaged_in_single(tape, step)
    if executor and executor.variance == "unbiased":
        for layer in tape.layers:
            if layer.op == "batch_norm":
                name, (before,) = f"{layer.name}.variance", tape.inputs(layer)
                numbers[name] = _unbiased(step[name], tape.weights[name], layer, before.size // before.shape[3])
    return numbers


def _unbiased(running: Array, old: Array, layer: Layer, count: int) -> Array:
    """A running variance (C,) that took the batch's, over ``count`` values, divided by n - 1: the part of it that is not the kept
    share of the ``old`` one was the biased variance.
    """
    taken = running - old * running.dtype.type(layer.momentum)
    unbiased: Array = running + taken / running.dtype.type(max(count - 1, 1))
    return unbiased


def _averaged_in_single(tape: reference.Tape, step: Mapping[str, Array]) -> dict[str, Array]:
    """The gradients of all layers before the average over n pixels, which hands back the float32 nearest to 1 / n: they are
    proportional to it.
    """
    names: list[str] = []
    for layer in tape.layers:
        if layer.op == "global_average":
            count = tape.inputs(layer)[0][0, :, :, 0].size
            share = float(np.float32(1 / count)) * count
            return {name: step[name] * step[name].dtype.type(share) for name in names}
        names += [name for name in _names(layer) if not name.endswith(STATISTICS)]
    return {}


def _names(layer: Layer) -> list[str]:
    return [f"{layer.name}.{parameter}" for parameter in layer.parameters]


def _check_finite(numbers: Mapping[str, Array]) -> None:
    if bad := [name for name, array in numbers.items() if not np.isfinite(array).all()]:
        raise VerificationError("the reference's own step of training is not finite", facts=[f"not finite: {', '.join(bad[:4])}"])


def _length(name: str, numbers: Mapping[str, Array]) -> float:
    """By what an error in ``name`` is measured: at the head of this file."""
    layer, _, parameter = name.rpartition(".")
    if parameter in ("gamma", "beta"):
        return math.hypot(*(float(np.linalg.norm(numbers[f"{layer}.{p}"])) for p in ("gamma", "beta")))
    if parameter == "mean":
        return float(np.sqrt(np.sum(np.square(numbers[name]) + np.abs(numbers[f"{layer}.variance"]))))
    return float(np.linalg.norm(numbers[name]))


def _apart(exact: Array, other: Array, measure: float) -> float:
    """How far ``other`` is from ``exact``, in shares of ``measure``; NaN stays NaN."""
    distance = float(np.linalg.norm(other.astype(np.float64) - exact))
    return 0.0 if distance == 0 else distance / measure if measure else math.inf


def _rounding_of_loss(exact: reference.Tape, single: reference.Tape, labels: Array | None) -> float:
    """What the rounding of the network's output can do to the loss at the most (Cauchy and Schwarz), as a share of it: the one
    number that the loss is may by chance be hardly off at all.
    """
    output, rounded = (tape.outputs[tape.layers[-1].name] for tape in (exact, single))
    loss, slope = reference.loss_of(output, labels)
    return float(np.linalg.norm(slope) * np.linalg.norm(rounded - output) / loss) if loss else 0.0


def _margins(exact: reference.Tape, single: reference.Tape) -> dict[str, float]:
    """ReLU or pool → 8 times the root of the mean squared rounding of what it is given."""
    found = {}
    for layer in exact.layers:
        if layer.op in reference.DECIDE:
            rounding = single.inputs(layer)[0] - exact.inputs(layer)[0]
            found[layer.name] = ROUNDINGS * float(np.sqrt(np.mean(np.square(rounding))))
    return found


def _step(
    model: Model,
    measured: Measured,
    other: Mapping[str, Array],
    size: int,
    tolerance: float | None,
    reasons: Sequence[str],
) -> Step:
    errors = {name: _error(name, size, measured, other, tolerance) for name in measured.numbers}
    rows = [errors[name] for layer in model.layers for name in _names(layer)]
    return Step(
        errors["loss"],
        (float(measured.numbers["loss"]), float(other["loss"])),
        tuple(error for error in rows if not error.name.endswith(STATISTICS)),
        tuple(error for error in rows if error.name.endswith(STATISTICS)),
        tuple(reasons),
    )


def _error(name: str, size: int, measured: Measured, other: Mapping[str, Array], tolerance: float | None) -> LayerError:
    exact = measured.numbers[name]
    rounding, allowed = 0.0, EXACT
    if measured.roundings:
        rounding = measured.roundings[name]
        allowed = allowed_for(rounding) + min(measured.kinks.get(name, 0.0), MOST)
    if tolerance is not None:
        allowed = tolerance
    scale = float(np.abs(exact).max())
    if name not in other or other[name].shape != exact.shape:
        return LayerError(name, size, math.inf, math.inf, scale, allowed, math.inf, 0.0, rounding)
    found = other[name].astype(np.float64)
    difference = np.abs(found - exact)
    lengths = float(np.linalg.norm(exact) * np.linalg.norm(found))
    cosine = float(np.vdot(exact, found)) / lengths if lengths else float(np.array_equal(exact, found))
    relative = _apart(exact, found, measured.measures[name])
    rms = float(np.sqrt(np.mean(np.square(difference))))
    return LayerError(name, size, relative, float(difference.max()), scale, allowed, rms, cosine, rounding)


def _conventions(executor: Backend, dtype: str) -> list[str]:
    """How a framework's step is another by convention, a clause each."""
    told = []
    if executor.variance == "unbiased":
        told.append(
            f"`{executor.name}` lets n / (n - 1) of the batch's variance into the running one, where Keras lets in the variance "
            "itself: the reference does here what it does"
        )
    if executor.single and dtype == "float64":
        held = " and ".join(HELD[name] for name in executor.single)
        told.append(f"`{executor.name}` holds {held} in float32: the reference takes the same numbers here")
    if executor.kept:
        told.append(f"kept as in inference: {executor.kept}")
    return told


HELD = {
    "epsilon": "the epsilon of batch norms",
    "momentum": "their momentum",
    "average": "the 1 / n of an average's gradient",
}

# What becomes of a step where an attribute differs; the weights make up for some of them in inference alone.
PARTS = {
    "bn_epsilon": "gamma makes up for it with the stored variance, but training divides by the batch's: loss and gradients part",
    "bn_momentum": "a step keeps another share of the running statistics: they part",
    "head_scale": "the classifier's weight makes up for it, and its gradient is as many times larger or smaller",
}


def _differences(a: Model, b: Model) -> list[str]:
    """Why the steps of two networks must differ, a clause for each attribute that does."""
    return [
        f"`{name}` is {value} and {b.values[name]}: {PARTS.get(name, 'another function, whose gradients are others too')}"
        for name, value in a.values.items()
        if value != b.values[name]
    ]


def _explained(own: Step) -> str:
    """Whether the target's attributes are all that differs, given what is left when the reference has them too."""
    if own.ok:
        return "given these attributes and the folded weights, the reference takes the same step: nothing else differs"
    worst = next(error for error in (own.loss, *own.gradients, *own.statistics) if not error.ok)
    return f"given these attributes and the folded weights, the reference still takes another step, first at `{worst.name}`"
