"""A framework is never given a stranger's file: only what xconvert read and wrote again."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.narrow import checkpoint, narrow
from xconvert.formats import format_for_writing

pytestmark = pytest.mark.framework

# A module that shows that it was imported, as unpickling does; it is on the path of every process below.
CANARY = """
import pathlib, os
pathlib.Path(os.environ["CANARY"]).touch()
class Config(dict):
    pass
"""
# A network beside an object of that module's class: timm's own, which has fixed widths, and a narrow one for Paddle's graph.
SAVED = {
    "torch": """
import sys, torch, canary
from xconvert.backends.timm import import_timm
state = import_timm().create_model("legacy_xception", num_classes=10).state_dict()
torch.save({"state_dict": state, "config": canary.Config(a=1)}, sys.argv[2])
""",
    "paddle": """
import pickle, sys, canary
state = pickle.load(open(sys.argv[1], "rb"))
pickle.dump({**state, "config": canary.Config(a=1)}, open(sys.argv[2], "wb"), protocol=4)
""",
}
LOADED = {
    "torch": "import sys, torch; torch.load(sys.argv[1], weights_only=False)",
    "paddle": "import sys, paddle; paddle.load(sys.argv[1])",
}


@pytest.mark.parametrize(
    ("framework", "suffix", "implementation", "backends"),
    [("torch", ".pth", "timm", ["timm"]), ("paddle", ".pdparams", "paddleclas", ["paddle"])],
)
def test_no_framework_sees_the_file(
    framework: str, suffix: str, implementation: str, backends: list[str], tmp_path: Path
) -> None:
    clean, file, canary = tmp_path / f"clean{suffix}", tmp_path / f"stranger{suffix}", tmp_path / "canary-was-imported"
    (tmp_path / "canary.py").write_text(CANARY)
    model = narrow(family="xception" if framework == "torch" else "xception_paddleclas")
    format_for_writing(clean, framework).write(clean, checkpoint(model, implementation))  # type: ignore[misc]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "CANARY": str(canary)}

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *command], env=environment, cwd=tmp_path, capture_output=True, text=True)

    done = run("-c", SAVED[framework], str(clean), str(file))
    assert done.returncode == 0, done.stderr
    canary.unlink()
    for backend in backends:
        done = run("-m", "xconvert", "verify", str(file), "--backend", backend, "--sizes", "75")
        assert (done.returncode, "equal: logits agree" in done.stdout) == (0, True), done.stdout + done.stderr
        assert not canary.exists()
    done = run("-c", LOADED[framework], str(file))
    assert done.returncode == 0, done.stderr
    assert canary.exists(), "the framework itself imports what the file names"
