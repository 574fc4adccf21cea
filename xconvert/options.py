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
publishing = options(
    click.option("--layout", metavar="NAME", help="Write a folder for publishing: hub (for timm), keras-hub or paddleclas."),
    click.option("--licence", metavar="ID", help="What the folder's model card states, e.g. apache-2.0."),
    click.option("--base-model", metavar="ID", help="The same: the repository that it was made from."),
)
surgery = options(
    click.option("--drop-background", is_flag=True, help="Leave out the first class, TensorFlow's background."),
    click.option("--add-background", is_flag=True, help="Add a first class that never wins."),
    click.option("--num-classes", type=int, metavar="N", help="A new, untrained head of N classes, for fine-tuning."),
    click.option("--head-init", metavar="NAME", help="How it starts: uniform, glorot or normal.  [default: as in the framework]"),
    click.option("--seed", type=int, metavar="N", help="What its numbers are drawn from.  [default: 0]"),
    click.option("--no-head", is_flag=True, help="No head: the features alone, as the zoo has them headless."),
    click.option("--backbone-only", is_flag=True, hidden=True),  # another word for it
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


def read_card(kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the options ``publishing`` say, as ``convert`` takes it."""
    stated = {"license": kwargs.pop("licence"), "base_model": kwargs.pop("base_model")}
    return {**kwargs, "card": {name: value for name, value in stated.items() if value}}


def read_surgery(kwargs: dict[str, Any]) -> dict[str, Any]:
    """What the options ``surgery`` say, as ``convert`` takes it; raises ``UsageError`` for both kinds of background."""
    from xconvert.errors import UsageError

    drop, add = kwargs.pop("drop_background"), kwargs.pop("add_background")
    if drop and add:
        raise UsageError("a background class is dropped or added, not both", hints=["pass one of the two"])
    headless = [kwargs.pop("no_head"), kwargs.pop("backbone_only")]
    kwargs["head_init"] = kwargs["head_init"] or ""
    return {**kwargs, "background": "drop" if drop else "add" if add else None, "head": not any(headless)}


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
