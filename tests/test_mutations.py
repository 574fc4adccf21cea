"""Every fault in every architecture: caught, placed and explained; the table of it stands below pytest's summary."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

import tests.mutants  # noqa: F401  (enters the faults)
from tests.mutations import FAMILIES, FAULTS, Cell, Computed, Mutant, Subject, examine, judged, table
from tests.narrow import checkpoint
from xconvert import verify
from xconvert.compare import not_finite
from xconvert.diagnosis import diagnose
from xconvert.loading import interpret
from xconvert.model import Array, Model
from xconvert.parity import compare_networks

CASES = [(name, family) for name, (_, families) in FAULTS.items() for family in families]
LIGHT = ("xception", "xception_preact", "xception_paddleclas", "xception_aligned")


def first(name: str) -> str:
    """The one family in which a fault is tried first; they take turns, but for files, which are of full depth."""
    if name.endswith("file"):
        return "xception"
    families = [family for family in LIGHT if family in FAULTS[name][1]]
    return families[[*FAULTS].index(name) % len(families)]


def cases() -> Iterator[object]:
    quick = {(name, first(name)) for name in [*FAULTS][::3]}  # by `make test-fast`, every third one in one family
    for name, family in CASES:
        marks = [] if (name, family) in quick else [pytest.mark.slow]
        yield pytest.param(name, family, marks=marks, id=f"{name} | {family}")


@pytest.mark.parametrize(("name", "family"), [*cases()])
def test_a_fault_is_caught_placed_and_explained(name: str, family: str, record_property: pytest.RecordProperty) -> None:
    cell = examine(name, family)
    record_property("mutation", [name, family, *cell[:3]])
    assert cell.complete, cell.story


def test_there_are_faults_enough_and_every_architecture_has_them() -> None:
    assert len(FAULTS) >= 40
    assert all(sum(family in families for _, families in FAULTS.values()) >= 80 for family in FAMILIES)
    assert {first(name) for name in FAULTS} == {*FAMILIES}


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("step", [1, 3])
def test_counters_of_training_steps_are_no_part_of_the_function(family: str, step: int) -> None:
    """All of them missing, or every third: no fault, and no alarm."""
    model = Subject(family).model
    whole = checkpoint(model, "torch")
    counters = [name for name in whole.tensors if name.endswith("num_batches_tracked")]
    assert len(counters) == len(Subject(family).names("batch_norm"))
    kept = {name: tensor for name, tensor in whole.tensors.items() if name not in counters[::step]}
    found = interpret(whole._replace(tensors=kept), "b", settings=model.values)
    assert verify(model, found, sizes=(75,)).equal


def shaped_alike(s: Subject) -> list[tuple[str, str]]:
    """All pairs of tensors of one shape in the middle flow, in order of execution."""
    middle = tuple(s.block(n) + "." for n in range(1, s.blocks + 1))
    order = [f"{layer.name}.{p}" for layer in s.layers.values() for p in layer.parameters if layer.name.startswith(middle)]
    shapes = {name: s.model.weights[name].shape for name in order}
    return [(a, b) for a, b in combinations(order, 2) if shapes[a] == shapes[b]]


def exchanged(s: Subject, one: str, two: str) -> Cell:
    """The verdict on two tensors in each other's place; a kernel is called as its layer is."""
    other = s.given({one: s.read(two), two: s.read(one)})
    told = [f"`{name.removesuffix('.weight')}`" for name in (one, two)]
    check = "finite" if not_finite(other) else ""  # a mean, or a beta, makes no variance
    return judged(s, Mutant(other, one.rpartition(".")[0], "swapped", (*told, "each other's place"), check=check))


@pytest.mark.slow
def test_every_pair_of_tensors_of_one_shape_in_the_middle_flow(record_property: pytest.RecordProperty) -> None:
    s = Subject("xception", blocks=2)
    pairs = shaped_alike(s)
    assert len(pairs) == 306  # of 6 depthwise and 6 pointwise kernels, and 24 vectors
    cells = {pair: exchanged(s, *pair) for pair in pairs}
    assert [(pair, cell.story) for pair, cell in cells.items() if not cell.complete] == []
    record_property("told", f"{len(pairs)} pairs of equal-shaped tensors exchanged: all caught, localised, diagnosed")


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES[1:])
def test_some_pairs_of_tensors_in_the_other_architectures(family: str) -> None:
    s = Subject(family, blocks=2)
    pairs = shaped_alike(s)
    chosen = [pairs[i] for i in np.random.default_rng(3).choice(len(pairs), 40, replace=False)]
    assert [(pair, cell.story) for pair in chosen if not (cell := exchanged(s, *pair)).complete] == []


def test_the_table_shows_what_is_lacking() -> None:
    name, other = [*FAULTS][:2]
    cells = {
        (name, "xception"): (True, True, True),
        (name, "xception_aligned"): (True, False, True),
        (other, "xception"): (False,) * 3,
    }
    lines = table(cells)
    assert lines[0].split() == ["xception", "aligned", "preact", "paddleclas"]
    assert lines[1].split()[-4:] == ["✓", "c-d", "·", "·"]
    assert lines[2].split()[-4:] == ["---", "·", "·", "·"]
    assert lines[3] == "2 faults × 4 architectures: 3 cases, 2 caught, 1 localised, 2 diagnosed"


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_table_is_seen_below_the_summary(workers: str) -> None:
    root = Path(__file__).parents[1]
    options = ["-q", "-p", "no:cacheprovider", "-n", workers, "--dist", "loadfile", "-k", "epsilon and wrong and everywhere"]
    command = [sys.executable, "-m", "pytest", *options, "tests/test_mutations.py"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 faults × 4 architectures: 4 cases, 4 caught, 4 localised, 4 diagnosed" in done.stdout.splitlines()


HIDDEN = {
    "no depthwise convolutions, as in Keras": lambda name: not name.endswith("depthwise"),
    "the sums of blocks alone": lambda name: name.endswith((".add", "predictions")),
}
BEHIND = (
    "epsilon wrong everywhere",
    "training mode",
    "a pointwise kernel of zeros",
    "two middle blocks swapped, far apart",
    "one ReLU missing",
)


@pytest.mark.slow
@pytest.mark.parametrize("shown", HIDDEN)
@pytest.mark.parametrize("name", BEHIND)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_fault_is_explained_behind_layers_that_are_not_seen(family: str, name: str, shown: str) -> None:
    s = Subject(family)
    mutant = FAULTS[name][0](s)
    assert isinstance(mutant.other, (Model, Computed))
    run = Computed(mutant.other, {}, {}) if isinstance(mutant.other, Model) else mutant.other

    def seen(batches: Sequence[Array], taps: Sequence[str] | str) -> Iterator[dict[str, Array]]:
        for found in run(batches, taps):
            yield {name: array for name, array in found.items() if HIDDEN[shown](name)}

    parity = compare_networks(s.model, seen, (75,), calibrated=False)
    assert parity.parted
    first, *more = diagnose(s.model, parity.parted, ("A", "B"), {})
    assert (first.kind, first.last, more) == (mutant.kind, True, [])
    assert all(part in first.told for part in mutant.told)
