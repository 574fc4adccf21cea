"""Prove that two networks give the same answer, or name the first layer at which they part, and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from xconvert import formats, provenance, supervision
from xconvert.backends import find
from xconvert.compare import not_finite
from xconvert.diagnosis import UNKNOWN, diagnose
from xconvert.effects import check_sizes, normalisation
from xconvert.errors import UsageError
from xconvert.loading import load, load_pair, save
from xconvert.mappings import library
from xconvert.model import Model
from xconvert.naming import describe, named, native, native_names
from xconvert.parity import Other, Parity, acceptance, backend_run, batch_of, compare_networks, numpy_run
from xconvert.precision import common_precision
from xconvert.probe import NATIVE, SIZES
from xconvert.reconcile import Change, classes, reconcile, without_background
from xconvert.report import Check, Diagnosis, Report
from xconvert.training import compare_step, compare_step_backend
from xconvert.tuples import NamedTuple
from xconvert.weights import differences, sharing, summary

Path_ = str | Path


class Asked(NamedTuple):
    """What is to be compared, and how: see ``verify``."""

    sizes: Sequence[int] = (*SIZES, NATIVE)
    tolerance: float | None = None
    dtype: str = "float32"
    acceptance: bool = False
    train: bool = False


def verify(
    a: Path_ | Model,
    b: Path_ | Model | None = None,
    *,
    backend: str | None = None,
    dtype: Literal["float32", "float64"] | None = None,
    sizes: Sequence[int] = (*SIZES, NATIVE),
    tolerance: float | None = None,
    background: Literal["drop"] | None = None,
    acceptance: bool = False,
    train: bool = False,
    **options: Any,
) -> Report:
    """Compare two checkpoints, or one checkpoint with a framework's run of it; activations layer by layer, then
    logits. Where they part, say at which layer, and why if the reason is a known one.

    Without ``backend`` both are computed by the NumPy reference in float64. With ``backend`` the network in ``a`` is
    run by it in ``dtype``, by default float32: our graph in a framework (``torch``, ``keras``), or a zoo's own class (``timm``,
    ``keras.applications``, …), which is given a file of ``a`` written for it. ``sizes``: of square probe images, in
    pixels. ``tolerance``: overrides the calibrated one (relative L2). ``background``: leave out the first class of whichever
    has one more than the other. ``acceptance``: also the output for five seeds in two sizes of batch. ``train``: also one step of
    training. ``options`` are those of ``load_pair``. Raises the subclasses of ``XconvertError`` for what cannot be
    compared at all.
    """
    if tolerance is not None and not 0 < tolerance < float("inf"):
        raise UsageError(f"the tolerance cannot be {tolerance}", hints=["give a positive number, such as `--tolerance 1e-5`"])
    if (b is None) == (backend is None):
        raise UsageError(
            "one checkpoint is compared with a backend, two with each other", hints=["give a second file, or `--backend NAME`"]
        )
    if backend is not None and background:
        raise UsageError("a backend has the classes of the checkpoint", hints=["leave `--drop-background` away"])
    if b is not None and dtype is not None:
        raise UsageError(
            "two checkpoints are compared in float64", hints=["leave `--dtype` away: it is the precision of a backend"]
        )
    asked = Asked(tuple(dict.fromkeys(sizes)), tolerance, dtype or "float32", acceptance, train)
    names = ("A" if isinstance(a, Model) else str(a), "B" if isinstance(b, Model) else str(b))
    if b is None or backend is not None:
        assert backend is not None  # noqa: S101  (told above)
        first = a if isinstance(a, Model) else load(a, **options)
        check_sizes(first, asked.sizes)
        return _traced(_verify_backend(first, names[0], backend, asked), asked, [first], backend)
    first, second = load_pair(a, b, **options)
    check_sizes(first, asked.sizes)
    if background:
        first, second = alike(first, second)
    return _traced(_verify_pair(first, second, names, asked), asked, [first, second])


def _traced(report: Report, asked: Asked, models: Sequence[Model], *backends: str) -> Report:
    """``report`` with where the files come from, and whether they are still what xconvert wrote."""
    counts = [batch_of(size) for size in asked.sizes]
    probes = {"sizes": list(asked.sizes), "images": counts, "seed": 0, "values": "-1 to 1 in steps of 1/127.5"}
    told = provenance.describe(*models, backends=backends, probe=probes)
    return report._replace(provenance=told, notes=(*report.notes, *provenance.remarks(*models)))


def _verify_pair(a: Model, b: Model, names: tuple[str, str], asked: Asked) -> Report:
    report = Report(describe(a), describe(b), tuple(structure(a, b)), precision="float64")
    if not report.equal:
        return report._replace(diagnoses=tuple(structural(a, b, names)))
    found = differences(a, b)
    unexplained = [difference for difference in found if not difference.explained]
    wrong = [(name, not_finite(model)) for name, model in zip(names, (a, b), strict=True)]
    report = report._replace(checks=(*report.checks, Check("values", True, summary(found)), _finite(wrong)))
    if wrong[0][1]:
        return report._replace(diagnoses=tuple(_broken(wrong)))
    marked = (f"`{names[0]}`", f"`{names[1]}`")
    level = common_precision(a, sharing(a, b, found), found, marked)
    calibrated = any(difference.rounding and difference.name not in level.settled for difference in found)
    parity = compare_networks(level.a, numpy_run(level.b), asked.sizes, calibrated=calibrated, tolerance=asked.tolerance)
    report = _computed(report._replace(checks=(*report.checks, *level.checks)), parity)
    if parity.parted:
        told = {d.name: d.detail or f"{d.count} of {d.size} numbers differ, by up to {d.maximum:.1e}" for d in unexplained}
        why = diagnose(level.a, parity.parted, marked, told, level.b)
        if not why[-1].last and wrong[1][1]:  # there is no more to be found behind such weights
            why = (*(diagnosis for diagnosis in why if diagnosis.kind not in UNKNOWN), *_broken(wrong))
        report = report._replace(diagnoses=(*level.why, *why))
    elif level.why:
        report = report._replace(diagnoses=(*level.why[:-1], level.why[-1]._replace(last=True)))
    if asked.acceptance:
        trials = acceptance(level.a, numpy_run(level.b), calibrated=calibrated, tolerance=asked.tolerance)
        report = report._replace(trials=trials)
    if asked.train:
        report = report._replace(training=compare_step(level.a, level.b, calibrated=calibrated, tolerance=asked.tolerance))
    notes = list(_hidden([difference.name for difference in unexplained])) if report.equal else []
    return report._replace(notes=(*notes, *normalisation(a, b, names)))


def _hidden(names: Sequence[str]) -> Iterator[str]:
    if names:
        told = f"{len(names)} weights that differ" if len(names) > 1 else "1 weight that differs"
        yield f"no probe image sees {told}: {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"


def _computed(report: Report, parity: Parity) -> Report:
    """``report`` with what was computed."""
    picture = parity.parted.picture if parity.parted else None
    return report._replace(layers=parity.layers, agreement=parity.agreement, activations=picture)


def _verify_backend(model: Model, name: str, backend: str, asked: Asked) -> Report:
    executor = find(backend)
    source, target = describe(model), {"backend": backend, "describes": executor.describes}
    with given_to(backend, model) as (given, changes, path):
        calibrated = asked.dtype != "float64" or any(change.action == "folded" for change in changes)
        run = run_by(backend, given, asked.dtype, path)
        parity = compare_networks(model, run, asked.sizes, calibrated=calibrated, tolerance=asked.tolerance)
        report = Report(source, target, changes=tuple(change.told() for change in changes), precision=asked.dtype)
        report = _computed(report, parity)
        if parity.parted:
            report = report._replace(diagnoses=diagnose(model, parity.parted, (f"`{name}`", f"`{backend}`"), {}))
        if asked.acceptance:
            report = report._replace(trials=acceptance(model, run, calibrated=calibrated, tolerance=asked.tolerance))
        if asked.train:
            known = {**known_as(backend, given), "path": path, "tolerance": asked.tolerance}
            report = report._replace(training=compare_step_backend(model, given, backend, asked.dtype, **known))
    return report


@contextmanager
def given_to(backend: str, model: Model) -> Iterator[tuple[Model, tuple[Change, ...], Path | None]]:
    """What ``backend`` runs: ``model`` itself, or what was folded for a zoo's class, with the file of it that the class loads."""
    executor = find(backend)
    if executor.kind == "graph":
        yield model, (), None
        return
    known = library()
    implementation = named(known, backend, model)
    fmt = formats.format_for_writing(Path("a" + executor.opens[0]), known.dialects[implementation.dialect].family)
    dialect = known.dialects[fmt.dialects.get(implementation.dialect, implementation.dialect)]
    given, changes = reconcile(model, implementation.attributes)
    with supervision.temporary() as folder:
        path = folder / f"model{executor.opens[0]}"
        assert fmt.write is not None  # noqa: S101  (what a class opens is written)
        fmt.write(path, save(given, implementation, dialect))
        yield given, changes, path


