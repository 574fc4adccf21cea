"""Two networks computed on the same images and compared layer by layer; and what both computed where they part."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from xconvert.backends import forward, forward_each
from xconvert.compare import EXACT, agreement, allowed_for, check_finite, compare, picture
from xconvert.model import Array, Model
from xconvert.probe import NATIVE, images
from xconvert.progress import tell
from xconvert.report import Activations, Agreement, LayerError, Trial

SEEDS, BATCHES = 5, (1, 2)  # of the acceptance table, as PaddleClas asks for it: five seeds, two sizes of batch

Other = Callable[[Sequence[Array], Sequence[str] | str], Iterator[dict[str, Array]]]  # batches, taps → activations of each


@dataclass(frozen=True, slots=True)
class Parted:
    """The images of the size at which two networks part earliest, and what both computed: activations by layer, those of
    the reference in float64. ``errors``: of that size, in order of execution.
    """

    size: int
    images: Array
    reference: Mapping[str, Array]
    other: Mapping[str, Array]
    errors: tuple[LayerError, ...]
    answers: tuple[tuple[Array, Array, float], ...] = ()  # of every other size: images, output of the other side, tolerance

    @property
    def turned(self) -> Parted:
        """The same, seen from the other side; for two checkpoints, of which both show every layer."""
        return replace(self, reference=self.other, other=self.reference, answers=())

    @property
    def picture(self) -> Activations | None:
        """What both computed at the first layer that parts."""
        first = _first(self.errors)
        return picture(first.name, self.size, self.reference[first.name], self.other[first.name]) if first else None


@dataclass(frozen=True, slots=True)
class Parity:
    """What comparing two networks gave: ``layers`` by layer, then by size, so that the first over tolerance parts first."""

    layers: tuple[LayerError, ...]
    agreement: tuple[Agreement, ...]
    parted: Parted | None


def numpy_run(model: Model) -> Other:
    """``model`` by the NumPy reference in float64."""
    return lambda batches, taps: forward_each(model, batches, backend="numpy", dtype="float64", taps=taps)


def backend_run(model: Model, backend: str, dtype: str, *, names: Mapping[str, str], published: str, path: Path | None) -> Other:
    """``model`` by another backend, in ``dtype``; the rest as for ``forward``."""
    run = partial(forward_each, model, backend=backend, dtype=dtype, names=names, published=published, path=path)
    return lambda batches, taps: run(batches, taps=taps)


def compare_networks(
    reference: Model, other: Other, sizes: Sequence[int], *, calibrated: bool, tolerance: float | None = None
) -> Parity:
    """The NumPy reference of ``reference`` in float64 against ``other``, on probe images of ``sizes``.

    ``calibrated``: whether something was rounded to float32 on the way; else the two must be the same to ``EXACT``.
    """
    names = [layer.name for layer in reference.layers]
    order = {name: i for i, name in enumerate(names)}
    probes = [probe(reference, size) for size in sizes]
    errors: list[LayerError] = []
    agreed: list[Agreement] = []
    parted: Parted | None = None
    answers: dict[int, tuple[Array, Array, float]] = {}
    for size, batch, found in zip(sizes, probes, other(probes, "all"), strict=True):
        tell("comparing", len(answers) / len(sizes))
        ours = forward(reference, batch, dtype="float64", taps="all")
        check_finite(reference, ours)
        rounded = forward(reference, batch, dtype="float32", taps="all") if calibrated else None
        new = compare(names, size, ours, found, rounded, tolerance)
        if reference.head:
            agreed.append(agreement(size, ours[names[-1]], found[names[-1]]))
        first, before = _first(new), _first(parted.errors) if parted else None
        if first and (before is None or order[first.name] < order[before.name]):
            parted = Parted(size, batch, ours, found, tuple(new))
        answers[size] = (batch, found[names[-1]], new[-1].allowed)
        errors += new
    if parted:
        others = tuple(answer for size, answer in answers.items() if size != parted.size)
        parted = replace(parted, answers=others)
    return Parity(tuple(sorted(errors, key=lambda error: order[error.name])), tuple(agreed), parted)


def probe(model: Model, size: int) -> Array:
    """Images that ``model`` can take, ``batch_of(size)`` of ``size`` pixels."""
    return images(size, batch_of(size), channels(model))


def batch_of(size: int) -> int:
    """How many images of ``size`` pixels are computed: two, or one of the size that networks are trained on."""
    return 1 if size >= NATIVE else 2


def channels(model: Model) -> int:
    """How many channels the images of ``model`` have."""
    return model.weights[f"{model.layers[0].name}.weight"].shape[2]


def _first(errors: Sequence[LayerError]) -> LayerError | None:
    return next((error for error in errors if not error.ok), None)


def acceptance(
    reference: Model, other: Other, *, calibrated: bool, tolerance: float | None = None, size: int = NATIVE
) -> tuple[Trial, ...]:
    """The output for ``SEEDS`` seeds × ``BATCHES`` sizes of batch, as PaddleClas wants to see it for a ported network
    (shared/facts/field.md §0.9); but the largest absolute difference is held to 8 times that of rounding,
    or where nothing is rounded to 1e-9 of the largest logit; or to ``tolerance``, as a share of that.
    """
    last = reference.layers[-1].name
    batches = {(seed, batch): images(size, batch, channels(reference), seed) for seed in range(SEEDS) for batch in BATCHES}
    found = dict(zip(batches, other(list(batches.values()), ()), strict=True))
    trials = []
    for seed in range(SEEDS):  # the images of a small batch are the first of a large one
        most = images(size, max(BATCHES), channels(reference), seed)
        exact = forward(reference, most, dtype="float64")[last]
        rounding = np.abs(forward(reference, most, dtype="float32")[last] - exact).max() if calibrated else 0.0
        scale = float(np.abs(exact).max())
        allowed = allowed_for(float(rounding) / scale) if calibrated and scale else EXACT
        for batch in BATCHES:
            theirs, ours = found[seed, batch][last], exact[:batch]
            top1 = agreement(size, ours, theirs).top1 if reference.head else None
            held_to = (allowed if tolerance is None else tolerance) * scale
            trials.append(Trial(seed, batch, float(np.abs(theirs - ours).max()), held_to, top1))
    return tuple(trials)
