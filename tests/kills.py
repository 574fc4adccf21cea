"""kill -9 at random instants of a conversion over an existing output: afterwards there is the old one or the new one, whole.

``make kills N=500 SEED=0`` kills N conversions for each format that is written. All but 20 are children of this process, which
has everything imported: half of them are killed at any instant of the conversion, half from the instant on at which the output
is about to get its name. The other 20 are the whole command line, killed with all its processes. One that ends before it is
killed is not counted. The other of two networks is converted each time, so what a late kill leaves is the next old output.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.targets import TARGETS, sources, state
from xconvert import outputs
from xconvert.formats import formats

COMMANDS = 20  # of the whole command line, for each format
COLUMNS = ("kills", "old", "new", "before", "while", "after", "broken")


class Campaign:
    """Kills of the conversion into one format; ``counts`` has what was found, by ``COLUMNS``."""

    def __init__(self, name: str, folder: Path, seed: int = 0) -> None:
        self.name, self.target, self.random = name, TARGETS[name], random.Random(f"{seed} {name}")
        self.sources = sources(folder)
        self.output = folder / "there" / self.target.output
        self.output.parent.mkdir()
        self.counts: Counter[str] = Counter()
        self.states = [self._clean(source) for source in self.sources]
        self.took, self.publishing = self._run(lambda: self.target.convert(self.sources[0], self.output), None)
        self.command = 0.0  # seconds that the command line takes
        if self.name == "hub":  # its name sorts before those of the others
            (self.output / "NOTES.md").write_text("beside it")
            self.states = [f"NOTES.md:{state_of_notes(self.output)} {told}" for told in self.states]

    def _clean(self, source: Path) -> str:
        """Convert without a kill; nothing but the output is there then."""
        self.target.convert(source, self.output)
        found = {path.name for path in self.output.parent.iterdir()}
        files = formats()[self.name].files(self.output)
        assert found == {file.relative_to(self.output.parent).parts[0] for file in files}, found
        return state(self.output)

    def _run(self, job: Callable[[], Any], delay: Callable[[], float] | None, aimed: bool = False) -> tuple[float, float]:
        """Fork, do ``job`` in the child, and kill it after ``delay()`` seconds, of its life or, if ``aimed``, of its publishing.
        Returns the seconds of both, infinite where it was killed.
        """
        here, there = os.pipe()
        start = time.perf_counter()
        child = os.fork()
        if not child:
            _child(job, there)
        os.close(there)
        begun = start
        if delay is None or aimed:
            os.read(here, 1)
            begun = time.perf_counter()
        if delay is not None:
            _wait(begun + delay())
            os.kill(child, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        end = time.perf_counter()
        os.close(here)
        assert code in (0, -signal.SIGKILL), f"{self.name}: the conversion failed"
        return (end - start, end - begun) if code == 0 else (float("inf"), float("inf"))

    def kill(self, how: str) -> None:
        """One kill of a conversion that is ``how``: ``"any"``, ``"aimed"``, ``"command"``; tried again while it ends before."""
        while True:
            old = self.states.index(state(self.output))
            source = self.sources[1 - old]
            if how == "command":
                ended = self._command(source)
            else:
                reach = self.publishing if how == "aimed" else self.took
                verify = how == "any" and self.random.random() < 0.25  # twice as long; nothing is published meanwhile
                verify &= not formats()[self.name].card  # which has the figures in it
                delay = self.random.uniform(0, reach * (2.2 if verify else 1.1))
                job = lambda source=source, verify=verify: self.target.convert(source, self.output, verify)  # noqa: E731
                ended = self._run(job, lambda delay=delay: delay, how == "aimed")[0] < float("inf")
            if not ended:
                return self._look(old)

    def _look(self, old: int) -> None:
        self.counts["kills"] += 1
        try:
            found = self.states.index(state(self.output))
        except Exception:  # whatever a broken file raises
            traceback.print_exc()
            self.counts["broken"] += 1
            self.target.convert(self.sources[0], self.output)
            return
        writing = any(path.name.startswith(".xconvert-") for path in self.output.parent.iterdir())
        self.counts["old" if found == old else "new"] += 1
        self.counts["after" if found != old else "while" if writing else "before"] += 1

    def _command(self, source: Path) -> bool:
        """Run the command line and kill it with all its processes; whether it ended before."""
        command = [
            sys.executable,
            "-m",
            "xconvert",
            self.target.source(source),
            "-o",
            self.output,
            "--force",
            "--no-verify",
            *self.target.options,
        ]
        started = time.perf_counter()
        group = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, start_new_session=True)
        if not self.command:
            assert group.wait() == 0
            self.command = time.perf_counter() - started
            return True
        _wait(started + self.random.uniform(0.3, 1) * self.command)
        if group.poll() is None:
            os.killpg(group.pid, signal.SIGKILL)
            time.sleep(0.02)  # init reaps the child
        return group.wait() == 0

    def finish(self) -> list[Any]:
        """After all of it: the next conversion leaves nothing of the killed ones. Returns the row of the table."""
        for source, expected in zip(self.sources, self.states, strict=True):
            assert self._clean(source) == expected, self.name
        return [self.name, *(self.counts[column] for column in COLUMNS)]


def state_of_notes(folder: Path) -> str:
    """The digest of the file that lies beside a Hub folder's own."""
    return state(folder / "NOTES.md").partition(":")[2]


def _child(job: Callable[[], Any], there: int) -> None:
    """Do ``job`` and say when it publishes; never returns."""
    publish = outputs._publish

    def told(*arguments: Any) -> None:
        os.write(there, b"p")
        publish(*arguments)

    outputs._publish = told
    code = 1
    try:
        job()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _wait(until: float) -> None:
    if (left := until - time.perf_counter()) > 2e-3:
        time.sleep(left - 1e-3)
    while time.perf_counter() < until:
        pass


def campaign(name: str, kills: int, commands: int, seed: int) -> list[Any]:
    """All kills for one format; the row of the table."""
    with tempfile.TemporaryDirectory(prefix="kills-") as folder:
        made = Campaign(name, Path(folder), seed)
        ways = ["command"] * commands + ["aimed"] * ((kills - commands) // 2)
        ways += ["any"] * (kills - len(ways))
        made.random.shuffle(ways)
        for how in ways:
            made.kill(how)
        return made.finish()


def main() -> None:
    """Run the campaign for every format on as many processes as there are cores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", type=int, default=500, help="kills for each format")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("formats", nargs="*", help="by default all that are written")
    told = parser.parse_args()
    started, rows, names = time.monotonic(), [], told.formats or list(TARGETS)
    print(f"seed {told.seed}: {told.n} kills for each of {len(names)} formats", flush=True)
    print(("{:20}" + "{:>8}" * len(COLUMNS)).format("format", *COLUMNS), flush=True)
    with ProcessPoolExecutor(told.jobs) as pool:
        jobs = [pool.submit(campaign, name, told.n, min(COMMANDS, told.n // 4), told.seed) for name in names]
        for job in as_completed(jobs):
            rows.append(job.result())
            print(("{:20}" + "{:8}" * len(COLUMNS)).format(*rows[-1]), flush=True)
    total = [sum(row[i] for row in rows) for i in range(1, len(COLUMNS) + 1)]
    print(("{:20}" + "{:8}" * len(COLUMNS)).format("all", *total))
    print(f"{time.monotonic() - started:.0f} s")
    sys.exit(1 if total[-1] else 0)


if __name__ == "__main__":
    main()