def run_by(backend: str, model: Model, dtype: str, path: Path | None) -> Other:
    """``model`` by ``backend``, in ``dtype``; ``path``: a file that the backend loads itself."""
    return backend_run(model, backend, dtype, path=path, **known_as(backend, model))


def known_as(backend: str, model: Model) -> dict[str, Any]:
    """``names`` of our layers in what ``backend`` runs, and what its zoo has ``published`` the network as."""
    published = native(backend, model).model(model.depth) if find(backend).kind == "class" else None
    return {"names": native_names(backend, model), "published": published.name if published else ""}


def alike(a: Model, b: Model) -> tuple[Model, Model]:
    """Both, the one with one class more without its first, background; raises ``UsageError`` when neither has that."""
    if abs(classes(a) - classes(b)) != 1:
        found = f"{classes(a)} and {classes(b)} classes"
        raise UsageError(f"there is no background class to drop: {found}", hints=["leave `--drop-background` away"])
    return (without_background(a), b) if classes(a) > classes(b) else (a, without_background(b))


def structure(a: Model, b: Model) -> list[Check]:
    """Names, shapes, dtypes and preprocessing. What differs in the latter two is told, not failed: the numbers decide."""
    only = sorted(a.weights.keys() ^ b.weights.keys())
    same = a.family is b.family and a.depth == b.depth
    told = f"{len(a.weights)} tensors" if not only else f"only on one side: {', '.join(only[:4])}{' …' if len(only) > 4 else ''}"
    checks = [Check("names", same and not only, told if same else f"{_network(a)} against {_network(b)}")]
    shared = [name for name in a.weights if name in b.weights]
    unlike = [n for n in shared if a.weights[n].shape != b.weights[n].shape]
    told = "all equal" if len(shared) == len(a.weights) else f"equal where names are, {len(shared)} of {len(a.weights)}"
    if unlike:
        told = "; ".join(f"`{n}` {a.weights[n].shape} against {b.weights[n].shape}" for n in unlike[:4])
    checks.append(Check("shapes", not unlike, told))
    dtypes = [", ".join(sorted({t.dtype for t in m.weights.values()})) for m in (a, b)]
    checks.append(Check("dtypes", True, dtypes[0] if dtypes[0] == dtypes[1] else " against ".join(dtypes)))
    return [*checks, Check("preprocessing", True, _preprocessing(a.preprocessing, b.preprocessing))]


