"""The composite action for GitHub and the pre-commit hooks: well-formed, no input ever part of a script, and the scripts run
for real.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import click
import pytest
import yaml

from xconvert.cli import cli
from xconvert.formats import formats

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / ".github" / "actions" / "verify"
ACTION = yaml.safe_load((FOLDER / "action.yml").read_text())
HOOKS = {hook["id"]: hook for hook in yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())}
STEPS: list[dict[str, Any]] = ACTION["runs"]["steps"]
SCRIPTS = {step["id"]: step for step in STEPS if "run" in step}
FIXTURES = ROOT / "fixtures"
EXPRESSION = re.compile(r"\$\{\{.*?\}\}", re.DOTALL)


class Ran(NamedTuple):
    code: int
    log: str
    outputs: dict[str, str]
    summary: str
    folder: Path


def step(name: str, folder: Path, inputs: Mapping[str, str], path: str = "") -> Ran:
    """Run the script of a step as GitHub's runner does: inputs in its environment, files for outputs and the summary."""
    values = {key: str(told.get("default", "")) for key, told in ACTION["inputs"].items()} | dict(inputs)
    told = SCRIPTS[name].get("env", {})
    environment = {key: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda m: values[m[1]], text) for key, text in told.items()}
    files = {key: folder / key for key in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
    for file in files.values():
        file.touch()
    temporary = folder / "runner temp"
    temporary.mkdir(exist_ok=True)
    environment |= {"RUNNER_TEMP": str(temporary), "GITHUB_ACTION_PATH": str(FOLDER), **{k: str(v) for k, v in files.items()}}
    environment |= {"PATH": f"{path}{Path(sys.executable).parent}:{os.environ['PATH']}", "OPENBLAS_NUM_THREADS": "1"}
    script = folder / "step.sh"
    script.write_text(SCRIPTS[name]["run"])
    command = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script]  # what `shell: bash` stands for
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=300)
    outputs = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
    return Ran(done.returncode, done.stdout + done.stderr, outputs, files["GITHUB_STEP_SUMMARY"].read_text(), temporary)


def verify(folder: Path, *files: Path, arguments: str = "--sizes 75", **inputs: str) -> Ran:
    named = dict(zip("ab", map(str, files), strict=False))
    return step("verify", folder, {**named, "arguments": arguments, **inputs})


def test_it_is_a_composite_action_whose_outputs_come_from_its_steps() -> None:
    assert ACTION["runs"]["using"] == "composite"
    assert all(told["description"] for told in (*ACTION["inputs"].values(), *ACTION["outputs"].values()))
    assert [name for name, told in ACTION["inputs"].items() if told.get("required")] == ["a"]
    assert all("default" in told for name, told in ACTION["inputs"].items() if name != "a")
    for name, told in ACTION["outputs"].items():
        assert told["value"] == "${{ steps.verify.outputs." + name + " }}"
        assert f'echo "{name}=' in SCRIPTS["verify"]["run"]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@v\d+", step["uses"]) for step in STEPS if "uses" in step)
    assert all(step["shell"] == "bash" for step in SCRIPTS.values())


def test_no_input_is_ever_part_of_a_script() -> None:
    """GitHub puts what stands in an expression into the script before a shell sees it, so a name could be a command."""
    for script in SCRIPTS.values():
        assert not EXPRESSION.search(script["run"])
        assert not re.search(r"\beval\b|`", script["run"])
        assert all(re.fullmatch(r"\$\{\{ inputs\.[\w-]+ \}\}", text) for text in script["env"].values())
    used = set(re.findall(r"inputs\.([\w-]+)", (FOLDER / "action.yml").read_text()))
    assert used == ACTION["inputs"].keys()


def test_the_scripts_are_bash() -> None:
    for script in SCRIPTS.values():
        subprocess.run(["bash", "-n", "-c", script["run"]], check=True)


@pytest.mark.slow
def test_equal_files_pass(tmp_path: Path) -> None:
    ran = verify(tmp_path, FIXTURES / "timm.pth", FIXTURES / "timm.pth")
    assert ran.code == 0, ran.log
    assert ran.outputs.pop("equal") == "true"
    report = Path(ran.outputs.pop("report"))
    assert not ran.outputs
    assert report.read_text().startswith("<!doctype html>")
    assert report.is_relative_to(ran.folder)
    assert "::notice file=" in ran.log
    assert "::error" not in ran.log
    assert "timm.pth" in ran.summary


@pytest.mark.slow
def test_files_that_differ_fail_with_the_reports_written(tmp_path: Path) -> None:
    ran = verify(tmp_path, FIXTURES / "keras.h5", FIXTURES / "timm.pth")
    assert ran.code == 1
    assert ran.outputs["equal"] == "false"
    assert Path(ran.outputs["report"]).is_file()
    assert "::error file=" in ran.log
    assert "different" in ran.summary
    assert "block1.conv1" in ran.summary


@pytest.mark.slow
def test_a_summary_is_appended_and_two_uses_in_a_job_keep_their_reports(tmp_path: Path) -> None:
    one = verify(tmp_path, FIXTURES / "timm.pth", FIXTURES / "timm.pth")
    two = verify(tmp_path, FIXTURES / "timm.pth", FIXTURES / "timm.pth")
    assert two.summary == one.summary * 2
    assert one.outputs["report"] != two.outputs["report"]


