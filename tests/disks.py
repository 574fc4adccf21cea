"""Writing each format, and reports, to a disk that is full, to one that is read-only, and beyond the size that a file may have.

A program of its own, which mounts a disk of a few hundred kB in a namespace of its own:
``unshare -rm python -m tests.disks FOLDER``. It prints a JSON list of ``[what, fault, exit code, what was said, whether all is
as it was before]``. With ``--no-mount`` FOLDER stays on the disk it is on, and only the size of files is limited.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.report_samples import NAMES, large
from tests.targets import TARGETS, sources
from xconvert import reports
from xconvert.cli import main as xconvert
from xconvert.errors import XconvertError

FREE = 4096  # bytes that a full disk still has: enough for a folder, not for a checkpoint


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by their paths in it; folders count too."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def run(job: Callable[[], None]) -> tuple[int, str]:
    """The exit code and the message of ``job``."""
    told = io.StringIO()
    try:
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            job()
    except XconvertError as error:
        return error.exit_code, "\n".join([error.message, *error.facts])
    except SystemExit as ended:
        return int(ended.code or 0), told.getvalue()
    return 0, told.getvalue()


@contextmanager
def full(folder: Path) -> Iterator[None]:
    """The disk of ``folder`` has ``FREE`` bytes, and no more."""
    filling = folder / "filling"
    with filling.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(bytes(4096)):
            pass
    with filling.open("rb+") as file:
        file.truncate(filling.stat().st_size - FREE)
    yield
    filling.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nothing can be written to the disk of ``folder``."""
    subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
    yield
    subprocess.run(["mount", "-o", "remount,rw", folder], check=True)


@contextmanager
def limited(_folder: Path) -> Iterator[None]:
    """No file can be longer than ``FREE`` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (FREE, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def jobs(folder: Path, source: Path, old: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """Conversions over an old output in ``folder``, and reports over an old report; each alone there."""
    for name, target in TARGETS.items():
        output = folder / target.output
        target.convert(old, output)
        yield (
            name,
            lambda target=target, output=output: xconvert(
                [str(target.source(source)), "-o", str(output), "--force", "--no-verify", *target.options]
            ),
        )
    report = large()
    for suffix in reports.SUFFIXES:
        path = folder / f"report{suffix}"
        path.write_text("the old one")
        yield path.name, lambda path=path: reports.write(report, path, NAMES)


def main() -> None:
    """Everything; the JSON goes to stdout."""
    place, told = Path(sys.argv[1]), []
    old, source = sources(place)
    folder = place / "disk"
    folder.mkdir()
    faults = {"limited": limited}
    if "--no-mount" not in sys.argv:
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=800k", "none", folder], check=True)
        faults |= {"full": full, "read-only": read_only}
    for what, job in jobs(folder, source, old):
        for fault, disturbed in faults.items():
            with disturbed(folder):
                before = tree(folder)
                code, said = run(job)
                told.append([what, fault, code, said, tree(folder) == before])
        for path in folder.iterdir():
            subprocess.run(["rm", "-r", path], check=True)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
