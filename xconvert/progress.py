"""How far long work is: who does it tells, and who wants to know listens; nobody need do either."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TextIO

Listener = Callable[[str, float], None]  # what is being done, and the share of it that is
_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)
_EVERY = 0.2  # seconds
_WIDTH = 20


def tell(what: str, share: float) -> None:
    """``share`` (0 to 1) of ``what`` is done."""
    if listener := _listener.get():
        listener(what, min(max(share, 0.0), 1.0))


@contextmanager
def heard(listener: Listener) -> Iterator[None]:
    """Let ``listener`` hear what is told meanwhile in this thread, at most some times a second, and each beginning."""
    last, before = [0.0], [""]

    def now_and_then(what: str, share: float) -> None:
        now = time.monotonic()
        if what != before[0] or now - last[0] >= _EVERY:
            last[0], before[0] = now, what
            listener(what, share)

    token = _listener.set(now_and_then)
    try:
        yield
    finally:
        _listener.reset(token)


def bar(share: float, width: int = _WIDTH) -> str:
    """``[#####...............]``."""
    full = int(width * share)
    return f"[{'#' * full}{'.' * (width - full)}]"


def is_terminal(stream: TextIO) -> bool:
    """Whether bars that move can be drawn on ``stream``."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def shown(stream: TextIO) -> Iterator[None]:
    """What is told meanwhile as one line on ``stream``, which is gone at the end; nothing where that is no terminal."""
    if not is_terminal(stream):
        yield
        return
    import shutil

    drawn = []

    def draw(what: str, share: float) -> None:
        drawn.append(stream.write(f"\r\x1b[K{bar(share)} {what}"[: shutil.get_terminal_size().columns + 3]))
        stream.flush()

    try:
        with heard(draw):
            yield
    finally:
        if drawn:
            stream.write("\r\x1b[K")
            stream.flush()
