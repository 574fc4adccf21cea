"""How fast a checkpoint answers on each framework that is installed: latency, and images in a second.

Every backend stays ready in a process of its own (``backends/timer.py``); they are asked in turn, round after round, so that what
else the machine does falls on all of them. Loading, compiling and the first runs count for nothing.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from xconvert import provenance
from xconvert.backends import Backend, Job, backends, command_of, describe_jobs, environment, failed, find, forward, loadz
from xconvert.compare import relative_l2
from xconvert.effects import check_sizes
from xconvert.errors import UsageError, XconvertError
from xconvert.loading import load
from xconvert.model import Array, Model
from xconvert.naming import describe, native_names
from xconvert.parity import channels
from xconvert.probe import NATIVE, images

OFF = 1e-3  # relative L2 from the reference: above it somebody else answers; float32 makes 5e-4 at the worst
LARGEST = 2048  # pixels, as everywhere on the command line
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS")


@dataclass(slots=True)
class Runner:
    """A backend that is ready in a process of its own; ``seconds`` of its runs by batch, and why it ``failed``, if it did."""

    name: str
    folder: Path
    process: subprocess.Popen[str]
    said: TextIO
    seconds: dict[int, list[float]] = field(default_factory=dict)
    failed: str = ""

    def answer(self, asked: str = "") -> str:
        """What the process says next, after it was ``asked``; raises ``XconvertError`` where it says no more."""
        assert self.process.stdin and self.process.stdout  # noqa: S101  (both are pipes)
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(asked)
            self.process.stdin.flush()
        if line := self.process.stdout.readline():
            return line.strip()
        self.said.seek(0)
        raise failed(self.name, self.process.wait(), self.said.read().strip().splitlines())


@contextlib.contextmanager
def _running(backend: Backend, model: Model, batches: Sequence[Array], threads: int) -> Iterator[Runner]:
    """``backend`` at work, at the end of which its process ends."""
    weights = {name: tensor.read() for name, tensor in model.weights.items()}
    names = native_names(backend.name, model)
    jobs = [Job(model.layers, weights, x, names=names) for x in batches]
    few = dict.fromkeys(THREADS, str(threads))
    with tempfile.TemporaryDirectory(prefix="xconvert-") as folder, Path(folder, "said").open("w+") as said:
        describe_jobs(Path(folder), backend, model, jobs)
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": said, "text": True}
        command = command_of("timer", backend.name, folder, str(threads))
        process = subprocess.Popen(command, env={**environment(), **few}, **pipes)  # noqa: S603
        try:
            yield Runner(backend.name, Path(folder), process, said)
        finally:
            process.kill()
            process.communicate()


def bench(
    source: str | Path,
    *,
    backend: Sequence[str] = (),
    batches: Sequence[int] = (1, 8),
    size: int = NATIVE,
    threads: int | None = None,
    repeat: int = 10,
    progress: Callable[[str], None] = lambda text: None,
    **options: Any,
) -> dict[str, Any]:
    """Measure the checkpoint ``source`` on every ``backend``, by default all that run its graph, and return the figures.

    ``batches``: how many images at once; ``size`` of them in pixels; ``threads``: how many cores may be used, by default all;
    ``repeat``: rounds that count. ``progress`` is told what is done. ``options`` are those of ``load``. Raises ``UsageError`` for
    what makes no sense, and as ``load`` does; a backend that is missing or fails is a row that says so.
    """
    cores = _cores()
    threads = cores if threads is None else threads
    _check(backend, batches, threads, cores, repeat)
    model = load(source, **options)
    check_sizes(model, [size])
    if size > LARGEST:
        raise UsageError(f"images of {size} pixels are too large to be measured", facts=[f"at most {LARGEST}"])
    chosen = [find_or_say(name) for name in backend] or [b for b in backends().values() if b.kind == "graph"]
    probes = [images(size, batch, channels(model)) for batch in batches]
    reference = forward(model, probes[0])["logits" if model.head else "features"]
    with ExitStack() as stack:
        runners, lost = [], dict[str, str]()  # the latter: why a backend could not be started
        for found in chosen:
            if found.installed and found.serve:
                progress(f"{found.name}: loading and warming up")
                try:
                    runners.append(stack.enter_context(_running(found, model, probes, threads)))
                    _attempt(runners[-1], runners[-1].answer)
                except OSError as error:  # the Python that is set for it is none
                    lost[found.name] = f"{error.filename}: {error.strerror}"
        off = {r.name: _off(r, reference) for r in runners if not r.failed}
        _measure(runners, batches, repeat, progress)
        rows = [row for found in chosen for row in _rows(found, runners, batches, off, lost)]
    ran = [runner.name for runner in runners if not runner.failed]
    told = provenance.describe(model, backends=ran, probe={"sizes": [size], "images": list(batches), "seed": 0})
    machine = {**_machine(), "cores": cores, "threads": threads}
    asked = {"size": size, "repeat": repeat, "dtype": "float32", "machine": machine}
    return {"schema": 1, "file": str(source), "network": describe(model), **asked, "rows": rows, "provenance": told}


def find_or_say(name: str) -> Backend:
    """The backend called ``name``, installed or not; raises ``UsageError`` for one that runs no graph."""
    known = backends()
    if name not in known:
        find(name)
    if known[name].kind != "graph":
        graphs = ", ".join(b.name for b in known.values() if b.kind == "graph")
        raise UsageError(f"`{name}` is a class that is only compared", facts=[f"measured are {graphs}"])
    return known[name]


def _check(chosen: Sequence[str], batches: Sequence[int], threads: int, cores: int, repeat: int) -> None:
    if not batches or not all(1 <= batch <= 1024 for batch in batches):
        raise UsageError("a batch has 1 to 1024 images", hints=["`--batch 1 --batch 8`"])
    if not 1 <= threads <= cores:
        raise UsageError(f"{threads} threads cannot run at once here", facts=[f"there are {cores} cores"])
    if not 1 <= repeat <= 10_000:
        raise UsageError(f"{repeat} rounds cannot be measured", hints=["give 1 to 10000, such as `--repeat 10`"])


def _attempt(runner: Runner, act: Callable[[], str]) -> str:
    """What ``act`` gives; where the runner's process ends instead, it has failed, and why is kept."""
    try:
        return act()
    except XconvertError as error:
        runner.failed = error.message
        return ""


