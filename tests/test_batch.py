"""Batches: carried out, killed, interrupted and resumed; what is left is always whole, and the end the same."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.test_cli import run
from tests.zoo import make
from xconvert import verify
from xconvert.batch import worker

pytestmark = pytest.mark.slow
FIXTURES = Path(__file__).parents[1] / "fixtures"
XCONVERT = [sys.executable, "-m", "xconvert"]


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of four checkpoints, in the folder that one is in."""
    (tmp_path / "zoo").mkdir()
    for name in ("keras.h5", "timm.pth", "deeplab.pdparams"):
        shutil.copy(FIXTURES / name, tmp_path / "zoo")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "zoo"


def start(*args: object, **options: Any) -> subprocess.Popen[str]:
    """The command line as a user runs it, in a group of its own."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*XCONVERT, "batch", *map(str, args)], start_new_session=True, **pipes, **options)


def files(folder: Path) -> dict[str, bytes]:
    """Everything that is not of the batch's own."""
    found = (file for file in folder.rglob("*") if file.is_file() and not {".xconvert-batch", "reports"} & set(file.parts))
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in found}


def wait_for(process: subprocess.Popen[str], folder: Path, count: int) -> None:
    """Until ``count`` records in ``folder`` are of conversions that ended."""
    end = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < end:
        done = sum('"status": "verified"' in read(file) for file in records(folder / ".xconvert-batch"))
        if done >= count:
            return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[1])


def records(place: Path) -> Iterator[Path]:
    """The records that have their names. One that is being written lies in a folder of its own, which goes at any moment."""
    for folder, inner, names in os.walk(place):
        inner[:] = [name for name in inner if not name.startswith(".xconvert-")]
        yield from (Path(folder, name) for name in names if name.endswith(".json"))


def read(file: Path) -> str:
    try:
        return file.read_text()
    except FileNotFoundError:
        return ""


