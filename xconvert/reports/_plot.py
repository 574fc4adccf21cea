"""Plots as inline SVG that is stretched to the width at hand, with labels in HTML over it, so that text keeps its size on a
phone and on paper.

Coordinates: x and y from 0 to ``UNITS``, y from the top. Lines keep their width (``vector-effect`` in the style sheet); a point
is a line of no length with round ends.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from itertools import groupby

import numpy as np

from xconvert.model import Array
from xconvert.report import LayerError, Report, block
from xconvert.reports import _text
from xconvert.tuples import NamedTuple

UNITS = 1000
STYLES = 3  # ways to draw a line: solid, dashed, dotted
WIDE, NARROW, LETTER = 900, 270, 6.5  # widths of the plot on a desktop and on a phone and of a letter below it, in pixels
SLACK = 1e-9  # by which the logarithm of a power of ten may be off a whole number
POINTS = 600  # of a line; two to three times the pixels that it has on a phone


class Scale(NamedTuple):
    """A logarithmic scale for errors, from 10^``low`` to 10^``high``, with a row below it for zero and above it for what is not
    finite.
    """

    low: int
    high: int
    zero: bool
    infinite: bool

    def y(self, value: float) -> int:
        """Where ``value`` is drawn: zero at the bottom edge, what is not finite at the top edge."""
        if not math.isfinite(value):
            return 0
        top, bottom = (80 if self.infinite else 0), UNITS - (80 if self.zero else 0)
        if value <= 0:
            return UNITS
        share = (self.high - math.log10(value)) / (self.high - self.low)
        return round(top + (bottom - top) * min(max(share, 0), 1))

    @property
    def ticks(self) -> list[tuple[int, str]]:
        """Where and what is written beside the scale: powers of ten, at the most seven."""
        step = -(-(self.high - self.low) // 6)
        powers = [(self.y(10.0**power), f"1e{power}") for power in range(self.high, self.low - 1, -step)]
        return [*([(0, "∞ NaN")] if self.infinite else []), *powers, *([(UNITS, "0")] if self.zero else [])]


def scale_for(errors: Sequence[LayerError]) -> Scale:
    """Wide enough for every error and rounding, and for every tolerance with a power of ten around it."""
    figures = [figure for error in errors for figure in (error.relative, error.rounding)]
    figures += [error.allowed * margin for error in errors for margin in (0.1, 10)]
    positive = [figure for figure in figures if 0 < figure < math.inf] or [1.0]
    low, high = math.floor(math.log10(min(positive)) + SLACK), math.ceil(math.log10(max(positive)) - SLACK)
    relative = [error.relative for error in errors if error.relative >= 0 or math.isnan(error.relative)]
    return Scale(low, max(high, low + 1), 0.0 in relative, not all(map(math.isfinite, relative)))


def layers(report: Report) -> str:
    """The error of every layer, in order of execution, a line for each size; the tolerance, the rounding and the first layer
    that parts are drawn in and named.
    """
    names = list(dict.fromkeys(error.name for error in report.layers))
    place = {name: round(UNITS * (i + 0.5) / len(names)) for i, name in enumerate(names)}
    scale = scale_for(report.layers)
    by_layer = [list(group) for _, group in groupby(report.layers, lambda error: error.name)]
    allowed = [(place[group[0].name], scale.y(min(error.allowed for error in group))) for group in by_layer]
    rounding = [(place[group[0].name], max(error.rounding for error in group)) for group in by_layer]
    svg = [_grid(names, scale), _band("over", allowed, 0), _path("tolerance", _to_both_edges(allowed))]
    rounds = any(figure > 0 for _, figure in rounding)
    if rounds:
        svg.append(_band("rounding", [(x, scale.y(figure)) for x, figure in rounding], UNITS))
    sizes = list(dict.fromkeys(error.size for error in report.layers))
    for i, size in enumerate(sorted(sizes)):
        points = [(place[e.name], scale.y(e.relative)) for e in report.layers if e.size == size]
        svg.append(_path(f"line s{i % STYLES}", _thinned(points)))
    svg.append(_dots("wrong", [(place[e.name], scale.y(e.relative)) for e in report.layers if not e.ok]))
    first = report.first_divergence
    if first:
        svg.append(f'<path class="mark" d="M{place[first.name]} 0V{UNITS}"/>')
    labels = [f'<span class="y" style="top:{y / 10:g}%">{text}</span>' for y, text in scale.ticks]
    end = not first or place[first.name] < 0.4 * UNITS  # where the errors are far from the labels
    near = slice(-len(allowed) // 3, None) if end else slice(len(allowed) // 3 + 1)
    labels.append(_beside("tolerance", end, min(y for _, y in allowed[near]), "over tolerance ↑"))
    if rounds:
        labels.append(_beside("rounds", end, max(scale.y(figure) for _, figure in rounding[near]), "rounding ↓"))
    if first:
        labels.append(f'<span class="flag" style="{_left(place[first.name])}">parts at <b>{_name(first.name)}</b></span>')
    told = f"Error per layer on a logarithmic scale, {len(names)} layers in order of execution."
    told += f" The first over tolerance is {first.name}." if first else " None is over tolerance."
    area = f'<div class="area">{_svg(svg, told)}{"".join(labels)}</div>'
    return (
        f'<div class="plot">{area}<div class="x">{_blocks(names, first)}</div></div>{_legend(sorted(sizes), rounds, bool(first))}'
    )


def _thinned(points: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """At the most about ``POINTS`` of them: of each few neighbours the highest and the lowest, in their order."""
    every = -(-2 * len(points) // POINTS)
    if every <= 2:
        return points
    kept = []
    for i in range(0, len(points), every):
        part = points[i : i + every]
        ends = {min(range(len(part)), key=lambda k: part[k][1]), max(range(len(part)), key=lambda k: part[k][1])}
        kept += [part[k] for k in sorted(ends)]
    return kept


def _grid(names: Sequence[str], scale: Scale) -> str:
    """A line for every tick, and a fainter one where a block begins."""
    starts = [i for i in range(1, len(names)) if block(names[i]) != block(names[i - 1])]
    across = "".join(f"M0 {y}H{UNITS}" for y, _ in scale.ticks)
    return f'<path class="grid" d="{across}"/><path class="grid faint" d="{_ups(starts, len(names))}"/>'


def _ups(starts: Sequence[int], count: int) -> str:
    return "".join(f"M{round(UNITS * i / count)} 0V{UNITS}" for i in starts)


def _path(kind: str, points: Sequence[tuple[int, int]]) -> str:
    if len(points) == 1:
        return _dots(kind, points)
    return f'<path class="{kind}" d="M{"L".join(f"{x} {y}" for x, y in points)}"/>'


def _band(kind: str, points: Sequence[tuple[int, int]], edge: int) -> str:
    """What lies between a line and the top or the bottom edge."""
    line = "L".join(f"{x} {y}" for x, y in _to_both_edges(points))
    return f'<path class="{kind}" d="M0 {edge}L{line}L{UNITS} {edge}Z"/>'


def _to_both_edges(points: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    return [(0, points[0][1]), *points, (UNITS, points[-1][1])]


def _dots(kind: str, points: Sequence[tuple[int, int]]) -> str:
    return f'<path class="{kind} dots" d="{"".join(f"M{x} {y}h0" for x, y in points)}"/>' if points else ""


def _svg(parts: Sequence[str], told: str) -> str:
    label = escape(_text.visible(told))
    return f'<svg viewBox="0 0 {UNITS} {UNITS}" preserveAspectRatio="none" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _name(text: str) -> str:
    return f"<bdi>{escape(_text.visible(text))}</bdi>"


def _left(x: int) -> str:
    """Beside a line: to the right of it in the left half, to the left of it in the right half."""
    return f"left:{x / 10:g}%" if x <= UNITS / 2 else f"right:{(UNITS - x) / 10:g}%"


def _beside(kind: str, end: bool, y: int, text: str) -> str:
    """A label on a line, at its start or its ``end``."""
    return f'<span class="on {kind}{" end" if end else ""}" style="top:{y / 10:g}%">{text}</span>'


def _blocks(names: Sequence[str], first: LayerError | None) -> str:
    """The blocks' names below the plot, as many as there is room for; on a phone fewer. The one that parts comes first."""
    spans: dict[str, list[int]] = {}
    for i, name in enumerate(names):
        spans.setdefault(block(name), []).append(i)
    middle = {name: (sum(at) / len(at) + 0.5) / len(names) for name, at in spans.items()}
    mine = block(first.name) if first else ""
    order = sorted(middle, key=lambda name: (name != mine, middle[name]))
    phone = _fitting(order, middle, NARROW, ())
    found = []
    for name in _fitting(order, middle, WIDE, phone):
        kind = ' class="wide"' if name not in phone else ""
        found.append(f'<span{kind} style="left:{100 * middle[name]:.1f}%">{_name(name)}</span>')
    return "".join(found)


