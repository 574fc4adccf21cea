"""Two networks computed on the same images and compared layer by layer; and what both computed where they part."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from xconvert.backends import forward, forward_each
from xconvert.backends.numpy import Read, Start, Walk, walking
from xconvert.compare import EXACT, agreement, allowed_for, compare_layer, fallback_for, not_finite, picture
from xconvert.errors import VerificationError
from xconvert.model import Array, Model
from xconvert.probe import NATIVE, images
from xconvert.progress import tell
from xconvert.report import Activations, Agreement, LayerError, Trial
from xconvert.tuples import NamedTuple

SEEDS, BATCHES = 5, (1, 2)  # of the acceptance table, as PaddleClas asks for it: five seeds, two sizes of batch

Other = Callable[[Sequence[Array], Sequence[str] | str], Iterator[dict[str, Array]]]  # batches, taps → activations of each


class Parted(NamedTuple):
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
        return self._replace(reference=self.other, other=self.reference, answers=())

    @property
    def picture(self) -> Activations | None:
        """What both computed at the first layer that parts."""
        first = _first(self.errors)
        return picture(first.name, self.size, self.reference[first.name], self.other[first.name]) if first else None


class Parity(NamedTuple):
    """What comparing two networks gave: ``layers`` by layer, then by size, so that the first over tolerance parts first."""

    layers: tuple[LayerError, ...]
    agreement: tuple[Agreement, ...]
    parted: Parted | None


@dataclass(frozen=True, slots=True)
class ByReference:
    """``model`` by the NumPy reference in float64."""

    model: Model

    def __call__(self, batches: Sequence[Array], taps: Sequence[str] | str) -> Iterator[dict[str, Array]]:
        """Activations of ``taps`` for each of ``batches``."""
        return forward_each(self.model, batches, backend="numpy", dtype="float64", taps=taps)


def numpy_run(model: Model) -> Other:
    """``model`` by the NumPy reference in float64."""
    return ByReference(model)


def backend_run(model: Model, backend: str, dtype: str, *, names: Mapping[str, str], published: str, path: Path | None) -> Other:
    """``model`` by another backend, in ``dtype``; the rest as for ``forward``."""
    run = partial(forward_each, model, backend=backend, dtype=dtype, names=names, published=published, path=path)
    return lambda batches, taps: run(batches, taps=taps)


class Shown(NamedTuple):
    """Activations that another side has shown, by layer (N, …)."""

    activations: Mapping[str, Array]

    def output(self, name: str) -> Array | None:
        """The output of a layer for each image; None where it was not shown."""
        return self.activations.get(name)


def compare_networks(
    reference: Model,
    other: Other,
    sizes: Sequence[int],
    *,
    calibrated: bool,
    tolerance: float | None = None,
    batch: int | None = None,
) -> Parity:
    """The NumPy reference of ``reference`` in float64 against ``other``, on ``batch`` probe images of each of ``sizes``, by
    default ``batch_of`` that size.

    ``calibrated``: whether something was rounded to float32 on the way; else the two must be the same to ``EXACT``.
    """
    order = {layer.name: i for i, layer in enumerate(reference.layers)}
    probes = {size: probe(reference, size, batch) for size in sizes}
    errors: list[LayerError] = []
    answers: dict[int, tuple[Array, Array]] = {}
    parting: tuple[int, Shown | Walk] | None = None
    with walking() as start:
        for together, sides in _sides(other, probes, start):
            sets = _Sets(reference, together, sides, calibrated, start)
            new = [error for name in _watched([*order]) for error in sets.compared(name, tolerance)]
            answers.update(sets.answers)
            for size, side in zip(together, sides, strict=True):
                first, before = _first(_of(size, new)), _first(_of(parting[0], errors)) if parting else None
                if first and (before is None or order[first.name] < order[before.name]):
                    parting = size, side
                errors += _of(size, new)
    agreed = tuple(agreement(size, *both) for size, both in answers.items()) if reference.head else ()
    parted = _parted(reference, other, parting, probes, errors, answers) if parting else None
    return Parity(tuple(sorted(errors, key=lambda error: order[error.name])), agreed, parted)


def _watched(names: Sequence[str]) -> Iterator[str]:
    for done, name in enumerate(names):
        tell("comparing", done / len(names))
        yield name


def _sides(other: Other, probes: Mapping[int, Array], start: Start) -> Iterator[tuple[dict[int, Array], Sequence[Shown | Walk]]]:
    """Probes that are computed together, by size, with what ``other`` shows for each: all at once where it is the reference,
    which then need not keep what it has computed; else size by size.
    """
    if isinstance(other, ByReference):
        yield {**probes}, start(other.model.layers, _reads(other.model), [*probes.values()], "float64")
        return
    for (size, batch), found in zip(probes.items(), other([*probes.values()], "all"), strict=True):
        yield {size: batch}, [Shown(found)]


def _reads(model: Model) -> dict[str, Read]:
    return {name: tensor.read for name, tensor in model.weights.items()}


class _Sets:
    """Both sides, and with ``calibrated`` the reference in float32, one layer after the other. ``answers``: the last outputs of
    both by size, once they were compared.
    """

    def __init__(
        self, model: Model, probes: Mapping[int, Array], sides: Sequence[Shown | Walk], calibrated: bool, start: Start
    ) -> None:
        run = partial(start, model.layers, _reads(model), [*probes.values()])
        ours = run("float64")
        rounded: Sequence[Walk | None] = run("float32") if calibrated else [None] * len(ours)
        self._model, self._sides = model, [*zip(probes, ours, sides, rounded, strict=True)]
        self._fallback, self._last = fallback_for(layer.name for layer in model.layers), model.layers[-1].name
        self.answers: dict[int, tuple[Array, Array]] = {}

    def compared(self, name: str, tolerance: float | None) -> Iterator[LayerError]:
        """How far the outputs of a layer are apart at each size; nothing where the other side does not show it."""
        for size, ours, side, rounded in self._sides:
            reference, theirs = ours.output(name), side.output(name)
            single = rounded.output(name) if rounded else None
            assert reference is not None  # noqa: S101  (it computes every layer)
            error = compare_layer(
                name, size, reference, reference if theirs is None else theirs, single, self._fallback, tolerance
            )
            if not math.isfinite(error.scale):
                told = f"the source network's own answer is not finite, from `{name}` on"
                raise VerificationError(told, facts=not_finite(self._model)[:4])
            if theirs is None:
                continue
            yield error
            if name == self._last:
                self.answers[size] = (np.array(reference), np.array(theirs))


def _of(size: int, errors: Sequence[LayerError]) -> list[LayerError]:
    return [error for error in errors if error.size == size]


def _parted(
    reference: Model,
    other: Other,
    parting: tuple[int, Shown | Walk],
    probes: Mapping[int, Array],
    errors: Sequence[LayerError],
    answers: Mapping[int, tuple[Array, Array]],
) -> Parted:
    """What both computed at the size at which they part: computed again, because nothing is kept while they agree."""
    size, side = parting
    ours = forward(reference, probes[size], dtype="float64", taps="all")
    theirs = side.activations if isinstance(side, Shown) else next(other([probes[size]], "all"))
    others = tuple((probes[n], found, _of(n, errors)[-1].allowed) for n, (_, found) in answers.items() if n != size)
    return Parted(size, probes[size], ours, theirs, tuple(_of(size, errors)), others)


def probe(model: Model, size: int, batch: int | None = None) -> Array:
    """Images that ``model`` can take, ``batch`` of ``size`` pixels, by default ``batch_of(size)``."""
    return images(size, batch or batch_of(size), channels(model))


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
