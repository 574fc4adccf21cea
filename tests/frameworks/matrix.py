"""The parity matrix: what every real class answers on the files that it wrote and on those that we wrote, and the README's tables
of it. ``test_parity.py`` measures and checks; ``make matrix`` writes the tables again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

README = Path(__file__).parents[2] / "README.md"
BLOCK = re.compile(r"(<!-- parity (\w+): [^\n]*-->\n)(.*?)(<!-- /parity -->)", re.DOTALL)
NUMBER = re.compile(r"\d\.?\d*e-\d\d")


@dataclass(frozen=True)
class Read:
    """A network of a family, and the file that the real class wrote: how far its answers are from the reference's, as
    max |difference| / max |logit|.
    """

    family: str
    zoo: str
    network: str
    file: str
    float64: float | None
    float32: float
    rounding: float


@dataclass(frozen=True)
class Ran:
    """A converted file, run by the target's real class in float32: the same share, and what had to be accepted."""

    source: str
    target: str
    moved: float
    accepted: tuple[str, ...]


def read_table(rows: Iterable[Read]) -> str:
    """One row for each file that a real class wrote."""
    lines = ["| zoo | network | its file | float64 | float32 | rounding |", "|---|---|---|---|---|---|"]
    for row in rows:
        exact = f"{row.float64:.0e}" if row.float64 is not None else "–"
        lines.append(f"| {row.zoo} | `{row.network}` | {row.file} | {exact} | {row.float32:.0e} | {row.rounding:.0e} |")
    return "\n".join(lines)


def ran_table(pairs: Iterable[Ran], marks: Mapping[str, str]) -> str:
    """Sources down, targets across; ``marks``: attribute → the sign for having accepted it."""
    cells = {(pair.source, pair.target): f"{pair.moved:.0e}" + "".join(marks[a] for a in pair.accepted) for pair in pairs}
    sources, targets = (list(dict.fromkeys(key[side] for key in cells)) for side in (0, 1))
    lines = ["| from \\ to | " + " | ".join(targets) + " |", "|---" * (len(targets) + 1) + "|"]
    lines += [f"| {source} | " + " | ".join(cells.get((source, target), "") for target in targets) + " |" for source in sources]
    return "\n".join(lines)


def in_readme() -> dict[str, str]:
    """The tables of the README by name."""
    return {name: table.strip() for _, name, table, _ in BLOCK.findall(README.read_text(encoding="utf-8"))}


def write_readme(tables: Mapping[str, str]) -> None:
    """Put each table where the README has it."""
    text = README.read_text(encoding="utf-8")
    README.write_text(BLOCK.sub(lambda m: f"{m[1]}{tables[m[2]]}\n{m[4]}", text), encoding="utf-8")


def masked(text: str) -> str:
    """The tables without their digits, which depend on the processor."""
    return NUMBER.sub("#", text)


def numbers(text: str) -> list[float]:
    """Every measured number, in the order of the tables."""
    return [float(match[0]) for match in NUMBER.finditer(text)]
