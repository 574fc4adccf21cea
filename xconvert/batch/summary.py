"""What became of a batch, in a table for a terminal, as JSON, JUnit, Markdown and HTML, and as a list of models.

Nothing here depends on when or where something was done: the same files, options and version give the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from xconvert import render
from xconvert.batch import Job
from xconvert.batch.page import document as as_html
from xconvert.batch.plan import Plan
from xconvert.batch.state import State
from xconvert.formats._limits import told as told_size
from xconvert.remote import is_url, split
from xconvert.reports import junit, markdown
from xconvert.reports._text import figure

SCHEMA = 1  # of the JSON; raised when a field changes its meaning
ORDER = ("verified", "refused", "failed", "not run")


def rows(jobs: Sequence[Job], records: Mapping[str, Mapping[str, Any]], state: State) -> list[dict[str, Any]]:
    """A row for each job in JSON types: what is not known is left out."""
    return [_row(job, records[job.output], state) for job in jobs]


def _row(job: Job, record: Mapping[str, Any], state: State) -> dict[str, Any]:
    source = split(job.source)[0] if is_url(job.source) else job.source
    row: dict[str, Any] = {"name": job.name, "source": source, "to": job.to, "output": state.output(job)}
    row |= {"status": record["status"], "licence": job.licence, "error": record.get("error")}
    if record["status"] == "verified":
        report = record["report"]
        outputs = [layer for layer in report["layers"] if layer["name"] == report["layers"][-1]["name"]]
        worst = max(outputs, key=lambda layer: layer["relative"] / layer["allowed"])
        changes = report.get("changes", ())
        row |= {
            "network": report["source"].get("published") or report["source"]["architecture"],
            "sha256": record["source"]["sha256"],
            "output_sha256": record["output"]["sha256"],
            "parameters": report["source"]["parameters"],
            "multiply_adds": record["multiply_adds"],
            "parity": worst["relative"],
            "allowed": worst["allowed"],
            "folds": [f"{c['attribute']} {c['source']} → {c['target']}" for c in changes if c["action"] == "folded"],
            "accepted": [f"{c['attribute']} {c['source']} → {c['target']}" for c in changes if c["action"] == "accepted"],
            "report": str(state.page(job)),
        }
    return {name: value for name, value in row.items() if value not in (None, "")}


def counts(told: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many rows have each status."""
    return {status: sum(row["status"] == status for row in told) for status in ORDER}


def verdict(told: Sequence[Mapping[str, Any]]) -> str:
    """All in a few words."""
    found = counts(told)
    if found["verified"] == len(told):
        return f"all {len(told)} verified: same answer" if len(told) > 1 else "verified: same answer"
    return ", ".join(f"{count} {status}" for status, count in found.items() if count)


def as_text(told: Sequence[Mapping[str, Any]]) -> str:
    """The table, then why what failed did, and the verdict."""
    head = ("name", "to", "status", "parity", "allowed", "folded or accepted")
    body = []
    for row in told:
        measured = [f"{row[name]:.1e}" if name in row else "" for name in ("parity", "allowed")]
        changed = [change.partition(" ")[0] for change in (*row.get("folds", ()), *row.get("accepted", ()))]
        body.append((render.clean(row["name"]), row["to"], row["status"], *measured, ", ".join(changed)))
    lines = render.table(head, body)
    for row in told:
        if "error" in row:
            error = row["error"]
            lines += ["", f"{render.clean(row['name'])} → {row['to']}: {render.clean(error['message'])}"]
            lines += ["  " + render.clean(fact) if fact else "" for fact in error["facts"]]
            lines += [click.style("hint:", fg="cyan", bold=True) + " " + render.clean(hint) for hint in error["hints"]]
    good = counts(told)["verified"] == len(told)
    return "\n".join([*lines, "", click.style(verdict(told), fg="green" if good else "red", bold=True)])


