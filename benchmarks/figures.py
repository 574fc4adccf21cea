"""Figures: medians of ratios with their spread, held to the targets of the issue, as a table and as JSON."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from benchmarks.measure import Runs, Sample

Measure = Literal["cpu", "wall"]
QUIET = 0.1  # of a processor may work for others while the clock is believed
HEADER = ("case", "what", "of", "median", "middle half", "target", "verdict")


@dataclass(frozen=True)
class Target:
    """A figure is to be at most ``limit``, or with ``least`` at least."""

    limit: float
    least: bool = False

    def __str__(self) -> str:
        return f"{'≥' if self.least else '≤'} {self.limit:g}"

    def met(self, value: float) -> bool:
        """Whether ``value`` is within it."""
        return value >= self.limit if self.least else value <= self.limit


@dataclass(frozen=True)
class Figure:
    """One row. ``measure``: of what (``cpu``, ``wall``, ``rss``); ``unit``: ``×``, ``MiB`` or ``ms``; ``low``, ``high``: the
    bounds of the middle half of the rounds; ``others``: processors that worked for others meanwhile, on average. Where
    ``problem`` tells why it could not be measured, there are no numbers.
    """

    group: str
    case: str
    what: str
    measure: str
    unit: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    rounds: int = 0
    others: float = 0.0
    target: Target | None = None
    problem: str = ""

    @property
    def verdict(self) -> str:
        """``ok`` or ``MISSED``, ``FAILED`` where something did not run, ``–`` without a target."""
        if self.value is None:
            return "FAILED"
        return "–" if not self.target else "ok" if self.target.met(self.value) else "MISSED"

    def row(self) -> tuple[str, ...]:
        """What the table shows."""
        target = str(self.target or "")
        if self.value is None:
            return self.case, self.what, self.measure, "", self.problem, target, self.verdict
        median, spread = f"{number(self.value)} {self.unit}", f"{number(self.low)}–{number(self.high)}"
        return self.case, self.what, self.measure, median, spread, target, self.verdict

    def to_dict(self) -> dict[str, Any]:
        """What the JSON holds."""
        target = {"limit": self.target.limit, "sense": ">=" if self.target.least else "<="} if self.target else None
        return {**asdict(self), "target": target, "verdict": self.verdict}


def number(value: float | None) -> str:
    """Three digits that count."""
    value = value or 0.0
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


class Case:
    """What was measured of one case: makes figures of it."""

    def __init__(self, group: str, case: str, runs: Runs, problems: dict[str, str]) -> None:
        self.group, self.case, self.runs, self.problems = group, case, runs, problems

    def ratio(
        self, what: str, of: str | Sequence[str], over: str | Sequence[str], measure: Measure, target: Target | None = None
    ) -> Figure:
        """The median over the rounds of ``of`` / ``over``, either the sum of several rivals."""
        above, below = names(of), names(over)
        if problem := self._problem(above + below):
            return Figure(self.group, self.case, what, measure, "×", target=target, problem=problem)
        others = self._others(above + below)
        values = [a / b for a, b in zip(self._sums(above, measure), self._sums(below, measure), strict=True)]
        return self._figure(what, measure, "×", values, others, target)

    def times(self, what: str, of: str, over: str, target: Target | None = None) -> Iterator[Figure]:
        """Both measures. The clock is held to the target where the machine was quiet, else the processors' time is."""
        quiet = bool(self._problem([of, over])) or self._others([of, over]) <= QUIET
        yield self.ratio(what, of, over, "wall", target if quiet else None)
        yield self.ratio(what, of, over, "cpu", None if quiet else target)

    def memory(self, what: str, of: str, target: Target | None = None, over: float = 0.0) -> Figure:
        """The median of the peaks in MiB; or as a multiple of ``over`` MiB."""
        unit = "×" if over else "MiB"
        if problem := self._problem([of]):
            return Figure(self.group, self.case, what, "rss", unit, target=target, problem=problem)
        values = [sample.rss / (over or 1.0) for sample in self.runs[of]]
        return self._figure(what, "rss", unit, values, self._others([of]), target)

    def _figure(
        self, what: str, measure: str, unit: str, values: Sequence[float], others: float, target: Target | None
    ) -> Figure:
        low, middle, high = quartiles(values)
        return Figure(self.group, self.case, what, measure, unit, middle, low, high, len(values), round(others, 3), target)

    def _sums(self, rivals: Sequence[str], measure: str) -> list[float]:
        take: Callable[[Sample], float] = lambda sample: getattr(sample, measure)  # noqa: E731
        return [sum(map(take, samples)) for samples in zip(*(self.runs[name] for name in rivals), strict=True)]

    def _others(self, rivals: Sequence[str]) -> float:
        samples = [sample for name in rivals for sample in self.runs[name]]
        return sum(sample.others for sample in samples) / sum(sample.wall for sample in samples)

    def _problem(self, rivals: Sequence[str]) -> str:
        return next((f"{name}: {self.problems.get(name, 'was not run')}" for name in rivals if name not in self.runs), "")


def names(rivals: str | Sequence[str]) -> list[str]:
    """One or several."""
    return [rivals] if isinstance(rivals, str) else list(rivals)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """The middle, and what bounds the middle half."""
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


WIDTHS = (27, 49, 4, 8, 11, 7, 7)


def line(row: Sequence[str]) -> str:
    """One row of the table, printed while others are still measured: widths are fixed."""
    return "  ".join(cell.ljust(width) for cell, width in zip(row, WIDTHS, strict=True)).rstrip()


def summary(figures: Sequence[Figure]) -> list[str]:
    """For every target how many figures meet it, and the one that is furthest from it."""
    by_target: dict[tuple[str, str, str], list[Figure]] = {}
    for figure in figures:
        if figure.target:
            by_target.setdefault((figure.group, figure.what, str(figure.target)), []).append(figure)
    lines = []
    for (group, what, target), held in by_target.items():
        met = sum(figure.verdict == "ok" for figure in held)
        worst = max(held, key=_shortfall)
        told = "did not run" if worst.value is None else f"{number(worst.value)} {worst.unit} {worst.measure}"
        verdict = "ok" if met == len(held) else worst.verdict
        lines.append(f"{group:<8} {what:<49} {target:<7} {met:>3} of {len(held):<3} worst {told:<14} {worst.case:<27} {verdict}")
    return lines


def _shortfall(figure: Figure) -> float:
    if figure.value is None or not figure.target:
        return float("inf")
    return figure.target.limit / figure.value if figure.target.least else figure.value / figure.target.limit