def test_a_file_that_cannot_be_read_is_an_error_without_a_verdict(tmp_path: Path) -> None:
    ran = verify(tmp_path, tmp_path / "nothing.pth", FIXTURES / "timm.pth")
    assert ran.code == 2
    assert (ran.outputs, ran.summary) == ({}, "")
    assert "nothing.pth` does not exist" in ran.log
    assert "::error title=xconvert::" in ran.log


HOSTILE = ["$(touch pwned).pth", "`touch pwned`.pth", "a.pth; touch pwned", '"; touch pwned; ".pth', "--help", "a\n::set-output"]


@pytest.mark.slow
@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_may_have_any_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "weights").mkdir()
    path = tmp_path / name
    path.write_bytes((FIXTURES / "timm.pth").read_bytes())
    ran = step("verify", tmp_path, {"a": name, "b": str(FIXTURES / "timm.pth"), "arguments": "--sizes 75"})
    assert ran.code == 0, ran.log
    assert ran.outputs["equal"] == "true"
    assert not list(tmp_path.rglob("pwned"))


@pytest.mark.slow
def test_arguments_are_words_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "expands").touch()
    arguments = "--sizes 75\n  --ignore *expands* --ignore $(touch${IFS}pwned) --tolerance\t1e-3 "
    ran = verify(tmp_path, FIXTURES / "timm.pth", FIXTURES / "timm.pth", arguments=arguments)
    assert ran.code == 0, ran.log
    assert not list(tmp_path.rglob("pwned"))
    assert verify(tmp_path, FIXTURES / "timm.pth", FIXTURES / "timm.pth", arguments="--no-such").code == 2


@pytest.mark.slow
def test_a_backend_takes_the_place_of_the_second_file(tmp_path: Path) -> None:
    """No framework is installed where this runs, and the message is that of the backend."""
    ran = verify(tmp_path, FIXTURES / "timm.pth", backend="nonesuch")
    assert (ran.code, ran.outputs) == (2, {})
    assert "no backend is called `nonesuch`" in ran.log
    assert verify(tmp_path, FIXTURES / "timm.pth", backend="--help").code == 2


def install(folder: Path, backend: str) -> tuple[int, str, list[str]]:
    """Run the step that installs. pip would change the environment of the tests, so a `python` of ours, earlier on the path,
    writes down what it is asked for.
    """
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.write_text('#!/bin/sh\necho "$@" >> asked\n')
    python.chmod(0o755)
    ran = step("install", folder, {"backend": backend}, path=f"{python.parent}:")
    asked = folder / "asked"
    return ran.code, ran.log, asked.read_text().splitlines() if asked.exists() else []


@pytest.mark.parametrize(
    ("backend", "installed"),
    [
        ("", ["{action}/../../.."]),
        ("numpy", ["{action}/../../.."]),
        ("torch", ["{action}/../../..[torch]"]),
        ("keras.applications", ["{action}/../../..[keras]"]),
        ("keras-hub", ["{action}/../../..[keras-hub]"]),
        ("paddleclas", ["{action}/../../..[paddleclas]", "--no-deps paddleclas"]),
    ],
)
def test_what_a_backend_needs_is_installed(backend: str, installed: list[str], tmp_path: Path) -> None:
    code, log, asked = install(tmp_path, backend)
    assert code == 0, log
    prefix = "-m pip install --disable-pip-version-check "
    assert asked == [prefix + text.format(action=FOLDER) for text in installed]


@pytest.mark.parametrize("backend", ["x; touch pwned", "torch]", "../x", "Torch", "a b", ".", "-r x"])
def test_what_cannot_be_a_backend_installs_nothing(backend: str, tmp_path: Path) -> None:
    code, log, asked = install(tmp_path, backend)
    assert (code, asked) == (2, [])
    assert "::error title=xconvert::" in log


def test_the_action_installs_this_project() -> None:
    assert (FOLDER / "../../..").resolve() == ROOT
    assert (ROOT / "pyproject.toml").is_file()


# ——— pre-commit


@pytest.mark.parametrize("name", ["xconvert-verify", "xconvert-check"])
def test_a_hook_runs_a_command_that_there_is(name: str) -> None:
    hook = HOOKS[name]
    program, command = hook["entry"].split()
    assert program == "xconvert"
    assert isinstance(cli.get_command(click.Context(cli), command), click.Command)
    assert (hook["language"], hook["pass_filenames"]) == ("python", False)
    assert hook["name"]
    assert hook["description"]
    re.compile(hook["files"])


def test_the_hook_for_checkpoints_runs_for_every_suffix_that_is_written() -> None:
    pattern = re.compile(HOOKS["xconvert-verify"]["files"])
    suffixes = {suffix for form in formats().values() if form.write for suffix in form.suffixes}
    assert not [suffix for suffix in suffixes if not pattern.search(f"weights/model{suffix}") and suffix != ".pth.tar"]
    assert pattern.search("weights/model.ckpt.index")
    assert not pattern.search("README.md")
