"""Where results go: nothing is replaced unasked, nothing is half-written, and a source is never its own output.

What is written appears under its name in one step. Until then it lies in a folder of its own beside it, ``.xconvert-`` and 16
hexadecimal digits, which is removed whatever happens; one that a killed process left is removed by the next that writes there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from xconvert import supervision
from xconvert.errors import UsageError, XconvertError
from xconvert.formats import Format
from xconvert.formats._limits import told
from xconvert.provenance import files_of

try:
    import fcntl
except ImportError:  # Windows: temporary folders that a killed process left stay, and nobody waits
    fcntl = None  # type: ignore[assignment]

_OURS = re.compile(r"\.xconvert-[0-9a-f]{16}")
_WAIT = 60.0  # seconds for another process that is about to publish in the same folder; it takes milliseconds


@contextmanager
def published(path: Path, form: Format, check: Callable[[], None] = lambda: None, size: int = 0) -> Iterator[Path]:
    """A place beside ``path`` to write to: at the end what is there gets its name in one step, on an error nothing is left.

    ``check`` is called just before that step, when no other process of ours publishes in the same folder, and may raise.
    ``size``: about how many bytes are written. Raises ``UsageError`` where that cannot be.
    """
    path = path.resolve() if path.is_dir() else path  # a folder, by whatever name: `.` has none
    with _beside(path, size) as folder:
        made = folder / path.name
        yield made
        _publish(made, path, form.files, form.publish, check)


def replaced(path: Path, data: bytes) -> None:
    """Give ``path`` the content ``data`` in one step, whether there is such a file or not; raises ``UsageError``."""
    with _beside(path, len(data)) as folder:
        made = folder / path.name
        made.write_bytes(data)
        _publish(made, path, lambda file: (file,), os.replace, lambda: None)


def _publish(
    made: Path,
    path: Path,
    files: Callable[[Path], tuple[Path, ...]],
    rename: Callable[[Path, Path], None],
    check: Callable[[], None],
) -> None:
    if any(os.path.lexists(file) for file in files(path)):
        there = [file for file in files(made) if file.exists()]  # a folder need not have all that it may have
        for file in there:  # a power loss, or a disk that says late that it is full, shall not take the old one
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())
    with _alone(path.parent), _undisturbed():
        check()
        rename(made, path)


@contextmanager
def _beside(path: Path, size: int) -> Iterator[Path]:
    """The folder to write to for ``path``; it is removed at the end, and every ``OSError`` becomes a ``UsageError``."""
    parent = path if os.path.ismount(path) else path.parent  # nothing is renamed from one file system to another
    folder, lock = parent / f".xconvert-{os.urandom(8).hex()}", None
    try:
        try:
            with _alone(parent):
                _remove_stale(parent)
                supervision.remember(folder)
                folder.mkdir(0o700)
                lock = _lock(folder)
            yield from _in(folder)
        finally:
            _remove(folder)
            if lock is not None:
                os.close(lock)
    except OSError as error:
        raise _cannot(path, error, size) from None


def _in(folder: Path) -> Iterator[Path]:
    try:
        yield folder
    except XconvertError:
        if not folder.is_dir():  # then what is told is that something in it could not be found
            raise FileNotFoundError(errno.ENOENT, "the folder to write in was removed") from None
        raise


def _cannot(path: Path, error: OSError, size: int) -> UsageError:
    """Why ``path`` cannot be written, when nothing is left of it."""
    facts = []
    if error.errno == errno.ENOSPC:
        import shutil

        with contextlib.suppress(OSError):
            facts.append(f"about {told(size)} are needed, {told(shutil.disk_usage(path.parent).free)} are free")
    return UsageError(f"`{path}` cannot be written: {error.strerror or error}", facts=facts)


def _remove(folder: Path) -> None:
    try:
        _removed(folder)
    except BaseException:  # Ctrl-C
        _removed(folder)
        raise


def _removed(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:  # something is in it, which is rare
        import shutil

        shutil.rmtree(folder, ignore_errors=True)


def _remove_stale(parent: Path) -> None:
    """Remove what killed processes of this user left in ``parent``: a process that lives holds the lock of its folder."""
    with contextlib.suppress(OSError), os.scandir(parent if fcntl else os.devnull) as entries:
        for entry in entries:
            if _OURS.fullmatch(entry.name) and entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                with contextlib.suppress(OSError):
                    lock = _lock(Path(entry.path))
                    if lock is not None:
                        _remove(Path(entry.path))
                        os.close(lock)


def _lock(folder: Path, wait: float = 0.0) -> int | None:
    """An open handle of ``folder`` with its lock, which ends with this process; None where the file system has no locks, and
    for what is no folder. Raises ``BlockingIOError`` where another process has it for longer than ``wait`` seconds.
    """
    try:
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW) if fcntl else None
    except OSError:
        return None
    end = time.monotonic() + wait
    while handle is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() >= end:
                os.close(handle)
                raise
            time.sleep(0.005)
        except OSError:
            os.close(handle)
            handle = None
    return handle


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """While no other process of ours makes or publishes anything in ``folder``; raises ``UsageError`` after a minute."""
    try:
        lock = _lock(folder.resolve(), _WAIT)
    except BlockingIOError:
        raise UsageError(f"`{folder}` is locked by another program", hints=["end it, or name another folder"]) from None
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Signals that end a process wait until several files have their names; only the main thread ever gets any."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []

    def hold(number: int, _frame: FrameType | None) -> None:
        held.append(number)

    before = {number: signal.getsignal(number) for number in supervision.ENDING}
    try:
        for number, handler in before.items():
            if handler not in (None, signal.SIG_IGN):  # None: not of Python's making
                signal.signal(number, hold)
        yield
    finally:
        for number, handler in before.items():
            if handler not in (None, signal.SIG_IGN):
                signal.signal(number, handler)
        for number in held[:1]:
            signal.raise_signal(number)


def check_output(source: Path, path: Path, form: Format, force: bool) -> None:
    """Raise ``UsageError`` where writing ``path`` would touch the source, or without ``force`` any file that is there.

    A link that stands at ``path`` is such a file, and it is what ``force`` replaces: the file it points to, which may belong to
    a cache that knows it by its content, stays as it is.
    """
    if "\0" in str(path):
        raise UsageError(f"`{path}` cannot be written: a name cannot contain a zero byte")
    files = form.files(path)
    try:
        sources = files_of(source)
        if any(file.exists() and any(file.samefile(s) for s in sources) for file in files):
            raise UsageError(f"`{path}` is the source itself", hints=["name another file with `-o`"])
        for file in files:
            if file.is_dir():
                raise UsageError(f"`{file}` is a folder", hints=["name a file in it"])
            if os.path.lexists(file) and not force:  # a dangling link too
                raise UsageError(f"`{file}` exists", hints=["pass `--force` to replace it, or name another file with `-o`"])
        for other in (path, path.parent / f"{path.name}.index"):
            if other not in files and other.is_file():
                hint = "name another file with `-o`"
                raise UsageError(f"`{other}` would be another checkpoint under the name `{path.name}`", hints=[hint])
    except OSError as error:
        raise UsageError(f"`{path}` cannot be written: {error.strerror}") from None
