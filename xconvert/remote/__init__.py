"""Files that lie elsewhere: whatever ``fsspec`` reaches (``s3://``, ``gs://``, ``hf://``, ``https://``, …), by way of a cache.

The one place where a URL becomes a file: ``fetched`` gives the copy of a checkpoint in the cache, all its files together, and
``outputs.delivered`` a place to write to, from which what was written goes to a URL. Everything else knows files.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xconvert.errors import UsageError, XconvertError


def is_url(path: object) -> bool:
    """Whether ``path`` is a URL rather than the name of a file."""
    return "://" in (text := str(path)) and bool(re.match(r"[A-Za-z][A-Za-z0-9+.-]+(::[a-z]+)*://", text))


def split(url: str) -> tuple[str, str, str]:
    """The URL itself, and the kind of checksum and the digits (both may be empty) that its fragment asks for:
    ``#sha256=…`` or ``#md5=…``; the first 8 digits or more of a sha256 will do. Raises ``UsageError`` for any other fragment.
    """
    address, mark, fragment = url.partition("#")
    if not mark:
        return address, "", ""
    match = re.fullmatch(r"(sha256)=([0-9a-f]{8,64})|(md5)=([0-9a-f]{32})", fragment, re.ASCII)
    if not match:
        raise UsageError(f"`#{fragment}` is no checksum", hints=["end the URL in `#sha256=` and at least 8 hexadecimal digits"])
    return address, match[1] or match[3], match[2] or match[4]


def name_of(path: str | Path) -> Path:
    """What ``path`` is called on this machine: the path of a file; of a URL its last name, as one would save it here."""
    if not is_url(path):
        return Path(path)
    name = split(str(path))[0].partition("?")[0].rstrip("/").rpartition("/")[2]
    return Path(re.sub(r"[\x00-\x1f\x7f]", "_", name) or "checkpoint")


@contextmanager
def fetched(path: str | Path) -> Iterator[Path]:
    """The file to read for ``path``: itself, or the copy in the cache of what a URL names. Errors raised meanwhile name the URL.

    Raises ``UnreadableError`` for what is not there, cannot be reached, is too large or has another checksum, ``UsageError``
    where the extra is not installed.
    """
    if not is_url(path):
        yield Path(path)
        return
    from xconvert.remote.cache import copy_of

    place = copy_of(str(path))
    with called(place, split(str(path))[0]):
        yield place


@contextmanager
def called(place: Path, url: str) -> Iterator[None]:
    """Let errors name ``url`` where they mean the file ``place``."""
    try:
        yield
    except XconvertError as error:
        error.message, *rest = (text.replace(str(place), url) for text in (error.message, *error.facts, *error.hints))
        error.facts, error.hints = tuple(rest[: len(error.facts)]), tuple(rest[len(error.facts) :])
        raise
