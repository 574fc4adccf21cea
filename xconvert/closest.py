"""What is told of a file that no mapping describes: the closest one, and what stands in the way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from xconvert.errors import NetworkError

if TYPE_CHECKING:
    from xconvert.matching import Match


def no_network(where: str, closest: Match) -> NetworkError:
    """The error for a checkpoint that no mapping describes, with the closest one and what stands in the way."""
    name, spelled = closest.implementation.name, closest.dialect.name
    spelling = "" if spelled == closest.implementation.dialect else f" in the spelling `{spelled}`"
    if not closest.bound:
        facts = ["no mapping has one of its names:", *summarise(closest.unexpected)]
        return NetworkError(f"`{where}` holds no network that xconvert knows", facts=facts)
    facts = [
        f"closest: {name}{spelling}; {len(closest.bound)} of its {len(closest.bound) + len(closest.missing)} tensors are there"
    ]
    for title, names in (("MISSING", closest.missing), ("UNEXPECTED", closest.unexpected), ("MISMATCH", closest.misshapen)):
        if names:
            facts += ["", f"{title} ({len(names)})", *("  " + line for line in summarise(names))]
    hints = []
    spellings = closest.dialect.spellings["batch_norm"]
    statistics = {spellings["mean"][0], spellings["variance"][0]}
    if closest.missing and all(n.rpartition(closest.dialect.separator)[2] in statistics for n in closest.missing):
        hints.append("the batch norms' statistics are missing: save `state_dict()`, not `named_parameters()`")
    elif closest.bound and closest.unexpected and not (closest.missing or closest.misshapen):
        hints.append("what is no part of the network's answer, an auxiliary head for one, is left out with `--ignore PATTERN`")
    return NetworkError(f"`{where}` holds no network that xconvert knows", facts=facts, hints=hints)


def summarise(names: Sequence[str], most: int = 8) -> list[str]:
    """Names that differ only in their numbers as one line, ``block{1..12}.skip.weight (12)``; at the most ``most``
    lines.
    """
    groups: dict[str, list[list[str]]] = {}
    for name in names:
        groups.setdefault(re.sub(r"\d+", "#", name), []).append(re.findall(r"\d+", name))
    lines = []
    for skeleton, numbers in groups.items():
        line = skeleton
        for column in zip(*numbers, strict=True):
            values = sorted(set(column), key=int)
            line = line.replace("#", values[0] if len(values) == 1 else f"{{{values[0]}..{values[-1]}}}", 1)
        lines.append(line + (f" ({len(numbers)})" if len(numbers) > 1 else ""))
    more = len(lines) - most
    return lines if more <= 0 else [*lines[:most], f"… and {more} more of these kinds"]
