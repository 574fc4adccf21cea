"""Reports as text for a terminal of 80 columns. Colour is added here and taken away again by click where it is not
wanted.
"""

from __future__ import annotations

import json
import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from xconvert.attributes import in_training
from xconvert.errors import XconvertError

if TYPE_CHECKING:
    from xconvert.report import LayerError, Report, Step

WIDTH = 80
SAME = {"": "answer", "new": "features, under a new head", "dropped": "features, without a head"}  # by `Report.head`
# Control characters, marks that turn the direction of writing or cannot be seen, halves of surrogate pairs, and what is no
# character at all: a name in a file, or of one, may hold any of them, and none may drive what shows it or begin a line.
# XML 1.0 has most of them not at all. As a regular expression, which is compiled where there is something to look for.
UNSEEN = "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufeff\ufff9-\uffff]"


def clean(text: object) -> str:
    """``text`` with characters that cannot be seen, or that change how others are shown, as escapes."""
    said = str(text)
    return said if said.isascii() and said.isprintable() else re.sub(UNSEEN, lambda match: _escape(ord(match[0])), said)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def as_json(told: Mapping[str, Any]) -> str:
    """``told`` as JSON in which nothing but line breaks between its parts drives a terminal."""
    text = json.dumps(told, indent=2, ensure_ascii=False, default=str, allow_nan=False)
    return re.sub(UNSEEN, lambda match: match[0] if match[0] == "\n" else f"\\u{ord(match[0]):04x}", text)


def error(problem: XconvertError) -> str:
    """``error:`` and the message, facts indented below it, then each ``hint:``."""
    lines = [click.style("error:", fg="red", bold=True) + " " + clean(problem.message)]
    if problem.facts:
        lines += ["", *("  " + clean(fact) if fact else "" for fact in problem.facts), ""]
    lines += [click.style("hint:", fg="cyan", bold=True) + " " + clean(hint) for hint in problem.hints]
    return "\n".join(lines).rstrip()


