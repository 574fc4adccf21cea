"""``xconvert batch``: many conversions, verified and resumable."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xconvert.commands._printing import show
from xconvert.options import Location, as_json, mapping_folders, options, reports_to

if TYPE_CHECKING:
    from xconvert.batch import Entry
    from xconvert.batch.execution import Pool
    from xconvert.batch.plan import Plan
    from xconvert.batch.state import State

_every = options(
    click.option("--to", "targets", multiple=True, metavar="TARGET,…", help="Frameworks or implementations, for all entries."),
    click.option("--accept", multiple=True, metavar="NAME", help="Convert although this attribute differs, where there is one."),
    click.option("--ema/--no-ema", default=None, help="The moving averages of the weights, or the weights themselves."),
    click.option(
        "--verify-with", multiple=True, metavar="BACKEND", help="Also run every result in a framework or a zoo's class."
    ),
)
_going = options(
    click.option(
        "--workers", type=click.IntRange(1, 1000), metavar="N", help="Conversions at a time.  [default: one for each core]"
    ),
    click.option("--cluster", metavar="dask://HOST:PORT", help="Work on this Dask cluster instead."),
    click.option("--resume", is_flag=True, help="Go on where a batch ended: skip what is finished and unchanged."),
    click.option("--keep-going", is_flag=True, help="Go on after a failure."),
    click.option("--force", is_flag=True, help="Replace existing outputs."),
    click.option("--dry-run", is_flag=True, help="Show what would be done, and sizes."),
)


@click.command()
@click.argument("manifest", type=click.Path(path_type=Path), required=False)
@click.option("--catalog", metavar="NAME,…", help="Released files: of these zoos or names, which `xconvert catalog` lists.")
@click.option("-o", "--output", "folder", type=Location(), default="converted", help="Where outputs go.", show_default=True)
@_every
@_going
@reports_to
@click.option("--models", type=click.Path(path_type=Path), metavar="FILE", help="Also write the table of models, e.g. MODELS.md.")
@mapping_folders
@as_json
def command(manifest: Path | None, catalog: str | None, folder: str | Path, dry_run: bool, as_json: bool, **kwargs: Any) -> None:
    """Convert all that MANIFEST, a TOML file, lists; or every checkpoint in a folder; or released files. Each is verified.

    A conversion runs in a process of its own, and what became of it is kept in the folder of outputs: whatever ends a batch,
    --resume loses only what was in flight.
    """
    from xconvert.batch.state import State

    state = State(str(folder))
    entries, problems = _entries(manifest, catalog, str(folder), kwargs)
    plan = _planned(entries, problems, str(folder), kwargs["mappings"], manifest, kwargs)
    for path in dict.fromkeys(kwargs["reports"]):
        from xconvert.reports import check

        check(path, [job.source for job in plan.jobs if "://" not in job.source])
    if dry_run:
        from xconvert.batch import summary

        planned = summary.plan_dict(plan, state, kwargs["resume"])
        show(planned if as_json else summary.plan_text(planned))
        return
    told = _carried_out(plan, state, kwargs)
    _tell(told, kwargs["reports"], kwargs["models"], as_json)
    sys.exit(0 if all(row["status"] == "verified" for row in told) else 1)


def _entries(manifest: Path | None, catalog: str | None, folder: str, kwargs: Mapping[str, Any]) -> tuple[list[Entry], list[str]]:
    """What is asked for, and what is wrong with it."""
    from xconvert.batch import manifest as manifests
    from xconvert.catalog import chosen
    from xconvert.errors import UsageError

    if (manifest is None) == (catalog is None):
        raise UsageError("a batch is a manifest, a folder, or a part of the catalogue", hints=["`xconvert batch --help`"])
    told = manifests.checked(_defaults(kwargs))
    if manifest and not manifest.is_dir():
        return manifests.read(manifest, told)
    if "to" not in told:
        raise UsageError("missing option '--to'", hints=["for example `--to timm,paddle,keras`"])
    if catalog is not None:
        return manifests.of_catalog(chosen([name for name in catalog.split(",") if name]), told)
    assert manifest  # noqa: S101  (told above)
    own = {Path(folder).resolve()} if "://" not in folder else set()
    entries, others = manifests.of_folder(manifest, told, own)
    if not entries:
        raise UsageError(f"`{manifest}` holds no checkpoint that xconvert can read", facts=[f"{others} other files"])
    if others:
        click.echo(f"left out {others} file{'s' * (others != 1)} that are no checkpoints", err=True)
    return entries, []


def _defaults(kwargs: Mapping[str, Any]) -> dict[str, Any]:
    told = {
        "to": [target for text in kwargs["targets"] for target in text.split(",") if target],
        "accept": list(kwargs["accept"]),
        "verify_with": list(kwargs["verify_with"]),
    }
    return {name: value for name, value in {**told, "ema": kwargs["ema"]}.items() if value or (value is False and name == "ema")}


def _planned(
    entries: Sequence[Entry], problems: list[str], folder: str, mappings: Sequence[Path], manifest: Path | None, kwargs: Any
) -> Plan:
    """The plan; raises ``UsageError`` with everything that is wrong, before any work."""
    from xconvert.batch.plan import plan
    from xconvert.errors import UsageError
    from xconvert.remote.store import UnreachableError

    if mappings:
        folders = [str(path.absolute()) for path in mappings]
        entries = [entry._replace(options={**entry.options, "mappings": folders}) for entry in entries]
    planned = plan(entries, folder, mappings)
    if found := [*problems, *planned.problems]:
        what = f"`{manifest}`" if manifest else "the batch"
        raise UsageError(f"{what} cannot be carried out: {len(found)} problem{'s' * (len(found) != 1)}", facts=found)
    if planned.unreachable and len(planned.unreachable) == len(planned.sizes):
        facts = [fact for url, why in planned.unreachable.items() for fact in (url.partition("#")[0], f"  {why}")]
        hints = ["run it where the network is, or convert files that you have"]
        raise UnreachableError("the network cannot be reached: none of the sources answers", facts=facts, hints=hints)
    return planned


def _carried_out(plan: Plan, state: State, kwargs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Do it, and return the rows of the summary."""
    from xconvert import supervision
    from xconvert.batch import run, summary
    from xconvert.batch.progress import Progress
    from xconvert.errors import UsageError

    with state.alone():
        if not kwargs["force"] and (found := run.in_the_way(plan.jobs, state, kwargs["resume"])):
            hints = ["pass `--resume` to go on with a batch, or `--force` to replace them"]
            raise UsageError(f"{len(found)} of {len(plan.jobs)} outputs cannot be written", facts=found, hints=hints)
        with _pool(kwargs) as pool:
            going = {name: kwargs[name] for name in ("resume", "keep_going")}
            try:
                done = run.run(
                    plan.jobs,
                    state,
                    pool,
                    Progress(sys.stderr),
                    environment=_environment(kwargs),
                    unreachable=plan.unreachable,
                    **going,
                )
            except (KeyboardInterrupt, supervision.Terminated):
                click.echo("what is finished is kept; `--resume` goes on", err=True)
                raise
    return summary.rows(plan.jobs, done, state)


