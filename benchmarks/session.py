"""What the groups share: how often to measure, which cases, the commands, and the samples for the JSON."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from benchmarks.measure import Rival, Runs, Sample, alternate

SCRIPTS = Path(__file__).with_name("scripts")


@dataclass
class Session:
    """One run of the benchmarks."""

    rounds: int
    only: str = ""
    patience: float = 0.0
    samples: dict[str, dict[str, dict[str, list[dict[str, Any]]]]] = field(default_factory=dict)

    def alternate(self, rivals: Sequence[Rival], times: int = 1) -> tuple[Runs, dict[str, str]]:
        """``measure.alternate`` with this session's rounds, ``times`` as many for what is short."""
        return alternate(rivals, times * self.rounds, self.patience)

    def wants(self, case: str) -> bool:
        """Whether ``case`` was asked for: its name begins like the pattern."""
        return fnmatch(case, f"{self.only}*")

    def keep(self, group: str, case: str, runs: Runs) -> None:
        """Every sample is told in the JSON."""
        told = {name: list(map(_rounded, samples)) for name, samples in runs.items()}
        self.samples.setdefault(group, {}).setdefault(case, {}).update(told)


def _rounded(sample: Sample) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(sample).items()}


def xconvert(*arguments: str | Path) -> list[str | Path]:
    """The command as it is installed beside this Python."""
    installed = Path(sys.executable).with_name("xconvert")
    return [*([installed] if installed.exists() else [sys.executable, "-m", "xconvert"]), *arguments]


def python(code: str) -> list[str | Path]:
    """Run a line of code."""
    return [sys.executable, "-c", code]


def script(name: str, *arguments: str | Path, interpreter: str | Path = sys.executable) -> Sequence[str | Path]:
    """One of ``scripts/``."""
    return [interpreter, SCRIPTS / name, *arguments]
