"""Reading runs nothing that a file says: traps on everything that runs a program, opens a connection or writes a file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ATTACKS = ROOT / "fixtures" / "hostile"

# What may be audited while a file is read is HARMLESS; all else that docs.python.org/3/library/audit_events.html lists is a trap:
# os.system, subprocess.Popen, os.exec, os.fork, socket.connect, ctypes.dlopen, exec, import, marshal.loads, pickle.find_class, …
READER = """
import builtins, codecs, json, os, socket, subprocess, sys
from pathlib import Path

import h5py, ml_dtypes, numpy
import xconvert.formats._bundle, xconvert.formats._objects  # which the good files here do not need
from xconvert import formats, load
from xconvert.errors import XconvertError

HARMLESS = {"open", "mmap.__new__", "os.listdir", "os.scandir", "glob.glob", "pathlib.Path.glob", "object.__getattr__",
            "sys._getframe", "array.__new__", "builtins.id", "code.__new__", "object.__setattr__"}
sprung, armed = [], False

def audit(event, arguments):
    if not armed:
        return
    written = event == "open" and (arguments[1] or "r") != "rb" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if event not in HARMLESS or written:
        sprung.append([event, repr(arguments)[:200]])

def trap(name):
    def sprung_trap(*arguments, **options):
        sprung.append([name, repr(arguments)[:200]])
        raise RuntimeError(name)
    return sprung_trap

def read(path):
    for tensor in formats.read(path).tensors.values():
        tensor.read()
    load(path)

def control(path):
    CONTROL

def watched(act, path):
    global armed
    armed = True
    try:
        act(path)
    except (XconvertError, RuntimeError) as error:
        assert isinstance(error, XconvertError) or act is control
    finally:
        armed = False

paths = [Path(name) for name in json.load(sys.stdin)]
good = [path for path in paths if "hostile" not in path.parts]
for path in good:
    load(path)  # so that everything is imported
for encoding in ("ascii", "cp437", "latin-1", "utf-16", "utf-32-le", "raw-unicode-escape", "unicode-escape"):
    codecs.lookup(encoding)  # modules of Python's own, too
sys.addaudithook(audit)
os.system, socket.socket, subprocess.Popen = trap("os.system"), trap("socket"), trap("Popen")
builtins.eval, builtins.exec, builtins.__import__ = trap("eval"), trap("exec"), builtins.__import__
for path in paths:
    watched(read, path)
watched(control, None)
print(json.dumps(sprung))
"""


def run(paths: list[Path], folder: Path, control: str = "pass") -> list[list[str]]:
    """What sprang while the ``paths`` were read; ``control`` is done after that."""
    script = READER.replace("CONTROL", control)
    told = json.dumps([str(path) for path in paths])
    done = subprocess.run([sys.executable, "-c", script], input=told, capture_output=True, text=True, cwd=folder, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_reading_a_file_runs_nothing(tmp_path: Path) -> None:
    fixtures = [ROOT / "fixtures" / name for name in ("keras.h5", "keras.weights.h5", "timm.pth", "deeplab.pdparams")]
    hostile = sorted(path for path in ATTACKS.rglob("*") if path.is_file() and path.suffix != ".md")
    assert len(hostile) >= 60
    assert run([*fixtures, ROOT / "fixtures" / "deeplab.ckpt.index", *hostile], tmp_path) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("control", "event"),
    [
        ("import pickle; pickle.loads(b'cposix\\ngetcwd\\n)R.')", "pickle.find_class"),
        ("os.system('true')", "os.system"),
        ("eval('1')", "eval"),
        ("compile('1', '<string>', 'eval')", "compile"),
        ("subprocess.Popen(['true'])", "Popen"),
        ("socket.socket()", "socket"),
        ("open('left', 'w')", "open"),
    ],
)
def test_the_traps_spring(control: str, event: str, tmp_path: Path) -> None:
    assert event in {name for name, _ in run([], tmp_path, control)}
