"""What must hold for every input, and how a process notices that it does not: nothing runs, nothing is written, nothing but the
input and what xconvert ships is opened, two seconds and the documented memory are enough, and every error is one of ours.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

from tests.fuzz.targets import Contradiction, Parts, Target, checked, contents, kind_of, place, words
from xconvert import mappings
from xconvert.errors import XconvertError

SECONDS = 2.0
PATIENCE = 20.0  # of waiting that is no work: another process has the machine
FREE, TIMES, SLACK = (
    256 << 20,
    4,
    64 << 20,
)  # what a file may ask for (xconvert/formats/_limits.py), and what Python needs meanwhile
ROOT = str(Path(__file__).parents[2])

_RUNS = ("os.system", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.kill", "os.putenv")
_WRITES = (
    "os.remove",
    "os.rename",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "os.chown",
    "os.truncate",
    "os.symlink",
    "os.link",
    "os.utime",
)
_WRITES += ("shutil.", "tempfile.", "os.listdir")
_OTHERS = (
    "subprocess.",
    "socket.",
    "ctypes.",
    "urllib.",
    "ftplib.",
    "http.",
    "smtplib.",
    "webbrowser.",
    "pickle.",
    "marshal.",
    "pty.",
)
_OTHERS += (
    "exec",
    "compile",
    "import",
    "code.__new__",
    "function.__new__",
    "builtins.input",
    "builtins.breakpoint",
    "cpython.run",
    "sys.settrace",
    "sys.setprofile",
)
_FORBIDDEN = (*_RUNS, *_WRITES, *_OTHERS)
_OPENS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Hang(BaseException):
    """An input took more than two seconds."""


class Execution(BaseException):
    """An input made something run, or be opened, written or removed."""


class Outcome(NamedTuple):
    """``kind``: accepted, refused, or what was found; ``what`` tells two findings apart, ``detail`` shows one."""

    kind: str
    what: str
    detail: str = ""

    @property
    def is_finding(self) -> bool:
        return self.kind not in ("accepted", "refused")


class Law:
    """Watches one process. ``folder`` is where inputs lie; nothing else is opened but what xconvert ships."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.armed, self.seen = folder, False, list[str]()
        self._started = self._cpu = 0.0
        self._base = 0
        signal.signal(signal.SIGALRM, self._alarm)
        sys.addaudithook(self._audit)

    def ready(self) -> None:
        """All lazy imports are done: what the process uses now is what it needs."""
        gc.collect()
        gc.freeze()
        pages = Path("/proc/self/statm").read_text().split()
        self._base = int(pages[5]) * resource.getpagesize()

    def judge(self, target: Target, parts: Parts, thorough: bool = False) -> Outcome:
        """What comes of an input."""
        place(target, self.folder, parts) if len(target.files) > 1 or target.name in _BY_PATH else None
        limit = self._base + FREE + SLACK + TIMES * sum(map(len, parts))
        hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
        resource.setrlimit(resource.RLIMIT_DATA, (limit, hard))
        self.seen.clear()
        self._started, self._cpu = time.monotonic(), time.process_time()
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        self.armed = True
        try:
            outcome = self._run(target, parts, thorough)
        except Hang:  # between the last line of the reader and the first of the verdict
            outcome = Outcome("hang", "at the end")
        finally:
            self.armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            resource.setrlimit(resource.RLIMIT_DATA, (hard, hard))
        if self.seen and outcome.kind != "execution":  # caught on the way
            outcome = Outcome("execution", self.seen[0], outcome.detail)
        return outcome

    def _run(self, target: Target, parts: Parts, thorough: bool) -> Outcome:
        try:
            return Outcome("accepted", target.run(target, self.folder, parts, thorough))
        except XconvertError as error:
            try:
                checked(error)
            except Contradiction as found:
                return self._finding("message", found)
            return Outcome("refused", kind_of(error))
        except Contradiction as error:
            return self._finding("message" if "printable" in str(error) else "exception", error)
        except BaseException as error:
            kinds = ((Hang, "hang"), (Execution, "execution"), (MemoryError, "memory"), (BaseException, "exception"))
            return self._finding(next(kind for known, kind in kinds if isinstance(error, known)), error)

    def _finding(self, kind: str, error: BaseException) -> Outcome:
        self.armed = False  # what follows opens source files
        signal.setitimer(signal.ITIMER_REAL, 0)
        return finding(kind, error)

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        if not self.armed:
            return
        worked, passed = time.process_time() - self._cpu, time.monotonic() - self._started
        if worked < SECONDS / 2 and passed < PATIENCE:  # the machine was busy elsewhere
            signal.setitimer(signal.ITIMER_REAL, 0.5)
            return
        raise Hang(f"more than {SECONDS} s")

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.armed:
            return
        if event == "open":
            if self._may_open(*arguments):
                return
        elif not event.startswith(_FORBIDDEN) or _harmless(event, arguments):
            return
        self.armed = False
        told = f"{event} {repr(arguments)[:200]}" if event != "import" else f"import {arguments[0]}"
        self.seen.append(told)
        raise Execution(told)

    def _may_open(self, path: Any, mode: Any, flags: Any) -> bool:
        name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else f"descriptor {path}"
        reads = not (isinstance(flags, int) and flags & _OPENS) and not (isinstance(mode, str) and set(mode) & set("wax+"))
        return reads and name.startswith((str(self.folder), f"{ROOT}/mappings", f"{ROOT}/xconvert/mappings"))


_BY_PATH = {"sniffer", "mappings", "dialects"}
_UTF = ("utf-8", "utf-8-sig", *(f"utf-{bits}{order}" for bits in (16, 32) for order in ("", "-le", "-be")))


def _harmless(event: str, arguments: tuple[Any, ...]) -> bool:
    """NumPy reads the header of an array with ``ast.literal_eval``, which parses and runs nothing."""
    if event == "compile":
        return sys._getframe(2).f_code.co_name == "parse" and sys._getframe(2).f_globals.get("__name__") == "ast"
    return False


def finding(kind: str, error: BaseException) -> Outcome:
    """The outcome for what was raised: told apart by the innermost place in our own code."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "/xconvert/" in frame.filename]
    inner = ours[-1] if ours else frames[-1]
    told = str(error)[:60] if kind == "execution" else words(str(error))[-60:] if kind == "message" else ""
    where = f"{type(error).__name__} in {Path(inner.filename).name}:{inner.name} {told}".strip()
    told = "; ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames[-6:])
    return Outcome(kind, where, f"{type(error).__name__}: {str(error)[:300]} ({told})")


def warm(law: Law, target: Target) -> None:
    """Use everything once that is imported or looked up when first used, so that later an import is a finding."""
    import codecs

    from tests.fuzz import seeds

    for name in ("latin-1", "ascii", "cp437", "raw-unicode-escape", "unicode-escape", *_UTF):
        codecs.lookup(name)
    mappings.library()
    import unicodedata  # noqa: F401 (Python's parser asks for it when a name is not ASCII)

    if not hasattr(seeds, target.name.replace("-", "_")):  # the sniffer, and fakes
        names = ("torch", "npz", "keras-h5", "mindspore") if target.name == "sniffer" else ()
    else:
        names = (target.name,)
    for name in names:
        for number, seed in enumerate(sorted(seeds.seeds(name), key=lambda seed: len(seed[0].content()))):
            parts = contents(seed)[: len(target.files)]
            place(target, law.folder, parts)
            try:
                target.run(target, law.folder, parts, number == 0)
            except XconvertError as error:
                checked(error)
