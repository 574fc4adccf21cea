"""``xconvert convert``: the main job."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from xconvert.commands._printing import check_reports, show, write_reports
from xconvert.options import Location, as_json, publishing, read_card, read_settings, read_surgery, reading, reports_to, surgery
from xconvert.progress import shown


@click.command()
@click.argument("source", type=Location())
@click.option(
    "--to",
    required=True,
    metavar="TARGET",
    help="A framework (torch, keras, paddle, …) or an implementation (timm, keras.applications, …).",
)
@click.option("-o", "--output", type=Location(), help="The file to write; its suffix chooses the format.")
@click.option("--accept", multiple=True, metavar="NAME", help="Convert although this attribute differs.")
@surgery
@publishing
@click.option("--verify-with", multiple=True, metavar="BACKEND", help="Also run the result in a framework or a zoo's own class.")
@click.option("--no-verify", is_flag=True, help="Skip re-reading and recomputing what was written.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@reports_to
@reading
@as_json
def command(
    source: str | Path,
    to: str,
    output: str | Path | None,
    no_verify: bool,
    reports: Sequence[Path],
    as_json: bool,
    **kwargs: Any,
) -> None:
    """Convert SOURCE for TARGET, and verify that the result gives the same answer.

    A framework keeps the function exactly and changes the container; an implementation means that very class as its
    users have it installed: what weights can make up for is folded, anything else is refused unless accepted by name.
    """
    from xconvert import render
    from xconvert.conversion import convert as run

    check_reports(reports, [source])
    with shown(sys.stderr):
        report = run(source, output, to=to, verify=not no_verify, **read_settings(read_surgery(read_card(kwargs))))
    names = (str(source), report.output)
    show({**report.to_dict(), "names": names} if as_json else render.conversion(names[0], report))
    write_reports(report, reports, names, [source, report.output])
