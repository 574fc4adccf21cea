"""Jobs, their processes, and what becomes of what they find: watched from outside, minimised, filed and told."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fuzz.worker import Progress, packed, unpacked

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "fixtures" / "hostile" / "found"
WALL = 3.5  # seconds after which an input hangs whose own alarm was not heard, if it works all the time
PATIENCE = 25.0  # and if it waits
START = 60.0  # seconds that a process may take to come up
_NEVER = 1 << 62
_DEATHS = 40  # of one job: enough to see


@dataclass
class Finding:
    """What one input did that none may."""

    target: str
    kind: str
    what: str
    detail: str
    parts: tuple[bytes, ...]
    count: int = 1
    file: str = ""


@dataclass
class Tally:
    """What became of the inputs of a target."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    engines: dict[str, int] = field(default_factory=dict)


class Job:
    """One worker at one target with one engine; started again after every crash and hang, with another seed."""

    def __init__(
        self, target: str, engine: str, seed: int, seconds: float, most: int = _NEVER, least: int = 0, **more: Any
    ) -> None:
        self.least = least
        self.target, self.engine, self.seconds, self.most, self.more = target, engine, seconds, most, more
        self.seed, self.deaths, self.used, self.inputs = seed, 0, 0.0, 0
        self.findings: list[Finding] = []
        self.told: list[dict[str, Any]] = []
        self.tally = Tally()
        base = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path(tempfile.gettempdir())
        self.home = Path(tempfile.mkdtemp(prefix="xconvert-fuzz-", dir=base))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process."""
        folder = self.home / "work"
        folder.mkdir(exist_ok=True)
        for stale in ("progress", "findings"):
            (self.home / stale).unlink(missing_ok=True)
        (self.home / "findings").touch()
        job = {
            "target": self.target,
            "engine": self.engine,
            "seed": self.seed * 1000 + self.deaths,
            "folder": str(folder),
            **self.more,
        }
        job |= {"progress": str(self.home / "progress"), "findings": str(self.home / "findings")}
        job |= {"seconds": max(self.seconds - self.used, 0.1), "most": self.most - self.inputs, "least": self.least - self.inputs}
        (self.home / "job").write_text(json.dumps(job))
        self._progress = Progress(self.home / "progress")
        command = [sys.executable, "-m", "tests.fuzz.worker", str(self.home / "job")]
        with (self.home / "log").open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=_environment())
        self._started, self._first = time.monotonic(), 0.0

    def over(self) -> bool:
        """Look after the process; True when the job is done."""
        assert self._process
        begun, done, *_, when, _size = self._progress.read()
        now = time.monotonic()
        if begun and not self._first:
            self._first = when
        if self._process.poll() is None:
            slow = (
                now - self._started > START
                if not begun
                else begun > done and when and now - when > WALL and self._hangs(now - when)
            )
            if not slow:
                return False
            self._process.send_signal(signal.SIGUSR1)  # where it is: faulthandler tells
            time.sleep(0.2)
            self._process.kill()
            self._process.wait()
            self._collect()
            kind = "hang" if begun else "start"
            return self._died(kind, f"{now - when if begun else START:.1f} s")
        self._collect()
        if self._process.returncode == 0:
            return True
        code = self._process.returncode
        return self._died("crash", signal.Signals(-code).name if code < 0 else f"exit code {code}")

    def _hangs(self, passed: float) -> bool:
        """Whether the process works, rather than waits for the machine; asks once a second."""
        before, begun = self._cpu(), self._progress.read()[0]
        time.sleep(0.2)
        return self._progress.read()[:2] == (begun, begun - 1) and (passed > PATIENCE or self._cpu() - before > 0.1)

    def _cpu(self) -> float:
        assert self._process
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / 100

    def _collect(self) -> None:
        """Take what the process has told."""
        _, done, accepted, refused, *_ = self._progress.read()
        self.tally.inputs += done
        self.tally.accepted += accepted
        self.tally.refused += refused
        self.inputs += done
        used = time.monotonic() - (self._first or self._started)
        self.tally.seconds += used
        self.used += used
        for line in (self.home / "findings").read_text().splitlines():
            told = json.loads(line)
            self.told.append(told)
            if told.get("what") is not None and "input" in told:
                parts = unpacked(base64.b64decode(told["input"]))
                self.findings.append(Finding(told["target"], told["kind"], told["what"], told["detail"], parts))

    def _died(self, kind: str, how: str) -> bool:
        """The process is gone, with an input under way or without; True when it is not worth starting again."""
        log = (self.home / "log").read_text(errors="replace")
        frames = re.findall(r'File "([^"]+)", line (\d+) in (\w+)', log)
        ours = [frame for frame in frames if "/xconvert/" in frame[0]] or frames
        where = f"{Path(ours[0][0]).name}:{ours[0][2]}" if ours else ""
        begun, done, *_ = self._progress.read()
        parts = self._progress.current() if begun > done else ()
        self.findings.append(
            Finding(
                self.target,
                kind,
                f"{how.split()[0] if kind == 'crash' else ''} {where}".strip(),
                f"{how}: {log[:1500]} … {log[-1500:]}",
                parts,
            )
        )
        self.tally.inputs += begun > done
        self.inputs += begun > done
        self.deaths += 1
        if not begun or self.deaths >= _DEATHS or self.engine in ("short", "replay", "minimise"):
            return True
        if self.inputs >= self.most or (self.used >= self.seconds - 0.2 and self.inputs >= self.least):
            return True
        self.start()
        return False

    def close(self) -> None:
        """Remove what the job kept on disk."""
        shutil.rmtree(self.home, ignore_errors=True)


def _environment() -> dict[str, str]:
    import os

    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONWARNINGS", "PYTEST_CURRENT_TEST")}
    return {**kept, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}


def run(jobs: Sequence[Job], workers: int = 1) -> None:
    """All jobs, ``workers`` at a time."""
    waiting, running = list(jobs), list[Job]()
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(waiting.pop(0))
                running[-1].start()
            time.sleep(0.02)
            running = [job for job in running if not job.over()]
    finally:
        for job in running:
            if job._process and job._process.poll() is None:
                job._process.kill()
                job._process.wait()
        for job in jobs:
            job.close()


def distinct(jobs: Sequence[Job]) -> list[Finding]:
    """Every finding once."""
    found: dict[tuple[str, str, str], Finding] = {}
    for finding in (finding for job in jobs for finding in job.findings):
        key = finding.target, finding.kind, finding.what
        if key in found:
            found[key].count += 1
        else:
            found[key] = finding
    return list(found.values())


def minimised(finding: Finding, seconds: float = 6.0) -> Finding:
    """The finding with as small an input as is found in the time."""
    text = base64.b64encode(packed(finding.parts)).decode()
    job = Job(finding.target, "minimise", 0, seconds, inputs=[text], kind=finding.kind, what=finding.what)
    run([job])
    smaller = [unpacked(base64.b64decode(told["input"])) for told in job.told if "input" in told and "what" not in told]
    finding.parts = smaller[0] if smaller else finding.parts
    return finding


def filed(finding: Finding, files: Sequence[str], folder: Path = FOUND) -> None:
    """Keep the input among the fixtures, as a file or a folder of files, and a line that says what it was."""
    digest = hashlib.sha256(packed(finding.parts)).hexdigest()[:8]
    present = [(name, part) for name, part in zip(files, finding.parts, strict=False) if part]
    place = folder / finding.target
    if len(present) == 1 and present[0][0] == files[0]:
        place.mkdir(parents=True, exist_ok=True)
        path = place / f"{digest}.{files[0].partition('.')[2]}"
        path.write_bytes(present[0][1])
    else:
        path = place / digest
        path.mkdir(parents=True, exist_ok=True)
        for name, part in present:
            (path / name).write_bytes(part)
    finding.file = str(path.relative_to(folder))
    readme = folder / "README.md"
    before = readme.read_text() if readme.exists() else HEAD
    line = f"- `{finding.file}`: {finding.kind}, {finding.what}\n"
    readme.write_text(before if f"`{finding.file}`" in before else before + line)


def kept(folder: Path, target: str, files: Sequence[str]) -> dict[str, tuple[bytes, ...]]:
    """The inputs that were filed for a target, by the name of their file or folder."""
    found = {}
    for path in sorted((folder / target).glob("*")) if (folder / target).is_dir() else []:
        if path.is_dir():
            found[path.name] = tuple((path / name).read_bytes() if (path / name).is_file() else b"" for name in files)
        else:
            found[path.name] = (path.read_bytes(), *[b""] * (len(files) - 1))
    return found


HEAD = """# What fuzzing found

Inputs of `make fuzz`, made as small as was quickly done, with which a reader once did what none may. `tests/test_fuzz.py` reads
all of them. Each line says what it was then.

"""
