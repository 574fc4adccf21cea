"""An evaluation as a file, chosen by suffix: JSON for programs, Markdown for a step summary, HTML with thumbnails for people."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from xconvert import __version__, reports
from xconvert.errors import XconvertError
from xconvert.evaluation import Evaluation
from xconvert.evaluation_text import to_dict
from xconvert.images import complete, fit, read
from xconvert.model import Array
from xconvert.outcomes import Outcome
from xconvert.outputs import replaced
from xconvert.reports import _png, _text, markdown
from xconvert.reports._markup import code, figures, prose, rows, section, table, text
from xconvert.reports.html import foot, page

THUMBNAILS = 64  # of images that two networks disagree on
LISTED = 1000  # images and classes in a table
SIDE = 96  # pixels of a thumbnail


def as_json(found: Evaluation) -> str:
    """``evaluation_text.to_dict`` as text."""
    return json.dumps(to_dict(found), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def verdict(found: Evaluation) -> str:
    """What was found in a sentence, literals in backticks."""
    if len(found.servers) == 1:
        return f"{_text.literal(found.servers[0].name)} is right about {found.share(1):.2%} of {len(found.outcomes):,} images"
    names = " and ".join(_text.literal(served.name) for served in found.servers)
    unlike = len(found.disagreements)
    if not unlike:
        return f"{names} say the same of all {len(found.outcomes):,} images"
    return f"{names} disagree on {unlike:,} of {len(found.outcomes):,} images"


def effect(found: Evaluation) -> str:
    """How far two networks are apart, in a sentence; empty of one."""
    if not (widest := found.widest):
        return ""
    at = _text.literal(widest.name)
    return f"The largest gap between their logits is {_text.figure(widest.gap)}, where these reach {widest.largest:.3g}, at {at}."


def as_html(found: Evaluation) -> str:
    """The page; pictures are those of the first network's crop."""
    kind = "unverified" if len(found.servers) == 1 else "different" if found.disagreements else "equal"
    badge = {"unverified": "evaluated", "different": "✗ different", "equal": "✓ the same"}[kind]
    head = ["<header>", f'<p class="brand"><span class="badge">{badge}</span> xconvert evaluation</p>']
    head.append(f'<h1 id="verdict">{prose(verdict(found))}</h1>')
    if told := effect(found):
        head.append(f'<p class="effect">{prose(told)}</p>')
    head.append(_sides(found))
    notes = [*found.notes, *(unread.why for unread in found.unread[:LISTED])]
    if notes:
        head.append('<ul class="notes">' + "".join(f"<li>{prose(_text.sentence(note))}</li>" for note in notes) + "</ul>")
    parts = ["\n".join([*head, "</header>"]), *_pictures(found), *_disagreements(found), _classes(found), foot(__version__)]
    return page(text(verdict(found).replace("`", "")), kind, parts)


def _sides(found: Evaluation) -> str:
    lines = ['<dl class="sides">']
    for side, served in enumerate(found.servers):
        right = " · ".join(f"top {top} {found.share(top, side):.2%} ({found.right(top, side):,} right)" for top in (1, 5))
        told = f"{right}, run by {text(served.backend)}"
        lines.append(f"<div><dt>{'AB'[side]}</dt><dd><bdi>{text(served.name)}</bdi></dd><dd>{told}</dd></div>")
    return "\n".join([*lines, "</dl>"])


def _pictures(found: Evaluation) -> Iterator[str]:
    unlike = found.disagreements
    paths = {sample.name: sample.path for sample in found.samples}
    shown = []
    for outcome in unlike[:THUMBNAILS]:
        right, first, second = (text(found.labels[i].name) for i in (outcome.label, *outcome.firsts))
        image = thumbnail(paths[outcome.name], found.servers[0].preprocessing.get("exif", False))
        picture = f'<img alt="{text(outcome.name)}" src="{_png.photograph(image)}">' if image is not None else ""
        shown.append(
            f"<figure>{picture}<figcaption><bdi>{text(outcome.name)}</bdi><br>class <b>{right}</b><br>A: {first}<br>B: {second}"
            f'<br><span class="quiet">gap {_text.figure(outcome.gap)}</span></figcaption></figure>'
        )
    if shown:
        more = f", the {THUMBNAILS} that are furthest apart" if len(unlike) > THUMBNAILS else ""
        yield section("Where they disagree", f"Images of which they hold another class likeliest{more}.", _grid(shown))


