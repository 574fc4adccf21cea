"""Samples: what whole processes take, rivals taking turns."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.launcher import worked

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "bench"
LAUNCHER = Path(__file__).with_name("launcher.py")
# What would decide for xconvert how many threads it uses, or make Python write or check more than it does for users.
NOT_INHERITED = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "PYTHONDONTWRITEBYTECODE", "PYTHONMALLOC")


class FailedError(Exception):
    """A rival that did not run; the message is the end of what it said."""


@dataclass(frozen=True)
class Sample:
    """One run: seconds on the clock, of the processors (all processes it waited for, and theirs), MiB of the largest process,
    and seconds that the processors worked for others meanwhile.
    """

    wall: float
    cpu: float
    rss: float
    others: float = 0.0


Runs = Mapping[str, Sequence[Sample]]  # of rivals that took turns, in the order of the rounds


@dataclass(frozen=True)
class Rival:
    """A program to measure; ``{out}`` in ``command`` stands for a folder that is new for every run."""

    name: str
    command: Sequence[str | Path]
    environment: Mapping[str, str] = field(default_factory=dict)


def environment(**more: str) -> dict[str, str]:
    """What processes start with."""
    kept = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", **more}


def once(rival: Rival) -> Sample:
    """Run ``rival``, whose output is then thrown away: what stays in the page cache and is never written disturbs nobody."""
    BUILD.mkdir(parents=True, exist_ok=True)
    out = Path(tempfile.mkdtemp(prefix="out-", dir=BUILD))
    try:
        errors = out / "stderr.txt"
        (out / "new").mkdir()
        command = [str(part).replace("{out}", str(out / "new")) for part in rival.command]
        done = subprocess.run(
            [sys.executable, "-I", "-S", LAUNCHER, errors, *command],
            stdout=subprocess.PIPE,
            env=environment(**rival.environment),
            check=True,
        )
        told = json.loads(done.stdout)
        if told.pop("code"):
            raise FailedError(last_words(errors.read_text(errors="replace")))
        return Sample(**told)
    except (OSError, subprocess.CalledProcessError) as problem:  # no such program
        raise FailedError(str(problem)) from None
    finally:
        shutil.rmtree(out, ignore_errors=True)


def last_words(text: str) -> str:
    """The last line that says something: of xconvert the error, of Python the exception."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("error: ")), lines[-1] if lines else "it failed without a word")


def settle(seconds: float) -> None:
    """Wait until others leave the processors alone, but no longer than ``seconds``."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        before = worked()
        time.sleep(0.1)
        if worked() - before <= 0.02:
            return


def turns(rivals: Sequence[Callable[[], Sample]], rounds: int, patience: float = 0.0) -> list[list[Sample]]:
    """``rounds`` samples of each, one after the other; every second round backwards, so that no rival always comes behind the
    same one and what drifts cancels out. ``patience``: seconds to wait for a quiet machine before each sample.
    """
    taken: list[list[Sample]] = [[] for _ in rivals]
    for number in range(rounds):
        order = list(range(len(rivals)))
        for i in reversed(order) if number % 2 else order:
            settle(patience)
            taken[i].append(rivals[i]())
    return taken


def alternate(rivals: Sequence[Rival], rounds: int, patience: float = 0.0) -> tuple[Runs, dict[str, str]]:
    """Samples by name, and why a rival has none. Each runs once before it is measured: files and libraries are then cached, and
    Python has compiled what it imports.
    """
    problems: dict[str, str] = {}
    able: list[Rival] = []
    for rival in rivals:
        try:
            once(rival)
            able.append(rival)
        except FailedError as problem:
            problems[rival.name] = str(problem)
    try:
        taken = turns([lambda rival=rival: once(rival) for rival in able], rounds, patience)
    except FailedError as problem:  # a full disk, say: the rounds are no longer complete
        return {}, problems | dict.fromkeys([rival.name for rival in able], str(problem))
    return {rival.name: samples for rival, samples in zip(able, taken, strict=True)}, problems
