"""The rules of the house: which way imports run, how large rooms may be, and that no pickle is ever loaded."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterable
from functools import cache
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


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def imported(path: Path, top_level_only: bool = False) -> set[str]:
    """Modules that a file imports: `xconvert.x` as `x`, others by their first name."""
    tree = parsed(path)
    found: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{a.name}" if node.module == "xconvert" else node.module for a in node.names]
        found |= {name.removeprefix("xconvert.").split(".")[0] for name in names}
    return found


def offenders(problem: Callable[[Path], Iterable[object]]) -> list[str]:
    """Which files have which ``problem``. All at once: a test for each file and rule would be a fifth of all tests."""
    return [f"{path.relative_to(PACKAGE)}: {told}" for path in MODULES for told in problem(path)]


@pytest.mark.parametrize(("place", "forbidden"), FORBIDDEN, ids=[place for place, _ in FORBIDDEN])
def test_imports_run_one_way(place: str, forbidden: set[str]) -> None:
    files = sorted((PACKAGE / place).rglob("*.py")) if (PACKAGE / place).is_dir() else [PACKAGE / place]
    assert files
    for path in files:
        assert not imported(path) & forbidden, path


def test_a_framework_is_imported_only_by_its_backend_inside_a_function() -> None:
    def bare(path: Path) -> set[str]:
        """A module may be called like the framework that it drives: absolute imports of the bare name are the framework."""
        nodes = list(ast.walk(parsed(path)))
        names = {a.name for n in nodes if isinstance(n, ast.Import) for a in n.names}
        names |= {n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module and n.level == 0}
        return {name.split(".")[0] for name in names} & FRAMEWORKS

    assert offenders(lambda path: imported(path, top_level_only=True) & FRAMEWORKS) == []
    assert offenders(lambda path: set() if path.parent.name == "backends" else bare(path)) == []
    assert {path.stem for path in MODULES if bare(path)} >= {"torch", "tensorflow", "keras", "paddle", "mindspore"}


def test_nothing_unpickles_and_nothing_evaluates() -> None:
    def called(path: Path) -> set[str]:
        return {n.func.id for n in ast.walk(parsed(path)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}

    assert offenders(lambda path: imported(path) & {"pickle", "cPickle", "dill", "joblib", "marshal", "shelve"}) == []
    assert offenders(lambda path: called(path) & {"eval", "exec", "compile", "__import__"}) == []
    assert any(called(path) for path in MODULES)


def test_rooms_stay_small() -> None:
    def long(path: Path) -> list[str]:
        found = [node for node in ast.walk(parsed(path)) if isinstance(node, ast.FunctionDef)]
        return [node.name for node in found if not node.end_lineno or node.end_lineno - node.lineno >= 50]

    assert [path for path in MODULES if path.read_text().count("\n") > 350] == []
    assert offenders(long) == []


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