def _fitting(order: Sequence[str], middle: dict[str, float], width: int, taken: Sequence[str]) -> list[str]:
    """Those of ``order`` that overlap neither an edge nor one that was taken before them, at ``width`` pixels."""
    found = list(taken)
    for name in order:
        half = (len(name) + 2) * LETTER / 2 / width
        apart = all(abs(middle[name] - middle[o]) > half + (len(o) + 2) * LETTER / 2 / width for o in found)
        if name not in found and half <= middle[name] <= 1 - half and apart:
            found.append(name)
    return found


def _legend(sizes: Sequence[int], rounds: bool, wrong: bool) -> str:
    """What each line and shade means."""
    lines = [(f"line s{i % STYLES}", "M0 500H1000", f"images of {_text.size(size)}") for i, size in enumerate(sizes)]
    lines.append(("tolerance", "M0 500H1000", "tolerance" if len(sizes) == 1 else "tolerance (of the strictest size)"))
    if rounds:
        lines.append(("rounding", "M0 200H1000V800H0Z", "what rounding alone does"))
    if wrong:
        lines.append(("wrong dots", "M500 500h0", "over tolerance"))
    return '<ul class="legend">' + "".join(f"<li>{sample(kind, d)}{told}</li>" for kind, d, told in lines) + "</ul>"


