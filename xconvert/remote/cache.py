"""Copies of remote checkpoints, each in a folder of its own: downloaded in pieces, checked, and then there in one step.

``$XCONVERT_CACHE``, by default the user's cache, holds for each URL ``files/``, the checkpoint; ``entry.json``, what is known of
it; and while it is fetched ``part/``. A copy is used again when the store says that the content is the same, or when
the checksum that was asked for is that of the copy: then the store is not even asked.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xconvert import formats, supervision
from xconvert.errors import UnreadableError, UsageError
from xconvert.formats._limits import parse_memory, told
from xconvert.progress import tell
from xconvert.remote import name_of, split
from xconvert.remote.store import Stored, UnreachableError, found, opened, stored, telling

try:
    import fcntl
except ImportError:  # Windows: two processes may fetch the same file at once
    fcntl = None  # type: ignore[assignment]

_PIECE = 1 << 20
_TRIES = 3  # of a download that breaks off
_BESIDE = (".json", ".pdmodel", ".pdiparams.info")  # of a `.pdiparams`


def folder() -> Path:
    """Where copies lie: ``$XCONVERT_CACHE``, or ``xconvert`` in the user's cache."""
    if own := os.environ.get("XCONVERT_CACHE"):
        return Path(own)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "xconvert"
    user = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(user) if user else Path.home() / ".cache") / "xconvert"


def limit() -> int:
    """The most bytes that are fetched for one checkpoint: ``$XCONVERT_MAX_DOWNLOAD``, by default 8 GiB."""
    return parse_memory(os.environ.get("XCONVERT_MAX_DOWNLOAD") or "8G")


def copy_of(url: str) -> Path:
    """The copy of the checkpoint at ``url``, fetched where there is none that is as the one there; see ``remote.fetched``."""
    address, kind, digits = split(url)
    place = folder() / hashlib.sha256(address.encode()).hexdigest()[:32]
    try:
        with _alone(place):
            if kind and _checked(place, kind, digits):
                return _main(place)
            with telling(address):
                fs, path = opened(address)
                if not kind and _current(place, fs, address):
                    return _main(place)
                _fetch(place, fs, path, address)
            if kind and not _checked(place, kind, digits):
                raise _unlike(place, address, kind, digits)
            return _main(place)
    except OSError as error:
        raise UsageError(f"the cache `{place.parent}` cannot be used: {error.strerror or error}") from None


def has(url: str) -> bool:
    """Whether a copy is there that is used without asking the store: with the checksum that ``url`` asks for."""
    address, kind, digits = split(url)
    place = folder() / hashlib.sha256(address.encode()).hexdigest()[:32]
    return bool(kind) and _checked(place, kind, digits)


def size_of(url: str) -> int:
    """The bytes of the copy that is there."""
    return sum(file.stat().st_size for file in _files_of(copy_of(url)))


