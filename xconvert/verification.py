"""Prove that two networks give the same answer, or name the first layer at which they part."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from xconvert import formats
from xconvert.backends import find, forward, forward_each
from xconvert.compare import check_finite, compare
from xconvert.errors import AmbiguousError, RefusedError, UsageError
from xconvert.implementation import Implementation, Library, written_names
from xconvert.loading import load, save
from xconvert.mappings import library
from xconvert.model import Array, Checkpoint, Model
from xconvert.probe import NATIVE, SIZES, images
from xconvert.reconcile import Change, classes, folds_between, reconcile, without_background
from xconvert.report import Check, LayerError, Report

Path_ = str | Path
ULP = 2  # how many units in the last place a folded weight may be off the float64 value: one rounding each way


def verify(
    a: Path_ | Model,
    b: Path_ | Model | None = None,
    *,
    backend: str | None = None,
    dtype: Literal["float32", "float64"] = "float32",
    sizes: Sequence[int] = (*SIZES, NATIVE),
    tolerance: float | None = None,
    background: Literal["drop"] | None = None,
    **options: Any,
) -> Report:
    """Compare two checkpoints, or one checkpoint with a framework's run of it; activations layer by layer, then
    logits.

    Without ``backend`` both are computed by the NumPy reference in float64. With ``backend`` the network in ``a`` is
    run by it in ``dtype``: our graph in a framework (``torch``, ``keras``), or a zoo's own class (``timm``,
    ``keras.applications``, …), which is given a file of ``a`` written for it. ``sizes``: of square probe images, in
    pixels. ``tolerance``: overrides the calibrated one (relative L2). ``background``: leave out the first class of whichever
    has one more than the other. ``options`` are those of ``load`` for ``a``; of
    them ``mappings`` and ``ignore`` hold for ``b`` too. Raises the subclasses of ``XconvertError`` for what cannot be
    compared at all.
    """
    if tolerance is not None and not 0 < tolerance < float("inf"):
        raise UsageError(f"the tolerance cannot be {tolerance}", hints=["give a positive number, such as `--tolerance 1e-5`"])
    if (b is None) == (backend is None):
        raise UsageError(
            "one checkpoint is compared with a backend, two with each other", hints=["give a second file, or `--backend NAME`"]
        )
    first = _model(a, options)
    if backend is not None:
        return _verify_backend(first, backend, dtype, sizes, tolerance)
    assert b is not None  # noqa: S101  (told above)
    try:
        second = _model(b, {name: value for name, value in options.items() if name in ("mappings", "ignore")})
    except AmbiguousError as error:  # its hint is an option, and options speak of the first
        raise AmbiguousError(error.message, facts=error.facts, hints=["name it first: options speak of the first file"]) from None
    if background:
        first, second = alike(first, second)
    checks = structure(first, second)
    if not all(check.ok for check in checks):
        return Report(describe(first), describe(second), tuple(checks))
    told, unexplained = values(first, second)
    checks.append(told)
    layers = compare_models(first, second, sizes, tolerance)
    notes = [f"{len(unexplained)} weights differ without moving these probe images"] if unexplained else []
    report = Report(describe(first), describe(second), tuple(checks), tuple(layers), precision="float64")
    return replace(report, notes=tuple(notes) if report.equal else ())


def alike(a: Model, b: Model) -> tuple[Model, Model]:
    """Both, the one with one class more without its first, background; raises ``UsageError`` when neither has that."""
    if abs(classes(a) - classes(b)) != 1:
        found = f"{classes(a)} and {classes(b)} classes"
        raise UsageError(f"there is no background class to drop: {found}", hints=["leave `--drop-background` away"])
    return (without_background(a), b) if classes(a) > classes(b) else (a, without_background(b))


def _model(given: Path_ | Model, options: Mapping[str, Any]) -> Model:
    return given if isinstance(given, Model) else load(given, **options)


def describe(model: Model) -> dict[str, Any]:
    """What a model is, in JSON types."""
    implementation = library().find(model.implementation, model.family, model.depth)
    published = implementation.model(model.depth) if implementation else None
    return {
        "implementation": model.implementation,
        "published": published.name if published else None,
        "architecture": model.family.name,
        "blocks": model.depth._asdict(),
        "classes": classes(model) or None,
        "parameters": sum(int(np.prod(tensor.shape)) for tensor in model.weights.values()),
        "dtypes": sorted({tensor.dtype.name for tensor in model.weights.values()}),
        "attributes": {name: asdict(attribute) for name, attribute in model.attributes.items()},
        "preprocessing": dict(model.preprocessing),
    }


def structure(a: Model, b: Model) -> list[Check]:
    """Names, shapes, dtypes and preprocessing. What differs in the latter two is told, not failed: the numbers decide."""
    only = sorted(a.weights.keys() ^ b.weights.keys())
    same = a.family is b.family and a.depth == b.depth
    told = f"{len(a.weights)} tensors" if not only else f"only on one side: {', '.join(only[:4])}{' …' if len(only) > 4 else ''}"
    checks = [Check("names", same and not only, told if same else f"{_network(a)} against {_network(b)}")]
    shared = [name for name in a.weights if name in b.weights]
    unlike = [n for n in shared if a.weights[n].shape != b.weights[n].shape]
    told = (
        "all equal" if not unlike else "; ".join(f"`{n}` {a.weights[n].shape} against {b.weights[n].shape}" for n in unlike[:4])
    )
    checks.append(Check("shapes", not unlike, told))
    dtypes = [", ".join(sorted({t.dtype.name for t in m.weights.values()})) for m in (a, b)]
    checks.append(Check("dtypes", True, dtypes[0] if dtypes[0] == dtypes[1] else " against ".join(dtypes)))
    return [*checks, Check("preprocessing", True, _preprocessing(a.preprocessing, b.preprocessing))]


def _preprocessing(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The settings that differ. They are no part of the network, so they are told and fail nothing."""
    unlike = [f"{key} {a.get(key)} against {b.get(key)}" for key in {**a, **b} if a.get(key) != b.get(key)]
    return "the same" if not unlike else "; ".join(unlike)


