"""Threads for the reference: NumPy lets go of Python's lock while it computes, so a few of them share out the blocks of a map.

BLAS itself is held at one thread meanwhile. Its own threads wait for each other at every product, which on a busy machine costs
more than they win (shared/facts/performance.md, B3), and how it shares out a product may change the last bits.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import numpy as np

SETTING = "XCONVERT_THREADS"
MOST = 8  # more do not pay: the maps of one image have two to six blocks
Task = Callable[[int], None]  # given the number of the worker that does it


def threads() -> int:
    """How many threads compute: what ``XCONVERT_THREADS`` says, else one for each core that this process may use."""
    told = os.environ.get(SETTING, "")
    if told.isascii() and told.isdigit() and int(told) > 0:
        return int(told)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, MOST)


class Workers:
    """The thread that asks, and ``threads() - 1`` others, with BLAS held at one thread each; a context.

    The others wait at a queue: a pass hands work over some hundred times, and a future for each took 1.5 % of it.
    """

    def __init__(self) -> None:
        self._others = threads() - 1 if _blas() else 0  # a BLAS that cannot be held has threads of its own
        self._asked: SimpleQueue[Iterator[Task] | None] = SimpleQueue()
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()

    def __enter__(self) -> Workers:
        self._open = ExitStack()
        self._open.enter_context(one_blas_thread())
        for i in range(self._others):
            helper = Thread(target=self._help, args=(i + 1,), name=f"xconvert_{i + 1}", daemon=True)
            helper.start()
            self._open.callback(helper.join)
        for _ in range(self._others):
            self._open.callback(self._asked.put, None)
        return self

    def __exit__(self, *raised: object) -> None:
        self._open.close()

    def do(self, tasks: Sequence[Task]) -> None:
        """Run all ``tasks``, each in whichever thread is free; raises what one of them raises."""
        waiting = iter(tasks)
        others = min(self._others, len(tasks) - 1)
        for _ in range(others):
            self._asked.put(waiting)
        try:
            _work(waiting, 0)
        finally:
            problems = [problem for _ in range(others) if (problem := self._done.get())]
        for problem in problems:
            raise problem

    def _help(self, worker: int) -> None:
        while (waiting := self._asked.get()) is not None:
            try:
                _work(waiting, worker)
                self._done.put(None)
            except BaseException as problem:  # it is raised where the work was asked for
                self._done.put(problem)


def _work(tasks: Iterator[Task], worker: int) -> None:
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # what is not finite is the verifier's to tell
        for task in tasks:
            task(worker)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Hold NumPy's BLAS at one thread, where it can be told to; else leave it alone."""
    known = _blas()
    if not known:
        yield
        return
    get, put = known
    before = get()
    put(1)
    try:
        yield
    finally:
        put(before)


@cache
def _blas() -> tuple[Callable[[], int], Callable[[int], None]] | None:
    """What asks for and sets the number of threads of the OpenBLAS that NumPy's own builds bring along; None of any other."""
    package = Path(np.__file__).parent
    folders = (package.with_name("numpy.libs"), package / ".dylibs")  # of Linux and Windows; of macOS
    for path in (file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())):
        if "openblas" not in path.name or sys.platform == "emscripten":
            continue
        library = ctypes.CDLL(str(path))  # it is loaded already
        for prefix in ("scipy_", ""):  # NumPy 2, and before
            if hasattr(library, f"{prefix}openblas_set_num_threads64_"):
                return getattr(library, f"{prefix}openblas_get_num_threads64_"), getattr(
                    library, f"{prefix}openblas_set_num_threads64_"
                )
    return None
