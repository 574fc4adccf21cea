"""The README is true: its sessions are run, in order, in a folder that holds the fixtures, and print what it
shows."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from xconvert.cli import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
# The last digits of a measured error depend on the processor, and with them which layer is the worst.
# So do seconds.
MEASURED = re.compile(r"\d\.\de[-+]\d\d|(?<=worst )`[^`]+`|(?<=where logits reach )\S+ at \S+|(?<=\()\d+\.\d s(?=\))")


STRANGERS = {"stranger.pth": "torch/reduce-posix-system.pth", "bomb.npz": "npz/deflate-bomb.npz"}
NEEDED = ("keras.h5", "timm.pth", "deeplab.pdparams", "deeplab.ckpt.index", "deeplab.ckpt.data-00000-of-00001")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def run(command: str) -> tuple[str, int]:
    """What a command prints, on stdout and stderr together, and its exit code."""
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told), contextlib.suppress(SystemExit):
        try:
            main(shlex.split(command)[1:])
        except SystemExit as stopped:
            return told.getvalue(), int(stopped.code or 0)
    return told.getvalue(), 0


@pytest.mark.slow
def test_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NEEDED:
        shutil.copy(ROOT / "fixtures" / name, tmp_path)
    for name, attack in STRANGERS.items():
        shutil.copy(ROOT / "fixtures" / "hostile" / "attacks" / attack, tmp_path / name)
    shutil.copytree(ROOT / "mappings", tmp_path / "mappings")
    shutil.copytree(ROOT / "fixtures" / "photos", tmp_path / "photos")
    (tmp_path / "zoo.toml").write_text(next(block for block in blocks("toml") if "[[entry]]" in block))
    monkeypatch.chdir(tmp_path)
    code, sessions = 0, 0
    for block in blocks("console"):
        for session in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, expected = session.partition("\n")
            if command == "echo $?":
                assert expected.strip() == str(code)
                continue
            assert command.startswith("xconvert ")
            told, code = run(command)
            assert MEASURED.sub("#", told).strip() == MEASURED.sub("#", expected).strip(), command
            sessions += 1
    assert sessions >= 7


@pytest.mark.slow
def test_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The Python examples, one after the other; those with a framework are run where it is installed."""
    shutil.copytree(ROOT / "fixtures" / "photos", tmp_path / "photos")
    for name in NEEDED:
        shutil.copy(ROOT / "fixtures" / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    examples = [code for code in blocks("python") if "import torch" not in code]
    assert examples
    for code in examples:
        exec(compile(code, "README.md", "exec"), {})


@pytest.mark.framework
def test_python_with_torch(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    for name in NEEDED:
        shutil.copy(ROOT / "fixtures" / name, tmp_path)
    examples = [code for code in blocks("python") if "import torch" in code]
    assert examples
    for code in examples:
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]


def test_what_it_points_at_is_there() -> None:
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
    commands = set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE))
    assert {"demo", "test"} <= commands
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{command}:", makefile, re.MULTILINE) for command in commands)
