"""The command line runs in a process of its own, so that whatever ends it becomes one message and an exit code.

A file that is truncated while it is mapped, a crash in libhdf5 and a kernel without memory end a process by a signal that Python
cannot catch. So ``supervised`` forks, before anything large is imported, even ``pathlib``: every page that is there is copied
once. The child does the work; the parent waits, forwards the signals that are sent to it alone, and removes the temporary folders
of which the child told it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

from xconvert import TYPE_CHECKING
from xconvert.errors import XconvertError

if TYPE_CHECKING:
    from pathlib import Path

ENDING = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
_CRASHES = ("SIGSEGV", "SIGABRT", "SIGILL", "SIGFPE", "SIGSYS", "SIGTRAP")
_telling: list[int] = []  # in the child: the pipe by which it tells the parent of folders


class Terminated(SystemExit):
    """SIGTERM or SIGHUP as an exception, so that temporary files are removed before the process exits with 128 + signal."""


def remember(folder: Path) -> None:
    """Let the parent, where there is one, remove ``folder`` should this process be killed."""
    for pipe in _telling:
        with contextlib.suppress(OSError):  # it is full after a thousand folders
            os.write(pipe, os.fsencode(folder.absolute()) + b"\0")


@contextlib.contextmanager
def temporary() -> Iterator[Path]:
    """A folder for files that nobody keeps, which the parent removes should this process be killed."""
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory(prefix=".xconvert-") as folder:
        remember(Path(folder))
        yield Path(folder)


def supervised(arguments: Sequence[str]) -> XconvertError | None:
    """Fork. None in the child, which goes on; the parent exits with the exit code of the child, and where a signal ended that it
    returns the error to tell. None without a fork where there is none, and for what only prints what xconvert knows.
    """
    if (
        os.name != "posix"
        or not arguments
        or arguments[0] in ("list", "check", "catalog")
        or {"-h", "--help", "--version"} & set(arguments)
    ):
        return None
    told, telling = os.pipe()
    alive, living = os.pipe()  # nothing is written to it: it ends with the parent
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # where it is ignored nobody learns how a child ended
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    gc.freeze()  # the collector would touch, and so copy, every page of the parent: 5 ms
    child = os.fork()
    _handle(_forward(child) if child else _end())
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    os.close(telling if child else told)
    os.close(alive if child else living)
    if not child:
        os.set_blocking(telling, False)
        _telling.append(telling)
        _follow(alive)
        return None
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    with os.fdopen(told, "rb") as pipe:
        _clean(pipe.read())
    if code >= 0 or -code in ENDING:
        os._exit(code if code >= 0 else 128 - code)
    return told_of(-code, arguments)


def _handle(handler: Callable[[int, FrameType | None], None]) -> None:
    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as `nohup` does
            signal.signal(number, handler)


def _forward(child: int) -> Callable[[int, FrameType | None], None]:
    def forward(number: int, _frame: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)

    return forward


def _end() -> Callable[[int, FrameType | None], None]:
    """The child's handler. A terminal sends Ctrl-C to the child and to the parent, which forwards it: a second one within a
    second is the same, and must not disturb the cleaning up.
    """
    before = [float("-inf")]

    def end(number: int, _frame: FrameType | None) -> None:
        last, before[0] = before[0], time.monotonic()
        if before[0] - last > 1:
            raise KeyboardInterrupt if number == signal.SIGINT else Terminated(128 + number)

    return end


def attended(alive: int) -> None:
    """In a worker: end, tidily, when told to or with the process that has the other end of the pipe ``alive``."""
    _handle(_end())
    _follow(alive)


def _follow(alive: int) -> None:
    """End with the parent, however that ends: then the kernel closes the other end of ``alive``, and sends SIGTERM."""
    import fcntl

    if hasattr(fcntl, "F_SETSIG"):  # Linux
        os.set_blocking(alive, False)
        fcntl.fcntl(alive, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(alive, fcntl.F_SETSIG, signal.SIGTERM)
        fcntl.fcntl(alive, fcntl.F_SETFL, fcntl.fcntl(alive, fcntl.F_GETFL) | os.O_ASYNC)
        with contextlib.suppress(BlockingIOError):
            os.read(alive, 1)  # comes back where the parent is gone already
            os.kill(os.getpid(), signal.SIGTERM)


def _clean(told: bytes) -> None:
    for folder in filter(None, os.fsdecode(told).split("\0")):
        if os.path.basename(folder).startswith(".xconvert-") and os.path.isdir(folder):  # noqa: PTH112, PTH119  (not imported)
            import shutil

            shutil.rmtree(folder, ignore_errors=True)


def told_of(number: int, arguments: Sequence[str]) -> XconvertError:
    """What to say of a child that signal ``number`` ended; nothing of SIGPIPE, which ends this process as quietly."""
    name = next((known.name for known in signal.Signals if known == number), f"signal {number}")
    if name == "SIGPIPE":
        os.kill(os.getpid(), number)
    if name == "SIGBUS":
        return XconvertError("a file was truncated while it was read", hints=["fetch or save it again, and leave it until then"])
    if name in _CRASHES:
        files = [f"`{file}` is HDF5, which a library in C may read" for file in arguments if _is_hdf5(file)]
        return XconvertError(f"the process that read the files crashed ({name})", facts=files, hints=["pass `--isolate`"])
    hint = "the kernel kills whoever takes the last memory; `--max-memory 1G` refuses files that ask for much"
    error = XconvertError(f"the process that did the work was killed ({name})", hints=[hint] if name == "SIGKILL" else [])
    error.exit_code = 128 + number
    return error


def _is_hdf5(file: str) -> bool:
    from pathlib import Path

    with contextlib.suppress(OSError, ValueError):
        if Path(file).is_file():
            with Path(file).open("rb") as opened:
                return opened.read(8).startswith(b"\x89HDF\r\n\x1a\n")
    return False