def _entry(place: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        entry = json.loads((place / "entry.json").read_text("utf-8"))
        if isinstance(entry, dict) and all((place / "files" / file[1]).is_file() for file in entry["files"]):
            return entry
    return {}


def _main(place: Path) -> Path:
    main: str = _entry(place)["main"]
    return place / "files" / main


def _checked(place: Path, kind: str, digits: str) -> bool:
    """Whether the copy has the checksum: computed again, for a disk may have changed it."""
    from xconvert.provenance import fingerprint

    return bool(_entry(place)) and fingerprint(_main(place), kind).startswith(digits)


def _unlike(place: Path, address: str, kind: str, digits: str) -> UnreadableError:
    from xconvert.provenance import fingerprint

    facts = [f"expected {kind}  {digits}", f"fetched  {kind}  {fingerprint(_main(place), kind)}"]
    (place / "entry.json").unlink()
    shutil.rmtree(place / "files", ignore_errors=True)
    return UnreadableError(
        f"`{address}` has another checksum than it should", facts=facts, hints=["ask its publisher for the new one"]
    )


def _current(place: Path, fs: Any, address: str) -> bool:
    """Whether the store has just what was copied; raises ``UnreachableError``, with what would do, where it does not answer."""
    entry = _entry(place)
    if not entry:
        return False
    try:
        with telling(address):
            return all(identity and _same(found(fs, path), size, identity) for path, _, size, identity in entry["files"])
    except UnreachableError as error:
        from xconvert.provenance import fingerprint

        error.hints = (f"a copy is in the cache: `{address}#sha256={fingerprint(_main(place))[:16]}` takes it", *error.hints)
        raise


def _same(info: Mapping[str, Any] | None, size: int | None, identity: str) -> bool:
    if info is None:
        return False
    now = stored("", info)
    return (now.size, now.identity) == (size, identity)


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """While no other process fetches the same."""
    place.mkdir(parents=True, exist_ok=True)
    with (place / "lock").open("w") as lock:
        if fcntl:
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _fetch(place: Path, fs: Any, path: str, address: str) -> None:
    """Fetch all files of the checkpoint ``path`` into ``part/``, which then becomes ``files/``."""
    main, first = _located(fs, path, address)
    budget = _budget(address, place)
    part = place / "part"
    part.mkdir(exist_ok=True)
    got = [_download(fs, file, part, budget) for file in first]
    more = [_download(fs, file, part, budget) for file in _companions(fs, got, part)]
    names = {file.name for file in (*got, *more)}
    for other in part.iterdir():  # of an earlier try
        if other.name not in names:
            other.unlink()
    (place / "entry.json").unlink(missing_ok=True)
    shutil.rmtree(place / "files", ignore_errors=True)
    part.rename(place / "files")
    text = json.dumps({"url": address, "main": main, "files": [*got, *more]}, indent=1)
    (place / "entry.json.new").write_text(text, "utf-8")
    (place / "entry.json.new").replace(place / "entry.json")


def _located(fs: Any, path: str, address: str) -> tuple[str, list[Stored]]:
    """What to name in ``files/``, and the files that are known to belong to the checkpoint ``path``."""
    info = found(fs, path)
    if info is None:
        if (index := found(fs, f"{path}.index")) is None:
            raise UnreadableError(f"`{address}` does not exist")
        file = stored(f"{path}.index", index)
        return file.name, [file]
    if info.get("type") != "directory":
        file = stored(path, info, name_of(address).name)
        return file.name, [file]
    inside = {
        entry["name"].rstrip("/").rpartition("/")[2]: entry for entry in fs.ls(path, detail=True) if entry["type"] == "file"
    }
    with supervision.temporary() as names:  # which of them is the checkpoint, as in a folder here
        for name in inside:
            Path(names, name).touch()
        try:
            chosen = [file.name for file in _files_of(Path(names))]
            main = formats.locate(Path(names)).name
        except UnreadableError as error:
            raise type(error)(error.message.replace(str(names), address), hints=error.hints) from None
    whole = "." if len(chosen) > 1 and main == "model.safetensors" else main  # a folder of the Hub is read as one
    return whole, [stored(inside[name]["name"], inside[name], name) for name in chosen]


def _files_of(path: Path) -> tuple[Path, ...]:
    from xconvert.provenance import files_of

    return files_of(path)


def _companions(fs: Any, got: Sequence[Stored], part: Path) -> list[Stored]:
    """What else belongs to the files in ``part``: shards of an index, the program of a Paddle file."""
    from xconvert.formats._bundle import shard_names

    names = {file.name for file in got}
    wanted: dict[str, str] = {}
    for file in got:
        stem, query, rest = file.path.partition("?")
        base = stem.rpartition("/")[0]
        if file.name.endswith(".index"):
            beside = shard_names(part / file.name)
        elif file.name.endswith(".pdiparams"):
            beside = [file.name.removesuffix(".pdiparams") + suffix for suffix in _BESIDE]
        else:
            beside = []
        wanted |= {name: f"{base}/{name}{query}{rest}" for name in beside if name not in names}
    infos = {name: (path, found(fs, path)) for name, path in wanted.items()}
    return [stored(path, info, name) for name, (path, info) in infos.items() if info]


def _budget(address: str, place: Path) -> Callable[[int], None]:
    """Takes the bytes that are about to come; raises ``UnreadableError`` beyond what is allowed or there is room for."""
    most = limit()
    left = [most]

    def take(size: int) -> None:
        left[0] -= size
        if left[0] < 0:
            hint = f"allow more: `XCONVERT_MAX_DOWNLOAD={max(1, -(-(most - left[0]) >> 30))}G`"
            raise UnreadableError(f"`{address}` is larger than {told(most)}, the most that is fetched", hints=[hint])
        if size > _PIECE and (free := shutil.disk_usage(place).free) < size:
            facts = [f"{told(size)} are needed, {told(free)} are free"]
            raise UnreadableError(
                f"there is no room for `{address}` in `{place.parent}`", facts=facts, hints=["`XCONVERT_CACHE=DIR`"]
            )

    return take


def _download(fs: Any, file: Stored, part: Path, take: Callable[[int], None]) -> Stored:
    """Fetch one file; what an earlier try left of the same content is continued. Returns it with the size that it has."""
    path, mark = part / file.name, part / f".{file.name}.identity"
    if file.size:
        take(file.size)
    if not (file.identity and mark.is_file() and mark.read_text("utf-8") == file.identity):
        path.unlink(missing_ok=True)
    mark.write_text(file.identity, "utf-8")
    for attempt in range(_TRIES):
        try:
            _stream(fs, file, path, (lambda size: None) if file.size else take)
            break
        except (FileNotFoundError, PermissionError, UnreadableError):
            raise
        except Exception:  # as many kinds as there are stores
            if attempt == _TRIES - 1:
                raise
    size = path.stat().st_size
    if file.size and size != file.size:
        path.unlink()
        raise UnreadableError(f"`{file.name}` broke off: {size} of {file.size} bytes came", hints=["try again"])
    return file._replace(size=file.size)


def _stream(fs: Any, file: Stored, path: Path, take: Callable[[int], None]) -> None:
    there = path.stat().st_size if path.exists() else 0
    with fs.open(file.path, "rb", block_size=None if file.size is None else 4 * _PIECE, cache_type="readahead") as source:
        if there and file.size and there <= file.size and source.seekable():
            source.seek(there)
        else:
            there = 0
        with path.open("r+b" if there else "wb") as target:
            target.seek(there)
            while piece := source.read(_PIECE):
                take(len(piece))
                target.write(piece)
                tell(f"fetching {file.name}", target.tell() / file.size if file.size else 0.0)
