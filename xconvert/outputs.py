"""Where results go: nothing is replaced unasked, nothing is half-written, and a source is never its own output."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xconvert.errors import UsageError
from xconvert.formats import Format
from xconvert.provenance import files_of


@contextmanager
def published(path: Path, form: Format) -> Iterator[Path]:
    """A place beside ``path`` to write to: at the end each file gets its name in one step, on an error nothing is left."""
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=".xconvert-", dir=path.parent))
        yield folder / path.name
        for made, final in zip(form.files(folder / path.name), form.files(path), strict=True):
            final.parent.mkdir(exist_ok=True)  # of a format that is a folder
            made.replace(final)
    except OSError as error:
        raise UsageError(f"`{path}` cannot be written: {error.strerror}") from None
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def check_output(source: Path, path: Path, form: Format, force: bool) -> None:
    """Raise ``UsageError`` where writing ``path`` would touch the source, or without ``force`` any file that is there."""
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
        for other in (path, path.with_name(f"{path.name}.index")):
            if other not in files and other.is_file():
                hint = "name another file with `-o`"
                raise UsageError(f"`{other}` would be another checkpoint under the name `{path.name}`", hints=[hint])
    except OSError as error:
        raise UsageError(f"`{path}` cannot be written: {error.strerror}") from None
