"""Options that several commands share, and what their texts mean."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import Any

import click


def options(*decorators: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several click options as one decorator."""
    return lambda function: reduce(lambda inner, wrap: wrap(inner), reversed(decorators), function)


class Location(click.Path):
    """A file on this machine, as a ``Path``, or a URL, as it is: a path would fold its slashes."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Whichever it is."""
        from xconvert.remote import is_url

        return value if is_url(value) else super().convert(value, param, ctx)


as_json = click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
mapping_folders = click.option(
    "--mappings", multiple=True, metavar="DIR", type=click.Path(path_type=Path), help="Also use the mapping files in this folder."
)
reports_to = click.option(
    "--report",
    "reports",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Also write the report to this .html, .md, .json or .xml (JUnit) file.",
)
reading = options(
    click.option(
        "--from",
        "implementation",
        metavar="NAME",
        help="Whose names the file has, where several fit: an implementation or a framework.",
    ),
    click.option("--key", metavar="KEY", help="Which state dict or model, where the file holds several."),
    click.option("--ema/--no-ema", default=None, help="The moving averages of the weights, or the weights themselves."),
    click.option("--set", "settings", multiple=True, metavar="NAME=VALUE", help="An attribute you know better than the file."),
    click.option("--ignore", multiple=True, metavar="PATTERN", help="Leave out tensors with such names, e.g. 'aux.*'."),
    mapping_folders,
    click.option(
        "--max-memory",
        metavar="SIZE",
        help="What a file may ask for beyond what it holds, e.g. 2G.  [default: 256M + 4 × its size]",
    ),
    click.option("--verify-checksums", is_flag=True, help="Also those of zip members and of xconvert's own record."),
    click.option("--isolate", is_flag=True, help="Parse files in a process of its own, with limits: for what strangers sent."),
)


def read_settings(kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the options ``reading`` say, as the library takes it; raises ``UsageError`` for what makes no sense."""
    from xconvert.errors import UsageError
    from xconvert.formats._limits import parse_memory

    kwargs["max_memory"] = parse_memory(kwargs["max_memory"]) if kwargs["max_memory"] else None
    settings = {}
    for text in kwargs.pop("settings"):
        name, equals, value = text.partition("=")
        if not equals:
            raise UsageError(f"`--set {text}` is not of the form NAME=VALUE", hints=["for example `--set bn_epsilon=0.001`"])
        settings[name] = value
    return {**kwargs, "settings": settings}


def read_sizes(text: str) -> list[int]:
    """The pixels of ``--sizes``; raises ``UsageError`` for what is no list of them."""
    from xconvert.errors import UsageError

    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and len(part) < 5 and 71 <= int(part) <= 2048 for part in parts):
        facts = ["expected whole numbers from 71 (Xception's smallest) to 2048"]
        raise UsageError(f"`--sizes {text}` is no list of sizes", facts=facts)
    return [int(part) for part in parts]
