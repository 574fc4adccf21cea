"""The released files that are known: what ``catalog.toml`` lists, as data and as a table."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from xconvert import render
from xconvert.errors import UsageError
from xconvert.tuples import NamedTuple

FILE = Path(__file__).with_name("catalog.toml")


class Released(NamedTuple):
    """One file that a zoo publishes. ``url`` is empty, and ``by_hand`` says why, where no program can fetch it as it is; ``md5``
    and ``sha256`` (which may be its first digits) are what the publisher checks, ``mirrors`` other addresses of the same bytes.
    """

    name: str
    zoo: str
    implementation: str
    licence: str
    url: str = ""
    md5: str = ""
    sha256: str = ""
    bytes: int | None = None
    mirrors: Sequence[str] = ()
    by_hand: str = ""

    @property
    def addresses(self) -> tuple[str, ...]:
        """The URLs, each with the checksum that is to be checked."""
        checksum = f"#sha256={self.sha256}" if self.sha256 else f"#md5={self.md5}" if self.md5 else ""
        return tuple(url + checksum for url in (self.url, *self.mirrors))

    @property
    def checksum(self) -> str:
        """What is published, in a few words."""
        return f"sha256 {self.sha256}…" if self.sha256 else f"md5 {self.md5}" if self.md5 else ""


def released() -> tuple[Released, ...]:
    """Every file that is known."""
    return tuple(Released(**entry) for entry in tomllib.loads(FILE.read_text("utf-8"))["file"])


def chosen(names: Sequence[str]) -> tuple[Released, ...]:
    """The files of the zoos, or called, as ``names`` say; all for ``all``. Raises ``UsageError`` for a name that is neither."""
    known = released()
    words = {file.zoo for file in known} | {file.name for file in known} | {"all"}
    if unknown := [name for name in names if name not in words]:
        zoos = ", ".join(dict.fromkeys(file.zoo for file in known))
        hints = ["`xconvert catalog` lists the names"]
        raise UsageError(f"the catalogue has no `{unknown[0]}`", facts=[f"zoos: {zoos}, or all"], hints=hints)
    return tuple(file for file in known if {file.zoo, file.name, "all"} & set(names))


def as_dicts(files: Sequence[Released]) -> list[dict[str, Any]]:
    """In JSON types, without what is not known."""
    return [{key: list(value) if key == "mirrors" else value for key, value in file._asdict().items() if value} for file in files]


def as_text(files: Sequence[Released]) -> str:
    """A line or more for each: what it is, where it lies, and what is known of it."""
    lines = []
    for zoo in dict.fromkeys(file.zoo for file in files):
        lines.append(render.title(zoo))
        for file in (file for file in files if file.zoo == zoo):
            size = f"{file.bytes / 1e6:.0f} MB" if file.bytes else ""
            told = ", ".join(filter(None, (f"names of {file.implementation}", size, file.checksum, file.licence)))
            lines += [f"  {file.name}", *(f"    {text}" for text in filter(None, (file.url, told, file.by_hand)))]
    return "\n".join(lines)
