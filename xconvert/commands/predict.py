"""``xconvert predict``: what is in these images?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xconvert.commands._printing import show
from xconvert.options import as_json, read_settings, reading


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("images", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option("--top", default=5, metavar="N", show_default=True, help="How many classes of each image.")
@click.option(
    "--labels",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The classes' names, a line each, if not ImageNet's.",
)
@click.option("--backend", metavar="NAME", default="numpy", show_default=True, help="What runs the network.")
@reading
@as_json
def command(
    file: Path, images: tuple[Path, ...], top: int, labels: Path | None, backend: str, as_json: bool, **kwargs: Any
) -> None:
    """Classify each IMAGE with FILE's network, prepared as the checkpoint says its images are.

    --set also overrules preprocessing: `--set size=224`, `--set interpolation=bicubic`, `--set mean=0.485,0.456,0.406`.
    """
    from xconvert import prediction
    from xconvert.serving import server

    served = server(file, backend=backend, labels=labels, **read_settings(kwargs))
    found = prediction.run(served, images, top=top)
    show(prediction.to_dict(served, found) if as_json else prediction.text(served, found))
