"""What the page shows below its first screen, a function for each section; nothing where the report has nothing of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np

from xconvert.model import Array
from xconvert.report import Activations, LayerError, Report
from xconvert.reports import _plot, _png, _text
from xconvert.reports._markup import code, figures, passed, prose, rows, section, table, text

Names = tuple[str, str]
NUMBERS = ("Error", "Allowed", "Rounding", "Largest difference", "Share of largest value", "RMS", "Cosine")


def errors(report: Report, names: Names) -> str:
    """The error of every layer as a plot."""
    if not report.layers:
        return ""
    told = (
        "Both networks were given the same images. A line shows how far apart they are after each layer, first layer on the left:"
        " 0 is the same to the last bit, 1 is as much as the layer's own values vary. Below the tolerance is rounding;"
        " above it, another function."
    )
    return section("Error per layer", told, f"<figure>{_plot.layers(report)}</figure>")


def activations(report: Report, names: Names) -> str:
    """What both sides computed where they part, beside each other."""
    found = report.activations
    if found is None:
        return ""
    heading = f"What both compute at {_text.literal(found.layer)}"
    told = f"For one of the images of {_text.size(found.size)}"
    if found.reference.ndim != 2 or found.other.ndim != 2:
        return section(heading, f"{told}, value by value.", _vectors(found))
    told += f", channel {found.channel}" if found.channel >= 0 else ""
    return section(heading, f"{told}, the one that differs most. Where the right picture is dark, both agree.", _maps(found))


def _vectors(found: Activations) -> str:
    a, b = found.reference.reshape(-1), found.other.reshape(-1)
    lines = '<ul class="legend"><li>{}A</li><li>{}B</li></ul>'
    legend = lines.format(*(_plot.sample(kind, "M0 500H1000") for kind in ("line", "b")))
    parts = ["<h3>A and B</h3>", _plot.vectors([("line", a), ("b", b)], "The values of A and B"), legend]
    if a.shape == b.shape:
        parts += ["<h3>B − A</h3>", _plot.vectors([("d", _difference(a, b))], "The difference of B and A")]
    else:
        parts.append(f'<p class="lead">{len(a)} values against {len(b)}.</p>')
    return "<figure>" + "\n".join(parts) + "</figure>"


def _difference(a: Array, b: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        found: Array = b.astype(np.float64) - a.astype(np.float64)
        return found


def _maps(found: Activations) -> str:
    pairs = [("A", found.reference), ("B", found.other)]
    low, high = _range([array for _, array in pairs])
    shown = [_map(name, array, low, high) for name, array in pairs]
    bars = [_bar("bar", low, high)]
    if found.reference.shape == found.other.shape:
        gap = np.abs(_difference(found.reference, found.other))
        _, most = _range([gap])
        shown.append(_map("|B − A|", gap, 0.0, most))
        bars.append(_bar("bar one", 0.0, most))
    arrays = [array for _, array in pairs]
    notes = [] if all(np.isfinite(array).all() for array in arrays) else ["Grey is infinite or not a number."]
    _, step = _png.thinned(found.reference)
    notes += [f"One in {step} rows and columns is shown."] if step > 1 else []
    told = f'<p class="lead">{" ".join(notes)}</p>' if notes else ""
    return f'<div class="maps">{"".join(shown)}{"".join(bars)}</div>{told}'


def _range(arrays: Sequence[Array]) -> tuple[float, float]:
    finite = np.concatenate([array[np.isfinite(array)].astype(np.float64) for array in arrays])
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)


def _map(name: str, array: Array, low: float, high: float) -> str:
    image, _ = _png.thinned(array)
    told = f"{name}: {array.shape[0]} by {array.shape[1]} values from {_text.plain(low)} to {_text.plain(high)}"
    source = _png.picture(image, low, high)
    size = f'width="{image.shape[1]}" height="{image.shape[0]}"'
    return f'<figure><figcaption>{text(name)}</figcaption><img {size} alt="{text(told)}" src="{source}"></figure>'


def _bar(kind: str, low: float, high: float) -> str:
    ends = f'<div><span class="num">{_text.plain(low)}</span><span class="num">{_text.plain(high)}</span></div>'
    return f'<div class="{kind}"><img width="255" height="1" alt="scale" src="{_png.scale_bar()}">{ends}</div>'


CONTROLS = """<div class="controls" id="controls" hidden>
<input type="search" id="filter" placeholder="Part of a name" aria-label="Show only layers with this in their name">
<label><input type="checkbox" id="only">only those over tolerance</label>
<span id="count" class="quiet" role="status"></span>
</div>"""


def layers(report: Report, names: Names) -> str:
    """Every layer at every size, with a filter."""
    if not report.layers:
        return ""
    columns = ["Layer", "Size", "Error", "Result", *NUMBERS[1:]]
    first = report.first_divergence
    bodies = [_body(name, list(group), first) for name, group in groupby(report.layers, lambda error: error.name)]
    told = f"In order of execution{f', computed in {report.precision}' if report.precision else ''}. The error is the relative L2"
    told += " distance, the largest over the images; it is held to what is allowed. The other figures are for information."
    found = table("All layers", columns, "\n".join(bodies), NUMBERS, "layers", tall=True)
    return section(
        "All layers", told, CONTROLS, found, '<p class="none" id="none" hidden>No layer is like that.</p>', _agreement(report)
    )


def _body(name: str, found: Sequence[LayerError], first: LayerError | None) -> str:
    """One layer: its name once, a row for each size."""
    bad = "" if all(error.ok for error in found) else ' class="bad"'
    span = f' rowspan="{len(found)}"' if len(found) > 1 else ""
    lines = []
    for i, error in enumerate(found):
        start = f'<th scope="rowgroup"{span}>{code(name).replace(".", ".<wbr>")}</th>' if i == 0 else ""
        result = passed(error.ok, no="parts here" if error == first else "over")
        told = f'<td class="num">{_text.size(error.size)}</td>{figures([_text.figure(error.relative)])}<td>{result}</td>'
        lines.append(f"<tr>{start}{told}{figures(_rest(error))}</tr>")
    return f"<tbody{bad}>{''.join(lines)}</tbody>"


def _rest(error: LayerError) -> list[str]:
    kept = [_text.figure(value) for value in (error.allowed, error.rounding, error.maximum, error.moved, error.rms)]
    return [*kept, f"{error.cosine:.6f}"]


def _agreement(report: Report) -> str:
    if not report.agreement:
        return ""
    lines = [
        f'<td class="num">{_text.size(a.size)}</td>'
        + figures([str(a.images), f"{a.top1} of {a.images}", f"{a.top5} of {a.images}"])
        for a in report.agreement
    ]
    columns = ("Size", "Images", "Same first class", "Same first five")
    told = '<p class="lead">For information only: networks that differ may well agree on the classes of a few images.</p>'
    return "<h3>Answers</h3>" + told + table("Answers", columns, rows(lines), columns)


def checks(report: Report, names: Names) -> str:
    """What was checked before anything was computed."""
    if not report.checks:
        return ""
    lines = []
    for check in report.checks:
        told = f'<td>{passed(check.ok, "passed", "failed")}</td><td class="text">{prose(check.detail)}</td>'
        lines.append(f'<th scope="row">{prose(check.name)}</th>{told}')
    return section("Checks", "", table("Checks", ("Check", "Result", "Found"), rows(lines)))


def changes(report: Report, names: Names) -> str:
    """What was folded into weights, accepted as a difference, or left out."""
    lines = []
    for change in report.changes:
        count = change.get("count") or len(change.get("weights") or ())
        where = change.get("where") or (f"{count} weights rewritten" if count else "")
        moved = f"{code(change.get('source'))} → {code(change.get('target'))}"
        action = f'<th scope="row">{text(change.get("action"))}</th><td>{code(change.get("attribute"))}</td>'
        lines.append(f'{action}<td>{moved}</td><td class="text">{text(where)}</td>')
    lines += [f'<th scope="row">left out</th><td>{code(name)}</td><td></td><td></td>' for name in report.omitted]
    if not lines:
        return ""
    told = "Folded: weights were rewritten so that the function stays the same. Accepted: the function changes, as was asked for."
    if any(change.get("action") == "training" for change in report.changes):
        told += " Training: no answer depends on it, only how the network is trained further."
    return section("What was changed", told, table("Changes", ("What", "Of", "From and to", "Where"), rows(lines)))


def training(report: Report, names: Names) -> str:
    """One step of training on both sides."""
    step = report.training
    if step is None:
        return ""
    verdict = "Both train alike." if step.ok else "They do not train alike."
    told = (
        "One step of training on the same batch: the loss, the gradient of every parameter, and the running statistics after it."
    )
    parts = [f'<p class="verdict">{passed(step.ok, verdict, verdict)}</p>']
    if step.reasons:
        parts.append('<ul class="notes">' + "".join(f"<li>{prose(_text.sentence(why))}</li>" for why in step.reasons) + "</ul>")
    losses = [f"{loss:.9g}" for loss in step.losses]
    lines = [f'<th scope="row">loss</th>{figures([*losses, *_held(step.loss)])}<td>{passed(step.loss.ok)}</td>']
    columns = ("", "A", "B", "Error", "Allowed", "Result")
    parts.append(table("Loss", columns, rows(lines), columns[1:5]))
    for name, found in (("Gradients", step.gradients), ("Running statistics", step.statistics)):
        if found:
            parts.append(f"<h3>{name}</h3>" + _step_table(name, found))
    return section("Training", told, *parts)


def _held(error: LayerError) -> list[str]:
    return [_text.figure(error.relative), _text.figure(error.allowed)]


def _step_table(name: str, found: Iterable[LayerError]) -> str:
    columns = ("Weight", "Error", "Result", "Allowed", "Largest difference")
    lines = [
        f'<th scope="row">{code(error.name)}</th>{figures([_text.figure(error.relative)])}<td>{passed(error.ok)}</td>'
        + figures([_text.figure(error.allowed), _text.figure(error.maximum)])
        for error in found
    ]
    return table(name, columns, rows(lines), ("Error", "Allowed", "Largest difference"), tall=True)


def trials(report: Report, names: Names) -> str:
    """The acceptance table."""
    if not report.trials:
        return ""
    lines = []
    for trial in report.trials:
        told = figures([str(trial.seed), str(trial.batch), _text.figure(trial.maximum), _text.figure(trial.allowed)])
        lines.append(f"{told}{figures([trial.same])}<td>{passed(trial.ok)}</td>")
    columns = ("Seed", "Batch", "max_abs_diff", "Allowed", "Top-1 agreement", "Result")
    ok, most = all(trial.ok for trial in report.trials), _text.worst(report.trials)
    verdict = f'<p class="verdict">{passed(ok, "accepted", "not accepted")}: max over all {code(_text.figure(most))}</p>'
    told = "The largest absolute difference of the logits, for the same random images on both sides."
    return section("Acceptance", told, table("Acceptance", columns, rows(lines), columns[:5]), verdict)


def provenance(report: Report, names: Names) -> str:
    """Which files, made by what, compared with what, and the attributes of both sides."""
    told = report.provenance
    files = [_file(told.get(side) or {}) for side in ("source", "target")]
    parts = []
    if any(files):
        parts.append("<h3>Files</h3>" + _beside(files[0], files[1]))
    values = [_text.attributes(side) for side in (report.source, report.target)]
    plain = [{name: f"{value} ({where})" if where else value for name, (value, where) in side.items()} for side in values]
    unlike = {name for name in values[0].keys() & values[1].keys() if values[0][name][0] != values[1][name][0]}
    if any(plain):
        parts.append("<h3>Attributes</h3>" + _beside(plain[0], plain[1], unlike))
    inputs = [dict(_text.flat(side.get("preprocessing") or {})) for side in (report.source, report.target)]
    if any(inputs):
        differ = {name for name in inputs[0].keys() & inputs[1].keys() if inputs[0][name] != inputs[1][name]}
        parts.append("<h3>Preprocessing</h3>" + _beside(inputs[0], inputs[1], differ))
    rest = [pair for key, value in told.items() if key not in ("source", "target", "versions") for pair in _text.flat(value, key)]
    rest = [*_text.flat(told.get("versions") or {}), *((label.replace(".", " ", 1), value) for label, value in rest)]
    if rest:
        lines = [f'<th scope="row">{text(label)}</th><td class="text">{text(value)}</td>' for label, value in rest]
        parts.append("<h3>Made with</h3>" + table("Made with", ("What", "Value"), rows(lines)))
    return section("Provenance", "What this report speaks of, so that it can be made again.", *parts) if parts else ""


RECORD = {  # what xconvert wrote into a file that it made, in words
    "record.version": "written by xconvert",
    "record.implementation": "names of",
    "record.published": "network",
    "record.mapping.name": "mapping",
    "record.mapping.sha256": "mapping, sha256",
    "record.source.sha256": "made from, sha256",
    "record.source.format": "made from, format",
    "record.source.implementation": "made from, names of",
    "record.omitted": "left out",
    "record.content": "tensors as written, sha256",
}


def _file(told: Mapping[str, Any]) -> dict[str, str]:
    """A file as label and text. The attributes in its record are left out: they are those of the side."""
    record = dict(told.get("record") or {})
    changes = record.pop("changes", None) or ()
    kept = {**told, "record": {key: value for key, value in record.items() if key not in ("attributes", "preprocessing")}}
    found = {RECORD.get(label, label): value for label, value in _text.flat(kept)}
    for i, change in enumerate((c for c in changes if isinstance(c, Mapping)), 1):
        found[f"change {i}"] = "{attribute} {source} → {target} ({action})".format_map(defaultdict(str, change))
    return found


def _beside(a: Mapping[str, str], b: Mapping[str, str], unlike: Iterable[str] = ()) -> str:
    """A and B in two columns; those of ``unlike`` are marked."""
    lines = []
    for label in dict.fromkeys([*a, *b]):
        mark = ' <span class="no">≠ differs</span>' if label in unlike else ""
        cells = "".join(f'<td class="long">{code(side[label]) if label in side else "–"}</td>' for side in (a, b))
        lines.append(f'<th scope="row">{text(label)}{mark}</th>{cells}')
    return table("A and B", ("", "A", "B"), rows(lines))


ALL: Sequence[Callable[[Report, Names], str]] = (errors, activations, layers, checks, changes, training, trials, provenance)