def as_dict(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Everything, in JSON types."""
    return {"schema": SCHEMA, "counts": counts(told), "entries": [dict(row) for row in told]}


def as_json(told: Sequence[Mapping[str, Any]], where: Path) -> str:
    """``as_dict`` as a file."""
    return json.dumps(as_dict(told), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def as_junit(told: Sequence[Mapping[str, Any]], where: Path) -> str:
    """A suite with a case for each conversion: refused is a failure, failed an error, not run skipped."""
    return junit.cases([(f"{row['name']} → {row['to']}", row["status"], _why(row), row["source"]) for row in told])


def _why(row: Mapping[str, Any]) -> str:
    error = row.get("error")
    return "\n".join([error["message"], *error["facts"], *error["hints"]]) if error else ""


def as_markdown(told: Sequence[Mapping[str, Any]], where: Path) -> str:
    """For a step summary."""
    good = counts(told)["verified"] == len(told)
    lines = [f"## {'✅' if good else '❌'} {verdict(told).capitalize()}", ""]
    body = []
    for row in told:
        why = markdown.prose(row["error"]["message"]) if "error" in row else ""
        measured = f"{figure(row['parity'])} of {figure(row['allowed'])}" if "parity" in row else ""
        body.append((markdown.code(row["name"]), row["to"], row["status"], measured, why))
    return "\n".join([*lines, *markdown.table(("name", "to", "status", "parity", "why"), body)])


def as_models(told: Sequence[Mapping[str, Any]], where: Path) -> str:
    """``MODELS.md``: what lies in the folder now, for those who will use it. Only what was verified is listed."""
    head = (
        "model",
        "network",
        "for",
        "file",
        "source",
        "sha256 of the source",
        "parameters",
        "multiply-adds",
        "parity error",
        "folded",
    )
    lines = [
        "# Models",
        "",
        "Converted by xconvert. Parity error: relative L2 between the logits of source and result, in float64 by the reference;",
        "multiply-adds at 299×299, convolutions and classifier, a product with its addition counted once.",
        "",
    ]
    body = []
    for row in (row for row in told if row["status"] == "verified"):
        changed = [*row["folds"], *(f"accepted: {change}" for change in row["accepted"])]
        size = (f"{row['parameters']:,}", f"{row['multiply_adds']:,}", figure(row["parity"]))
        named = (markdown.code(row["name"]), markdown.text(row["network"]), row["to"], markdown.code(_near(row["output"], where)))
        source = markdown.code(_near(row["source"], where))
        licence = (markdown.text(row.get("licence", "")),)
        body.append((*named, source, markdown.code(row["sha256"]), *size, markdown.text("; ".join(changed)), *licence))
    return "\n".join([*lines, *markdown.table((*head, "licence"), body)])


def _near(path: str, where: Path) -> str:
    """``path`` as seen from the file ``where``, if it lies below that one's folder."""
    if is_url(path):
        return path
    folder, full = where.absolute().parent, Path(path).absolute()
    return full.relative_to(folder).as_posix() if full.is_relative_to(folder) else full.name


SUFFIXES = {".json": as_json, ".xml": as_junit, ".md": as_markdown, ".html": as_html}


def plan_dict(plan: Plan, state: State, resume: bool) -> dict[str, Any]:
    """What would be done, in JSON types."""
    jobs = []
    for job in plan.jobs:
        doing = "finished" if resume and state.finished(job) else "exists" if state.exists(job) else "convert"
        told = {
            "name": job.name,
            "source": job.source,
            "to": job.to,
            "output": state.output(job),
            "bytes": plan.sizes[job.source],
        }
        jobs.append({**told, "options": dict(job.options), "do": doing})
    return {"schema": SCHEMA, "jobs": jobs, "bytes": sum(size or 0 for size in plan.sizes.values()), "sources": len(plan.sizes)}


def plan_text(told: Mapping[str, Any]) -> str:
    """``plan_dict`` as a table."""
    body = [
        (render.clean(job["source"]), _size(job["bytes"]), job["to"], render.clean(job["output"]), job["do"])
        for job in told["jobs"]
    ]
    lines = render.table(("source", "size", "to", "output", ""), body)
    count = sum(job["do"] == "convert" for job in told["jobs"])
    return "\n".join([*lines, "", f"{count} to convert, from {told['sources']} sources of {_size(told['bytes'])}"])


def _size(size: int | None) -> str:
    return told_size(size) if size is not None else "–"
