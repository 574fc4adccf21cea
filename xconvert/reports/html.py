"""One page that needs nothing else: it works offline, in light and dark, on a phone and in print, for a reader who never saw
xconvert.

Whatever comes from a file is escaped, and the page's own policy lets nothing in but its own style and script.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from xconvert.report import Report
from xconvert.reports import _sections, _text
from xconvert.reports._markup import code, prose, text

FOLDER = Path(__file__).parent
# Nothing is fetched, framed, sent or run: images are data, and the one script is known by its hash.
POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{}'; base-uri 'none'; form-action 'none'"
)
BADGE = {"equal": "✓ equal", "different": "✗ different", "not verified": "not verified"}


def document(report: Report, names: tuple[str, str]) -> str:
    """The whole page. Same report, same bytes."""
    sections = [section for make in _sections.ALL if (section := make(report, names))]
    state = _text.state(report).replace("not verified", "unverified")
    return page(_title(report, names), state, [_head(report, names), *sections, _foot(report)])


def page(title: str, state: str, parts: Sequence[str]) -> str:
    """A page of ``parts``, in the colours of ``state``: ``equal``, ``different`` or ``unverified``; all are HTML already."""
    script = (FOLDER / "page.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return "\n".join(
        [
            "<!doctype html>",
            f'<html lang="en" class="{state}">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{POLICY.format(digest)}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            '<meta name="referrer" content="no-referrer">',
            '<link rel="icon" href="data:,">',
            f"<title>{title}</title>",
            f"<style>\n{(FOLDER / 'page.css').read_text('utf-8')}</style>",
            "</head>",
            "<body>",
            "<main>",
            *parts,
            "</main>",
            f"<script>{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _title(report: Report, names: tuple[str, str]) -> str:
    first = report.first_divergence
    at = f" at {text(first.name)}" if first else ""
    told = " and ".join(text(name.replace("\\", "/").rsplit("/", 1)[-1]) for name in names)
    return f"{_text.state(report).capitalize()}{at}: {told}"


def _head(report: Report, names: tuple[str, str]) -> str:
    """The first screen: the verdict, why, what to do, what it does to the answer, and what the two are."""
    lines = ["<header>", f'<p class="brand"><span class="badge">{BADGE[_text.state(report)]}</span> xconvert report</p>']
    lines.append(f'<h1 id="verdict">{prose(_text.verdict(report))}</h1>')
    if advice := _text.advice(report):
        lines.append('<ol class="advice">')
        for found in advice:
            why = prose(found.why)
            if found.layer and f"`{found.layer}`" not in found.why:
                why = f"At {code(found.layer)}: {why}"
            what = f'<div><h2>What to do</h2><p class="hint">{prose(found.what)}</p></div>' if found.what else ""
            lines.append(f'<li><div><h2>Why</h2><p class="reason">{why}</p></div>{what}</li>')
        lines.append("</ol>")
    if effect := _text.effect(report):
        lines.append(f'<p class="effect">{prose(effect)}</p>')
    lines.append('<dl class="sides">')
    for side, name, told in zip("AB", names, (report.source, report.target), strict=True):
        lines.append(f"<div><dt>{side}</dt><dd><bdi>{text(name)}</bdi></dd><dd>{text(_text.network(told))}</dd></div>")
    lines.append("</dl>")
    if report.notes:
        lines.append('<ul class="notes">' + "".join(f"<li>{prose(_text.sentence(note))}</li>" for note in report.notes) + "</ul>")
    return "\n".join([*lines, "</header>"])


def _foot(report: Report) -> str:
    version = report.provenance.get("xconvert")
    who = f"xconvert {text(version)}" if version else "xconvert"
    return f"<footer><p>Written by {who}. This page is complete in itself and asks nothing of the network.</p></footer>"
