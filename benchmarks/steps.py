"""``steps``: what a conversion's time goes into, by the clock of its main thread; the sha256 runs beside it."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks import files
from benchmarks.convert import FORMATS, OVER_CP
from benchmarks.figures import Figure, quartiles
from benchmarks.measure import BUILD, FailedError, environment, last_words
from benchmarks.session import Session, script

TIMES = 4  # as many runs as there are rounds elsewhere: they are short


def run(session: Session) -> Iterator[Figure]:
    """Every pair that has a target over ``cp``."""
    for source, target in OVER_CP:
        if session.wants(case := f"{source} to {target}"):
            try:
                (path,) = files.need(FORMATS[source].source)
                runs = [sampled(source, target, path) for _ in range(TIMES * session.rounds + 1)][1:]
            except FailedError as problem:
                yield Figure("steps", case, "conversion", "wall", "ms", problem=str(problem))
                continue
            steps = dict.fromkeys(name for taken in runs for name in taken)
            spread = {name: quartiles([taken.get(name, 0.0) * 1000 for taken in runs]) for name in steps}
            for name, (low, middle, high) in sorted(spread.items(), key=lambda step: -step[1][1]):
                yield Figure("steps", case, name, "wall", "ms", middle, low, high, len(runs))


def sampled(source: str, target: str, path: Path) -> dict[str, float]:
    """Seconds of one run by step, of both processes together."""
    form = FORMATS[target]
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="out-", dir=BUILD) as folder:
        told = [*FORMATS[source].told, "--to", form.to, "-o", f"{folder}/{form.output}", "--no-verify"]
        command = [*script("sampled.py", folder, path), *told]
        done = subprocess.run(command, env=environment(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise FailedError(last_words(done.stderr))
        taken: dict[str, float] = {}
        for file in Path(folder).glob("*.json"):
            for name, seconds in json.loads(file.read_text()).items():
                taken[name] = taken.get(name, 0.0) + seconds
        return taken
