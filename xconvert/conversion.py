"""The main job: read, load, reconcile, save, write, verify, and only then give the file its name."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from xconvert import formats, provenance
from xconvert.backends import find
from xconvert.errors import UsageError, VerificationError, XconvertError
from xconvert.heads import Asked, operated
from xconvert.implementation import Dialect, Implementation, Library, written_names
from xconvert.loading import interpret, load, save
from xconvert.mappings import library
from xconvert.model import Checkpoint, Model
from xconvert.naming import describe, named, native_names
from xconvert.outputs import check_output, published
from xconvert.probe import NATIVE, SIZES
from xconvert.progress import tell
from xconvert.reconcile import CLASSES, FOLDS, NEVER, Change, classes, reconcile
from xconvert.remote import name_of
from xconvert.remote.outputs import delivering
from xconvert.report import Check, Diagnosis, Report
from xconvert.tuples import NamedTuple

if TYPE_CHECKING:
    from xconvert.parity import Parity


class Target(NamedTuple):
    """Where a conversion goes: whose names, in which file format, and the attributes that must hold there.

    ``own``: the dialect of the implementation; ``dialect``: the one of its family in which the format spells names.
    """

    implementation: Implementation
    own: Dialect
    dialect: Dialect
    format: formats.Format
    path: Path
    wanted: Mapping[str, Any]
    framework: bool


class Plan(NamedTuple):
    """A conversion that was found to be possible: ``source`` as it was read, ``model`` with the head that was asked for,
    ``intended`` with the attributes of the target too, and in ``changes`` what both took.
    """

    source: Model
    model: Model
    intended: Model
    changes: tuple[Change, ...]
    target: Target


@delivering
def convert(
    source: str | Path,
    output: str | Path | None = None,
    *,
    to: str,
    accept: Collection[str] = (),
    background: Literal["drop", "add"] | None = None,
    num_classes: int | None = None,
    head: bool = True,
    head_init: str = "",
    seed: int | None = None,
    layout: str | None = None,
    card: Mapping[str, str] | None = None,
    verify: bool = True,
    verify_with: Sequence[str] = (),
    force: bool = False,
    mappings: Sequence[str | Path] = (),
    **options: Any,
) -> Report:
    """Convert the checkpoint ``source`` for ``to``, verify what was written, and return the report.

    ``to``: a framework (``torch``, ``keras``) keeps the function and changes the container; an implementation
    (``timm``, ``keras.applications``, …) means that class. ``output``: the file to write; by default beside the
    source, with the framework's suffix; its suffix chooses the format. ``accept``: attributes that may differ.
    ``background``: leave out the first class (``"drop"``), or add one that never wins (``"add"``). ``num_classes``: a new,
    untrained head of so many classes, which starts as ``head_init`` says (one of ``heads.INITS``, by default as in the target's
    framework), from ``seed`` (by default 0); ``head=False``: none. ``layout``: a format that no suffix chooses (``"hub"``,
    ``"keras-hub"``, ``"paddleclas"``), and ``card``: what its model card shall state, ``"license"`` and ``"base_model"``.
    ``verify_with``: backends that also run the result. ``force``: replace an existing file. ``options``: those of ``load``.
    Source and output may be URLs; what goes to one is verified before.

    Raises ``RefusedError`` when the target computes something else, ``VerificationError`` when the result does not
    compute what it must, and the other subclasses of ``XconvertError`` for what cannot be read or written. In each
    case nothing is left under the output's name.
    """
    loaded = load(source, mappings=mappings, **options)
    known = library(*(Path(folder) for folder in mappings))
    target = resolve(to, loaded, known, name_of(source), Path(output) if output else None, layout)
    model, surgery = operated(loaded, Asked(background, num_classes, head, head_init, seed), target.own.family)
    _check_names(target, model, accept, verify_with, card or {})
    plan = _planned(loaded, model, target, accept, surgery)
    check = _check_places(target, model, force, verify_with)
    report = _report(plan)
    with published(target.path, target.format, check, _size(plan.intended)) as written:
        checkpoint = _write(plan, written)
        report = _verified(report, plan, checkpoint, written, verify_with, mappings) if verify else report
        _write_card(report, plan, checkpoint, written, card or {})
    told = partial(provenance.describe, model, target.path, backends=verify_with if verify else ())
    return report._replace(output=str(target.path), provenance=provenance.Later(told))


def _planned(source: Model, model: Model, target: Target, accept: Collection[str], surgery: tuple[Change, ...]) -> Plan:
    """What is to be done, and in ``surgery`` already was; raises ``RefusedError`` where the target computes something else that
    was not accepted.
    """
    intended, changes = reconcile(model, target.wanted, accept)
    if refused := [change for change in changes if change.action == "refused"]:
        from xconvert.effects import refusal

        raise refusal(model, refused, target.implementation, target.implementation.dialect)
    return Plan(source, model, intended, (*surgery, *changes), target)


def _write(plan: Plan, path: Path) -> Checkpoint:
    """Write what is intended to ``path``, with the record of what was done, and return it."""
    tell("writing", 0.0)
    assert plan.source.origin  # noqa: S101  (it was read from a file)
    made = save(plan.intended, plan.target.implementation, plan.target.dialect, hashed=False)
    checkpoint = provenance.sealed(made, [change._asdict() for change in plan.changes], plan.source.origin.sha256)
    assert plan.target.format.write is not None  # noqa: S101  (format_for_writing gives no other)
    plan.target.format.write(path, checkpoint)
    return checkpoint


def _write_card(report: Report, plan: Plan, checkpoint: Checkpoint, path: Path, stated: Mapping[str, str]) -> None:
    """Write the model card of a folder, once its figures are known; what it says of the weights is their own record."""
    form = plan.target.format
    if form.card:
        from xconvert.parity import channels
        from xconvert.reports import card

        record = json.loads(checkpoint.metadata["xconvert"])
        network = {**describe(plan.model), "channels": channels(plan.model)}
        (path / form.card).write_text(card.document(report, form.name, record, network, stated), encoding="utf-8")


def _check_names(
    target: Target, model: Model, accept: Collection[str], backends: Sequence[str], stated: Mapping[str, str]
) -> None:
    if unknown := [name for name in accept if name not in model.values]:
        raise UsageError(f"no attribute is called `{unknown[0]}`", facts=["attributes: " + ", ".join(model.values)])
    for backend in backends:
        find(backend)
    if stated:
        from xconvert.reports import card

        card.check(stated)
        if not target.format.card:
            raise UsageError("only a folder has a model card", hints=["pass `--layout` too, or leave what it states away"])


def _check_places(target: Target, model: Model, force: bool, backends: Sequence[str]) -> Callable[[], None]:
    """Raise ``UsageError``, before any work, where the output cannot be, or a class cannot load what will be written. What checks
    the former again is returned.
    """
    assert model.origin  # noqa: S101  (it was read from a file)
    check = partial(check_output, Path(model.origin.place), target.path, target.format, force)
    check()
    for backend in backends:
        if find(backend).kind == "class" and not _loads(backend, target, model):
            later = f"verify it afterwards: `xconvert verify {target.path} --backend {backend}`"
            raise UsageError(f"`{backend}` itself cannot load `{target.path.name}`", hints=[later])
    return check


def _size(model: Model) -> int:
    """About how many bytes a file of ``model`` has."""
    return sum(tensor.nbytes for tensor in model.weights.values())


def _loads(backend: str, target: Target, model: Model) -> bool:
    """Whether the framework can load the file itself: a format that it opens, with the names that it expects."""
    written = written_names(target.implementation, target.own, model.depth, model.head)
    return target.path.name.endswith(find(backend).opens) and native_names(backend, model) == written


def resolve(to: str, model: Model, known: Library, source: Path, output: Path | None, layout: str | None = None) -> Target:
    """What ``to`` means for this model; raises ``UsageError`` for an unknown target or a format that cannot hold
    it, ``RefusedError`` for an implementation of other networks only.
    """
    framework = known.dialects.get(to)
    if framework is not None and framework.suffix:
        implementation = known.customary(framework, model.family, model.depth)
    else:
        implementation, framework = named(known, to, model, f"`{source}`"), None
    own = known.dialects[implementation.dialect]
    suffix = known.framework(own.family).suffix
    if not suffix:
        raise UsageError(f"`{to}` is only read", hints=["name a zoo or a framework"])
    if layout:
        path = output or source.with_name(stem(source.name))
        target_format = formats.of_layout(layout)
        if framework:  # whoever opens the folder builds the zoo's class, which computes what it computes
            hint = f"`--to {framework.default[0]}` writes one" if framework.default else f"leave `--layout {layout}` away"
            raise UsageError(f"a `{layout}` folder is for a zoo's own class, not for {to} at large", hints=[hint])
    else:
        customary = stem(source.name) + suffix
        path = output / customary if output and _is_folder(output) else output or source.with_name(customary)
        target_format = formats.format_for_writing(path, own.family)
    if target_format.dialects and own.family not in target_format.dialects:
        kinds = " or ".join(dict.fromkeys(known.framework(family).name for family in target_format.dialects))
        raise UsageError(
            f"a `{target_format.name}` file holds {kinds} names, not those of {known.framework(own.family).name}",
            hints=[f"name the output `{stem(path.name)}{suffix}`, or give it another suffix"],
        )
    dialect = known.dialects[target_format.dialects.get(own.family, own.name)]
    kept = framework is not None  # a framework has no attributes of its own but what is customary and can be folded
    wanted = {n: v for n, v in implementation.attributes.items() if not kept or (n in FOLDS and not implementation.own)}
    return Target(implementation, own, dialect, target_format, path, wanted, framework is not None)


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # a name that cannot be; writing will say so
        return False


def stem(name: str) -> str:
    """The name of a checkpoint without what says its format: what a converted one is called, with another suffix."""
    endings = sorted((s for f in formats.formats().values() for s in f.suffixes), key=len, reverse=True)
    name = name.removesuffix(".index")  # of a TensorFlow checkpoint, which goes by its prefix
    ending = next((s for s in endings if name.lower().endswith(s) and len(name) > len(s)), Path(name).suffix)
    return name[: len(name) - len(ending)]


def _verified(
    report: Report, plan: Plan, written: Checkpoint, path: Path, backends: Sequence[str], mappings: Sequence[str | Path]
) -> Report:
    """``report`` with everything verified about the file just written to ``path``: what it holds, what it computes, what
    ``backends`` make of it. Raises ``VerificationError`` where that is not what was ``written`` and meant.
    """
    from xconvert.parity import compare_networks, numpy_run
    from xconvert.weights import check_written, differences, sharing

    target = plan.target
    try:
        found = formats.read(path)
        again = interpret(found, str(target.path), implementation=target.implementation.name, mappings=mappings)
    except XconvertError as error:
        told = f"`{target.path}` was not written: it could not be read again"
        raise VerificationError(told, facts=[error.message, *error.facts]) from None
    apart = differences(plan.model, again)
    checks = check_written(written, found, plan.intended, plan.changes, again, apart)
    accepted = {change.attribute: change.target for change in plan.changes if change.action == "accepted"}
    reference, _ = reconcile(plan.model, accepted, accepted)  # what was accepted is not held against the result
    folded = any(change.action == "folded" for change in plan.changes)
    # every number was compared above, so what is left to be seen is how they are wired: one image of each size shows it
    shared = sharing(plan.model, again, apart)
    parity = compare_networks(reference, numpy_run(shared), SIZES, calibrated=folded, batch=1)
    for backend in backends:
        from xconvert.verification import run_by  # 10 ms, for what hardly anybody asks

        loaded = path if _loads(backend, target, plan.model) else None
        errors = compare_networks(reference, run_by(backend, again, "float32", loaded), (*SIZES, NATIVE), calibrated=True).layers
        parted = next((error for error in errors if not error.ok), None)
        told = f"relative L2 {errors[-1].relative:.1e} at {NATIVE}×{NATIVE}, allowed {errors[-1].allowed:.1e} (float32)"
        checks.append(Check(f"run by {backend}", parted is None, f"parts at `{parted.name}`: {told}" if parted else told))
    why = _why(reference, parity) if parity.parted else ()
    report = report._replace(checks=tuple(checks), layers=parity.layers, agreement=parity.agreement, diagnoses=why)
    if not report.equal:
        raise _failed(report, target.path)
    return report._replace(precision="float64")


def _why(reference: Model, parity: Parity) -> tuple[Diagnosis, ...]:
    from xconvert.diagnosis import diagnose

    assert parity.parted  # noqa: S101  (else nobody asks)
    return diagnose(reference, parity.parted, ("the source", "the result"), {})


def _report(plan: Plan) -> Report:
    """What was done, before it is verified."""
    model, target = plan.model, plan.target
    written = {
        "implementation": target.implementation.name,
        "format": target.format.name,
        "describes": target.format.describes,
        "attributes": plan.intended.values,
    }
    told = [change.told() for change in plan.changes]
    notes = (*model.notes, *_notes(plan))
    return Report(describe(plan.source), written, changes=tuple(told), notes=notes, omitted=model.omitted)


def _notes(plan: Plan) -> list[str]:
    from xconvert.effects import first_parting, measure

    notes = []
    model, intended, changes, target = plan.model, plan.intended, plan.changes, plan.target
    for change in changes:
        widened = {
            model.weights[name].dtype for name in change.weights if model.weights[name].dtype != intended.weights[name].dtype
        }
        if widened:
            notes.append(f"folded weights are float32: {'/'.join(sorted(widened))} would round them")
        if change.action == "accepted":
            effect, output = measure(model, change), "logits" if model.head else "features"
            parting = (
                f"first at `{effect.layer}`; the {output} move by {effect.moved:.1e} at {NATIVE}×{NATIVE}"
                if effect.layer
                else "nowhere"
            )
            notes.append(f"accepted `{change.attribute}` {change.source} → {change.target}: it parts {parting}")
    if target.implementation.published and not target.framework and not target.implementation.model(model.depth):
        notes.append(f"{target.implementation.name} publishes no {model.family.name} of {_depth(model)}")
    new = any(change.action == "new" for change in changes)
    if classes(model) == CLASSES + 1 and not new and model.weights["predictions.bias"].read()[0] != NEVER:
        notes.append("the first of 1001 classes is TensorFlow's background: `--drop-background` leaves it out")
    theirs, _ = reconcile(intended, target.implementation.attributes, target.implementation.attributes)
    if target.framework and not target.implementation.own and (parting := first_parting(intended, theirs)):
        notes.append(
            f"{target.implementation.describes} itself would part at `{parting}` ({NATIVE}×{NATIVE});"
            f" `xconvert.build({str(target.path)!r}, {target.own.name!r})` computes this network"
        )
    normalisation = ("mean", "std", "channels")
    ours, customary = ([p.get(k) for k in normalisation] for p in (model.preprocessing, target.implementation.preprocessing))
    if not any(ours):
        notes.append("how images are normalised is in neither the file nor its mapping")
    elif any(customary) and ours != customary:
        notes.append(f"images stay normalised as for the source: mean {ours[0]}, std {ours[1]}, {ours[2]}")
    return notes


def _depth(model: Model) -> str:
    return f"{model.depth.entry} entry and {model.depth.middle} middle blocks"


def _failed(report: Report, path: Path) -> VerificationError:
    facts = [f"{check.name}: {check.detail}" for check in report.checks if not check.ok]
    if first := report.first_divergence:
        where = f"`{first.name}` at {first.size}×{first.size}"
        facts.append(f"first layer to part: {where}, relative L2 {first.relative:.1e}, allowed {first.allowed:.1e}")
    facts += [diagnosis.told for diagnosis in report.diagnoses]
    return VerificationError(f"`{path}` was not written: the result does not compute what the source does", facts=facts)
