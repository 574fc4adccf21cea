"""For tests of a project that publishes checkpoints: one assertion, for any test runner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xconvert import render
from xconvert.model import Model
from xconvert.report import Report
from xconvert.verification import verify


def assert_same_function(a: str | Path | Model, b: str | Path | Model | None = None, **options: Any) -> Report:
    """Assert that two checkpoints, or a checkpoint and a framework's run of it, give the same answer, and return the report.

    The arguments are those of ``xconvert.verify``: ``assert_same_function("keras.h5", "keras.pth")``, or
    ``assert_same_function("keras.h5", backend="keras.applications")``. Raises ``AssertionError`` with the report as the command
    line prints it, in plain text of 80 columns: the first layer that parts, why if that is known, and what to do. Raises the
    subclasses of ``XconvertError``, as ``verify`` does, for what cannot be compared at all.
    """
    __tracebackhide__ = True  # pytest then shows the line of the test
    report = verify(a, b, **options)
    if not report.equal:
        first = _named(a, "A")
        second = f"{first} run by {options['backend']}" if b is None else _named(b, "B")
        raise AssertionError("not the same function\n\n" + click.unstyle(render.verification((first, second), report)))
    return report


def _named(side: str | Path | Model, otherwise: str) -> str:
    if isinstance(side, Model):
        return side.origin.path if side.origin else otherwise
    return str(side)
