"""``xconvert catalog``: the released files that are known, and where they are published."""

from __future__ import annotations

import click

from xconvert.commands._printing import show
from xconvert.options import as_json


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]…")
@as_json
def command(names: tuple[str, ...], as_json: bool) -> None:
    """List the released files that are known, or those of the zoos or of the names given: upstream URL, checksum where one is
    published, whose names they have, and the licence of the repository that publishes them.

    `xconvert batch --catalog NAME,NAME --to TARGET,…` converts them.
    """
    from xconvert import catalog

    files = catalog.chosen(names or ["all"])
    show({"schema": 1, "files": catalog.as_dicts(files)} if as_json else catalog.as_text(files))
