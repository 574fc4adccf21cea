"""Why two networks part: known faults are injected into the reference until it computes what the other side does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from xconvert.backends._graph import execute
from xconvert.compare import relative_l2
from xconvert.faults import Fault, Network, candidates, runs
from xconvert.mappings import library
from xconvert.model import Array, Layer, Model
from xconvert.parity import Parted
from xconvert.report import Diagnosis

MOST = 6  # causes that are looked for, one after the other
REMOVED = 100  # a fault explains a difference if it takes away all but a hundredth of it, and leaves no more than rounding can:
ROUNDED = 1e-5
# Numbers that a search computes at the most. Where the other side shows every layer it takes a few hundredths of it; where it
# shows blocks alone, each fault of each layer in one is computed to its end (full size, 75 pixels, in vain: 15 s on a core);
# where it shows the logits alone, the search ends here and finds what is wrong everywhere or early.
WORK = 2 * 10**9
HINTS = {
    "epsilon": "convert again with xconvert, which makes up for it in gamma, or build the network with {reference}'s epsilon",
    "padding": "no weights can make up for it: they need a network that pads as {reference} does (`xconvert.build` makes one)",
    "dilation": "no weights can make up for it: they need a network that looks as {reference} does (`xconvert.build` makes one)",
    "scale": "multiply the kernel with it, or convert again with xconvert",
    "swapped": "exchange them in the script that wrote {other}, or convert again with xconvert",
    "moved": "look at how the script that wrote {other} counts, or convert again with xconvert",
    "transposed": "look at the order of axes in the script that wrote {other}, or convert again with xconvert",
    "classes": "look for a background class, or another list of classes, in what {other} was trained on",
    "statistics": "load the running statistics too and answer in inference mode (`model.eval()`), or convert again with xconvert",
    "missing": "a loader passed over a name that it did not know: load strictly, or convert again with xconvert",
    "preprocessing": "the same images must be normalised in another way for {other}",
    "activation": "look at the model class that computes {other}",
    "precision": "give the weights in full precision, or compare with what {other} was rounded from",
    "not finite": "convert again from a checkpoint that is whole",
    "weights": "look at which training step, file or average {reference} and {other} come from",
}
UNKNOWN = {"weights": "computes something else, for no reason that xconvert finds,", "not finite": "computes no finite number"}


def diagnose(
    model: Model, parted: Parted, names: tuple[str, str], told: Mapping[str, str], other: Model | None = None
) -> tuple[Diagnosis, ...]:
    """The causes, first cause first, of what ``parted`` shows: what the reference ``model`` must do differently to compute what
    the other side did. Where that is nothing known and the other side is a checkpoint too, ``other``: what that must do to
    compute what the reference did. ``names``: of the reference and of the other side, as they stand in a sentence. ``told``:
    what is known of single weights that differ, by name, for where no fault is known.
    """
    with np.errstate(all="ignore"):  # what is tried may be no number
        found = tuple(_causes(_Search(model, parted), parted, names, told))
        if other and found[0].kind in UNKNOWN:
            turned = tuple(_causes(_Search(other, parted.turned), parted.turned, names[::-1], told))
            return turned if turned[0].kind not in UNKNOWN else found
    return found


def _causes(search: _Search, parted: Parted, names: tuple[str, str], told: Mapping[str, str]) -> Iterator[Diagnosis]:
    words = dict(zip(("reference", "other"), names, strict=True))
    for _ in range(MOST):
        if not (layer := search.layer):
            return
        if (fault := search.advance()) is None:
            known = [f"`{name}`: {text}" for name, text in told.items() if name.rpartition(".")[0] in search.region]
            kind = "weights" if np.isfinite(parted.other[layer]).all() else "not finite"
            early = "; too much is hidden to look for the reason to the end" if search.work > WORK else ""
            clause = f"{words['other']} {UNKNOWN[kind]} in `{layer}`" + (f" ({'; '.join(known[:2])})" if known else "") + early
            yield Diagnosis(kind, layer, clause, HINTS[kind].format(**words))
            return
        last = not search.layer and search.confirmed()
        yield Diagnosis(fault.kind, layer, fault.told.format(**words), HINTS[fault.kind].format(**words), last)


class _Search:
    """The reference with the faults found so far; ``layer``: where it parts from the other side now, empty where nowhere."""

    def __init__(self, model: Model, parted: Parted) -> None:
        weights = {name: tensor.read().astype(np.float64) for name, tensor in model.weights.items()}
        dtypes = {name: tensor.dtype for name, tensor in model.weights.items()}
        self.network = Network({layer.name: layer for layer in model.layers}, weights, dtypes, *_normalisations(model))
        self.images, self.other = parted.images.astype(np.float64), parted.other
        self.answers = parted.answers
        self.allowed = {e.name: max(e.allowed, min(e.relative / REMOVED, ROUNDED)) for e in parted.errors}
        self.known = dict(parted.reference)
        self.order = {name: i for i, name in enumerate(self.network.layers)}
        self.layer = next((error.name for error in parted.errors if not error.ok), "")
        self.region = self._region() if self.layer else set()
        self.work = 0

    def advance(self) -> Fault | None:
        """Inject the fault that brings the reference furthest along; None where none brings it past ``layer``."""
        best: tuple[int, Fault, str] | None = None
        end = len(self.order)
        for fault in self._candidates():
            parting = self._parting(fault)
            reached = self.order[parting] if parting else end
            if reached > self.order[self.layer] and (best is None or reached > best[0]):
                best = reached, fault, parting
            if reached == end or self.work > WORK:
                break
        if best is None:
            return None
        _, fault, parting = best
        self.known = self._walk(fault, keep=True)[0]
        self.network = self.network.faulty(fault)
        self.layer = parting
        self.region = self._region() if parting else set()
        return fault

    def confirmed(self) -> bool:
        """Whether the reference, with the faults found, also gives the other side's answers to images of all other sizes."""
        layers = [*self.network.layers.values()]
        last = layers[-1].name

        def step(layer: Layer, inputs: list[Array]) -> Array:
            output = runs(layer, inputs, self.network.weights)
            return np.full((1, 1), np.nan) if output is None else output

        computed = [execute(layers, images.astype(np.float64), step, {last})[last] for images, *_ in self.answers]
        return all(
            output.shape == answer.shape and relative_l2(output, answer) <= max(allowed, ROUNDED)
            for output, (_, answer, allowed) in zip(computed, self.answers, strict=True)
        )

    def _region(self) -> set[str]:
        """The layers between what is seen to agree and ``layer``: one, unless the other side hides some."""
        region, waiting = set(), [self.layer]
        while waiting:
            name = waiting.pop()
            if name != "image" and name not in region:
                region.add(name)
                waiting += [n for n in self.network.layers[name].inputs if n not in self.other]
        return region

    def _candidates(self) -> Iterator[Fault]:
        for name in sorted(self.region, key=self.order.__getitem__):
            layer = self.network.layers[name]
            inputs = [self._input(n) for n in layer.inputs]
            yield from candidates(self.network, layer, inputs, self.other[name] if name == self.layer else None)

    def _input(self, name: str) -> Array:
        return self.images if name == "image" else self.known[name]

    def _parting(self, fault: Fault) -> str:
        """Where the reference with ``fault`` parts from the other side; empty where nowhere."""
        return self._walk(fault)[1]

    def _walk(self, fault: Fault, keep: bool = False) -> tuple[dict[str, Array], str]:
        """Compute the network with ``fault`` from the first layer that it touches to the first that parts from the other side;
        with ``keep`` return every activation up to there.
        """
        network = self.network.faulty(fault)
        self.work += sum(array.size for array in fault.weights.values()) // 16  # copied, not computed
        made: dict[str, Array] = {}
        changed = {*fault.touched, self.layer}
        start = min(self.order[name] for name in changed)
        for name in [name for name, place in self.order.items() if place >= start]:
            layer = network.layers[name]
            if name not in changed and not changed.intersection(layer.inputs) and self.order[name] < self.order[self.layer]:
                continue  # nothing that it depends on has changed
            changed.add(name)
            inputs = [made[n] if n in made else self._input(n) for n in layer.inputs]
            with np.errstate(all="ignore"):
                output = runs(layer, inputs, network.weights)
            self.work += 0 if output is None else output.size
            if output is None or not self._agrees(name, output):
                return {**self.known, **made} if keep else {}, name
            made[name] = output
        return {**self.known, **made} if keep else {}, ""

    def _agrees(self, name: str, output: Array) -> bool:
        theirs = self.other.get(name)
        if theirs is None:
            return True
        if output.shape != theirs.shape:
            return False
        finite = np.isfinite(theirs)
        if not finite.all():  # as a negative variance makes it: the same numbers must be none
            if not np.array_equal(output[~finite], theirs[~finite], equal_nan=True):
                return False
            output, theirs = np.where(finite, output, 0), np.where(finite, theirs, 0)
        return relative_l2(output, theirs) <= self.allowed[name]


def _normalisations(model: Model) -> tuple[tuple[Array, Array] | None, dict[str, tuple[Array, Array]]]:
    """How the images of ``model`` are normalised, and how those of the zoos and of other habits are: mean and standard deviation
    of pixels from 0 to 1.
    """

    def pair(preprocessing: Mapping[str, object]) -> tuple[Array, Array] | None:
        if not {"mean", "std"} <= preprocessing.keys():
            return None
        return np.array(preprocessing["mean"], np.float64), np.array(preprocessing["std"], np.float64)

    known: dict[str, tuple[str, tuple[Array, Array]]] = {}
    for implementation in library().implementations:
        if found := pair(implementation.preprocessing):
            known.setdefault(str([*map(list, found)]), (f"{implementation.name}'s are", found))
    habits = {
        "values from 0 to 1": (np.zeros(3), np.ones(3)),
        "values from 0 to 255": (np.zeros(3), np.full(3, 1 / 255)),
    }
    return pair(model.preprocessing), {**dict(known.values()), **habits}