def children_are_gone(needle: str) -> None:
    """No worker whose work is in ``needle`` is left after some seconds."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        left = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    command = (entry / "cmdline").read_bytes()
                    there = str((entry / "cwd").readlink())
                except OSError:
                    continue
                if b"xconvert.batch.worker" in command and needle in there:
                    left.append(entry.name)
        if not left:
            return
        time.sleep(0.1)
    raise AssertionError(left)


def test_a_batch_converts_verifies_and_tells_it_in_every_form(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reports = [arg for kind in ("html", "md", "xml", "json") for arg in ("--report", f"summary.{kind}")]
    code, out, err = run(
        capsys, "batch", "zoo", "--to", "torch,keras.applications", "--keep-going", *reports, "--models", "MODELS.md"
    )
    assert code == 1
    lines = [line.split() for line in out.splitlines()[:7]]
    assert [line[:3] for line in lines[1:]] == [
        ["deeplab", "keras.applications", "refused"],
        ["keras", "keras.applications", "verified"],
        ["timm", "keras.applications", "refused"],
        ["deeplab", "torch", "verified"],
        ["keras", "torch", "verified"],
        ["timm", "torch", "verified"],
    ]
    assert out.endswith("4 verified, 2 refused\n")
    assert "timm → keras.applications: `pool_padding` differs, and no weights can make up for it" in out
    assert err.count("  verified  (") == 4 and err.count("wrote ") == 5 and "\x1b" not in err
    assert set(files(Path("converted"))) == {
        "keras.applications/keras.h5",
        *(f"torch/{n}.pth" for n in ("deeplab", "keras", "timm")),
    }
    assert verify("zoo/keras.h5", "converted/torch/keras.pth").equal
    told = json.loads(Path("summary.json").read_text())
    assert told["counts"] == {"verified": 4, "refused": 2, "failed": 0, "not run": 0}
    suite = ElementTree.parse("summary.xml").getroot()
    assert suite.attrib["tests"] == "6" and suite.attrib["failures"] == "2" and suite.attrib["errors"] == "0"
    models = Path("MODELS.md").read_text()
    assert models.count("\n| `") == 4 and "`converted/torch/keras.pth`" in models and "`zoo/keras.h5`" in models
    page = Path("summary.html").read_text()
    assert page.count('href="converted/reports/') == 4 and "default-src 'none'" in page
    assert "❌" in Path("summary.md").read_text()


def test_what_is_finished_is_skipped_and_what_changed_is_done_again(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("batch", "zoo", "--to", "torch", "--workers", "2")
    code, first, _ = run(capsys, *args)
    assert code == 0
    code, _, err = run(capsys, *args)
    assert code == 2 and "3 of 3 outputs cannot be written" in err and "`converted/torch/keras.pth` exists" in err
    before = {path: path.stat().st_mtime_ns for path in Path("converted/torch").iterdir()}
    code, again, err = run(capsys, *args, "--resume")
    assert (code, again) == (0, first) and err == "3 of 3 are finished already\n"
    assert {path: path.stat().st_mtime_ns for path in Path("converted/torch").iterdir()} == before
    Path("converted/torch/keras.pth").write_bytes(b"somebody's")
    code, _, err = run(capsys, *args, "--resume")
    assert code == 2 and "`converted/torch/keras.pth` has changed since" in err
    Path("converted/torch/keras.pth").unlink()  # an output is gone, …
    shutil.copy(FIXTURES / "keras.pth", "zoo/timm.pth")  # … a source is another, …
    Path("converted/reports/torch/deeplab.pth.html").unlink()  # … and a page is gone
    code, _, err = run(capsys, *args, "--resume")
    assert code == 0 and err.count("verified") == 3 and "finished" not in err
    Path("converted/torch/new.pth").write_bytes(b"somebody's")
    shutil.copy(FIXTURES / "timm.pth", "zoo/new.pth")
    code, _, err = run(capsys, *args, "--resume")
    assert code == 2 and "1 of 4 outputs cannot be written" in err
    assert Path("converted/torch/new.pth").read_bytes() == b"somebody's"
    assert run(capsys, *args, "--resume", "--force")[0] == 0
    assert run(capsys, *args, "--force")[2].count("  verified") == 4


def test_checkpoints_of_several_files_and_folders_are_resumed_too(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("zoo.toml").write_text(
        '[[entry]]\nsource = "zoo/timm.pth"\nto = "timm"\nlayout = "hub"\noutput = "hub/{name}"\n'
        '[[entry]]\nsource = "zoo/keras.h5"\nto = ["tensorflow", "mindspore"]\nverify_with = ["numpy"]\n'
    )
    assert run(capsys, "batch", "zoo.toml")[0] == 0
    names = ["hub/timm/README.md", "hub/timm/config.json", "hub/timm/model.safetensors", "mindspore/keras.ckpt"]
    assert sorted(files(Path("converted"))) == [
        *names,
        "tensorflow/keras.ckpt.data-00000-of-00001",
        "tensorflow/keras.ckpt.index",
    ]
    assert run(capsys, "batch", "zoo.toml", "--resume")[2] == "3 of 3 are finished already\n"
    code, _, err = run(capsys, "batch", "zoo.toml")
    assert code == 2 and "3 of 3 outputs cannot be written" in err
    assert run(capsys, "batch", "converted/hub", "--to", "torch", "-o", "again")[0] == 0  # a folder of folders of the Hub
    assert list(files(Path("again"))) == ["torch/timm.pth"]


def test_other_options_are_another_conversion(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "batch", "zoo", "--to", "cadene", "--keep-going")[0] == 1
    code, _, err = run(capsys, "batch", "zoo", "--to", "cadene", "--keep-going", "--accept", "pool_padding", "--resume")
    assert code == 1 and "keras → cadene  verified" in err and "deeplab → cadene  refused" in err


def test_after_a_failure_nothing_more_starts_unless_asked(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("zoo.toml").write_text(
        '[defaults]\nto = "torch"\n'
        + "".join(f'[[entry]]\nsource = "zoo/{n}"\n' for n in ("keras.h5", "timm.pth", "deeplab.pdparams"))
        + f'[[entry]]\nsource = "zoo/keras.h5"\nname = "a"\nsha256 = "{"0" * 64}"\n'
    )
    code, out, _ = run(capsys, "batch", "zoo.toml", "--workers", "1", "--json")
    told = json.loads(out)
    assert code == 1 and told["counts"] == {"verified": 0, "refused": 0, "failed": 1, "not run": 3}
    assert told["entries"][0]["error"]["message"] == f"`{zoo}/keras.h5` has another sha256 than the manifest says".replace(
        f"{zoo}", str(zoo)
    )
    code, out, _ = run(capsys, "batch", "zoo.toml", "--workers", "1", "--json", "--resume", "--keep-going")
    assert code == 1 and json.loads(out)["counts"] == {"verified": 3, "refused": 0, "failed": 1, "not run": 0}


def test_the_order_of_a_manifest_gives_the_same_bytes(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entries = [f'[[entry]]\nsource = "zoo/{n}"\nto = ["torch", "keras"]\n' for n in ("keras.h5", "timm.pth", "deeplab.pdparams")]
    tables, found = [], []
    for i, order in enumerate((entries, entries[::-1])):
        Path("zoo.toml").write_text("".join(order))
        code, out, _ = run(capsys, "batch", "zoo.toml", "-o", f"out{i}", "--workers", 1 + i)
        assert code == 0
        tables.append(out)
        found.append(files(Path(f"out{i}")))
    assert tables[0] == tables[1] and found[0] == found[1] and len(found[0]) == 6


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_crash_of_one_conversion_is_one_entry_that_failed(
    zoo: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    ended = []

    class Deadly(subprocess.Popen[bytes]):
        def wait(self, timeout: float | None = None) -> int:
            if not ended:
                ended.append(os.kill(self.pid, number))
            return super().wait(timeout)

    monkeypatch.setattr(worker.subprocess, "Popen", Deadly)
    code, out, _ = run(capsys, "batch", "zoo", "--to", "torch", "--workers", "1", "--keep-going")
    assert code == 1 and out.endswith("2 verified, 1 failed\n")
    assert {9: "the process that did the work was killed (SIGKILL)", 11: "crashed (SIGSEGV)"}[number] in out
    assert run(capsys, "batch", "zoo", "--to", "torch", "--resume")[0] == 0


def test_ctrl_c_ends_it_and_nothing_is_left_running(zoo: Path, tmp_path: Path) -> None:
    made = make(tmp_path / "many", 6)
    process = start("many", "--to", "torch,keras", "--workers", "2")
    wait_for(process, tmp_path / "converted", 2)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.endswith("what is finished is kept; `--resume` goes on\n\nerror: interrupted\n")
    children_are_gone(str(tmp_path))
    assert not list((tmp_path / "converted").rglob(".xconvert-????????????????"))
    ended = start("many", "--to", "torch,keras", "--resume")
    out, err = ended.communicate(timeout=120)
    assert (
        ended.returncode == 0 and "are finished already" in err and out.endswith(f"all {2 * len(made)} verified: same answer\n")
    )


def test_two_batches_do_not_work_in_one_folder(zoo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make(tmp_path / "many", 6)
    process = start("many", "--to", "torch", "--workers", "1")
    wait_for(process, tmp_path / "converted", 1)
    code, _, err = run(capsys, "batch", "zoo", "--to", "torch")
    assert code == 2 and err.startswith("error: another batch works in `converted`")
    process.communicate(timeout=120)
    assert process.returncode == 0


def killed_and_resumed(sources: Path, targets: str, folder: Path, delay: Any) -> tuple[str, str]:
    """Start, kill everything -9, and resume to the end: the table, and what was told meanwhile."""
    process = start(sources, "--to", targets, "-o", folder, "--workers", "2")
    delay(process)
    os.killpg(process.pid, signal.SIGKILL)  # the command and the process that does its work
    process.communicate()
    children_are_gone(str(Path.cwd()))
    ended = start(sources, "--to", targets, "-o", folder, "--workers", "2", "--resume")
    out, err = ended.communicate(timeout=600)
    assert ended.returncode == 0, err
    return out.replace(str(folder), "OUT"), err


def test_killed_at_random_instants_and_resumed_it_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sources, chance = tmp_path / "zoo", random.Random(0)
    make(sources, 4)
    started = time.monotonic()
    process = start(sources, "--to", "torch", "-o", tmp_path / "whole", "--workers", "2")
    whole = process.communicate(timeout=120)[0].replace(str(tmp_path / "whole"), "OUT")
    took = time.monotonic() - started
    for i in range(6):
        folder = tmp_path / f"out{i}"
        out, _ = killed_and_resumed(sources, "torch", folder, lambda process: time.sleep(chance.uniform(0.2, took)))
        assert out == whole
        assert files(folder) == files(tmp_path / "whole")


def test_24_checkpoints_for_3_targets_killed_at_half_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, record_property: Any
) -> None:
    """What issue 7 asks to see: one command on two cores, killed at half, ends with the full verified table."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "zoo", 24)
    folder, started = tmp_path / "out", time.monotonic()
    out, err = killed_and_resumed(Path("zoo"), "torch,keras,paddle", folder, lambda process: wait_for(process, folder, 36))
    first = int(err.split(" of 72 are finished already")[0])
    assert 36 <= first <= 40
    assert out.endswith("all 72 verified: same answer\n")
    assert [line.split()[1:3] for line in out.splitlines()[1:73]] == [
        [to, "verified"] for to in ("keras", "paddle", "torch") for _ in range(24)
    ]
    assert len(files(folder)) == 72 and err.count("  verified  (") == 72 - first
    record_property(
        "told", f"batch: 24 checkpoints for 3 targets, killed after {first} and resumed, in {time.monotonic() - started:.0f} s"
    )
