"""Reports as files, chosen by suffix: JSON for programs, JUnit for CI servers, Markdown for a step summary, HTML for
people.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from xconvert.errors import UsageError, XconvertError
from xconvert.formats._timm_config import CONFIG, WEIGHTS
from xconvert.outputs import replaced
from xconvert.provenance import files_of
from xconvert.report import Report
from xconvert.reports.html import document as as_html
from xconvert.reports.junit import document as as_junit
from xconvert.reports.markdown import document as as_markdown

Names = tuple[str, str]

SCHEMA_FILE = Path(__file__).with_name(
    "schema.json"
)  # JSON Schema 2020-12 of the reports in `.json` and of `--json`; not of its errors


def as_json(report: Report, names: Names) -> str:
    """``Report.to_dict()`` and ``names``, as ``schema.json`` describes them."""
    told = {**report.to_dict(), "names": list(names)}
    return json.dumps(told, indent=2, ensure_ascii=False, default=str, allow_nan=False) + "\n"


SUFFIXES: dict[str, Callable[[Report, Names], str]] = {
    ".json": as_json,
    ".xml": as_junit,
    ".md": as_markdown,
    ".html": as_html,
}
KINDS = {
    ".json": "`.json` for programs",
    ".xml": "`.xml` (JUnit) for CI servers",
    ".md": "`.md` for a summary in CI",
    ".html": "`.html` for people",
}


def check(path: Path, checkpoints: Sequence[str | Path] = (), suffixes: Collection[str] = SUFFIXES.keys()) -> None:
    """Raise ``UsageError`` where no report can be written to ``path``: a suffix that is none of ``suffixes``, a folder, a file in
    a folder that does not exist or takes none, or one of the files of ``checkpoints``.
    """
    if path.suffix.lower() not in suffixes:
        kinds = [told for suffix, told in KINDS.items() if suffix in suffixes]
        raise UsageError(f"`{path}` has no suffix of a report", facts=kinds, hints=[f"`--report {path.stem or 'report'}.html`"])
    try:
        if "\0" in str(path):
            raise ValueError("embedded null byte")
        if path.is_dir():
            raise UsageError(f"`{path}` is a folder", hints=["name a file in it"])
        if not path.parent.is_dir():
            raise UsageError(f"there is no folder `{path.parent}`", hints=[f"make it first: `mkdir -p {path.parent}`"])
        if path.exists() and any(path.samefile(file) for checkpoint in checkpoints for file in _files_of(Path(checkpoint))):
            raise UsageError(f"`{path}` is a part of a checkpoint", hints=["name another file for the report"])
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except (OSError, ValueError) as error:  # a name that cannot be
        raise UsageError(f"`{path}` cannot be written: {getattr(error, 'strerror', None) or error}") from None


def _files_of(checkpoint: Path) -> list[Path]:
    """The files that are there and that reading ``checkpoint`` looks at."""
    try:
        files = files_of(checkpoint)
    except XconvertError:  # whoever reads it says what is wrong with it
        files = (checkpoint,)
    beside = (file.with_name(CONFIG) for file in files if file.name == WEIGHTS)  # also of weights that are named themselves
    return [file for file in (*files, *beside) if file.exists()]


def write(report: Report, path: Path, names: Names) -> None:
    """Write ``report`` to ``path`` in the format of its suffix; ``names`` is what the two sides are called.

    A report that is there is replaced, in one step: whoever looks sees the old one or the new one, and after an error the old
    one. Same report, same bytes. Raises ``UsageError`` as ``check`` does, and where the file cannot be written.
    """
    check(path)
    # a lone surrogate, from a file name that is no UTF-8, becomes the six characters of its escape, which JSON reads back
    replaced(path, SUFFIXES[path.suffix.lower()](report, names).encode("utf-8", "backslashreplace"))
