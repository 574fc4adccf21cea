"""How far a batch is: bars that stay in their place on a terminal, elsewhere a line for each conversion that ended."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
from pathlib import Path
from typing import Any, TextIO

import click

from xconvert.batch import Job
from xconvert.progress import bar, is_terminal
from xconvert.render import clean

_EVERY = 0.2  # seconds


class Progress:
    """Tells on ``stream``; ``bars`` overrules whether it is a terminal that can move its cursor."""

    def __init__(self, stream: TextIO, bars: bool | None = None) -> None:
        self._stream = stream
        self._bars = is_terminal(stream) if bars is None else bars
        self._colour = self._bars and not os.environ.get("NO_COLOR")
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._running: dict[str, tuple[str, float, Path]] = {}
        self._total = self._done = self._before = self._failed = self._lines = 0
        self._began = time.monotonic()
        self._thread: threading.Thread | None = None

    def begin(self, total: int, finished: int) -> None:
        """``total`` conversions, of which so many were finished before."""
        self._total, self._done, self._before = total, finished, finished
        self._began = time.monotonic()
        if finished:
            self._say(f"{finished} of {total} are finished already")
        if self._bars:
            self._thread = threading.Thread(target=self._keep_drawing, daemon=True)
            self._thread.start()

    def start(self, job: Job, file: Path) -> None:
        """``job`` goes to a worker, which writes to ``file`` how far it is."""
        with self._lock:
            self._running[job.output] = (f"{clean(job.name)} → {job.to}", time.monotonic(), file)

    def end(self, job: Job, record: dict[str, Any]) -> None:
        """``job`` came back."""
        with self._lock:
            told, since, _ = self._running.pop(job.output)
            self._done += 1
            self._failed += record["status"] != "verified"
        status = record["status"]
        text = f"{told}  {status}" + (f": {clean(record['error']['message'])}" if "error" in record else "")
        colour = "green" if status == "verified" else "red"
        text = click.style(text, fg=colour) if self._colour else text
        width = len(str(self._total))
        self._say(f"[{self._done:{width}}/{self._total}] {text}  ({time.monotonic() - since:.1f} s)")

    def close(self) -> None:
        """Nothing more comes."""
        self._stop.set()
        if self._thread:
            self._thread.join()
        with self._lock:
            self._erase()
            self._stream.flush()

    def _say(self, line: str) -> None:
        with self._lock:
            self._erase()
            self._stream.write(line + "\n")
            self._stream.flush()

    def _keep_drawing(self) -> None:
        while not self._stop.wait(_EVERY):
            with self._lock:
                self._erase()
                lines = self.lines()
                self._stream.write("".join(line + "\n" for line in lines))
                self._stream.flush()
                self._lines = len(lines)

    def _erase(self) -> None:
        if self._lines:
            self._stream.write(f"\x1b[{self._lines}A\x1b[J")
            self._lines = 0

    def lines(self) -> list[str]:
        """The bar of all, and a line for each file that is being converted, none wider than the terminal."""
        columns = shutil.get_terminal_size().columns - 1
        left = ""
        if self._done > self._before:
            seconds = (time.monotonic() - self._began) / (self._done - self._before) * (self._total - self._done)
            left = f", about {_time(seconds)} left"
        failed = f", {self._failed} failed" if self._failed else ""
        whole = f"{bar(self._done / max(1, self._total))} {self._done}/{self._total}{failed}{left}"
        files = [_file(*running) for running in self._running.values()]
        return [line[:columns] for line in (whole, *files)]


def _file(told: str, since: float, file: Path) -> str:
    share, what = 0.0, "starting"
    with contextlib.suppress(OSError, ValueError):  # it is being written, or lies on another machine
        text, what = file.read_text("utf-8").split(" ", 1)
        share = float(text)
    return f"{bar(share)} {told}  {clean(what)}  {_time(time.monotonic() - since)}"


def _time(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60}:{whole % 60:02} min" if whole < 3600 else f"{whole / 3600:.1f} h"
