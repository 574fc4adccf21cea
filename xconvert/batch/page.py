"""The index of a batch in HTML: one table of all conversions, which links the page of each."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from xconvert import __version__
from xconvert.reports._markup import code, figures, passed, prose, section, table, text
from xconvert.reports._text import figure, sentence
from xconvert.reports.html import page

COLUMNS = ("Name", "For", "Result", "Parity error", "Allowed", "Parameters", "Multiply-adds", "Changed")
NUMBERS = COLUMNS[3:7]
CONTROLS = """<div class="controls" id="controls" hidden>
<input type="search" id="filter" placeholder="Part of a name" aria-label="Show only entries with this in their name">
<label><input type="checkbox" id="only">only those not verified</label>
<span id="count" class="quiet" role="status"></span>
</div>"""


def document(told: Sequence[Mapping[str, Any]], where: Path) -> str:
    """The whole page, as it lies at ``where``. The same rows give the same bytes."""
    good = sum(row["status"] == "verified" for row in told)
    state = "equal" if good == len(told) else "different"
    badge = "✓ verified" if good == len(told) else "✗ not all verified"
    head = [
        "<header>",
        f'<p class="brand"><span class="badge">{badge}</span> xconvert batch</p>',
        f'<h1 id="verdict">{text(_verdict(told, good))}</h1>',
        "</header>",
    ]
    bodies = "\n".join(_body(row, where) for row in told)
    label = "All conversions"
    found = table(label, COLUMNS, bodies, NUMBERS, "layers").replace("<table ", '<table data-what="conversions" ', 1)
    lead = "One row for each checkpoint and target; a name leads to the full report. The parity error is the relative L2 distance"
    lead += " between the outputs of source and result, the largest over sizes and images."
    none = '<p class="none" id="none" hidden>No conversion is like that.</p>'
    parts = [section(label, lead, CONTROLS, found, none), _reasons(told), _sources(told)]
    foot = f"<footer><p>Written by xconvert {text(__version__)}. This page asks nothing of the network.</p></footer>"
    return page(text(_verdict(told, good)), state, ["\n".join(head), *filter(None, parts), foot])


def _verdict(told: Sequence[Mapping[str, Any]], good: int) -> str:
    if good == len(told):
        return f"All {good} converted checkpoints compute the same function as their sources."
    bad = sum("error" in row for row in told)
    waiting = len(told) - good - bad
    parts = [f"{good} of {len(told)} conversions are verified", *([f"{bad} were refused or failed"] if bad else [])]
    return "; ".join([*parts, *([f"{waiting} were not run"] if waiting else [])]) + "."


def _body(row: Mapping[str, Any], where: Path) -> str:
    good = row["status"] == "verified"
    name = f"<code><bdi>{text(row['name']).replace('/', '/<wbr>')}</bdi></code>"
    if "report" in row:
        link = quote(Path(os.path.relpath(row["report"], where.absolute().parent)).as_posix(), safe="/.")
        name = f'<a href="{link}">{name}</a>'
    measured = (
        [figure(row["parity"]), figure(row["allowed"]), f"{row['parameters']:,}", f"{row['multiply_adds']:,}"]
        if good
        else [""] * 4
    )
    changed = "; ".join([*row.get("folds", ()), *(f"accepted {change}" for change in row.get("accepted", ()))])
    result = passed(good, "verified", row["status"])
    cells = f'<th scope="row">{name}</th><td>{text(row["to"])}</td><td>{result}</td>{figures(measured)}<td>{text(changed)}</td>'
    return f"<tbody{'' if good else ' class=bad'}><tr>{cells}</tr></tbody>"


def _reasons(told: Sequence[Mapping[str, Any]]) -> str:
    """Why, for all that was not verified."""
    items = []
    for row in (row for row in told if "error" in row):
        error = row["error"]
        facts = "".join(f"<br>{text(fact)}" for fact in error["facts"] if fact)
        hints = "".join(f'<p class="hint">{prose(sentence(hint))}</p>' for hint in error["hints"])
        what = f"<div><h2>What to do</h2>{hints}</div>" if hints else ""
        why = f'<h2>{text(row["name"])} → {text(row["to"])}</h2><p class="reason">{prose(sentence(error["message"]))}{facts}</p>'
        items.append(f"<li><div>{why}</div>{what}</li>")
    return section("What went wrong", "", f'<ol class="advice">{"".join(items)}</ol>') if items else ""


def _sources(told: Sequence[Mapping[str, Any]]) -> str:
    """Which files these were, once each."""
    known = {row["source"]: row for row in told if "sha256" in row}
    if not known:
        return ""
    body = "".join(
        f'<tr><td class="long">{code(source)}</td><td>{text(row["network"])}</td><td class="long">{code(row["sha256"])}</td>'
        f"<td>{text(row.get('licence', ''))}</td></tr>"
        for source, row in known.items()
    )
    columns = ("Source", "Network", "sha256", "Licence")
    return section("Sources", "", table("Sources", columns, f"<tbody>{body}</tbody>"))
