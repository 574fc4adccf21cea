"""Outputs under every fault: the old one stays whole or the new one is there, nothing is left behind, the exit code is right."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.disks import tree
from tests.kills import COLUMNS
from tests.targets import TARGETS, sources, state
from xconvert import outputs
from xconvert.cli import main
from xconvert.errors import UsageError, XconvertError
from xconvert.formats import _folders, formats, hub, read

ROOT = Path(__file__).parents[1]
UNSHARE = ("unshare", "-rm")
MOUNTS = (
    bool(shutil.which("unshare"))
    and not subprocess.run([*UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True, check=False).returncode
)


def program(module: str, *arguments: str | Path, before: tuple[str, ...] = ()) -> str:
    """What a module of the tests prints, run as a program: it forks or mounts. In memory, where a disk need not be waited for."""
    command = [*before, sys.executable, "-m", module, *map(str, arguments)]
    environment = {**os.environ, **({"TMPDIR": "/dev/shm"} if os.access("/dev/shm", os.W_OK) else {})}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Files of two networks, which no test changes."""
    return sources(tmp_path_factory.mktemp("sources"))


def refused(arguments: list[str | Path], capsys: pytest.CaptureFixture[str]) -> str:
    """The first line of the error of a command that could not work."""
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[0]


def left(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.startswith(".xconvert-")]


# Every step and every disk.


@pytest.mark.slow
def test_a_kill_or_ctrl_c_before_any_step_of_publishing_leaves_the_old_output_or_the_new_one() -> None:
    rows = [line.split() for line in program("tests.steps", "safetensors", "tensorflow", "hub").splitlines()]
    assert [(row[0], int(row[1]) >= 9, row[2] == row[1], row[3]) for row in rows] == [
        (name, True, True, "8") for name in ("safetensors", "tensorflow", "hub")
    ]


@pytest.mark.slow
def test_a_few_kills_at_random_instants_of_a_conversion_into_each_format() -> None:
    *_, total, _ = program("tests.kills", "-n", "2", "--jobs", "1", "--seed", "5").splitlines()
    counts = dict(zip(COLUMNS, map(int, total.split()[1:]), strict=True))
    assert counts["kills"] == 2 * len(TARGETS) == counts["old"] + counts["new"]
    assert counts["broken"] == 0


def test_the_kills_are_aimed_at_every_format_that_is_written() -> None:
    assert TARGETS.keys() == {name for name, form in formats().items() if form.write}


FAULTS = {"full": "No space left on device", "read-only": "Read-only file system", "limited": "File too large"}


@pytest.fixture(scope="module")
def disturbed(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """What `tests.disks` tells: ``[what, fault, exit code, what was said, whether all is as it was before]``."""
    folder = tmp_path_factory.mktemp("disks")
    said = program("tests.disks", folder, before=UNSHARE) if MOUNTS else program("tests.disks", folder, "--no-mount")
    told: list[list[Any]] = json.loads(said)
    return told


UNMOUNTED = pytest.mark.skipif(not MOUNTS, reason="no disk can be mounted in a namespace of its own here")


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["limited", *(pytest.param(fault, marks=UNMOUNTED) for fault in ("full", "read-only"))])
def test_no_disk_takes_the_old_output(disturbed: list[list[Any]], fault: str) -> None:
    rows = [row for row in disturbed if row[1] == fault]
    assert [row[0] for row in rows] == [*TARGETS, "report.json", "report.xml", "report.md", "report.html"]
    for what, _, code, said, same in rows:
        assert (code, same) == (2, True), (what, said)
        assert f"cannot be written: {FAULTS[fault]}" in said
        assert (" are needed, 4 KiB are free" in said) == (fault == "full")


# The command line and its processes.


