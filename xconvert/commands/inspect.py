"""``xconvert inspect``: what is in this file?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from xconvert.commands._printing import show
from xconvert.options import Location, as_json, read_settings, reading
from xconvert.progress import shown


@click.command()
@click.argument("file", type=Location())
@reading
@as_json
def command(file: str | Path, as_json: bool, **kwargs: Any) -> None:
    """Show FILE's format, architecture, implementation and attributes, and where each was learned."""
    from xconvert import listing

    with shown(sys.stderr):
        told = listing.inspect(file, **read_settings(kwargs))
    show(told if as_json else listing.inspect_text(told))
