"""Faults for the verifier to find: what a mutant is, how one is examined, and the table of what came of all of them.

Nothing here is taken from ``xconvert/faults``, which guesses at faults: the mutants (``tests/mutants``) are made by code of
their own, of a network's weights, of its file, or of the way in which it is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from tests.narrow import ZOO, checkpoint, narrow
from xconvert import verify
from xconvert.backends.numpy import OPERATIONS
from xconvert.diagnosis import diagnose
from xconvert.errors import XconvertError
from xconvert.loading import interpret
from xconvert.model import Array, Attribute, Checkpoint, Depth, Layer, Model, Tensor
from xconvert.parity import compare_networks
from xconvert.report import Diagnosis

FAMILIES = tuple(ZOO)
SIZE = 75


@dataclass(frozen=True)
class Subject:
    """A narrow network of one family, and where things are in it."""

    family: str
    blocks: int = 3

    @cached_property
    def model(self) -> Model:
        return narrow(Depth(3, self.blocks), family=self.family)

    @cached_property
    def layers(self) -> dict[str, Layer]:
        return {layer.name: layer for layer in self.model.layers}

    def names(self, op: str, within: str = "", **options: Any) -> list[str]:
        """Layers of an operation in order of execution, of those whose name starts with ``within``."""
        found = [layer for layer in self.layers.values() if layer.op == op and layer.name.startswith(within)]
        return [layer.name for layer in found if all(getattr(layer, name) == value for name, value in options.items())]

    def block(self, number: int) -> str:
        """The name of a block of the middle flow, counted from 1."""
        return f"block{number + 4}" if self.family == "xception" else f"middle.block{number}"

    def start(self, block: str) -> str:
        """The first layer of a block that has weights."""
        return next(name for name, layer in self.layers.items() if name.startswith(block + ".") and layer.parameters)

    def middle(self, op: str, number: int = 1, place: int = 0) -> str:
        """A layer of a block of the middle flow: the first of its operation, or one after it."""
        return self.names(op, self.block(number) + ".")[place]

    @property
    def late(self) -> str:
        """The last batch norm."""
        return self.names("batch_norm")[-1]

    @property
    def norms(self) -> int:
        return len(self.names("batch_norm"))

    def read(self, weight: str) -> Array:
        return self.model.weights[weight].read()

    def given(self, weights: Mapping[str, Array], **attributes: Any) -> Model:
        """The network with other weights and attributes."""
        told = {name: Attribute(value, "test") for name, value in attributes.items()}
        assert weights.keys() <= self.model.weights.keys()
        tensors = {name: Tensor.of(np.ascontiguousarray(array)) for name, array in weights.items()}
        return self.model._replace(weights={**self.model.weights, **tensors}, attributes={**self.model.attributes, **told})

    def edited(self, weights: Sequence[str], edit: Callable[[Array], Array]) -> Model:
        """The network with ``edit`` of each of these weights, in its dtype."""
        return self.given({name: edit(self.read(name)).astype(self.read(name).dtype) for name in weights})


@dataclass(frozen=True)
class Mutant:
    """What is wrong, and what is expected of the verifier.

    ``other``: a network; a ``Computed``; or a file that is read, of which an error is expected. ``layer``: where the two part;
    ``kind`` and ``told``: of the diagnosis, parts of its clause; ``last``: whether it explains everything. ``more``: kinds of the
    diagnoses behind it. ``check``: a check that fails beside, or without, an activation that differs. ``size``: of the probe.
    """

    other: Model | Computed | Checkpoint
    layer: str
    kind: str
    told: tuple[str, ...] = ()
    last: bool = True
    more: tuple[str, ...] = ()
    check: str = ""
    size: int = SIZE
    reference: Model | None = None
    ema: bool | None = None


Operation = Callable[..., Array]


@dataclass(frozen=True)
class Computed:
    """A network computed in another way: ``layers`` in the place of its own, ``operations`` by layer, called with the inputs
    (N, …), the layer and its parameters, in ``dtype``.
    """

    model: Model
    layers: Mapping[str, Layer]
    operations: Mapping[str, Operation]
    dtype: str = "float64"

    def __call__(self, batches: Sequence[Array], taps: Sequence[str] | str) -> Iterator[dict[str, Array]]:
        for batch in batches:
            made = {"image": batch.astype(self.dtype)}
            for name, layer in ((own.name, self.layers.get(own.name, own)) for own in self.model.layers):
                parameters = [self.model.weights[f"{name}.{p}"].read().astype(self.dtype) for p in layer.parameters]
                inputs = [made[i] for i in layer.inputs]
                run = self.operations.get(name) or partial(_each, OPERATIONS[layer.op])
                made[name] = run(*inputs, layer, *parameters)
            yield made


def _each(operation: Operation, *arguments: Any) -> Array:
    layer = next(i for i, argument in enumerate(arguments) if isinstance(argument, Layer))
    return np.stack([operation(*images, *arguments[layer:]) for images in zip(*arguments[:layer], strict=True)])


class Cell(NamedTuple):
    """What came of one fault in one network; ``story`` for who has to mend it."""

    caught: bool
    localised: bool
    diagnosed: bool
    story: str = ""

    @property
    def complete(self) -> bool:
        return self.caught and self.localised and self.diagnosed

    @property
    def mark(self) -> str:
        return "✓" if self.complete else "".join(sign if ok else "-" for sign, ok in zip("cld", self[:3], strict=True))


Inject = Callable[[Subject], Mutant]
FAULTS: dict[str, tuple[Inject, tuple[str, ...]]] = {}


def fault(name: str, *families: str) -> Callable[[Inject], Inject]:
    """Enter an injector under what is wrong; with ``families``: only these can have the fault."""

    def enter(inject: Inject) -> Inject:
        assert name not in FAULTS
        FAULTS[name] = inject, families or FAMILIES
        return inject

    return enter


subject = cache(Subject)


def examine(name: str, family: str) -> Cell:
    """Inject a fault and look at what the verifier makes of it."""
    return judged(subject(family), FAULTS[name][0](subject(family)))


def judged(own: Subject, mutant: Mutant) -> Cell:
    """What the verifier makes of a mutant."""
    reference = mutant.reference or own.model
    if isinstance(mutant.other, Checkpoint):
        return _refused(mutant)
    if isinstance(mutant.other, Model):
        report = verify(reference, mutant.other, sizes=(mutant.size,))
        failing = [check for check in report.checks if not check.ok]
        where, why = report.first_divergence, report.diagnoses
        caught = not report.equal and [check.name for check in failing] == ([mutant.check] if mutant.check else [])
        detail = " ".join(check.detail for check in failing)
    else:
        parity = compare_networks(reference, mutant.other, (mutant.size,), calibrated=False)
        where, detail = next((error for error in parity.layers if not error.ok), None), ""
        why = diagnose(reference, parity.parted, ("A", "B"), {}) if parity.parted else ()
        caught = where is not None
    localised = where.name == mutant.layer if where else mutant.layer in [diagnosis.layer for diagnosis in why[:1]]
    story = f"at {where.name if where else None}, not {mutant.layer}; checks {detail!r}; " + "; ".join(map(str, why))
    return Cell(caught, localised, _diagnosed(mutant, why), story)


def _diagnosed(mutant: Mutant, why: Sequence[Diagnosis]) -> bool:
    if not why or [diagnosis.kind for diagnosis in why] != [mutant.kind, *mutant.more]:
        return False
    return all(part in why[0].told for part in mutant.told) and why[-1].last == mutant.last and why[0].layer == mutant.layer


def _refused(mutant: Mutant) -> Cell:
    """A file that is no network: the error is the catch, and says where and why."""
    assert isinstance(mutant.other, Checkpoint)
    try:
        interpret(mutant.other, "b", ema=mutant.ema)
    except XconvertError as error:
        said = "\n".join([error.message, *error.facts, *error.hints])
        return Cell(True, mutant.layer in said, mutant.kind in said and all(part in said for part in mutant.told), said)
    return Cell(False, False, False, "was read")


def file_of(model: Model) -> Checkpoint:
    """What a zoo's file of ``model`` holds."""
    return checkpoint(model, model.implementation)


def table(cells: Mapping[tuple[str, str], tuple[bool, bool, bool]]) -> list[str]:
    """The outcome by fault and family: ✓ caught, localised and diagnosed; letters for what of these it was; · not run; blank
    where a network cannot have the fault.
    """
    faults = [name for name in FAULTS if any((name, family) in cells for family in FAMILIES)]
    width = max(map(len, faults), default=0)
    short = [family.removeprefix("xception_") for family in FAMILIES]
    lines = [" " * width + "  " + "  ".join(short)]
    for name in faults:
        marks = []
        for family, head in zip(FAMILIES, short, strict=True):
            cell = cells.get((name, family))
            mark = Cell(*cell).mark if cell else "·" if family in FAULTS[name][1] else ""
            marks.append(mark.center(len(head)))
        lines.append(f"{name:{width}}  {'  '.join(marks)}".rstrip())
    counts = [sum(cell[i] for cell in cells.values()) for i in range(3)]
    told = ", ".join(f"{count} {what}" for count, what in zip(counts, ("caught", "localised", "diagnosed"), strict=True))
    return [*lines, f"{len(faults)} faults × {len(FAMILIES)} architectures: {len(cells)} cases, {told}"]
