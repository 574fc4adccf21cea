"""Readers that do what no reader may, one for each kind of finding: by them the watch itself is tested."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tests.fuzz import nodes
from tests.fuzz.targets import Parts, Target


def _fake(deed: Callable[[], object]) -> Callable[[Target, Path, Parts, bool], str]:
    def run(target: Target, folder: Path, parts: Parts, thorough: bool) -> str:
        if b"!" in parts[0]:
            deed()
        return "fine"

    return run


def _hang() -> None:
    while True:
        pass


def _deaf() -> None:
    """A loop that no signal reaches, as in C."""
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
    _hang()


def _allocate() -> None:
    np.ones(2 << 30, np.uint8)


def _raise() -> None:
    raise ValueError("not one of ours")


class _Fake(Target):
    def make(self, rng: random.Random, pool: Sequence[tuple[nodes.Node, ...]]) -> tuple[nodes.Node, ...]:
        return (nodes.raw(b"abc" + b"!" + b"def" * 9),)


_DEEDS: dict[str, Callable[[], object]] = {
    "hangs": _hang,
    "deaf": _deaf,
    "raises": _raise,
    "runs": lambda: os.system("true"),
    "swallows": lambda: _swallowed(),
    "writes": lambda: Path("/tmp/xconvert-fuzz-must-not-be-there").write_text("x"),
    "opens": lambda: Path("/etc/hostname").read_text(),
    "imports": lambda: __import__("this"),
    "evaluates": lambda: eval("1 + 1"),
    "allocates": _allocate,
    "dies": faulthandler._sigsegv,
    "aborts": lambda: os.abort(),
}


def _swallowed() -> None:
    with contextlib.suppress(BaseException):
        os.system("true")


TARGETS = {f"fake-{name}": _Fake(f"fake-{name}", ("x.bin",), _fake(deed)) for name, deed in _DEEDS.items()}