def _measure(runners: Sequence[Runner], batches: Sequence[int], repeat: int, progress: Callable[[str], None]) -> None:
    """Rounds in which every runner answers every batch once, each time beginning with another one."""
    started = time.perf_counter()
    for turn in range(repeat):
        left = (time.perf_counter() - started) / turn * (repeat - turn) if turn else 0
        progress(f"round {turn + 1} of {repeat}" + (f", {left:.0f} s left" if turn else ""))
        first = turn % max(len(runners), 1)
        for runner in (*runners[first:], *runners[:first]):
            for i, batch in enumerate(batches):
                if runner.failed:
                    continue
                if answer := _attempt(runner, lambda runner=runner, i=i: runner.answer(f"{i}\n")):  # type: ignore[misc]
                    runner.seconds.setdefault(batch, []).append(float(answer))


def _off(runner: Runner, reference: Array) -> float:
    """How far the runner's first answer is from the reference."""
    with loadz(runner.folder / "out_0.npz") as out:
        return float(relative_l2(reference.astype(np.float64), out["output"]))


def _rows(
    backend: Backend, runners: Sequence[Runner], batches: Sequence[int], off: Mapping[str, float], lost: Mapping[str, str]
) -> Iterator[dict[str, Any]]:
    """A row for each batch, or one that says why there is none."""
    runner = next((runner for runner in runners if runner.name == backend.name), None)
    if why := runner.failed if runner else lost.get(backend.name):
        yield {"backend": backend.name, "status": "failed", "why": why}
        return
    if runner is None:
        needs = f"needs {', '.join(backend.missing)}" if backend.missing else "it serves nothing"
        yield {"backend": backend.name, "status": "not installed", "why": needs}
        return
    for batch in batches:
        low, median, high = np.percentile(runner.seconds[batch], [25, 50, 75]).tolist()
        figures = {"median": median, "low": low, "high": high, "rounds": runner.seconds[batch]}
        told = {"backend": backend.name, "status": "measured", "how": backend.serves, "batch": batch, "seconds": figures}
        yield {**told, "images_per_second": batch / median, "off": off[backend.name]}


def _cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _machine() -> dict[str, Any]:
    """What the figures depend on: processor, memory, system, and how busy it is with other things."""
    import platform

    processor, memory = platform.processor() or platform.machine(), None
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    with contextlib.suppress(OSError, ValueError, AttributeError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    load_ = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
    system = f"{platform.system()} {platform.machine()}"
    return {"processor": processor, "memory": memory, "system": system, "python": platform.python_version(), "load": load_}
