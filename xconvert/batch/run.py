"""A plan is carried out: what is finished is skipped, the rest goes to workers, and what comes back is remembered at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xconvert import __version__
from xconvert.batch import Job, worker
from xconvert.batch.execution import Lost, Pool, map_entries
from xconvert.batch.progress import Progress
from xconvert.batch.state import State
from xconvert.errors import UsageError, XconvertError
from xconvert.remote import is_url, split


def in_the_way(jobs: Sequence[Job], state: State, resume: bool) -> list[str]:
    """The outputs that are there and may not be replaced: all, or with ``resume`` those that are not as the batch left them."""
    found = [job for job in jobs if state.exists(job) and not (resume and state.owns(job))]
    verb = {job.output: "has changed since" if resume and state.record(job).get("output") else "exists" for job in found}
    return [f"`{state.output(job)}` {verb[job.output]}" for job in found]


def run(
    jobs: Sequence[Job],
    state: State,
    pool: Pool,
    progress: Progress,
    *,
    resume: bool = False,
    keep_going: bool = False,
    environment: Mapping[str, str] | None = None,
    unreachable: Mapping[str, str] | None = None,
) -> dict[str, dict[str, Any]]:
    """Carry out ``jobs`` and return what is known of each, by its output: a record as ``state`` keeps it, or ``not run`` as its
    ``status``. Without ``keep_going`` nothing more starts after the first failure. Whatever ends this, records are whole.
    """
    told: dict[str, dict[str, Any]] = {job.output: {"status": "not run"} for job in jobs}
    failed: list[Job] = []
    pending = []
    for job in jobs:
        if resume and state.finished(job):
            told[job.output] = state.record(job)
        else:
            pending.append(job)
    progress.begin(len(jobs), len(jobs) - len(pending))

    def tasks() -> Iterator[str]:
        for job in pending:
            state.started(job)
            progress.start(job, state.progress(job))
            yield json.dumps(task(job, state, environment or {}))

    try:
        for number, result in map_entries(pool, worker.perform, tasks(), lambda: keep_going or not failed):
            job = pending[number]
            record = _checked(result, job, unreachable or {})
            state.ended(job, record)
            state.progress(job).unlink(missing_ok=True)
            told[job.output] = state.record(job)
            if record["status"] != "verified":
                failed.append(job)
            progress.end(job, told[job.output])
    except BaseException:  # Ctrl-C, a full disk: nobody waits for what is in flight
        worker.interrupt()
        raise
    finally:
        progress.close()
    return told


def task(job: Job, state: State, environment: Mapping[str, str]) -> dict[str, Any]:
    """What a worker is asked to do."""
    output, progress = state.output(job), str(state.progress(job).absolute())
    source = job.source if is_url(job.source) else str(Path(job.source).absolute())
    there = output if is_url(output) else str(Path(output).absolute())
    shown = split(job.source)[0] if is_url(job.source) else job.source
    asked = {"source": source, "output": there, "to": job.to, "options": dict(job.options), "sha256": job.sha256}
    return {**asked, "shown": shown, "environment": dict(environment), "progress": progress}


def _checked(result: str | Lost, job: Job, unreachable: Mapping[str, str]) -> dict[str, Any]:
    if isinstance(result, Lost):
        return worker.failure(XconvertError("the worker that had it was lost", facts=[str(result)], hints=["`--resume`"]))
    answer: dict[str, Any] = json.loads(result)
    if answer["version"] != __version__:
        facts = [f"here {__version__}, there {answer['version']}"]
        return worker.failure(UsageError("the worker has another version of xconvert", facts=facts))
    if "error" in answer and job.source in unreachable and not answer["error"]["facts"]:
        answer["error"]["facts"] = [unreachable[job.source]]
    return answer