def _pool(kwargs: Mapping[str, Any]) -> AbstractContextManager[Pool]:
    from xconvert.batch import execution
    from xconvert.errors import UsageError

    if kwargs["cluster"] and kwargs["workers"]:
        raise UsageError("a cluster has its own workers", hints=["leave `--workers` away"])
    return execution.cluster(kwargs["cluster"]) if kwargs["cluster"] else execution.local(kwargs["workers"] or execution.cores())


def _environment(kwargs: Mapping[str, Any]) -> dict[str, str]:
    """As many threads for each conversion as there are cores for it: more of them only wait for each other."""
    from xconvert.batch.execution import cores

    threads = 1 if kwargs["cluster"] else max(1, cores() // (kwargs["workers"] or cores()))
    return {name: str(threads) for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS") if name not in os.environ}


def _tell(told: Sequence[Mapping[str, Any]], reports: Sequence[Path], models: Path | None, as_json: bool) -> None:
    from xconvert.batch import summary
    from xconvert.outputs import replaced

    show(summary.as_dict(told) if as_json else summary.as_text(told))
    makers = [(path, summary.SUFFIXES[path.suffix.lower()]) for path in dict.fromkeys(reports)]
    for path, make in [*makers, *([(models, summary.as_models)] if models else [])]:
        replaced(path, make(told, path).encode("utf-8", "backslashreplace"))
        click.echo(f"wrote {path}", err=True)
