"""How far a batch is: bars on a terminal, lines elsewhere, colour where it is wanted."""

from __future__ import annotations

import io
import re
import time

import pytest

from xconvert.batch import Job
from xconvert.batch.progress import Progress

JOBS = [Job(f"model{i}", f"model{i}.h5", "timm", f"timm/model{i}.pth") for i in range(3)]


def carried_out(bars: bool) -> str:
    stream = io.StringIO()
    progress = Progress(stream, bars)
    progress.begin(4, 1)
    for job in JOBS:
        progress.start(job)
    time.sleep(0.3 if bars else 0)
    for job in JOBS[:2]:
        progress.end(job, {"status": "verified"})
    progress.end(JOBS[2], {"status": "failed", "error": {"message": "no\x1b[2J"}})
    progress.close()
    return stream.getvalue()


def test_plain_lines_elsewhere() -> None:
    told = carried_out(False).splitlines()
    assert told[0] == "1 of 4 are finished already"
    assert re.fullmatch(r"\[2/4\] model0 → timm  verified  \(0\.0 s\)", told[1])
    assert told[3].startswith("[4/4] model2 → timm  failed: no\\x1b[2J  (")
    assert "\x1b" not in "".join(told)


@pytest.mark.parametrize("colour", [True, False])
def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch, colour: bool) -> None:
    if colour:
        monkeypatch.delenv("NO_COLOR", raising=False)
    else:
        monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    told = carried_out(True)
    assert "[#######.......................] 1/4\n  model0 → timm  0 s\n  model1 → timm  0 s\n" in told
    assert "\x1b[4A\x1b[J" in told and told.endswith(" s)\n")
    assert ("\x1b[32m" in told) == colour
    assert all(len(line) <= 120 for line in told.splitlines())


def test_what_is_left_is_estimated() -> None:
    progress = Progress(io.StringIO(), False)
    progress.begin(10, 2)
    progress._began -= 60
    progress.start(JOBS[0])
    progress.end(JOBS[0], {"status": "refused", "error": {"message": "no"}})
    assert progress.lines() == ["[#########.....................] 3/10, 1 failed, about 7:00 min left"]