def _grid(figures_: Sequence[str]) -> str:
    return '<div class="thumbs">' + "\n".join(figures_) + "</div>"


def thumbnail(path: Path, exif: bool = False) -> Array | None:
    """The middle of an image, (96, 96, 3) uint8; None where it cannot be read any more, or has no colours to show."""
    table = {"size": SIDE, "mean": [0.5], "std": [0.5], "crop": "square", "exif": exif}
    try:
        made = fit(read(path, table), complete(table, "a thumbnail"))
    except XconvertError:
        return None
    return made if made.shape[2] == 3 else made[..., :1].repeat(3, 2)


def _disagreements(found: Evaluation) -> Iterator[str]:
    if found.disagreements:
        lines = [_row(found, outcome) for outcome in found.disagreements[:LISTED]]
        columns = ("image", "class", "A", "B", "gap")
        label = "Images that they disagree on"
        yield section(label, "", table(label, columns, rows(lines), ("gap",), tall=len(lines) > 20))


def _row(found: Evaluation, outcome: Outcome) -> str:
    names = "".join(f'<td class="text">{text(found.labels[i].name)}</td>' for i in (outcome.label, *outcome.firsts))
    return f'<th scope="row">{code(outcome.name)}</th>{names}{figures([_text.figure(outcome.gap)])}'


def _classes(found: Evaluation) -> str:
    lines = [
        f'<th scope="row">{text(found.labels[label].name)}</th>' + figures([f"{images:,}", f"{right:,}", f"{right / images:.0%}"])
        for label, images, right in found.classes()[:LISTED]
    ]
    columns = ("class", "images", "right", "share")
    body = table("Classes", columns, rows(lines), columns[1:], tall=len(lines) > 20)
    return section("Classes", "Those that A gets wrong most often come first.", body)


def as_markdown(found: Evaluation) -> str:
    """A summary: the verdict, both sides, the images that they disagree on, the worst classes."""
    mark = "⚪" if len(found.servers) == 1 else "❌" if found.disagreements else "✅"
    lines = [f"## {mark} Evaluation", "", f"**{markdown.prose(verdict(found))}**", ""]
    if told := effect(found):
        lines += [markdown.prose(told), ""]
    sides = [
        (markdown.code(s.name), s.backend, *(f"{found.share(top, i):.2%} ({found.right(top, i):,})" for top in (1, 5)))
        for i, s in enumerate(found.servers)
    ]
    lines += markdown.table(("network", "run by", "top 1", "top 5"), sides)
    if unlike := found.disagreements:
        body = [
            (markdown.code(o.name), *(markdown.text(found.labels[i].name) for i in (o.label, *o.firsts)), _text.figure(o.gap))
            for o in unlike[:THUMBNAILS]
        ]
        lines += markdown.table(("image", "class", "A", "B", "gap"), body)
    worst = [(markdown.text(found.labels[c].name), str(n), str(r), f"{r / n:.0%}") for c, n, r in found.classes()[:10]]
    lines += markdown.table(("class", "images", "right", "share"), worst)
    lines += [f"- {markdown.prose(_text.sentence(note))}" for note in found.notes]
    return "\n".join(lines).rstrip() + "\n"


SUFFIXES: dict[str, Callable[[Evaluation], str]] = {".json": as_json, ".md": as_markdown, ".html": as_html}


def check(path: Path, checkpoints: Sequence[Path] = ()) -> None:
    """``reports.check`` for the kinds that there are of an evaluation."""
    reports.check(path, checkpoints, SUFFIXES)


def write(found: Evaluation, path: Path, checkpoints: Sequence[Path] = ()) -> None:
    """Write the report to ``path`` in the format of its suffix, in one step; raises ``UsageError`` as ``check`` does."""
    check(path, checkpoints)
    replaced(path, SUFFIXES[path.suffix.lower()](found).encode("utf-8", "backslashreplace"))
