"""The rules of the house: which way imports run, how large rooms may be, and that no pickle is ever loaded."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from xconvert.mappings import library

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "xconvert"
MODULES = sorted(PACKAGE.rglob("*.py"))
FRAMEWORKS = {"torch", "tensorflow", "keras", "keras_hub", "paddle", "mindspore", "onnx", "timm", "pretrainedmodels", "mindcv"}
# (where, what it must not import): imports run cli → conversion/verification → reconcile, implementation, backends → axes, model.
FORBIDDEN = [
    ("formats", {"architectures", "backends", "implementation", "mappings", "matching", "loading", "conversion", "verification"}),
    ("backends", {"formats", "implementation", "mappings", "matching", "loading", "conversion", "verification", "cli"}),
    ("architectures", {"formats", "backends", "implementation", "mappings", "matching", "loading", "conversion", "verification"}),
    ("model.py", {"formats", "backends", "architectures", "implementation", "axes", "loading"}),
    ("axes.py", {"formats", "backends", "architectures", "implementation", "loading"}),
    ("implementation.py", {"formats", "backends", "matching", "loading", "conversion", "verification"}),
    ("faults", {"formats", "loading", "conversion", "verification", "diagnosis"}),
    ("report.py", {"formats", "backends", "loading", "conversion", "verification", "render"}),
    ("weights.py", {"formats", "backends", "loading", "conversion", "verification"}),
    ("reconcile.py", {"formats", "matching", "loading", "conversion", "verification"}),
]


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Modules that a file imports: `xconvert.x` as `x`, others by their first name."""
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    found: set[str] = set()
    for node in nodes:
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" if node.module == "xconvert" else node.module for a in node.names]
        found |= {name.removeprefix("xconvert.").split(".")[0] for name in names}
    return found


@pytest.mark.parametrize(("place", "forbidden"), FORBIDDEN, ids=[place for place, _ in FORBIDDEN])
def test_imports_run_one_way(place: str, forbidden: set[str]) -> None:
    files = sorted((PACKAGE / place).rglob("*.py")) if (PACKAGE / place).is_dir() else [PACKAGE / place]
    assert files
    for path in files:
        assert not imported(path) & forbidden, path


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_framework_is_imported_only_by_its_backend_inside_a_function(path: Path) -> None:
    own = set(FRAMEWORKS) if path.parent.name == "backends" else set()
    # a module may be called like the framework it drives: absolute imports of the bare name are the framework
    assert not (imported(path, top_level_only=True) & FRAMEWORKS), "at the top level"
    tree = ast.parse(path.read_text())
    bare = {a.name.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    bare |= {n.module.split(".")[0] for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.module and n.level == 0}
    assert not (bare & FRAMEWORKS) - own


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_nothing_unpickles_and_nothing_evaluates(path: Path) -> None:
    assert not imported(path) & {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}
    calls = {n.func.id for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not calls & {"eval", "exec", "compile", "__import__"}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_rooms_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 350
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno and node.end_lineno - node.lineno < 50, f"{node.name} is long"


def test_the_base_install_has_no_framework() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = {re.split(r"[<>=!~]", requirement)[0] for requirement in project["dependencies"]}
    assert base == {"numpy", "h5py", "safetensors", "click", "ml_dtypes", "crc32c"}


@pytest.mark.framework
def test_a_wheel_carries_the_mappings(tmp_path: Path) -> None:
    """Built, unpacked elsewhere and run from there: nothing depends on the checkout."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path, ROOT], check=True, capture_output=True)
    (wheel,) = tmp_path.glob("xconvert-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", tmp_path / "site", wheel], check=True, capture_output=True)
    code = "import xconvert.implementation, xconvert.mappings as m; print(m.folder()); print(len(m.library().implementations))"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [str(tmp_path / "site" / "xconvert" / "mappings"), str(len(library().implementations))]
