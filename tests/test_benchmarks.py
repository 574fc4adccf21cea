"""What the benchmarks measure with; what they measure is for ``make bench``."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.figures import Case, Target, summary
from benchmarks.measure import FailedError, Rival, Sample, alternate, once, turns

ROOT = Path(__file__).parents[1]
SAMPLED = ROOT / "benchmarks" / "scripts" / "sampled.py"
WORK = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass"
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="processes are measured as POSIX counts them")


@pytest.mark.slow
def test_children_count() -> None:
    """Their processor time is added, and the memory is that of the largest; a parent's is not taken for its child's."""
    hold = bytearray(200 << 20)
    hold[:: 1 << 12] = b"x" * len(hold[:: 1 << 12])
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {WORK!r}], check=True)"
    sample = once(Rival("x", [sys.executable, "-S", "-c", child]))
    assert 0.2 <= sample.cpu < 1
    assert sample.rss < 100
    grown = once(Rival("y", [sys.executable, "-S", "-c", child + "; x = b'x' * (150 << 20)"]))
    assert 150 < grown.rss < 250


def test_rivals_take_turns() -> None:
    order: list[str] = []

    def rival(name: str) -> Sample:
        order.append(name)
        return Sample(1, 1, 1)

    turns([lambda: rival("a"), lambda: rival("b")], 3)
    assert "".join(order) == "abbaab"


def test_a_rival_that_fails_says_why(tmp_path: Path) -> None:
    bad = Rival("bad", [sys.executable, "-c", "raise ValueError('no')"])
    with pytest.raises(FailedError, match="ValueError: no"):
        once(bad)
    runs, problems = alternate([bad, Rival("good", ["true"]), Rival("gone", [tmp_path / "gone"])], 2)
    assert list(runs) == ["good"]
    assert set(problems) == {"bad", "gone"}
    figure = Case("g", "c", runs, problems).ratio("bad / good", "bad", "good", "cpu", Target(1))
    assert (figure.verdict, figure.value) == ("FAILED", None)
    assert "did not run" in summary([figure])[0]


def test_figures_are_medians_of_ratios_within_rounds() -> None:
    """One round on a slow machine, in which both took ten times as long, changes nothing."""
    runs = {
        "a": [Sample(2, 4, 10), Sample(20, 40, 10), Sample(2, 4, 10)],
        "b": [Sample(1, 1, 5), Sample(10, 10, 5), Sample(1, 1, 5)],
    }
    case = Case("g", "c", runs, {})
    assert case.ratio("a / b", "a", "b", "wall", Target(2)).verdict == "ok"
    assert case.ratio("a / 2 b", "a", ["b", "b"], "cpu").value == 2
    assert case.ratio("a / b", "a", "b", "cpu", Target(5, least=True)).verdict == "MISSED"
    assert case.memory("a", "a", Target(9)).verdict == "MISSED"
    wall, cpu = case.times("a / b", "a", "b", Target(3))
    assert (wall.verdict, cpu.verdict) == ("ok", "–")


def test_the_clock_is_not_believed_on_a_busy_machine() -> None:
    busy = {"a": [Sample(2, 4, 1, others=1)], "b": [Sample(1, 1, 1)]}
    wall, cpu = Case("g", "c", busy, {}).times("a / b", "a", "b", Target(3))
    assert (wall.verdict, cpu.verdict) == ("–", "MISSED")


def constant(name: str) -> Any:
    """What ``sampled.py``, which runs a conversion when it is imported, calls ``name``."""
    nodes = [node for node in ast.parse(SAMPLED.read_text()).body if isinstance(node, ast.Assign)]
    return next(ast.literal_eval(node.value) for node in nodes if node.targets[0].id == name)  # type: ignore[attr-defined]


def test_every_step_is_a_function_that_is_there() -> None:
    for file, function in constant("STEPS"):
        place = ROOT / "xconvert" / file.removeprefix("xconvert/")
        assert function in {n.name for n in ast.walk(ast.parse(place.read_text())) if isinstance(n, ast.FunctionDef)}, file


@pytest.mark.slow
def test_the_time_of_a_conversion_goes_into_its_steps(tmp_path: Path) -> None:
    command = [sys.executable, SAMPLED, tmp_path, ROOT / "fixtures" / "keras.h5", "--to", "torch", "-o", tmp_path / "x.pth"]
    subprocess.run(command, check=True, capture_output=True)
    assert (tmp_path / "x.pth").is_file()
    both = [json.loads(file.read_text()) for file in tmp_path.glob("*.json")]
    assert len(both) == 2  # the process that works, and the one that waits for it
    known = {*constant("STEPS").values(), *constant("LIBRARIES").values(), constant("REST"), constant("IMPORTS")}
    assert {name for told in both for name in told} <= known
    assert {"import NumPy", "read the mapping files"} <= {name for told in both for name in told}
    assert 0.05 < sum(sum(told.values()) for told in both) < 30


@pytest.mark.slow
def test_the_time_of_a_forward_pass_goes_into_operations() -> None:
    command = [sys.executable, SAMPLED.with_name("operations.py"), ROOT / "fixtures" / "keras.h5", "2"]
    told = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    assert len(told) == 2
    for taken in told:
        assert {"conv", "depthwise", "pointwise", "batch_norm", "relu", "max_pool", "everything else"} <= taken.keys()
        assert all(spent > 0 for spent in taken.values())
