"""Outputs that go to a URL: written and verified here, then uploaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

from xconvert import supervision
from xconvert.remote import called, is_url, name_of
from xconvert.report import Report

Convert = TypeVar("Convert", bound=Callable[..., Report])


@contextmanager
def delivered(url: str, force: bool) -> Iterator[Path]:
    """A place to write to for the output ``url``, which gets what lies there at the end; on an error it gets nothing.

    Raises ``UsageError`` where something is there and ``force`` is not given, before any work and again before the upload.
    """
    from xconvert.remote.store import refuse_existing, upload

    if not force:
        refuse_existing(url)
    with supervision.temporary() as folder:
        place = Path(folder, name_of(url))
        with called(place, url):
            yield place
            upload(folder, url, force)


def delivering(function: Convert) -> Convert:
    """Let the second argument of a conversion be a URL."""

    @wraps(function)
    def convert(source: str | Path, output: str | Path | None = None, **options: Any) -> Report:
        if not is_url(output):
            return function(source, output, **options)
        url = str(output)
        with delivered(url, options.get("force", False)) as place:
            return _renamed(function(source, place, **options), str(place), url)
        raise AssertionError  # nothing is suppressed

    return cast(Convert, convert)


def _renamed(report: Report, place: str, url: str) -> Report:
    """``report`` on the file ``place``, which will be gone, as one on ``url``."""
    provenance = dict(report.provenance)
    provenance["target"] = {**provenance.get("target", {}), "file": url}
    notes = tuple(note.replace(place, url) for note in report.notes)
    return report._replace(output=url, notes=notes, provenance=provenance)
