"""``xconvert check``: is this mapping file complete and one-to-one?"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from xconvert.commands._printing import show
from xconvert.options import as_json, mapping_folders


@click.command()
@click.argument("mapping", type=click.Path(path_type=Path))
@mapping_folders
@as_json
def command(mapping: Path, mappings: Sequence[Path], as_json: bool) -> None:
    """Check MAPPING.toml: every layer has a line, every line a layer, no name twice, every attribute stated."""
    from xconvert import listing

    told = listing.check(mapping, mappings)
    show(told if as_json else listing.check_text(told))
    sys.exit(0 if told["ok"] else 1)
