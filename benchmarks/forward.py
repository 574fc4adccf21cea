"""``forward``: the NumPy forward pass at 299×299 against the frameworks on the same weights, and against its own floor."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks import files
from benchmarks.figures import Case, Figure, Target
from benchmarks.launcher import worked
from benchmarks.measure import ROOT, FailedError, Rival, Runs, Sample, environment, last_words, turns
from benchmarks.session import Session, script

APART = 1e-3  # relative L2 by which two answers in float32 may differ; a wrong pool or epsilon moves them by 1e-2 and more
PAUSE = 0.05  # seconds before a sample: threads of the engine before it may still be spinning
FLOOR = "gemm"
MEMORY = Target(220)


@dataclass(frozen=True)
class Network:
    """``engines``: the file of each that computes this network; all hold the same weights."""

    name: str
    engines: Mapping[str, str]


XCEPTION = Network(
    "xception",
    {
        "numpy": "keras.h5",
        FLOOR: "keras.h5",
        "torch": "timm.pth",
        "torch_channels_last": "timm.pth",
        "onnxruntime": "timm.onnx",
        "tensorflow": "keras.h5",
        "keras": "keras.h5",
    },
)
DOUBLE = Network("xception", {name: XCEPTION.engines[name] for name in ("numpy", FLOOR, "torch", "torch_channels_last")})
ALIGNED = Network(
    "aligned 65",
    {
        "numpy": "timm-xception65.pth",
        FLOOR: "timm-xception65.pth",
        "torch": "timm-xception65.pth",
        "torch_channels_last": "timm-xception65.pth",
        "paddle": "paddleclas-Xception65_deeplab.pdparams",
    },
)
PADDLECLAS = Network(
    "PaddleClas 41",
    dict.fromkeys(("numpy", FLOOR, "torch", "torch_channels_last", "paddle"), "paddleclas-Xception41.pdparams"),
)
TARGETS = {  # (network, dtype, batch, threads) → engine → at most
    ("xception", "float32", 1, 2): {"torch": 0.9, "torch_channels_last": 1.5, "onnxruntime": 1.75},
    ("xception", "float32", 8, 1): {"torch": 0.75, "torch_channels_last": 1.0, "onnxruntime": 1.4, FLOOR: 1.4},
    ("xception", "float32", 1, 1): {FLOOR: 1.4},  # with two threads the floor is the machine's, not the network's
    ("xception", "float64", 1, 2): {"torch": 0.55},
    ("aligned 65", "float32", 1, 2): {"torch": 1.0, "paddle": 0.5},
    ("PaddleClas 41", "float32", 1, 2): {"torch": 1.0, "paddle": 0.5},
}
PASSES = [
    *((XCEPTION, "float32", batch, threads) for batch in (1, 8) for threads in (1, 2)),
    *((DOUBLE, "float64", batch, threads) for batch in (1, 8) for threads in (1, 2)),
    *((network, "float32", batch, 2) for network in (ALIGNED, PADDLECLAS) for batch in (1, 8)),
]
WHOLE = "whole process"


def run(session: Session) -> Iterator[Figure]:
    """Every pass, then a whole process."""
    for network, dtype, batch, threads in PASSES:
        if session.wants(name_of(network, dtype, batch, threads)):
            yield from compare(session, network, dtype, batch, threads)
    if session.wants(WHOLE):
        yield from whole(session)


def name_of(network: Network, dtype: str, batch: int, threads: int) -> str:
    """What such a pass is called."""
    return f"{network.name} {dtype} b{batch} t{threads}"


class Engine:
    """A process with an engine in it, see ``engines.py``."""

    def __init__(self, name: str, file: Path, dtype: str, batch: int, threads: int) -> None:
        options = ["--dtype", dtype, "--batch", batch, "--threads", threads]
        command = [sys.executable, "-m", "benchmarks.engines", name, file, *options]
        # Paddle is told in its own way too, for its BLAS; xconvert is told nothing
        told = {"OMP_NUM_THREADS": str(threads)} if name == "paddle" else {}
        self.errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (until close())
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.errors, "text": True}
        self.process = subprocess.Popen([*map(str, command)], cwd=ROOT, env=environment(**told), **pipes)
        try:
            self.answer: list[float] | None = self._read()
        except FailedError:
            self.close()
            raise

    def _read(self) -> Any:
        assert self.process.stdout
        if line := self.process.stdout.readline():
            return json.loads(line)
        self.process.wait()
        self.errors.seek(0)
        raise FailedError(last_words(self.errors.read()))

    def sample(self) -> Sample:
        """One pass."""
        assert self.process.stdin
        time.sleep(PAUSE)
        before = worked()
        with suppress(BrokenPipeError):  # then it has ended, and there is nothing to read either
            self.process.stdin.write("\n")
            self.process.stdin.flush()
        told = self._read()
        return Sample(**told, others=max(worked() - before - told["cpu"], 0.0))

    def close(self) -> None:
        """End it."""
        assert self.process.stdin
        with suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.wait()
        self.errors.close()


@cache
def reference(file: Path) -> list[float]:
    """What xconvert answers for the same file."""
    engine = Engine("numpy", file, "float32", 1, 1)
    engine.close()
    assert engine.answer
    return engine.answer


def apart(a: list[float], b: list[float]) -> float:
    """Relative L2 distance."""
    return (sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) / sum(y * y for y in b)) ** 0.5


def start(name: str, file: str, dtype: str, batch: int, threads: int) -> Engine:
    """An engine that has given the right answer."""
    (path,) = files.need(file)
    engine = Engine(name, path, dtype, batch, threads)
    if engine.answer is not None:
        ours = files.need("timm.pth")[0] if path.suffix == ".onnx" else path  # what it was exported from
        distance = apart(engine.answer, reference(ours))
        if not distance < APART:
            engine.close()
            raise FailedError(f"its answer is {distance:.1e} from xconvert's")
    return engine


def compare(session: Session, network: Network, dtype: str, batch: int, threads: int) -> Iterator[Figure]:
    """What is told of one pass."""
    case = name_of(network, dtype, batch, threads)
    runs, problems = measured(session, network, dtype, batch, threads)
    session.keep("forward", case, runs)
    told = Case("forward", case, runs, problems)
    targets = TARGETS.get((network.name, dtype, batch, threads), {})
    for name in network.engines:
        if name != "numpy":
            target = Target(targets[name]) if name in targets else None
            yield from told.times(f"numpy / {name}", "numpy", name, target)
        if name != FLOOR:
            held = MEMORY if (name, network.name, dtype) == ("numpy", "xception", "float32") else None
            yield told.memory(f"peak memory, {name}", name, held)


def measured(session: Session, network: Network, dtype: str, batch: int, threads: int) -> tuple[Runs, dict[str, str]]:
    """All engines of one network take turns."""
    engines: dict[str, Engine] = {}
    problems: dict[str, str] = {}
    with ExitStack() as stack:
        for name, file in network.engines.items():
            try:
                engines[name] = start(name, file, dtype, batch, threads)
                stack.callback(engines[name].close)
                engines[name].sample()  # warms what the first pass did not
            except FailedError as problem:
                problems[name] = str(problem)
                engines.pop(name, None)
        try:
            taken = turns([engine.sample for engine in engines.values()], session.rounds, session.patience)
        except FailedError as problem:
            return {}, dict.fromkeys(network.engines, str(problem))
    return dict(zip(engines, taken, strict=True)), problems


def whole(session: Session) -> Iterator[Figure]:
    """A program that loads a checkpoint and computes one image."""
    ours, theirs = "xconvert, an .h5", "torch + timm, a .pth"
    try:
        h5, pth = files.need("keras.h5", "timm.pth")
    except FailedError as problem:
        yield Figure("forward", WHOLE, ours, "wall", "×", problem=str(problem))
        return
    rivals = [Rival(ours, script("image_xconvert.py", h5)), Rival(theirs, script("image_timm.py", pth))]
    runs, problems = session.alternate(rivals)
    session.keep("forward", WHOLE, runs)
    told = Case("forward", WHOLE, runs, problems)
    yield from told.times("xconvert / torch + timm, one image", ours, theirs, Target(0.1))
    for name in (ours, theirs):
        yield told.memory(f"peak memory, {name}", name)
