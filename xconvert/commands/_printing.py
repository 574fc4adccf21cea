"""What commands print and write."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from xconvert.report import Report


def show(told: dict[str, Any] | str) -> None:
    """Print what a command found on stdout: text, or JSON types as JSON."""
    from xconvert import render

    click.echo(told if isinstance(told, str) else render.as_json(told), color=colour(sys.stdout))


def colour(stream: Any) -> bool | None:
    """Never with NO_COLOR (https://no-color.org); else click's choice: on a terminal."""
    return False if os.environ.get("NO_COLOR") else None


def check_reports(paths: Sequence[Path], files: Sequence[str | Path]) -> None:
    """Raise ``UsageError`` for a report that could not be written to one of ``paths``, or would replace one of ``files``."""
    for path in dict.fromkeys(paths):
        from xconvert.reports import check  # 20 ms of import

        check(path, files)


def write_reports(report: Report, paths: Sequence[Path], names: tuple[str, str], files: Sequence[str | Path]) -> None:
    """Write ``report`` to each of ``paths``, in the form that its suffix says; ``names`` are those of both sides."""
    for path in dict.fromkeys(paths):
        from xconvert import render
        from xconvert.reports import check, write

        check(path, files)
        write(report, path, names)
        click.echo(f"wrote {render.clean(path)}", err=True)
