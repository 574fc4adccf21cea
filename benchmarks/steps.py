"""``steps``: where the time of a conversion goes, by the clock of its main thread (sha256 runs beside it), and of a pass."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import files
from benchmarks.convert import FORMATS, OVER_CP
from benchmarks.figures import Figure, quartiles
from benchmarks.measure import BUILD, FailedError, environment, last_words
from benchmarks.session import Session, script

TIMES = 4  # as many runs as there are rounds elsewhere: they are short
Taken = Mapping[str, float]  # step → milliseconds


def run(session: Session) -> Iterator[Figure]:
    """Every pair that has a target over ``cp``, and a forward pass on one thread."""
    times = TIMES * session.rounds
    cases: dict[str, Callable[[], Sequence[Taken]]] = {
        f"{source} to {target}": partial(conversions, source, target, times) for source, target in OVER_CP
    }
    cases["forward"] = partial(passes, times)
    for case, measured in cases.items():
        if session.wants(case):
            try:
                runs = measured()
            except FailedError as problem:
                yield Figure("steps", case, "steps", "wall", "ms", problem=str(problem))
                continue
            steps = dict.fromkeys(name for taken in runs for name in taken)
            spread = {name: quartiles([taken.get(name, 0.0) for taken in runs]) for name in steps}
            for name, (low, middle, high) in sorted(spread.items(), key=lambda step: -step[1][1]):
                yield Figure("steps", case, name, "wall", "ms", middle, low, high, len(runs))


def conversions(source: str, target: str, times: int) -> list[Taken]:
    """So many conversions, after one that does not count."""
    (path,) = files.need(FORMATS[source].source)
    return [_sampled(source, target, path) for _ in range(times + 1)][1:]


def passes(times: int) -> list[Taken]:
    """So many forward passes of one process: the time of each operation."""
    (path,) = files.need("keras.h5")
    found: list[Taken] = json.loads(_output(script("operations.py", path, str(times)), XCONVERT_THREADS="1"))
    return found


def _sampled(source: str, target: str, path: Path) -> Taken:
    """One conversion, of both processes together."""
    form = FORMATS[target]
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="out-", dir=BUILD) as folder:
        told = [*FORMATS[source].told, "--to", form.to, "-o", f"{folder}/{form.output}", "--no-verify"]
        _output([*script("sampled.py", folder, path), *told])
        taken: dict[str, float] = {}
        for file in Path(folder).glob("*.json"):
            for name, seconds in json.loads(file.read_text()).items():
                taken[name] = taken.get(name, 0.0) + 1000 * seconds
        return taken


def _output(command: Sequence[Any], **settings: str) -> str:
    done = subprocess.run(command, env=environment(**settings), capture_output=True, text=True, check=False)
    if done.returncode:
        raise FailedError(last_words(done.stderr))
    return done.stdout