def _network(model: Model) -> str:
    return f"{model.family.name} of {model.depth.entry} and {model.depth.middle} blocks"


def values(a: Model, b: Model) -> tuple[Check, list[str]]:
    """How many weights are bit-equal, and those that are neither that nor what folding epsilon makes of them."""
    different = [name for name in a.weights if not same_bits(a.weights[name].read(), b.weights[name].read())]
    explained = {name: attribute for name in different if (attribute := folds_to(a, b, name))}
    unexplained = [name for name in different if name not in explained]
    told = f"{len(a.weights) - len(different)} bit-equal"
    for attribute in dict.fromkeys(explained.values()):
        count = list(explained.values()).count(attribute)
        told += f", {count} differ as folding `{attribute}` makes them, within {ULP} ulp"
    if unexplained:
        told += f", {len(unexplained)} differ: {', '.join(unexplained[:4])}{' …' if len(unexplained) > 4 else ''}"
    return Check("values", True, told), unexplained


def folds_to(a: Model, b: Model, name: str) -> str:
    """The attribute whose fold makes weight ``name`` of ``b`` of that of ``a``, within ``ULP`` units in the last place; empty
    where none does.
    """
    found = b.weights[name].read()
    for attribute, exact in folds_between(a, b, name):
        unit = np.spacing(np.abs(exact).astype(found.dtype)).astype(np.float64)
        if (np.abs(found.astype(np.float64) - exact) <= ULP * unit).all():
            return attribute
    return ""


def same_bits(a: Array, b: Array) -> bool:
    """Whether two arrays have the same dtype, shape and bytes; so a NaN equals itself and 0 is not -0."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


def compare_models(a: Model, b: Model, sizes: Sequence[int], tolerance: float | None = None) -> list[LayerError]:
    """Both by the NumPy reference in float64; the tolerance is exact unless a fold rounded the weights of one once more."""
    return _compare(a, partial(forward_each, b, backend="numpy", dtype="float64"), sizes, a.values != b.values, tolerance)


def compare_backend(
    reference: Model,
    executed: Model,
    backend: str,
    sizes: Sequence[int],
    dtype: str,
    names: Mapping[str, str],
    path: Path | None,
    tolerance: float | None = None,
) -> list[LayerError]:
    """The NumPy reference of ``reference`` in float64 against a backend's run of ``executed`` in ``dtype``.

    In float64 it must be the same to ``EXACT``, unless a fold rounded weights; else it may be off by its rounding, calibrated.
    """
    known = native(backend, executed).model(executed.depth)
    published = known.name if known else ""
    other = partial(forward_each, executed, backend=backend, dtype=dtype, names=names, published=published, path=path)
    return _compare(reference, other, sizes, dtype != "float64" or reference.values != executed.values, tolerance)


def _compare(
    model: Model,
    other: Callable[..., Iterator[dict[str, Array]]],
    sizes: Sequence[int],
    calibrated: bool,
    tolerance: float | None,
) -> list[LayerError]:
    channels = model.weights[f"{model.layers[0].name}.weight"].shape[2]
    names = [layer.name for layer in model.layers]
    probes = [images(size, 1 if size >= NATIVE else 2, channels) for size in sizes]
    errors: list[LayerError] = []
    for size, probe, found in zip(sizes, probes, other(batches=probes, taps="all"), strict=True):
        reference = forward(model, probe, dtype="float64", taps="all")
        check_finite(model, reference)
        rounded = forward(model, probe, dtype="float32", taps="all") if calibrated else None
        errors += compare(names, size, reference, found, rounded, tolerance)
    order = {name: i for i, name in enumerate(names)}
    return sorted(errors, key=lambda error: order[error.name])  # by layer, then by size: the first over tolerance parts first


def _verify_backend(model: Model, backend: str, dtype: str, sizes: Sequence[int], tolerance: float | None) -> Report:
    executor = find(backend)
    source, target = describe(model), {"backend": backend, "describes": executor.describes}
    if executor.kind == "graph":
        layers = compare_backend(model, model, backend, sizes, dtype, native_names(backend, model), None, tolerance)
        return Report(source, target, layers=tuple(layers), precision=dtype)
    known = library()
    implementation = named(known, backend, model)
    fmt = formats.format_for_writing(Path("a" + executor.opens[0]), known.dialects[implementation.dialect].family)
    dialect = known.dialects[fmt.dialects.get(implementation.dialect, implementation.dialect)]
    given, changes = reconcile(model, implementation.attributes)
    names = native_names(backend, model)
    with tempfile.TemporaryDirectory(prefix="xconvert-") as folder:
        path = Path(folder, "model" + executor.opens[0])
        assert fmt.write is not None  # noqa: S101  (what a class opens is written)
        fmt.write(path, save(given, implementation, dialect))
        layers = compare_backend(model, given, backend, sizes, dtype, names, path, tolerance)
    return Report(source, target, layers=tuple(layers), changes=tuple(asdict(change) for change in changes), precision=dtype)


def native_names(backend: str, model: Model) -> dict[str, str]:
    """Our layer → its name in what ``backend`` runs: in the class of that name, or as the framework's files have it."""
    implementation = native(backend, model)
    return written_names(implementation, library().dialects[implementation.dialect], model.depth, model.head)


