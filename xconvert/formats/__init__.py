"""File formats: which one a file is (by content, never by suffix alone), reading and writing.

One module per format, each offering a ``FORMAT``. To add one, add a module; nothing else changes.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xconvert.errors import UnreadableError, UsageError
from xconvert.model import Checkpoint
from xconvert.plugins import discover


@dataclass(frozen=True, slots=True)
class Format:
    """What one format module offers.

    ``matches(data)`` looks at the mapped file and must be quick and never raise. ``read(path, data, key)`` returns
    the checkpoint, its tensors as lazily as the format allows; ``key`` names one of several candidates in the file.
    It raises ``UnreadableError`` for a damaged or hostile file and ``AmbiguousError`` when a key is needed.
    ``write(path, checkpoint)`` creates ``path``, with the same bytes for the same input; None where the format is
    only read. ``suffixes``: file endings for which it is the one written. ``dialects``: for a dialect family
    (``"keras"``) the dialect that its names must be in; a format that has any entries holds no other families; empty:
    any name fits.
    """

    name: str
    describes: str
    suffixes: tuple[str, ...]
    matches: Callable[[mmap.mmap], bool]
    read: Callable[[Path, mmap.mmap, str | None], Checkpoint]
    write: Callable[[Path, Checkpoint], None] | None = None
    dialects: Mapping[str, str] = field(default_factory=dict)


def formats() -> dict[str, Format]:
    """Every format by name."""
    return discover("formats", "FORMAT")


def read(path: Path, key: str | None = None) -> Checkpoint:
    """Read the checkpoint in ``path``, whatever its suffix says.

    Raises ``UnreadableError`` when the file is missing, empty, damaged or no checkpoint at all, ``AmbiguousError``
    when it holds more than one and ``key`` does not say which.
    """
    data = _map(path)
    for candidate in formats().values():
        if candidate.matches(data):
            return candidate.read(path, data, key)
    raise UnreadableError(
        f"`{path}` is not a checkpoint that xconvert can read",
        facts=[_looks_like(data), "readable: " + ", ".join(formats())],
    )


def format_for_writing(path: Path) -> Format:
    """The format that ``path``'s suffix asks for; raises ``UsageError`` where there is none that can be written."""
    name = path.name.lower()
    fitting = [(len(s), f) for f in formats().values() for s in f.suffixes if name.endswith(s)]
    if not fitting:
        known = ", ".join(s for f in formats().values() if f.write for s in f.suffixes)
        raise UsageError(f"no format is written under the name `{path.name}`", hints=[f"end the name in one of {known}"])
    chosen = max(fitting, key=lambda pair: pair[0])[1]  # the longest: `.weights.h5` rather than `.h5`
    if chosen.write is None:
        raise UsageError(f"`{chosen.name}` files are read, not written", hints=["write `.weights.h5` or `.h5` for Keras"])
    return chosen


def _map(path: Path) -> mmap.mmap:
    try:
        if path.is_dir():
            raise UnreadableError(f"`{path}` is a folder", hints=["name the checkpoint file inside it"])
        if path.exists() and not path.is_file():  # opening a named pipe would wait for ever
            raise UnreadableError(f"`{path}` is not a regular file", hints=["write it to a file first"])
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except FileNotFoundError:
        raise UnreadableError(f"`{path}` does not exist") from None
    except ValueError:  # mmap refuses an empty file
        raise UnreadableError(f"`{path}` is empty", hints=["fetch or save it again"]) from None
    except OSError as error:
        raise UnreadableError(f"`{path}` cannot be opened: {error.strerror}") from None


# Content that users hand over by mistake: (how it starts, what it is).
_FAMILIAR = (
    (b"version https://git-lfs", "it is a Git-LFS pointer of a few lines, not the file itself; run `git lfs pull`"),
    (b"\x1f\x8b", "it is gzip-compressed; unpack it first"),
    (b"\xfd7zXZ", "it is xz-compressed; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is zstd-compressed; unpack it first"),
    (b"<!doctype html", "it is an HTML page, probably a download that failed"),
    (b"<html", "it is an HTML page, probably a download that failed"),
)


def _looks_like(data: mmap.mmap) -> str:
    start = data[:64].lstrip().lower()
    for magic, meaning in _FAMILIAR:
        if start.startswith(magic.lower()):
            return meaning
    if data[257:262] == b"ustar":
        return "it is a tar archive (PyTorch's format of 2016, or a packed folder); unpack it, or save it again with torch"
    return f"it starts with {data[:16].hex(' ')} and matches no known format"