@pytest.fixture(scope="module")
def slow(two: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source that takes half a second to read: 300 MB of zeros, which is left out, follow the network. It takes no room."""
    data = two[1].read_bytes()
    size = int.from_bytes(data[:8], "little")
    header, end, zeros = json.loads(data[8 : 8 + size]), len(data) - 8 - size, 300_000_000
    header["extra.w"] = {"dtype": "U8", "shape": [zeros], "data_offsets": [end, end + zeros]}
    text = json.dumps(header).encode()
    path = tmp_path_factory.mktemp("slow") / "slow.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    os.truncate(path, 8 + len(text) + end + zeros)
    return path


class Running:
    """The command line at work, in a process group of its own: ``parent``, and the ``child`` that does the work."""

    def __init__(self, *arguments: str | Path, **options: Any) -> None:
        command = [sys.executable, "-m", "xconvert", *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.parent = subprocess.Popen(command, start_new_session=True, cwd=ROOT, **{**pipes, **options})
        children = Path(f"/proc/{self.parent.pid}/task/{self.parent.pid}/children")
        self.child = int(until(children.read_text))

    def until_mapped(self, path: Path) -> None:
        """Wait until the child has mapped ``path``."""
        until(lambda: str(path) in Path(f"/proc/{self.child}/maps").read_text())

    def end(self) -> tuple[int, str, str]:
        """Exit code, stdout, stderr."""
        out, err = self.parent.communicate(timeout=30)
        return self.parent.returncode, out, err


def until(ask: Callable[[], Any]) -> Any:
    """What ``ask`` says as soon as it says anything."""
    end = time.monotonic() + 20
    while not (said := ask()):
        assert time.monotonic() < end
        time.sleep(0.001)
    return said


def over_an_old_one(two: tuple[Path, Path], source: Path, folder: Path) -> list[str | Path]:
    """The arguments of a conversion of ``source`` over one of another network, in ``folder``."""
    TARGETS["torch"].convert(two[0], folder / "out.pth")
    return [source, "--to", "torch", "-o", folder / "out.pth", "--force", "--no-verify", "--ignore", "extra*"]


ENDS = {"SIGINT": (130, "error: interrupted"), "SIGTERM": (143, "error: terminated"), "SIGHUP": (129, "error: terminated")}


@pytest.mark.parametrize("name", ENDS)
@pytest.mark.parametrize("everyone", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["terminal", "parent"])
def test_a_signal_ends_it_and_leaves_nothing(
    two: tuple[Path, Path], slow: Path, tmp_path: Path, name: str, everyone: bool
) -> None:
    running = Running(*over_an_old_one(two, slow, tmp_path))
    before = tree(tmp_path)
    running.until_mapped(slow)
    (os.killpg if everyone else os.kill)(running.parent.pid, signal.Signals[name])
    code, out, err = running.end()
    assert (code, out, err.strip()) == (ENDS[name][0], "", ENDS[name][1])
    assert tree(tmp_path) == before


@pytest.mark.slow
def test_signals_at_many_moments(two: tuple[Path, Path], tmp_path: Path) -> None:
    arguments = over_an_old_one(two, two[1], tmp_path)
    old, new = tree(tmp_path), {}
    for moment in range(6):
        running = Running(*arguments)
        time.sleep(0.06 * moment)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(running.parent.pid, signal.SIGINT)
        code, *_ = running.end()
        assert code in (0, 130)
        if code == 0:
            new = tree(tmp_path)
        assert tree(tmp_path) in (old, new or tree(tmp_path))
        assert not left(tmp_path)


def test_a_source_that_is_truncated_while_it_is_read(two: tuple[Path, Path], slow: Path, tmp_path: Path) -> None:
    source = tmp_path / "sources" / "slow.safetensors"
    source.parent.mkdir()
    subprocess.run(["cp", "--sparse=always", slow, source], check=True)
    running = Running(*over_an_old_one(two, source, tmp_path), "--json")
    before = (tmp_path / "out.pth").read_bytes()
    running.until_mapped(source)
    os.kill(running.child, signal.SIGSTOP)
    os.truncate(source, 4096)
    os.kill(running.child, signal.SIGCONT)
    code, out, err = running.end()
    assert (code, err.splitlines()[0]) == (2, "error: a file was truncated while it was read")
    error = json.loads(out)["error"]
    assert (error["message"], error["exit_code"]) == ("a file was truncated while it was read", 2)
    assert (tmp_path / "out.pth").read_bytes() == before
    assert not left(tmp_path)


@pytest.mark.parametrize(
    ("number", "code", "message"),
    [
        (signal.SIGKILL, 137, "the process that did the work was killed (SIGKILL)"),
        (signal.SIGSEGV, 2, "the process that read the files crashed (SIGSEGV)"),
        (signal.SIGABRT, 2, "the process that read the files crashed (SIGABRT)"),
    ],
)
def test_what_kills_the_child_is_told(slow: Path, number: int, code: int, message: str) -> None:
    running = Running("inspect", ROOT / "fixtures" / "keras.h5")
    os.kill(running.child, number)
    done = running.end()
    assert (done[0], done[1]) == (code, "")
    assert done[2].splitlines()[0] == f"error: {message}"
    assert ("keras.h5` is HDF5, which a library in C may read" in done[2]) == (code == 2)
    assert ("--isolate" in done[2]) == (code == 2)


@pytest.mark.slow
def test_a_killed_child_leaves_no_temporary_folder_and_neither_does_a_killed_parent(
    two: tuple[Path, Path], slow: Path, tmp_path: Path
) -> None:
    for victim in ("child", "parent"):
        arguments = over_an_old_one(two, slow, tmp_path)
        before = tree(tmp_path)
        running = Running(*[a for a in arguments if a != "--no-verify"])
        until(lambda: left(tmp_path))
        os.kill(running.child if victim == "child" else running.parent.pid, signal.SIGKILL)
        assert running.end()[0] in (137, -9)
        until(lambda: not Path(f"/proc/{running.child}").exists())  # noqa: B023  (called in the same round)
        assert tree(tmp_path) == before, victim


@pytest.mark.skipif(sys.platform != "linux", reason="forks")
def test_a_killed_child_leaves_no_folder_among_the_temporary_ones(tmp_path: Path) -> None:
    script = """
import os, signal
from xconvert import supervision
if not supervision.supervised(["inspect"]):
    with supervision.temporary() as folder:
        (folder / "answer").write_bytes(b"x")
        os.kill(os.getpid(), signal.SIGKILL)
"""
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert list(tmp_path.iterdir()) == []


def test_a_reader_that_has_seen_enough_ends_it_quietly() -> None:
    here, there = os.pipe()
    os.close(here)
    running = Running("inspect", ROOT / "fixtures" / "keras.h5", stdout=there)
    os.close(there)
    assert running.end() == (-signal.SIGPIPE, None, "")


# Sources and outputs of one name.


@pytest.mark.parametrize("way", ["name", "dots", "hard link", "link", "link to its folder"])
def test_a_source_is_no_output_and_no_report(
    two: tuple[Path, Path], tmp_path: Path, way: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    source = folder / "x.safetensors"
    shutil.copy(two[0], source)
    called = {"name": source, "dots": folder / ".." / "a" / source.name}.get(way, tmp_path / "y.safetensors")
    if way == "hard link":
        called.hardlink_to(source)
    elif way == "link":
        called.symlink_to(source)
    elif way == "link to its folder":
        (tmp_path / "b").symlink_to(folder)
        called = tmp_path / "b" / source.name
    before = tree(tmp_path)
    told = refused([source, "--to", "torch", "-o", called, "--force"], capsys)
    assert told == f"error: `{called}` is the source itself"
    report = called.with_name("r.json")
    report.hardlink_to(source) if way == "hard link" else report.symlink_to(source)
    told = refused([source, "--to", "torch", "-o", tmp_path / "z.pth", "--report", report], capsys)
    assert told == f"error: `{report}` is a part of a checkpoint"
    report.unlink()
    assert tree(tmp_path) == before


def test_a_file_of_a_source_of_several_is_no_output_and_no_report(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("tensorflow", "hub"):
        target = TARGETS[name]
        source = tmp_path / name / target.output
        source.parent.mkdir()
        target.convert(two[0], source)
        for file in (file for file in formats()[name].files(source) if file.name != formats()[name].card):
            report, other = tmp_path / "r.json", tmp_path / "other.ckpt.index"
            for link in (report, other):
                link.hardlink_to(file)
            before = tree(tmp_path)
            told = refused([source, "--to", "torch", "-o", tmp_path / "z.pth", "--report", report], capsys)
            assert told == f"error: `{report}` is a part of a checkpoint"
            told = refused([source, "--to", "tensorflow", "-o", tmp_path / "other.ckpt", "--force"], capsys)
            assert told == f"error: `{tmp_path / 'other.ckpt'}` is the source itself"
            told = refused([source, "--to", target.to, *target.options[2:], "-o", source, "--force"], capsys)
            assert told == f"error: `{source}` is the source itself"
            assert tree(tmp_path) == before
            report.unlink()
            other.unlink()


def test_what_lies_beside_weights_that_are_named_themselves_is_no_report(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TARGETS["hub"].convert(two[0], tmp_path / "hub")
    weights, config = (tmp_path / "hub" / name for name in ("model.safetensors", "config.json"))
    before = tree(tmp_path)
    told = refused([weights, "--to", "keras", "-o", tmp_path / "z.h5", "--report", config], capsys)
    assert told == f"error: `{config}` is a part of a checkpoint"
    assert tree(tmp_path) == before


def test_a_source_that_is_missing_is_told_and_not_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = tmp_path / "r.json"
    report.write_text("the old one")
    told = refused([tmp_path / "none.pth", "--to", "torch", "--report", report], capsys)
    assert told == f"error: `{tmp_path / 'none.pth'}` does not exist"


def test_force_replaces_a_link_and_not_what_it_points_to(
    two: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cached, link, dangling = tmp_path / "blob", tmp_path / "link.pth", tmp_path / "dangling.pth"
    cached.write_bytes(b"a file that a cache knows by its content")
    link.symlink_to(cached)
    dangling.symlink_to(tmp_path / "nowhere.pth")
    for path in (link, dangling):
        assert refused([two[0], "--to", "torch", "-o", path, "--no-verify"], capsys) == f"error: `{path}` exists"
        TARGETS["torch"].convert(two[0], path)
        assert path.is_file()
        assert not path.is_symlink()
    assert cached.read_bytes() == b"a file that a cache knows by its content"
    assert not (tmp_path / "nowhere.pth").exists()


def test_what_appears_while_it_is_written_is_not_replaced_unasked(two: tuple[Path, Path], tmp_path: Path) -> None:
    path = tmp_path / "out.npz"
    form = formats()["npz"]

    def check() -> None:
        outputs.check_output(two[0], path, form, force=False)

    with pytest.raises(UsageError, match="exists"), outputs.published(path, form, check) as made:
        made.write_bytes(b"new")
        path.write_bytes(b"somebody else's")
    assert tree(tmp_path) == {"out.npz": b"somebody else's"}


def test_a_zero_byte_in_a_name_is_told(two: tuple[Path, Path]) -> None:
    with pytest.raises(UsageError, match="a name cannot contain a zero byte"):
        TARGETS["torch"].convert(two[0], Path("a\0.pth"))


# Temporary folders.


def test_stale_folders_are_removed_and_others_are_not(tmp_path: Path) -> None:
    stale, used, foreign, elsewhere = (tmp_path / f".xconvert-{letter * 16}" for letter in "abcd")
    target, file, other = tmp_path / "target", tmp_path / f".xconvert-{'e' * 16}", tmp_path / ".xconvert-notes"
    for folder in (stale, used, foreign, target, other):
        folder.mkdir()
        (folder / "part").write_bytes(b"x")
    elsewhere.symlink_to(target)
    file.write_bytes(b"x")
    if os.geteuid() == 0:
        os.chown(foreign, 12345, 12345)
    else:
        foreign.rename(foreign.with_name(".xconvert-foreign"))
    (stale / "link").symlink_to(target)
    handle = os.open(used, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    before = {path for path in tmp_path.iterdir() if path != stale}
    outputs.replaced(tmp_path / "r.md", b"new")
    assert set(tmp_path.iterdir()) == {*before, tmp_path / "r.md"}
    assert (target / "part").exists()
    os.close(handle)
    outputs.replaced(tmp_path / "r.md", b"newer")
    assert not used.exists()


def test_a_folder_in_use_is_locked(tmp_path: Path) -> None:
    with outputs.published(tmp_path / "out.npz", formats()["npz"]) as made:
        made.write_bytes(b"first")
        outputs.replaced(tmp_path / "r.md", b"another process would look the same")
        assert made.read_bytes() == b"first"
    assert tree(tmp_path) == {"out.npz": b"first", "r.md": b"another process would look the same"}


def test_a_folder_that_another_program_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "_WAIT", 0.02)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(UsageError, match="is locked by another program"):
        outputs.replaced(tmp_path / "r.md", b"new")
    os.close(handle)
    assert not tree(tmp_path)


def test_a_folder_that_vanishes_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    with pytest.raises(UsageError, match="No such file or directory"), outputs.published(folder / "x", formats()["npz"]) as made:
        made.write_bytes(b"x")
        shutil.rmtree(folder)
    folder.mkdir()
    with pytest.raises(UsageError, match="removed"), outputs.published(folder / "x", formats()["npz"]) as made:
        shutil.rmtree(folder)
        read(made)
    for name, told in (("file/x", "Not a directory"), ("n" * 300, "File name too long"), ("none/x", "No such file")):
        (tmp_path / "file").touch()
        with pytest.raises(UsageError, match=f"cannot be written: {told}"):
            outputs.replaced(tmp_path / name, b"x")


# TensorFlow's several files, and folders for the Hub.


def test_a_tensorflow_checkpoint_is_replaced_without_its_other_files(two: tuple[Path, Path], tmp_path: Path) -> None:
    target, path = TARGETS["tensorflow"], tmp_path / "m.ckpt"
    target.convert(two[0], path)
    clean = tree(tmp_path)
    target.convert(two[1], path)
    (tmp_path / "m.ckpt.data-00001-of-00002").write_bytes(b"of an older one")
    (tmp_path / "m.ckpt.data-00000-of-00002").write_bytes(b"of an older one")
    beside = {"m.ckpt.meta": b"a graph", "m.ckpt.data": b"mine", "mm.ckpt.data-00000-of-00002": b"another's"}
    for name, content in beside.items():
        (tmp_path / name).write_bytes(content)
    target.convert(two[0], path)
    assert tree(tmp_path) == {**clean, **beside}


def test_without_hard_links_a_tensorflow_checkpoint_is_replaced_too(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, path = TARGETS["tensorflow"], tmp_path / "m.ckpt"
    target.convert(two[0], path)
    clean = tree(tmp_path)
    target.convert(two[1], path)

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "as a FAT file system does")

    monkeypatch.setattr(os, "link", refuse)
    target.convert(two[0], path)
    assert tree(tmp_path) == clean


def test_a_folder_for_the_hub_is_replaced_as_a_whole_with_all_that_lies_in_it(two: tuple[Path, Path], tmp_path: Path) -> None:
    target, folder = TARGETS["hub"], tmp_path / "hub"
    target.convert(two[0], folder)
    folder.chmod(0o750)
    (folder / "NOTES.md").write_text("mine")
    (folder / "link").symlink_to("NOTES.md")
    number, inode = folder.stat().st_ino, (folder / "NOTES.md").stat().st_ino
    old = state(folder)
    target.convert(two[1], folder)
    assert state(folder) != old
    assert (folder.stat().st_mode & 0o777, (folder / "NOTES.md").stat().st_ino) == (0o750, inode)
    assert folder.stat().st_ino != number
    assert (folder / "link").readlink() == Path("NOTES.md")
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_a_folder_with_folders_is_replaced_only_where_one_file_changes(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target, folder = TARGETS["hub"], tmp_path / "hub"
    (folder / ".git").mkdir(parents=True)
    target.convert(two[0], folder)  # there are no files of ours in it
    (folder / hub.WEIGHTS).write_bytes(b"other weights of the same network")
    target.convert(two[0], folder)
    before = tree(tmp_path)
    with pytest.raises(UsageError) as refusal:
        target.convert(two[1], folder)
    assert refusal.value.message == f"`{folder}` cannot be replaced in one step"
    assert refusal.value.facts == ("it also holds `.git/`",)
    assert refusal.value.hints == (
        f"`rm {folder}/config.json {folder}/README.md {folder}/model.safetensors` first, or name another folder with `-o`",
    )
    assert tree(tmp_path) == before
    (folder / ".git").rmdir()
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError) as refusal:
        target.convert(two[1], Path())
    assert refusal.value.facts == ("it is the folder that you are in",)


def test_where_no_two_folders_can_be_exchanged_it_is_told(
    two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_a: Path, _b: Path) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    target, folder = TARGETS["hub"], tmp_path / "hub"
    target.convert(two[0], folder)
    before = tree(tmp_path)
    monkeypatch.setattr(_folders, "exchange", refuse)
    with pytest.raises(XconvertError, match="cannot be replaced in one step"):
        target.convert(two[1], folder)
    assert tree(tmp_path) == before
