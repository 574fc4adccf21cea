"""How often a network is right about labelled images, and how often two networks agree."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from xconvert.datasets import Dataset, Sample, dataset, spread
from xconvert.errors import RefusedError, UnreadableError, UsageError
from xconvert.images import prepare
from xconvert.labels import Label
from xconvert.loading import TRUST
from xconvert.model import Array, Model
from xconvert.outcomes import Outcome, State, key_of
from xconvert.preprocessing import PREPROCESSING
from xconvert.serving import Answer, Server, answering, server, without_background
from xconvert.tuples import NamedTuple

if TYPE_CHECKING:
    from xconvert.batch.execution import Pool

BATCH = 32  # images that are computed, and at the most lost by a kill
SHARD = 1024  # images that another process is given at a time, at the most


class Unread(NamedTuple):
    """An image that could not be read, and why in a clause."""

    name: str
    why: str


class Evaluation(NamedTuple):
    """What an evaluation found.

    ``servers``: the network, and the one that it was compared with, if any. ``outcomes``: of every image, in the order of the
    folder. ``labels``: what ``Outcome``'s classes are called. ``resumed``: how many outcomes are of an earlier run. ``seconds``:
    what the others took.
    """

    servers: tuple[Server, ...]
    folder: str
    labels: tuple[Label, ...]
    samples: tuple[Sample, ...]
    outcomes: tuple[Outcome, ...]
    unread: tuple[Unread, ...] = ()
    notes: tuple[str, ...] = ()
    resumed: int = 0
    seconds: float = 0.0

    def right(self, top: int, side: int = 0) -> int:
        """Images whose class is among the ``top`` likeliest of a side."""
        return sum(outcome.ranks[side] < top for outcome in self.outcomes)

    def share(self, top: int, side: int = 0) -> float:
        """``right`` as a share of all images."""
        return self.right(top, side) / len(self.outcomes)

    @property
    def disagreements(self) -> tuple[Outcome, ...]:
        """The images of which two networks say different things, the largest gap first."""
        unlike = [o for o in self.outcomes if len(set(o.firsts)) > 1]
        return tuple(sorted(unlike, key=lambda o: -o.gap))

    @property
    def agreement(self) -> float:
        """The share of images of which both say the same; 1 of one network alone."""
        return 1 - len(self.disagreements) / len(self.outcomes)

    @property
    def widest(self) -> Outcome | None:
        """The image whose logits are furthest apart."""
        return max(self.outcomes, key=lambda o: o.gap) if len(self.servers) == 2 else None

    def classes(self, side: int = 0) -> list[tuple[int, int, int]]:
        """(class, images, right) of each class that has images, those that are wrong most often first."""
        counts: dict[int, list[int]] = {}
        for outcome in self.outcomes:
            of = counts.setdefault(outcome.label, [0, 0])
            of[0] += 1
            of[1] += outcome.ranks[side] == 0
        return sorted(((c, n, r) for c, (n, r) in counts.items()), key=lambda told: (told[2] / told[1], -told[1], told[0]))


Made = tuple[Sequence[tuple[Sample, Outcome]], Sequence[Unread]]  # what became of some images
Progress = Callable[[int, int, int, int], None]  # images done, those of them in an earlier run, images in all, right ones


def evaluate(
    model: str | Path | Model,
    folder: str | Path,
    *,
    against: str | Path | Model | None = None,
    backend: str = "numpy",
    against_backend: str | None = None,
    labels: str | Path | None = None,
    batch: int = BATCH,
    limit: int | None = None,
    resume: str | Path | None = None,
    keep_going: bool = False,
    progress: Progress | None = None,
    pool: AbstractContextManager[Pool] | None = None,
    **options: Any,
) -> Evaluation:
    """Classify the labelled images in ``folder`` (see ``xconvert.datasets``), each with the checkpoint's own preprocessing.

    ``against``: another checkpoint, or the same one with another ``against_backend``, to compare the answers with. ``labels``: a
    file with the classes' names. ``batch``: images that are computed at a time. ``limit``: how many images, spread evenly.
    ``resume``: a file that remembers what was computed; the answers in it count if they are of the same networks, prepared and
    run alike. ``keep_going``: leave images out that cannot be read. ``pool``: what computes parts of the images at a time, as
    ``xconvert.batch.execution.local(2)`` or ``cluster("dask://host:port")`` makes it; everything must then be a file that its
    workers reach, and they compute what this process would. ``options`` are those of ``load`` for ``model``; those for strangers'
    files, of preprocessing, ``mappings`` and ``ignore`` hold for ``against`` too. Raises the subclasses of ``XconvertError``.
    """
    if batch < 1:
        raise UsageError(f"a batch of {batch} images is none", hints=["give 1 or more"])
    asked = {"against": against, "backend": backend, "against_backend": against_backend, "labels": labels, **options}
    servers = _servers(model, **asked)
    sides, known = _aligned(servers)
    found = dataset(folder, known)
    chosen = spread(found.samples, limit)
    state = State(Path(resume) if resume else None, key_of(sides, servers))
    run = _Run(sides, servers, state, batch, keep_going, progress)
    if pool is None:
        return run.over(str(folder), known, chosen, found, run.computed)
    if isinstance(model, Model) or isinstance(against, Model):
        raise UsageError("other processes evaluate files", hints=["give the files, or leave the pool away"])
    task = {"model": model, **asked, "batch": batch, "keep_going": keep_going}
    return run.over(str(folder), known, chosen, found, partial(_shared_out, pool, task))


def _servers(
    model: str | Path | Model,
    *,
    against: str | Path | Model | None,
    backend: str,
    against_backend: str | None,
    labels: str | Path | None,
    **options: Any,
) -> tuple[Server, ...]:
    servers = [server(model, backend=backend, labels=labels, **options)]
    if against is not None:
        shared = {name: value for name, value in options.items() if name in ("mappings", "ignore", *TRUST)}
        stated = (options.get("settings") or {}).items()
        shared["settings"] = {name: value for name, value in stated if name in PREPROCESSING}
        other = server(against, backend=against_backend or backend, labels=labels, name="the other model", **shared)
        servers.append(other)
    elif against_backend is not None:
        raise UsageError("a second backend wants a second checkpoint", hints=["pass `--against`, which may be the same file"])
    return tuple(servers)


def _shared_out(pool: AbstractContextManager[Pool], task: Mapping[str, Any], todo: Sequence[Sample]) -> Iterator[Made]:
    """What the workers of ``pool`` find, each in a shard of ``todo`` at a time. Raises what a shard raises; what was found before
    is known by then.
    """
    from xconvert.batch import execution, worker

    with pool as opened:
        width = max(opened.width(), 1)
        size = min(max(-(-len(todo) // (4 * width)), task["batch"]), SHARD)
        shards = [todo[start : start + size] for start in range(0, len(todo), size)]
        threads = {"XCONVERT_THREADS": str(max(execution.cores() // width, 1))}
        plain = {**task, **{name: _place(task[name]) for name in ("model", "against", "labels")}, "environment": threads}
        plain |= {"source": plain["model"], "mappings": [_place(folder) for folder in task.get("mappings", ())]}
        tasks = ({**plain, "samples": [(_place(s.path), s.name, s.label) for s in shard]} for shard in shards)
        try:
            for number, result in execution.map_entries(opened, worker.perform, map(json.dumps, tasks)):
                yield _found(shards[number], result)
        finally:
            worker.interrupt()


def _place(path: str | Path | None) -> str | None:
    """Where a worker finds ``path``: it may run in another folder."""
    return path if path is None or "://" in str(path) else str(Path(path).resolve())  # type: ignore[return-value]


def _found(samples: Sequence[Sample], result: str | Exception) -> Made:
    if isinstance(result, Exception):
        raise UsageError("a worker is gone", facts=[str(result)], hints=["`--resume STATE.json` goes on where this ended"])
    told = json.loads(result)
    if problem := told.get("error"):
        kind = RefusedError if problem["exit_code"] == 1 else UsageError
        raise kind(problem["message"], facts=problem["facts"], hints=problem["hints"])
    by_name = {sample.name: sample for sample in samples}
    made = [Outcome(name, label, tuple(ranks), tuple(firsts), *more) for name, label, ranks, firsts, *more in told["made"]]
    return [(by_name[outcome.name], outcome) for outcome in made], [Unread(*each) for each in told["unread"]]


def shard(task: Mapping[str, Any]) -> dict[str, Any]:
    """What a worker finds in the ``samples`` of ``task``, in JSON types; the rest of it is as for ``evaluate``."""
    asked = {name: value for name, value in task.items() if name not in _SHARDS_OWN}
    servers = _servers(task["model"], **asked)
    run = _Run(_aligned(servers)[0], servers, State(None, ""), task["batch"], task["keep_going"], None)
    made, unread = list[tuple[Sample, Outcome]](), list[Unread]()
    for found, missed in run.computed([Sample(Path(path), name, label) for path, name, label in task["samples"]]):
        made += found
        unread += missed
    return {"made": [list(outcome._asdict().values()) for _, outcome in made], "unread": unread}


_SHARDS_OWN = ("model", "batch", "keep_going", "samples", "source", "environment")


def _aligned(servers: Sequence[Server]) -> tuple[list[int], tuple[Label, ...]]:
    """How many first logits of each are left out, so that classes are the same; and what they are called.

    Only where one of two networks has a background is it left out.
    """
    counts = [len(s.labels) for s in servers]
    if sorted(counts) == [1000, 1001]:
        return [count - 1000 for count in counts], next(without_background(s).labels for s in servers if s.background)
    if len(set(counts)) > 1:
        facts = [f"{s.name}: {len(s.labels)} classes" for s in servers]
        raise UsageError("two networks with different classes cannot be compared", facts=facts)
    return [0] * len(counts), servers[0].labels


class _Run(NamedTuple):
    """One evaluation under way."""

    skipped: Sequence[int]
    servers: tuple[Server, ...]
    state: State
    batch: int
    keep_going: bool
    progress: Progress | None

    def over(
        self,
        folder: str,
        labels: tuple[Label, ...],
        samples: Sequence[Sample],
        found: Dataset,
        computed: Callable[[Sequence[Sample]], Iterator[Made]],
    ) -> Evaluation:
        started = time.monotonic()
        done = {s.name: o for s in samples if (o := self.state.outcome(s))}
        resumed, unread = len(done), list[Unread]()
        todo = [sample for sample in samples if sample.name not in done]
        right = sum(outcome.ranks[0] == 0 for outcome in done.values())
        for made, missed in computed(todo) if todo else ():
            self.state.add(made)
            unread += missed
            done |= {outcome.name: outcome for _, outcome in made}
            right += sum(outcome.ranks[0] == 0 for _, outcome in made)
            if self.progress:
                self.progress(len(done) + len(unread), resumed, len(samples), right)
        place = {sample.name: i for i, sample in enumerate(samples)}
        unread.sort(key=lambda image: place[image.name])
        if not done:
            raise UnreadableError(f"no image of `{folder}` can be read", facts=[u.why for u in unread[:5]])
        ordered = tuple(done[sample.name] for sample in samples if sample.name in done)
        notes = dict.fromkeys([*found.notes, *(note for s in self.servers for note in s.notes), *self._notes()])
        result = Evaluation(self.servers, folder, labels, tuple(samples), ordered, tuple(unread), tuple(notes), resumed)
        return result._replace(seconds=time.monotonic() - started)

    def computed(self, todo: Sequence[Sample]) -> Iterator[Made]:
        """What is found in each batch of ``todo``, computed in this process."""
        with ExitStack() as stack:
            answers = [stack.enter_context(answering(s)) for s in self.servers]
            for start in range(0, len(todo), self.batch):
                unread: list[Unread] = []
                yield self._batch(answers, todo[start : start + self.batch], unread), unread

    def _notes(self) -> list[str]:
        if not any(self.skipped):
            return []
        name = next(s.name for s, skip in zip(self.servers, self.skipped, strict=True) if skip)
        return [f"the background class of `{name}` is left out"]

    def _batch(self, answers: Sequence[Answer], batch: Sequence[Sample], unread: list[Unread]) -> list[tuple[Sample, Outcome]]:
        tables = [s.preprocessing for s in self.servers]
        readable, rows = [], list[list[Array]]()
        for sample in batch:
            try:
                ready = [prepare(sample.path, tables[0])]
                ready += [ready[0] if table == tables[0] else prepare(sample.path, table) for table in tables[1:]]
            except UnreadableError as error:
                if not self.keep_going:
                    hints = [*error.hints, "`--keep-going` leaves out what cannot be read"]
                    raise UnreadableError(error.message, facts=error.facts, hints=hints) from None
                unread.append(Unread(sample.name, error.message))
            else:
                readable.append(sample)
                rows.append(ready)
        if not readable:
            return []
        given = [np.stack(side) for side in zip(*rows, strict=True)]
        logits = [answer(x)[:, skip:] for answer, x, skip in zip(answers, given, self.skipped, strict=True)]
        return [(s, Outcome.of(s, [side[i] for side in logits])) for i, s in enumerate(readable)]
