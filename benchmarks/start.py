"""``start``: how long it takes until xconvert is there, over a bare import of what it needs."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import files
from benchmarks.figures import Case, Figure, Target
from benchmarks.measure import FailedError, Rival
from benchmarks.session import Session, python, xconvert

TARGETS = {"--help": ("import click", Target(1.4)), "inspect FILE.pth": ("import numpy", Target(1.5))}


def run(session: Session) -> Iterator[Figure]:
    """Twice as many rounds as elsewhere: the runs are short."""
    for case, (code, target) in TARGETS.items():
        if not session.wants(case):
            continue
        ours, floor = f"xconvert {case}", f'python -c "{code}"'
        try:
            command = xconvert(case) if case.startswith("-") else xconvert("inspect", *files.need("timm.pth"))
        except FailedError as problem:
            yield Figure("start", case, ours, "wall", "×", target=target, problem=str(problem))
            continue
        runs, problems = session.alternate([Rival(floor, python(code)), Rival(ours, command)], times=2)
        session.keep("start", case, runs)
        told = Case("start", case, runs, problems)
        yield from told.times(f"{ours} / {code}", ours, floor, target)
        yield told.memory(f"peak memory, {ours}", ours)