def _preprocessing(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The settings that differ. They are no part of the network, so they are told and fail nothing."""
    unlike = [f"{key} {a.get(key)} against {b.get(key)}" for key in {**a, **b} if a.get(key) != b.get(key)]
    return "the same" if not unlike else "; ".join(unlike)


def _network(model: Model) -> str:
    return f"{model.family.name} of {model.depth.entry} and {model.depth.middle} blocks"


def _finite(wrong: Sequence[tuple[str, Sequence[str]]]) -> Check:
    """Whether each side has numbers alone; ``wrong``: the name of each with what ``compare.not_finite`` found in it."""
    told = [f"{text} in {name}" for name, texts in wrong for text in texts]
    return Check("finite", not told, "; ".join(told[:4]) if told else "every weight, and every variance is positive")


def _broken(wrong: Sequence[tuple[str, Sequence[str]]]) -> Iterator[Diagnosis]:
    for name, texts in wrong:
        for text in texts[:1]:
            layer = text.split("`")[1].rpartition(".")[0]
            yield Diagnosis("not finite", layer, f"`{name}`: {text}", "convert again from a checkpoint that is whole")


def structural(a: Model, b: Model, names: tuple[str, str]) -> Iterator[Diagnosis]:
    """Why two networks have other tensors, where that is known."""
    if (a.family, a.depth) != (b.family, b.depth):
        kinds = [
            f"`{name}` {model.family.differs}"
            if a.family is not b.family
            else f"`{name}` has {_network(model).partition(' of ')[2]}"
            for model, name in zip((a, b), names, strict=True)
        ]
        yield Diagnosis(
            "network", "", "; ".join(kinds), "different networks have no answer in common: look for the one that was meant"
        )
    elif a.head != b.head:
        with_head = names[0] if a.head else names[1]
        told, hint = f"`{with_head}` alone has a classifier", "compare the rest: `--ignore` the tensors of the classifier"
        yield Diagnosis("missing", "predictions", told, hint)
    elif abs(classes(a) - classes(b)) == 1:
        more, count = (names[0], classes(a)) if classes(a) > classes(b) else (names[1], classes(b))
        told = f"`{more}` has a class more, {count}: in TensorFlow's checkpoints the first is background"
        yield Diagnosis("classes", "predictions", told, "`--drop-background` compares without it")
