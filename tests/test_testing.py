"""`assert_same_function`, for the tests of a project that publishes checkpoints."""

from __future__ import annotations

import traceback
from pathlib import Path

import pytest

from tests.narrow import narrow
from xconvert.errors import UnreadableError, UsageError
from xconvert.report import Report
from xconvert.testing import assert_same_function

FIXTURES = Path(__file__).parents[1] / "fixtures"
SIZES = (75,)


def test_the_same_function_gives_the_report() -> None:
    report = assert_same_function(FIXTURES / "timm.pth", FIXTURES / "timm.pth", sizes=SIZES)
    assert isinstance(report, Report)
    assert report.equal
    assert report.layers


@pytest.mark.slow
def test_another_function_fails_with_the_report_in_plain_text() -> None:
    a, b = str(FIXTURES / "keras.h5"), FIXTURES / "timm.pth"
    with pytest.raises(AssertionError) as failed:
        assert_same_function(a, b, sizes=SIZES, settings={"bn_epsilon": 1e-5})
    told = str(failed.value)
    assert told.startswith(f"not the same function\n\n{a}\n")
    assert f"\n{b}\n" in told
    assert "\x1b" not in told
    assert "different: " in told
    assert "block1.conv1" in told
    assert all(len(line) <= 80 for line in told.splitlines() if str(FIXTURES) not in line)


def test_the_first_layer_that_parts_is_named() -> None:
    with pytest.raises(AssertionError, match=r"first at `block4.pool`") as failed:
        assert_same_function(narrow(), narrow(pool_padding="symmetric"), sizes=(96,), tolerance=1e-9)
    assert str(failed.value).startswith("not the same function\n\nA\n")
    assert "\nB\n" in str(failed.value)


@pytest.mark.framework
def test_a_backend_that_answers_otherwise_is_named() -> None:
    report = assert_same_function(FIXTURES / "timm.pth", backend="torch", sizes=SIZES)
    assert report.target["backend"] == "torch"
    with pytest.raises(AssertionError, match=r"timm.pth run by torch"):
        assert_same_function(FIXTURES / "timm.pth", backend="torch", sizes=SIZES, tolerance=1e-30)


def test_what_cannot_be_compared_is_no_failed_assertion(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError):
        assert_same_function(tmp_path / "a.pth", FIXTURES / "timm.pth")
    with pytest.raises(UsageError):
        assert_same_function(FIXTURES / "timm.pth")


@pytest.mark.slow
def test_pytest_shows_the_line_of_the_test() -> None:
    with pytest.raises(AssertionError) as failed:
        assert_same_function(narrow(), narrow(seed=1), sizes=SIZES)
    frames = [frame for frame, _ in traceback.walk_tb(failed.tb)]
    assert frames[-1].f_locals["__tracebackhide__"] is True