def rows(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Label and text in two columns."""
    kept = [(label, text) for label, text in pairs if text]
    width = max((len(label) for label, _ in kept), default=0)
    below = "\n" + " " * (width + 4)
    return [f"  {click.style(label.ljust(width), dim=True)}  {below.join(_wrapped(text, width + 4))}" for label, text in kept]


def _wrapped(text: str, indent: int) -> list[str]:
    """``text`` cleaned, in lines that fit beside a label; runs of blanks stay, as in columns, where one line does."""
    cleaned = clean(text)
    if len(cleaned) <= WIDTH - indent:
        return [cleaned]
    return textwrap.wrap(cleaned, WIDTH - indent, break_long_words=False, break_on_hyphens=False)


def notes(texts: Sequence[str]) -> list[str]:
    """Each ``note:``, folded at the terminal's width of old."""
    folded = [textwrap.wrap(clean(text), WIDTH - 6, break_long_words=False, break_on_hyphens=False) for text in texts]
    return [click.style("note:", fg="cyan", bold=True) + " " + "\n      ".join(lines) for lines in folded]


def network(told: Mapping[str, Any]) -> str:
    """One line that says what a network is, from ``naming.describe``."""
    if "backend" in told:
        return f"{told['backend']}: {told['describes']}"
    head = f"{told['classes']} classes" if told["classes"] else "no head"
    size = f"{told['parameters']:,} params, {'/'.join(told['dtypes'])}"
    return f"{told['implementation']} {told['published'] or told['architecture']}, {head}, {size}"


def conversion(source: str, report: Report) -> str:
    """What a conversion did and how it was verified."""
    target, pairs = report.target, [("source", network(report.source))]
    pairs.append(("target", f"{target['describes']}, names of {target['implementation']}"))
    changed = {change["attribute"] for change in report.changes}
    pairs += [_change(change) for change in report.changes]
    kept = [name for name in target["attributes"] if name not in changed and not in_training(name)]
    pairs += [("carried", f"{name} {target['attributes'][name]}") for name in kept]
    pairs += [
        (check.name, check.detail or "as the source")
        for check in report.checks
        if check.name in ("values",) or "run" in check.name
    ]
    if report.layers:
        worst = max(report.layers, key=lambda layer: layer.relative / layer.allowed)
        told = f"; worst `{worst.name}` {_off(worst)}" if worst.relative else " to the bit"
        pairs.append(("layers", f"all {len({layer.name for layer in report.layers})} agree{told}"))
        pairs.append(
            (report.answers, ", ".join(f"{o.size}×{o.size} {o.relative:.1e}" for o in report.outputs) + _allowed(report))
        )
    head = f"{click.style(clean(source), bold=True)} → {click.style(clean(report.output), bold=True)}"
    accepted = ", ".join(f"`{change['attribute']}`" for change in report.changes if change["action"] == "accepted")
    told = f"verified: same {SAME[report.head]}" + (f", but for {accepted}" if accepted else "")
    told += f", without {', '.join(report.omitted)}" if report.omitted else ""
    told = click.style(told, fg="green") if report.verified else "not verified"
    return "\n".join([head, *rows(pairs), told, *notes(report.notes)])


def _change(change: Mapping[str, Any]) -> tuple[str, str]:
    """What became of an attribute."""
    told = f"{change['attribute']} {change['source']} → {change['target']}"
    if change["action"] == "training":
        told += " (no answer depends on it)"
    return change["action"], told + (f" in {change['where']}" if change["count"] else "")


def _allowed(report: Report) -> str:
    return f" (relative L2, {report.precision}; allowed {min(o.allowed for o in report.outputs):.1e})"


def _off(layer: LayerError) -> str:
    return f"{layer.relative:.1e} of {layer.allowed:.1e} allowed"


def verification(names: Sequence[str], report: Report, every: bool = False) -> str:
    """The two sides, the checks, a table of layers against sizes, one of the answers, and the verdict with its reasons."""
    lines = []
    for name, told in zip(names, (report.source, report.target), strict=True):
        lines += [click.style(clean(name), bold=True), f"  {clean(network(told))}"]
    checks = [(check.name, ("" if check.ok else "DIFFERENT: ") + check.detail) for check in report.checks]
    words = {"refused": "differs", "training": "in training"}
    changes = [
        (words.get(change["action"], change["action"]), f"{change['attribute']} {change['source']} → {change['target']}")
        for change in report.changes
    ]
    if checks or changes:
        lines += ["", *rows([*checks, *changes])]
    if report.layers:
        lines += ["", *_table(report, every), "", *_answers(report)]
    if report.trials:
        lines += ["", *_trials(report)]
    if report.training:
        lines += ["", *_training(report.training)]
    return "\n".join([*lines, "", verdict(report), *reasons(report), *notes(report.notes)])


def reasons(report: Report) -> list[str]:
    """Why two networks part, a paragraph for each cause, and what to do about it."""
    lines = []
    for diagnosis in report.diagnoses:
        rest = "; nothing else differs" if diagnosis.last and report.layers else ""
        lines += _paragraph("why: ", "yellow", f"{diagnosis.kind}: {diagnosis.told}{rest}")
    for hint in dict.fromkeys(diagnosis.hint for diagnosis in report.diagnoses if diagnosis.hint):
        lines += _paragraph("hint:", "cyan", hint)
    return lines


def _paragraph(label: str, colour: str, text: str) -> list[str]:
    folded = textwrap.wrap(clean(text), WIDTH - 6, break_long_words=False, break_on_hyphens=False)
    return [click.style(label, fg=colour, bold=True) + " " + "\n      ".join(folded)]


def _table(report: Report, every: bool) -> list[str]:
    sizes = sorted({layer.size for layer in report.layers})
    grid: dict[str, dict[int, LayerError]] = {}
    for layer in report.layers:
        grid.setdefault(layer.name, {})[layer.size] = layer
    first = report.first_divergence
    from xconvert.report import block

    last = {block(name): name for name in grid}  # a block's last layer
    shown = [name for name in grid if every or name == last[block(name)] or (first and name == first.name)]
    caption = f"relative L2, {report.precision}"
    width = max(len(name) for name in (caption, *shown))
    head = f"  {caption:{width}}" + "".join(f"{f'{s}×{s}':>10}" for s in sizes) + f"{'allowed':>10}"
    lines = [click.style(head, dim=True)]
    for name in shown:
        cells = "".join(_cell(grid[name].get(size)) for size in sizes)
        allowed = min(layer.allowed for layer in grid[name].values())
        mark = click.style("  ← parts here", fg="red") if first and name == first.name else ""
        lines.append(f"  {name:{width}}{cells}{allowed:>10.1e}{mark}")
    return lines


def _answers(report: Report) -> list[str]:
    """How far the outputs are apart, in every measure, by size."""
    outputs = sorted(report.outputs, key=lambda output: output.size)
    agreed = {agreement.size: agreement for agreement in report.agreement}
    measures: list[tuple[str, list[str]]] = [
        ("max absolute", [f"{o.maximum:.1e}" for o in outputs]),
        ("max, of the largest", [f"{o.moved:.1e}" for o in outputs]),
        ("root mean square", [f"{o.rms:.1e}" for o in outputs]),
        ("1 - cosine", [f"{max(1 - o.cosine, 0):.1e}" for o in outputs]),
    ]
    if agreed:
        told = [agreed[o.size] for o in outputs]
        measures.append(("same top 1", [f"{t.top1} of {t.images}" for t in told]))
        measures.append(("same top 5", [f"{t.top5} of {t.images}" for t in told]))
    head = f"  {report.answers:22}" + "".join(f"{f'{o.size}×{o.size}':>10}" for o in outputs)
    lines = [f"  {label:22}" + "".join(f"{cell:>10}" for cell in cells) for label, cells in measures]
    return [click.style(head, dim=True), *lines]


def _trials(report: Report) -> list[str]:
    """The acceptance table, and its verdict: the largest of all."""
    body = [
        (str(t.seed), str(t.batch), f"{t.maximum:.1e}", f"{t.allowed:.1e}", t.same, "" if t.ok else "over") for t in report.trials
    ]
    worst = max(report.trials, key=lambda trial: trial.maximum)
    same, images = sum(trial.top1 or 0 for trial in report.trials), sum(trial.batch for trial in report.trials)
    agreed = f", top-1 agreement {same / images:.0%} of {images} images" if worst.top1 is not None else ""
    lines = table(("seed", "batch", "max_abs_diff", "allowed", "same top 1", ""), body)
    return [*lines, f"  max_abs_diff {worst.maximum:.1e} over all{agreed}"]


def _training(step: Step) -> list[str]:
    """One step of training: the loss, and the gradient and the statistics that are furthest apart."""
    pairs = [("training", f"loss {step.losses[0]:.6g} against {step.losses[1]:.6g}")]
    for label, errors in (("gradients", step.gradients), ("statistics", step.statistics)):
        wrong = [error for error in errors if not error.ok]
        worst = max(wrong or errors, key=lambda error: error.relative / error.allowed)
        told = f"all {len(errors)} agree" if not wrong else f"DIFFERENT: {len(wrong)} of {len(errors)}"
        pairs.append((label, f"{told}; worst `{worst.name}` {_off(worst)}"))
    return [*rows(pairs), *notes(step.reasons)]


def _cell(layer: LayerError | None) -> str:
    if layer is None:
        return f"{'–':>10}"
    return click.style(f"{layer.relative:>10.1e}", fg=None if layer.ok else "red")


def verdict(report: Report) -> str:
    """``equal`` or ``different``, and in what."""
    if report.equal:
        told = ""
        if report.outputs:
            worst = max(report.outputs, key=lambda layer: layer.relative)
            told = f": {report.answers} agree, relative L2 {_off(worst)}"
        told += "; so does a step of training" if report.training else ""
        return click.style("equal", fg="green", bold=True) + told
    failed = next((check for check in report.checks if not check.ok), None)
    if first := report.first_divergence:
        output = max(report.outputs, key=lambda layer: layer.relative)
        told = f"first at `{first.name}` ({first.size}×{first.size})\n"
        told += f"  {report.answers} move by {output.moved:.1e} of the largest at {output.size}×{output.size}"
    elif failed:
        told = failed.name
    else:
        told = "in training" if report.training and not report.training.ok else "beyond the tolerance in the acceptance table"
    return click.style("different", fg="red", bold=True) + f": {told}"


def title(text: str) -> str:
    """A heading."""
    return click.style(text, bold=True)


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned columns under dim headings."""
    widths = [max(len(str(row[i])) for row in (head, *body)) for i in range(len(head))]
    lines = ["  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *body)]
    return ["  " + click.style(lines[0], dim=True), *("  " + line for line in lines[1:])]
