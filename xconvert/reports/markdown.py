"""GitHub-flavoured Markdown for a step summary: the verdict first, then what to do, then the figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from xconvert.report import LayerError, Report, block
from xconvert.reports import _text

SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~&!$@])")
MARK = {True: "✅", False: "❌"}


def text(value: object) -> str:
    """``value`` as Markdown text on one line that means nothing but itself, in a table too."""
    return SPECIAL.sub(r"\\\1", _text.visible(value))


def code(value: object) -> str:
    """A literal: fenced by more backticks than it has in a row, bars escaped as a table needs it."""
    shown = _text.visible(value).replace("|", "\\|")
    fence = "`" * (max(map(len, re.findall("`+", shown)), default=0) + 1)
    padding = " " if shown.startswith("`") or shown.endswith("`") or not shown.strip() else ""
    return f"{fence}{padding}{shown}{padding}{fence}"


def prose(value: str) -> str:
    """A sentence whose literals are in backticks."""
    return "".join(code(piece) if literal else text(piece) for literal, piece in _text.segments(value))


def table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> list[str]:
    """A table and an empty line; cells are Markdown already."""
    rule = "|" + "|".join("---" for _ in columns) + "|"
    return [f"| {' | '.join(columns)} |", rule, *(f"| {' | '.join(line)} |" for line in lines), ""]


def document(report: Report, names: tuple[str, str]) -> str:
    """The whole summary."""
    state = _text.state(report)
    mark = {"equal": "✅", "different": "❌"}.get(state, "⚪")
    lines = [f"## {mark} {state.capitalize()}", "", f"**{prose(_text.verdict(report))}**", ""]
    if effect := _text.effect(report):
        lines += [prose(effect), ""]
    for found in _text.advice(report):
        at = f" (at {code(found.layer)})" if found.layer and f"`{found.layer}`" not in found.why else ""
        lines.append(f"- **Why**{at}: {prose(found.why)}")
        if found.what:
            lines.append(f"  **What to do**: {prose(found.what)}")
    lines += [""] if _text.advice(report) else []
    sides = zip("AB", names, (report.source, report.target), strict=True)
    lines += table(("", "file", "network"), [(side, code(name), text(_text.network(told))) for side, name, told in sides])
    lines += [f"> {prose(_text.sentence(note))}  " for note in report.notes] + ([""] if report.notes else [])
    for part in (_checks, blocks, _agreement, _changes, _trials, _training, _provenance):
        lines += part(report)
    return "\n".join(lines).rstrip("\n") + "\n"


def _checks(report: Report) -> list[str]:
    if not report.checks:
        return []
    lines = [(text(check.name), MARK[check.ok], prose(check.detail)) for check in report.checks]
    return ["### Checks", "", *table(("check", "", "found"), lines)]


def blocks(report: Report) -> list[str]:
    """The last layer of every block and the one that parts, against sizes."""
    if not report.layers:
        return []
    grid: dict[str, dict[int, LayerError]] = {}
    for error in report.layers:
        grid.setdefault(error.name, {})[error.size] = error
    first = report.first_divergence
    last = {block(name): name for name in grid}
    sizes = sorted({error.size for error in report.layers})
    lines = []
    for name, found in grid.items():
        parts = first is not None and name == first.name
        if parts or name == last[block(name)]:
            cells = [_cell(found.get(size)) for size in sizes]
            allowed = _text.figure(min(error.allowed for error in found.values()))
            lines.append([code(name), *cells, allowed, "❌ **parts here**" if parts else MARK[all(e.ok for e in found.values())]])
    head = ("layer", *(_text.size(size) for size in sizes), "allowed", "")
    told = f"Relative L2{f', {text(report.precision)}' if report.precision else ''}; the last layer of every block"
    return ["### Layers", "", f"{told}{' and the one that parts' if first else ''}.", "", *table(head, lines)]


def _cell(error: LayerError | None) -> str:
    if error is None:
        return "–"
    return _text.figure(error.relative) if error.ok else f"**{_text.figure(error.relative)}**"


def _agreement(report: Report) -> list[str]:
    if not report.agreement:
        return []
    lines = [(_text.size(a.size), str(a.images), f"{a.top1} of {a.images}", f"{a.top5} of {a.images}") for a in report.agreement]
    return ["### Answers", "", *table(("size", "images", "same first class", "same first five"), lines)]


def _changes(report: Report) -> list[str]:
    lines = [
        (
            text(c.get("action")),
            code(c.get("attribute")),
            f"{code(c.get('source'))} → {code(c.get('target'))}",
            text(c.get("where", "")),
        )
        for c in report.changes
    ]
    lines += [("left out", code(name), "", "") for name in report.omitted]
    return ["### Changes", "", *table(("what", "of", "from and to", "where"), lines)] if lines else []


def _trials(report: Report) -> list[str]:
    """The acceptance table."""
    if not report.trials:
        return []
    lines = [
        (
            str(t.seed),
            str(t.batch),
            _text.figure(t.maximum),
            f"{t.top1}/{t.batch} ({t.top1 / t.batch:.0%})" if t.top1 is not None else "–",
            MARK[t.ok],
        )
        for t in report.trials
    ]
    ok, most = all(t.ok for t in report.trials), _text.worst(report.trials)
    allowed = _text.figure(min(t.allowed for t in report.trials))
    verdict = f"**Verdict: {'PASS' if ok else 'FAIL'}**, max over all {_text.figure(most)}, allowed {allowed}"
    return ["### Acceptance", "", *table(("seed", "batch", "max_abs_diff", "top-1 agreement", ""), lines), verdict, ""]


def _training(report: Report) -> list[str]:
    step = report.training
    if step is None:
        return []
    named = (("loss", (step.loss,)), ("gradients", step.gradients), ("running statistics", step.statistics))
    lines = []
    for name, found in named:
        if found:
            most = max(found, key=lambda e: e.relative / e.allowed if e.relative >= 0 and e.allowed else float("inf"))
            over = sum(not error.ok for error in found)
            told = f"{len(found) - over} of {len(found)}"
            lines.append((name, MARK[not over], told, code(most.name), _text.figure(most.relative), _text.figure(most.allowed)))
    losses = " and ".join(f"{loss:.9g}" for loss in step.losses)
    reasons = [f"- {prose(_text.sentence(reason))}" for reason in step.reasons]
    head = ("one step", "", "within tolerance", "worst", "relative L2", "allowed")
    return ["### Training", "", f"Losses {losses}.", "", *table(head, lines), *reasons, *([""] if reasons else [])]


def _provenance(report: Report) -> list[str]:
    pairs = list(_text.flat(report.provenance))
    for side, told in (("A", report.source), ("B", report.target)):
        pairs += [
            (f"{side}: {name}", f"{value} ({where})" if where else value)
            for name, (value, where) in _text.attributes(told).items()
        ]
    if not pairs:
        return []
    body = table(("", ""), [(text(label), code(value)) for label, value in pairs])
    return ["<details><summary>Provenance</summary>", "", *body, "</details>", ""]
