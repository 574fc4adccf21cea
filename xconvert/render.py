"""Reports as text for a terminal of 80 columns. Colour is added here and taken away again by click where it is not
wanted.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

from xconvert.errors import XconvertError
from xconvert.report import LayerError, Report

WIDTH = 80
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """``text`` with control characters made visible, so that a name in a file cannot drive the terminal."""
    return CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


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
    return [f"  {click.style(label.ljust(width), dim=True)}  {clean(text)}" for label, text in kept]


def notes(texts: Sequence[str]) -> list[str]:
    """Each ``note:``, folded at the terminal's width of old."""
    folded = [textwrap.wrap(clean(text), WIDTH - 6, break_long_words=False, break_on_hyphens=False) for text in texts]
    return [click.style("note:", fg="cyan", bold=True) + " " + "\n      ".join(lines) for lines in folded]


def network(told: Mapping[str, Any]) -> str:
    """One line that says what a network is, from ``verification.describe``."""
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
    for change in report.changes:
        where = f" in {change['where']}" if change["count"] else ""
        pairs.append((change["action"], f"{change['attribute']} {change['source']} → {change['target']}{where}"))
    pairs += [("carried", f"{name} {value}") for name, value in target["attributes"].items() if name not in changed]
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
            (_output(report), ", ".join(f"{o.size}×{o.size} {o.relative:.1e}" for o in report.outputs) + _allowed(report))
        )
    head = f"{click.style(clean(source), bold=True)} → {click.style(clean(report.output), bold=True)}"
    accepted = ", ".join(f"`{change['attribute']}`" for change in report.changes if change["action"] == "accepted")
    told = "verified: same answer" + (f", but for {accepted}" if accepted else "")
    told += f", without {', '.join(report.omitted)}" if report.omitted else ""
    told = click.style(told, fg="green") if report.verified else "not verified"
    return "\n".join([head, *rows(pairs), told, *notes(report.notes)])


def _output(report: Report) -> str:
    return "logits" if report.source.get("classes") else "features"


def _allowed(report: Report) -> str:
    return f" (relative L2, {report.precision}; allowed {min(o.allowed for o in report.outputs):.1e})"


def _off(layer: LayerError) -> str:
    return f"{layer.relative:.1e} of {layer.allowed:.1e} allowed"


def verification(names: Sequence[str], report: Report, every: bool = False) -> str:
    """The two sides, the checks, a table of layers against sizes, and the verdict."""
    lines = []
    for name, told in zip(names, (report.source, report.target), strict=True):
        lines += [click.style(clean(name), bold=True), f"  {clean(network(told))}"]
    lines += ["", *rows((check.name, ("" if check.ok else "DIFFERENT: ") + check.detail) for check in report.checks)]
    if report.layers:
        lines += ["", *_table(report, every)]
    return "\n".join([*lines, "", verdict(report), *notes(report.notes)])


def _table(report: Report, every: bool) -> list[str]:
    sizes = sorted({layer.size for layer in report.layers})
    grid: dict[str, dict[int, LayerError]] = {}
    for layer in report.layers:
        grid.setdefault(layer.name, {})[layer.size] = layer
    first = report.first_divergence
    last = {_block(name): name for name in grid}  # a block's last layer
    shown = [name for name in grid if every or name == last[_block(name)] or (first and name == first.name)]
    width = max(len(name) for name in shown)
    head = (
        f"  {'layer':{width}}"
        + "".join(f"{f'{s}×{s}':>11}" for s in sizes)
        + f"{'allowed':>11}   {report.precision}, relative L2"
    )
    lines = [click.style(head, dim=True)]
    for name in shown:
        cells = "".join(_cell(grid[name].get(size)) for size in sizes)
        allowed = min(layer.allowed for layer in grid[name].values())
        mark = click.style("  ← parts here", fg="red") if first and name == first.name else ""
        lines.append(f"  {name:{width}}{cells}{allowed:>11.1e}{mark}")
    return lines


def _block(name: str) -> str:
    """What a layer is a part of: ``block3``, ``middle.block3``, or a layer by itself."""
    match = re.match(r"(\w+\.)?block\d+|[^.]+(\.conv\d)?", name)
    return match[0] if match else name


def _cell(layer: LayerError | None) -> str:
    if layer is None:
        return f"{'–':>11}"
    return click.style(f"{layer.relative:>11.1e}", fg=None if layer.ok else "red")


def verdict(report: Report) -> str:
    """``equal`` or ``different``, and why."""
    failed = next((check for check in report.checks if not check.ok), None)
    if failed:
        return click.style("different", fg="red", bold=True) + f": {failed.name}"
    if first := report.first_divergence:
        output = max(report.outputs, key=lambda layer: layer.relative)
        moved = f"the output moves by {output.moved:.1e} of its largest value at {output.size}×{output.size}"
        return click.style("different", fg="red", bold=True) + f": first at `{first.name}` ({first.size}×{first.size}); {moved}"
    worst = max(report.outputs, key=lambda layer: layer.relative)
    return click.style("equal", fg="green", bold=True) + f": {_output(report)} agree, relative L2 {_off(worst)}"


def title(text: str) -> str:
    """A heading."""
    return click.style(text, bold=True)


def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    """Left-aligned columns under dim headings."""
    widths = [max(len(str(row[i])) for row in (head, *body)) for i in range(len(head))]
    lines = ["  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *body)]
    return ["  " + click.style(lines[0], dim=True), *("  " + line for line in lines[1:])]
