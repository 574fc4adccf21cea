"""Pieces of HTML. All that is not from this package passes through ``text`` here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from xconvert.reports import _text


def text(value: object) -> str:
    """``value`` as HTML text or an attribute's value: escaped, and what cannot be seen made visible."""
    return escape(_text.visible(value))


def code(value: object) -> str:
    """A literal, its direction of writing its own affair."""
    return f"<code><bdi>{text(value)}</bdi></code>"


def prose(value: str) -> str:
    """A sentence whose literals are in backticks."""
    return "".join(code(piece) if literal else text(piece) for literal, piece in _text.segments(value))


def passed(ok: bool, yes: str = "ok", no: str = "over") -> str:
    """A mark with its word: colour alone says nothing."""
    return f'<span class="yes">✓ {yes}</span>' if ok else f'<span class="no">✗ {no}</span>'


def figures(values: Iterable[str]) -> str:
    """Cells of numbers."""
    return "".join(f'<td class="num">{value}</td>' for value in values)


def head(columns: Sequence[str], numbers: Sequence[str] = ()) -> str:
    """A table's head; those of ``numbers`` are set above numbers."""
    cells = "".join(f'<th scope="col"{" class=num" if name in numbers else ""}>{name}</th>' for name in columns)
    return f"<thead><tr>{cells}</tr></thead>"


def table(label: str, columns: Sequence[str], body: str, numbers: Sequence[str] = (), name: str = "", tall: bool = False) -> str:
    """A table in a box of its own, which scrolls where it is too wide, and if ``tall`` too long; ``body``: its ``<tbody>``
    elements.
    """
    mark = f' id="{name}"' if name else ' class="rows"'
    kind = "scroll tall" if tall else "scroll"
    return (
        f'<div class="{kind}" role="region" tabindex="0" aria-label="{text(label)}">'
        f"<table{mark}>{head(columns, numbers)}\n{body}</table></div>"
    )


def rows(lines: Iterable[str]) -> str:
    """Rows as one body."""
    return "<tbody>" + "\n".join(f"<tr>{line}</tr>" for line in lines) + "</tbody>"


def section(heading: str, lead: str, *parts: str) -> str:
    """A part of the page; ``lead``: a sentence or two for a reader who sees such a thing for the first time, with backticks."""
    told = f'\n<p class="lead">{prose(lead)}</p>' if lead else ""
    body = "\n".join(part for part in parts if part)
    return f"<section>\n<h2>{prose(heading)}</h2>{told}\n{body}\n</section>"
