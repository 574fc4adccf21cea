"""Where work is done: one interface, ``map_entries``, for threads of this process and for a Dask cluster that is there already.

What is mapped here is light, for each call starts a process that does the work: so threads are enough, and a crash in one
process is one result.
"""

from __future__ import annotations

import importlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

from xconvert.errors import UsageError
from xconvert.tuples import NamedTuple

Item = TypeVar("Item")
Result = TypeVar("Result")


class Pool(NamedTuple):
    """An executor, and how many calls it takes at a time, which may change while workers come and go."""

    executor: Executor
    width: Callable[[], int]


class Lost(Exception):
    """The worker that had a call is gone, or could not even begin: nothing is known of what it did."""


def map_entries(
    pool: Pool,
    function: Callable[[Item], Result],
    items: Iterable[Item],
    go_on: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[int, Result | Lost]]:
    """The number of each of ``items`` and what ``function`` makes of it, as soon as it is known.

    An item is taken when there is a place for it, and none any more as soon as ``go_on()`` is false: those in flight are
    finished. What ``function`` raises is a fault of ours, or that it is gone: it becomes ``Lost``.
    """
    source, waiting = enumerate(items), dict[Future[Any], int]()
    more = True
    while True:
        while more and go_on() and len(waiting) < max(1, pool.width()):
            if (taken := next(source, None)) is None:
                more = False
            else:
                waiting[pool.executor.submit(function, taken[1])] = taken[0]
        if not waiting:
            return
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            number = waiting.pop(future)
            try:
                result = future.result()
            except Exception as error:
                result = Lost(f"{type(error).__name__}: {error}"[:300])
            yield number, result


@contextmanager
def local(workers: int) -> Iterator[Pool]:
    """Processes of our own: ``workers`` calls at a time."""
    executor = ThreadPoolExecutor(workers, thread_name_prefix="xconvert")
    try:
        yield Pool(executor, lambda: workers)
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def cluster(address: str, wait: float = 10) -> Iterator[Pool]:
    """The Dask cluster whose scheduler is at ``dask://host:port``: a call for each thread of its workers. What a worker that died
    was doing is done again by another.

    Raises ``UsageError`` for an address that is none, where nobody answers, and where the extra is not installed.
    """
    match = re.fullmatch(r"dask://([^/\s]+:\d{1,5})/?", address)
    if not match:
        raise UsageError(f"`--cluster {address}` is no address", hints=["for example `--cluster dask://localhost:8786`"])
    try:
        distributed = importlib.import_module("distributed")
    except ImportError:
        raise UsageError("`dask://` needs a package that is not installed", hints=["pip install 'xconvert[dask]'"]) from None
    try:
        client = distributed.Client(f"tcp://{match[1]}", timeout=wait, set_as_default=False)
    except (OSError, TimeoutError) as error:
        hints = [f"start one: `dask scheduler --port {match[1].rpartition(':')[2]}`, and workers: `dask worker tcp://{match[1]}`"]
        raise UsageError(f"no Dask scheduler answers at `{match[1]}`", facts=[str(error)[:200]], hints=hints) from None
    try:
        if not client.nthreads():
            raise UsageError(f"the cluster at `{match[1]}` has no workers", hints=[f"`dask worker tcp://{match[1]}`"])
        yield Pool(client.get_executor(), lambda: sum(client.nthreads().values()))
    finally:
        client.close()


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