def native(backend: str, model: Model) -> Implementation:
    """The implementation that ``backend`` is the class of, or whose names its framework's files have."""
    known = library()
    if find(backend).kind == "class":
        return named(known, backend, model)
    return known.customary(known.dialects[backend], model.family, model.depth)


def named(known: Library, name: str, model: Model, where: str = "") -> Implementation:
    """The implementation called ``name`` of the model's own network; raises ``RefusedError`` when it has only others.
    ``where`` is the model's name in messages.
    """
    if own := known.find(name, model.family, model.depth):
        return own
    others = [i.at(model.depth if i.model(model.depth) else i.family.depths[0]) for i in known.named(name)]
    mine = known.find(model.implementation, model.family, model.depth)
    rows = [("source", mine.describes if mine else model.family.name, model.family.differs)]
    rows += [("target" if i is others[0] else "", i.describes, i.family.differs) for i in others]
    width = max(len(who) for _, who, _ in rows)
    framework = known.framework(known.dialects[others[0].dialect].family).name
    raise RefusedError(
        f"{where or 'it'} cannot become {' or '.join(i.describes for i in others)}: they are different networks",
        facts=[f"{side:6}  {who:{width}}  {what}" for side, who, what in rows],
        hints=[f"`--to {framework}` keeps the function exactly, in a network of xconvert's"] if where else [],
    )


def check_written(
    written: Checkpoint, found: Checkpoint, source: Model, intended: Model, changes: Sequence[Change], again: Model
) -> list[Check]:
    """Whether ``found`` in the file, and the model ``again`` in it, are what was ``written`` and meant: names, shapes and
    dtypes; values bit-equal, or within ``ULP`` of the fold; attributes.
    """
    names = list(found.tensors) == list(written.tensors) or sorted(found.tensors) == sorted(written.tensors)
    unlike = [n for n, t in written.tensors.items() if n in found.tensors and found.tensors[n].shape != t.shape]
    retyped = [n for n, t in written.tensors.items() if n in found.tensors and found.tensors[n].dtype != t.dtype]
    folded = {name for change in changes for name in change.weights}
    wrong = [n for n in source.weights if n not in folded and not same_bits(source.weights[n].read(), again.weights[n].read())]
    wrong += [name for name in folded if not folds_to(source, again, name)]
    kept = again.values == intended.values
    moved = len(source.weights) - len(folded)
    told = f"{moved} bit-equal" + (f", {len(folded)} folded within {ULP} ulp" if folded else "")
    return [
        Check("names", names, f"{len(written.tensors)} tensors"),
        Check("shapes", not unlike, ", ".join(unlike[:4])),
        Check("dtypes", not retyped, ", ".join(retyped[:4])),
        Check("values", not wrong, told if not wrong else "not as meant: " + ", ".join(wrong[:4])),
        Check("attributes", kept, "" if kept else f"{again.values}, meant {intended.values}"),
    ]
