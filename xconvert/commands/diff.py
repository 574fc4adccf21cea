"""``xconvert diff``: which tensors of two checkpoints differ, and why?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from xconvert.commands._printing import show
from xconvert.options import Location, as_json, read_settings, reading
from xconvert.progress import shown


@click.command()
@click.argument("a", type=Location())
@click.argument("b", type=Location())
@click.option("--all", "every", is_flag=True, help="List every tensor, also those that are bit-equal.")
@reading
@as_json
def command(a: str | Path, b: str | Path, every: bool, as_json: bool, **kwargs: Any) -> None:
    """Compare A with B tensor by tensor, under the same names and axes whatever their frameworks and formats.

    It tells what folding and rounding explain from what nothing does. --from, --key and --set speak of A.
    """
    from xconvert import difference

    with shown(sys.stderr):
        told = difference.diff(a, b, **read_settings(kwargs))
    show(told if as_json else difference.diff_text(told, every))
    sys.exit(0 if told["explained"] else 1)
