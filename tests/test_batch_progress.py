"""How far a batch is: bars on a terminal, lines elsewhere, colour where it is wanted."""

from __future__ import annotations

import io
import re
import time
from pathlib import Path

import pytest

from xconvert import progress as progress_module
from xconvert.batch import Job
from xconvert.batch.progress import Progress

JOBS = [Job(f"model{i}", f"model{i}.h5", "timm", f"timm/model{i}.pth") for i in range(3)]


def carried_out(bars: bool, file: Path = Path("none")) -> str:
    stream = io.StringIO()
    progress = Progress(stream, bars)
    progress.begin(4, 1)
    for job in JOBS:
        progress.start(job, file)
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


@pytest.mark.slow
@pytest.mark.parametrize("colour", [True, False])
def test_bars_on_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, colour: bool) -> None:
    if colour:
        monkeypatch.delenv("NO_COLOR", raising=False)
    else:
        monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "progress").write_text("0.500 fetching x\x1b.h5")
    told = carried_out(True, tmp_path / "progress")
    line = "[##########..........] model{} → timm  fetching x\\x1b.h5  0 s\n"
    assert "[#####...............] 1/4\n" + line.format(0) + line.format(1) in told
    assert "\x1b[4A\x1b[J" in told and told.endswith(" s)\n")
    assert ("\x1b[32m" in told) == colour
    assert all(len(line) <= 120 for line in told.splitlines())


def test_what_is_left_is_estimated() -> None:
    progress = Progress(io.StringIO(), False)
    progress.begin(10, 2)
    progress._began -= 60
    progress.start(JOBS[0], Path("none"))
    progress.end(JOBS[0], {"status": "refused", "error": {"message": "no"}})
    assert progress.lines() == ["[######..............] 3/10, 1 failed, about 7:00 min left"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_one_file_has_one_line_that_goes_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    progress_module.tell("nobody listens", 0.5)
    terminal, file = Terminal(), io.StringIO()
    for stream in (terminal, file):
        with progress_module.shown(stream):
            progress_module.tell("writing", 0.25)
            progress_module.tell("writing", 0.26)
            progress_module.tell("comparing", 2.0)
    assert file.getvalue() == ""
    assert terminal.getvalue() == ("\r\x1b[K[#####...............] writing\r\x1b[K[####################] comparing\r\x1b[K")
