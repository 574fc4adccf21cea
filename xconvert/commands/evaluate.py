"""``xconvert evaluate``: how often is this network right, and do two agree?"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from xconvert.commands._printing import show
from xconvert.options import as_json, options, read_settings, reading

_EVERY = 10.0  # seconds between two lines of progress, where there is no terminal
_SHARE = click.FloatRange(0, 100)

running = options(
    click.option("--backend", metavar="NAME", default="numpy", show_default=True, help="What runs the network."),
    click.option("--against", metavar="B", type=click.Path(path_type=Path), help="Compare the answers with those of B."),
    click.option("--against-backend", metavar="NAME", help="What runs B.  [default: as --backend]"),
    click.option(
        "--labels",
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="The classes' names, a line each, if not ImageNet's.",
    ),
    click.option("--batch", default=32, metavar="N", show_default=True, help="Images that are computed at a time."),
    click.option("--limit", type=int, metavar="N", help="At most so many images, spread evenly."),
    click.option("--resume", metavar="STATE.json", type=click.Path(path_type=Path), help="Go on where a run with it ended."),
    click.option("--keep-going", is_flag=True, help="Leave out images that cannot be read."),
    click.option("--workers", type=click.IntRange(1, 1000), metavar="N", help="Share the images out to N processes."),
    click.option("--cluster", metavar="dask://HOST:PORT", help="Share the images out to this Dask cluster."),
    click.option("--min-top1", type=_SHARE, metavar="PERCENT", help="Exit with 1 where fewer are right."),
    click.option(
        "--min-agreement", type=_SHARE, metavar="PERCENT", help="Exit with 1 where A and B agree on fewer.  [default: 100]"
    ),
    click.option(
        "--report",
        "reports",
        multiple=True,
        metavar="FILE",
        type=click.Path(path_type=Path),
        help="Also write a report to this .html, .md or .json file.",
    ),
)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("folder", type=click.Path(path_type=Path))
@running
@reading
@as_json
def command(
    file: Path,
    folder: Path,
    min_top1: float | None,
    min_agreement: float | None,
    reports: Sequence[Path],
    as_json: bool,
    workers: int | None,
    cluster: str | None,
    **kwargs: Any,
) -> None:
    """Classify the labelled images in FOLDER with FILE's network: top-1 and top-5, and the classes that it gets wrong.

    FOLDER has a folder for each class, or a `val_list.txt` with a file and the number of its class on each line. Images are
    prepared as the checkpoint says. --set may say otherwise, for FILE and B; of the network it speaks of FILE alone, as --from
    and --key do. Exit code 1: the two disagree, or fewer are right than --min-top1.
    """
    from xconvert import evaluation_text as words
    from xconvert.errors import UsageError
    from xconvert.evaluation import evaluate
    from xconvert.reports import evaluation as pages

    against = kwargs["against"]
    if min_agreement is not None and against is None:
        raise UsageError("agreement is between two networks", hints=["pass `--against B`"])
    files = [file, *([against] if against else [])]
    for path in reports:
        pages.check(path, files)
    with _progress() as progress:
        found = evaluate(file, folder, progress=progress, pool=_pool(workers, cluster), **read_settings(kwargs))
    show(words.to_dict(found) if as_json else words.text(found))
    for path in dict.fromkeys(reports):
        pages.write(found, path, files)
        click.echo(f"wrote {path}", err=True)
    right = min_top1 is None or 100 * found.share(1) >= min_top1
    agreed = against is None or 100 * found.agreement >= (100 if min_agreement is None else min_agreement)
    sys.exit(0 if right and agreed else 1)


def _pool(workers: int | None, cluster: str | None) -> Any:
    """What shares the images out; None where this process computes them all."""
    from xconvert.batch import execution
    from xconvert.errors import UsageError

    if workers and cluster:
        raise UsageError("a cluster has workers of its own", hints=["leave `--workers` away"])
    return execution.cluster(cluster) if cluster else execution.local(workers) if workers else None


@contextmanager
def _progress() -> Iterator[Callable[[int, int, int, int], None]]:
    """What shows how far an evaluation is, on stderr: a bar on a terminal, else a line now and then."""
    started = last = time.monotonic()
    terminal = sys.stderr.isatty()

    def show(done: int, before: int, total: int, right: int) -> None:
        nonlocal last
        now = time.monotonic()
        left = (now - started) / max(done - before, 1) * (total - done)
        told = f"{done} of {total} images, top 1 {right / max(done, 1):.1%}, {_duration(left)} left"
        if terminal:
            filled = 30 * done // max(total, 1)
            click.echo(f"\r\x1b[K  {'█' * filled}{'░' * (30 - filled)}  {told}", err=True, nl=False)
        elif now - last >= _EVERY and done < total:
            last = now
            click.echo(told, err=True)

    try:
        yield show
    finally:
        if terminal:
            click.echo("\r\x1b[K", err=True, nl=False)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
