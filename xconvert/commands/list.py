"""``xconvert list``: architectures, implementations, formats, backends."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from xconvert.commands._printing import show
from xconvert.options import as_json, mapping_folders


@click.command()
@click.option("--long", is_flag=True, help="Also the parameters and multiply-adds (at 299×299) of every published network.")
@mapping_folders
@as_json
def command(mappings: Sequence[Path], long: bool, as_json: bool) -> None:
    """List what xconvert knows, and which backends are installed."""
    from xconvert import listing

    told = listing.everything(mappings)
    show(told if as_json else listing.everything_text(told, long))
