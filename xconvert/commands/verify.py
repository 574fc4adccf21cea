"""``xconvert verify``: do two checkpoints compute the same function?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xconvert.commands._printing import check_reports, show, write_reports
from xconvert.options import Location, as_json, read_settings, read_sizes, reading, reports_to
from xconvert.progress import shown

if TYPE_CHECKING:
    from xconvert.report import Report


@click.command()
@click.argument("a", type=Location())
@click.argument("b", type=Location(), required=False)
@click.option("--backend", metavar="NAME", help="Run A in this framework, or in this zoo's own class, instead of reading B.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision of the backend.  [default: float32]")
@click.option("--sizes", metavar="N,N,…", help="Sizes of the probe images in pixels.  [default: 75,96,299]")
@click.option("--drop-background", "background", flag_value="drop", help="Compare without the first class that one has more.")
@click.option("--tolerance", type=float, metavar="X", help="Largest relative L2 allowed, instead of the calibrated one.")
@click.option(
    "--layers", type=click.Choice(["blocks", "all"]), default="blocks", help="Which layers to print.", show_default=True
)
@click.option("--train", is_flag=True, help="Also compare one step of training: loss, gradients, running statistics.")
@click.option("--acceptance", is_flag=True, help="Also compare the logits of 5 seeds in batches of 1 and 2 (PaddleClas' table).")
@reports_to
@click.option("--format", "form", type=click.Choice(["text", "github"]), default="text", help="github: annotations for Actions.")
@reading
@as_json
def command(
    a: str | Path,
    b: str | Path | None,
    sizes: str | None,
    layers: str,
    reports: Sequence[Path],
    form: str,
    as_json: bool,
    **kwargs: Any,
) -> None:
    """Compare A with B, or with a framework's run of A: names, shapes, values, activations layer by layer, logits.

    --from, --key and --set speak of A.
    """
    from xconvert import render
    from xconvert.verification import verify as run

    if sizes:
        kwargs["sizes"] = read_sizes(sizes)
    check_reports(reports, [a, *([b] if b else [])])
    with shown(sys.stderr):
        report = run(a, b, **read_settings(kwargs))
    names = (str(a), str(b) if b else f"{a} run by {kwargs['backend']}")
    told = render.verification(names, report, every=layers == "all")
    show({**report.to_dict(), "names": names} if as_json else told + _annotations(report, names, form))
    write_reports(report, reports, names, [a, *([b] if b else [])])
    sys.exit(0 if report.equal else 1)


def _annotations(report: Report, names: tuple[str, str], form: str) -> str:
    if form != "github":
        return ""
    from xconvert.reports import github

    return "\n" + github.annotations(report, names)
