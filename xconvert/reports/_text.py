"""The words of every report: the verdict, why, what to do, and figures as text. Literals are in backticks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from xconvert.render import clean
from xconvert.report import LayerError, Report, Trial
from xconvert.tuples import NamedTuple

visible = clean
PERCENT = 0.001  # a share from here on reads better as per cent


class Advice(NamedTuple):
    """Why the two part and what to do about it, a sentence each; ``layer`` is where, or empty."""

    layer: str
    why: str
    what: str


def segments(text: str) -> list[tuple[bool, str]]:
    """``text`` cut at its backticks: (whether it is a literal, the piece). Unbalanced backticks are text."""
    pieces = visible(text).split("`")
    if len(pieces) % 2 == 0:
        return [(False, visible(text))]
    return [(i % 2 == 1, piece) for i, piece in enumerate(pieces) if piece]


def literal(name: object) -> str:
    """``name`` in backticks; those it has itself would end it, so they become quotation marks."""
    return f"`{str(name).replace('`', chr(0x2019))}`"


def sentence(clause: str) -> str:
    """``clause`` with a capital and a full stop."""
    text = clause.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) or not text else ".")


def figure(value: float | None) -> str:
    """A measured number: two digits and a power of ten."""
    if value is None or math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "−infinite"
    return f"{value:.1e}" if value else "0"


def plain(value: float) -> str:
    """A value as it is, to three digits."""
    return f"{value:.3g}".replace("-", "−")


def share(value: float) -> str:
    """A share of something as per cent, or as a power of ten where it is small."""
    if not math.isfinite(value):
        return figure(value)
    return f"{100 * value:.2g} %" if PERCENT <= value < 1 else f"{value:.1f} times" if value >= 1 else figure(value)


def size(pixels: int) -> str:
    """Of images of so many pixels a side."""
    return f"{pixels}×{pixels}"


def state(report: Report) -> str:
    """``equal``, ``different``, or ``not verified``."""
    return ("equal" if report.equal else "different") if report.verified else "not verified"


def sides(report: Report) -> str:
    """What the two are, as the subject of a sentence."""
    if report.output:
        return "the source and the converted file"
    return "these two networks" if "backend" in report.target else "these two files"


def verdict(report: Report) -> str:
    """One or two sentences: whether both compute the same function, and where they part."""
    who = sentence(sides(report)).rstrip(".")
    if not report.verified:
        return "Nothing was compared: nobody knows whether the result computes what its source does."
    if first := report.first_divergence:
        return f"{who} do not compute the same function. They part at {literal(first.name)}."
    if failed := [check for check in report.checks if not check.ok]:
        told = "hold the same network" if failed[0].name in ("names", "shapes") else "agree"
        return f"{who} do not {told}: {', '.join(literal(check.name) for check in failed)} failed."
    if report.training and not report.training.ok:
        return f"{who} compute the same function, but do not train alike."
    if not all(trial.ok for trial in report.trials):
        return f"{who} do not give the same answers to every batch of the acceptance table."
    accepted = [literal(change["attribute"]) for change in report.changes if change.get("action") == "accepted"]
    but = f", but for what was accepted: {', '.join(accepted)}" if accepted else ""
    without = f", without {', '.join(literal(name) for name in report.omitted)}" if report.omitted else ""
    same = {"new": "features, under a new head", "dropped": "features, without a head"}.get(report.head, "function")
    return f"{who} compute the same {same}{but}{without}."


def effect(report: Report) -> str:
    """What it does to the answer, in a sentence or two; empty where nothing was computed."""
    if not report.layers:
        return ""
    worst = max(report.outputs, key=_badness)
    output = report.answers
    at = size(worst.size)
    if report.first_divergence is None:
        told = (
            f"The {output} differ by {figure(worst.relative)} at most (relative L2, at {at}); {figure(worst.allowed)} is allowed."
        )
        return told if worst.relative else f"The {output} are the same to the last bit."
    told = f"The {output} move by {share(worst.moved)} of their largest value (at {at})."
    if worst.moved >= 1 and math.isfinite(worst.moved):
        told = f"The {output} move by {share(worst.moved)} their largest value (at {at})."
    for found in report.agreement[:1]:
        told += f" The first class is the same for {sum(a.top1 for a in report.agreement)} of"
        told += f" {sum(a.images for a in report.agreement)} images." if found else ""
    return told


def _badness(layer: LayerError) -> float:
    return math.inf if math.isnan(layer.relative) else layer.relative


def advice(report: Report) -> list[Advice]:
    """Why the two part and what to do, the first cause first: the diagnoses, or what can be said without one."""
    if report.diagnoses:
        found = [Advice(d.layer, sentence(d.told), sentence(d.hint)) for d in report.diagnoses]
        *before, end = found
        more = "With this put right, nothing else differs." if report.diagnoses[-1].last else "Something else differs, too."
        return [*before, end._replace(what=f"{end.what} {more}".strip())]
    if not report.verified:
        return [Advice("", "The conversion was asked not to verify its result.", "Leave `--no-verify` away.")]
    if first := report.first_divergence:
        return [_at(report, first)]
    if failed := [check for check in report.checks if not check.ok]:
        why = f"{failed[0].name}: {failed[0].detail}" if failed[0].detail else f"{failed[0].name} failed"
        return [Advice("", sentence(why), "See what each side is with `xconvert inspect FILE`, and compare like with like.")]
    if report.training and not report.training.ok:
        told = "; ".join(report.training.reasons) or "the losses, gradients or statistics after one step are over tolerance"
        return [Advice("", sentence(told), "Look at the first gradient that is over tolerance, below.")]
    if not report.equal:
        told = "the logits of a batch differ by more than is allowed, although the layers agree on the probe images"
        return [Advice("", sentence(told), "Look at which seeds and batch sizes fail, below.")]
    return []


def _at(report: Report, first: LayerError) -> Advice:
    """What is known of a layer that parts for no reason that was found."""
    where = literal(first.name)
    if math.isfinite(first.relative):
        why = f"The reason is none that xconvert knows; the first difference is what {where} computes."
    else:
        why = f"What {where} computes is infinite or not a number on one side, or of another shape."
    before = "Every layer before it agrees" if first.name != report.layers[0].name else "It is the first layer"
    return Advice(first.name, why, f"{before}: compare its weights and its attributes on both sides.")


def worst(trials: Sequence[Trial]) -> float:
    """The largest difference of all, which decides; not a number is the largest there is."""
    return max((trial.maximum for trial in trials), key=lambda value: math.inf if math.isnan(value) else value)


def network(told: Mapping[str, Any]) -> str:
    """What one side is, from ``naming.describe`` or what a conversion tells of its target; missing keys are left out."""
    if "backend" in told:
        return f"{told['backend']}: {told.get('describes', '')}"
    if "format" in told:
        return f"{told.get('describes') or told['format']}, names of {told.get('implementation')}"
    parts = [
        " ".join(str(part) for part in (told.get("implementation"), told.get("published") or told.get("architecture")) if part)
    ]
    parts.append(f"{told['classes']} classes" if told.get("classes") else "no head" if "classes" in told else "")
    parts.append(f"{told['parameters']:,} parameters" if told.get("parameters") else "")
    parts.append("/".join(map(str, told.get("dtypes", ()))))
    return ", ".join(part for part in parts if part)


def flat(told: Any, label: str = "") -> Iterator[tuple[str, str]]:
    """What is nested in ``told`` as (label, text), labels joined by dots; lists of plain values are one text."""
    if isinstance(told, Mapping):
        for key, value in told.items():
            yield from flat(value, f"{label}.{key}" if label else str(key))
    elif isinstance(told, (list, tuple)):
        if any(isinstance(entry, Mapping) for entry in told):
            for i, entry in enumerate(told, 1):
                yield from flat(entry, f"{label} {i}")
        else:
            yield label, ", ".join(map(str, told))
    elif told is not None:
        yield label, f"{told:,}" if label.endswith(("bytes", "parameters")) and isinstance(told, int) else str(told)


def attributes(told: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Name → (value, where it was learned) of one side's attributes."""
    found = told.get("attributes") or {}
    pairs = {name: entry if isinstance(entry, Mapping) else {"value": entry} for name, entry in found.items()}
    return {name: (str(entry.get("value")), str(entry.get("source", ""))) for name, entry in pairs.items()}
