"""``xconvert bench``: where to serve a checkpoint."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from xconvert.commands._printing import show
from xconvert.options import as_json, read_settings, reading


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--backend", multiple=True, metavar="NAME", help="Measure this one; by default all that are installed.")
@click.option("--batch", "batches", multiple=True, type=int, metavar="N", help="How many images at once.  [default: 1 and 8]")
@click.option("--size", type=int, default=299, show_default=True, metavar="N", help="Of the images, in pixels.")
@click.option("--threads", type=int, metavar="N", help="How many cores may be used.  [default: all]")
@click.option("--repeat", type=int, default=10, show_default=True, metavar="N", help="Rounds that count.")
@reading
@as_json
def command(file: Path, batches: Sequence[int], as_json: bool, **kwargs: Any) -> None:
    """Measure latency and images per second of FILE on every framework that is installed.

    Each runs xconvert's own network in a process of its own, in float32, as one serves it there. They take turns, so that other
    work on the machine falls on all of them; loading, compiling and the first runs do not count.
    """
    from xconvert.timing import bench

    line = _Line()
    told = bench(file, batches=batches or (1, 8), progress=line.show, **read_settings(kwargs))
    line.clear()
    show(told if as_json else text(told))


class _Line:
    """A line of progress on stderr: rewritten on a terminal, elsewhere one below the other."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()

    def show(self, told: str) -> None:
        click.echo(f"\r\x1b[K{told}" if self.terminal else told, err=True, nl=not self.terminal)

    def clear(self) -> None:
        if self.terminal:
            click.echo("\r\x1b[K", err=True, nl=False)


def text(told: Mapping[str, Any]) -> str:
    """The figures as a table: what was measured, where, and a row for each backend and batch."""
    from xconvert import render

    head = ("backend", "batch", "ms", "middle half", "images/s", "")
    body = [list(_cells(row)) for row in told["rows"]]
    size = f"{told['size']}×{told['size']}"
    lines = [render.title(render.clean(told["file"])), f"  {render.clean(render.network(told['network']))}"]
    lines += [f"  {machine(told['machine'])}"]
    lines += [f"  median of {told['repeat']} rounds, images of {size}, float32", "", *render.table(head, body)]
    return "\n".join([*lines, *render.notes(list(_notes(told)))])


def machine(told: Mapping[str, Any]) -> str:
    """One line on the machine that was measured on."""
    memory = f", {told['memory'] / 2**30:.0f} GiB" if told["memory"] else ""
    threads = f"{told['threads']} of {told['cores']} cores"
    return f"{told['processor']}, {threads}{memory}, {told['system']}, Python {told['python']}"


def _cells(row: Mapping[str, Any]) -> Iterator[str]:
    yield row["backend"]
    if row["status"] != "measured":
        yield from ("–", "", "", "", f"{row['status']}: {row['why']}")
        return
    low, median, high = (row["seconds"][name] * 1000 for name in ("low", "median", "high"))
    yield from (str(row["batch"]), _figure(median), f"{_figure(low)} – {_figure(high)}", _figure(row["images_per_second"]))
    yield row["how"]


def _figure(number: float) -> str:
    """Three digits that count."""
    return f"{number:.0f}" if number >= 100 else f"{number:.1f}" if number >= 10 else f"{number:.2f}"


def _notes(told: Mapping[str, Any]) -> Iterator[str]:
    from xconvert.timing import OFF

    machine = told["machine"]
    if machine["load"] is not None and machine["load"] > machine["cores"]:
        yield f"the machine is busy: {machine['load']:g} processes want its {machine['cores']} cores"
    for name, off in {row["backend"]: row["off"] for row in told["rows"] if row.get("off", 0) > OFF}.items():
        yield f"`{name}` answers something else: relative L2 {off:.1e} from the reference"
