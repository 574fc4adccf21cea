"""An evaluation in words and in JSON types."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from xconvert import render
from xconvert.evaluation import Evaluation
from xconvert.labels import Label
from xconvert.outcomes import Outcome

WORST = 5  # classes and images that are shown


def to_dict(found: Evaluation) -> dict[str, Any]:
    """Everything, in JSON types; shares are of 1."""
    told: dict[str, Any] = {
        "schema": 1,
        "file": found.servers[0].name,
        "folder": found.folder,
        "images": len(found.outcomes),
        **_side(found, 0),
        "classes": [_class(found, row) for row in found.classes()],
        "unread": [unread._asdict() for unread in found.unread],
        "notes": list(found.notes),
    }
    if widest := found.widest:
        told["against"] = {
            "file": found.servers[1].name,
            **_side(found, 1),
            "same_top1": len(found.outcomes) - len(found.disagreements),
            "agreement": found.agreement,
            "largest_gap": {"gap": widest.gap, "image": widest.name, "of_logits_up_to": widest.largest},
            "disagreements": [_disagreement(found.labels, outcome) for outcome in found.disagreements],
        }
    return told


def _side(found: Evaluation, side: int) -> dict[str, Any]:
    served = found.servers[side]
    shares = {f"top{top}": {"right": found.right(top, side), "share": found.share(top, side)} for top in (1, 5)}
    return {"backend": served.backend, "preprocessing": dict(served.preprocessing), **shares}


def _class(found: Evaluation, row: tuple[int, int, int]) -> dict[str, Any]:
    label, images, right = row
    return {"class": label, "label": found.labels[label].name, "images": images, "right": right}


def _disagreement(labels: Sequence[Label], outcome: Outcome) -> Mapping[str, Any]:
    right, first, second = (labels[i].name for i in (outcome.label, *outcome.firsts))
    return {"image": outcome.name, "label": right, "first": first, "second": second, "gap": outcome.gap}


def text(found: Evaluation) -> str:
    """An evaluation for a terminal."""
    lines = []
    for side, served in enumerate(found.servers):
        run_by = "" if served.backend == "numpy" else f" run by {served.backend}"
        lines.append(click.style(render.clean(served.name), bold=True) + run_by)
        lines += render.rows([*_first(found, side), *((f"top {top}", _of(found, top, side)) for top in (1, 5))])
    if len(found.servers) == 2:
        lines += ["", *_agreement(found)]
    if worst := list(_worst(found)):
        lines += ["", *render.table(("class", "images", "right", ""), worst)]
    if found.unread:
        lines += ["", f"{len(found.unread)} images could not be read:"]
        lines += ["  " + render.clean(unread.why) for unread in found.unread[:WORST]]
        lines += [f"  … and {len(found.unread) - WORST} more"] if len(found.unread) > WORST else []
    return "\n".join([*lines, *render.notes(found.notes)])


def _first(found: Evaluation, side: int) -> Iterator[tuple[str, str]]:
    if side == 0:
        resumed = f", {found.resumed} of an earlier run" if found.resumed else ""
        yield "images", f"{len(found.outcomes):,} of {found.folder}{resumed}"


def _of(found: Evaluation, top: int, side: int) -> str:
    return f"{found.share(top, side):.2%}  {found.right(top, side):,} right"


def _agreement(found: Evaluation) -> Iterator[str]:
    widest, unlike = found.widest, found.disagreements
    assert widest  # noqa: S101  (there are two)
    same = len(found.outcomes) - len(unlike)
    told = f"{found.agreement:.2%}  {same:,} of {len(found.outcomes):,} images have the same top 1"
    yield from render.rows([("agreement", told), ("largest gap", gap(widest))])
    rows = [(*_names(found.labels, outcome), f"{outcome.gap:.1e}", outcome.name) for outcome in unlike[:WORST]]
    if rows:
        yield ""
        yield from render.table(
            ("class", "first says", "second says", "gap", ""), [tuple(map(render.clean, row)) for row in rows]
        )
        if len(unlike) > WORST:
            yield f"  … and {len(unlike) - WORST} more; `--report FILE.html` shows them"


def _names(labels: Sequence[Label], outcome: Outcome) -> tuple[str, ...]:
    return tuple(short(labels[i].name) for i in (outcome.label, *outcome.firsts))


def gap(outcome: Outcome) -> str:
    """How far the logits of an image are apart at the most, and of what."""
    return f"{outcome.gap:.1e} where logits reach {outcome.largest:.3g}, at {outcome.name}"


def short(name: str, most: int = 22) -> str:
    """A name that fits a column."""
    return name if len(name) <= most else name[: most - 1] + "…"


def _worst(found: Evaluation) -> Iterator[tuple[str, str, str, str]]:
    for label, images, right in found.classes()[:WORST]:
        if right < images:
            yield short(render.clean(found.labels[label].name)), str(images), str(right), f"{right / images:.0%}"