def sample(kind: str, path: str) -> str:
    """A line or shade as a legend shows it."""
    start = f'<svg viewBox="0 0 {UNITS} {UNITS}" preserveAspectRatio="none" aria-hidden="true">'
    return f'{start}<path class="{kind}" d="{path}"/></svg>'


def vectors(lines: Sequence[tuple[str, Array]], told: str) -> str:
    """One or two vectors (C,) over their index on one linear scale; ``lines`` gives each its class. Zero is drawn in."""
    finite = np.concatenate([vector[np.isfinite(vector)].astype(np.float64) for _, vector in lines])
    low, high = (min(float(finite.min()), 0.0), max(float(finite.max()), 0.0)) if finite.size else (0.0, 0.0)
    high = high if high > low else low + 1.0
    zero = round(UNITS * high / (high - low))
    svg = [f'<path class="grid" d="M0 0H{UNITS}M0 {UNITS}H{UNITS}M0 {zero}H{UNITS}"/>']
    for kind, vector in lines:
        count = max(len(vector), 1)
        points = [
            (round(UNITS * (i + 0.5) / count), round(UNITS * (high - value) / (high - low)) if math.isfinite(value) else 0)
            for i, value in enumerate(vector.astype(np.float64).tolist())
        ]
        svg.append(_path(kind, _thinned(points)) + (_dots(f"{kind} point", points) if count <= 40 else ""))
    ticks = {0: _text.plain(high), UNITS: _text.plain(low), **({zero: "0"} if 100 < zero < 900 else {})}
    labels = "".join(f'<span class="y" style="top:{y / 10:g}%">{text}</span>' for y, text in ticks.items())
    return f'<div class="plot small"><div class="area">{_svg(svg, told)}{labels}</div></div>'
