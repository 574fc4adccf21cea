"""What lies behind a URL, by way of ``fsspec``; and what is said where that fails."""

from __future__ import annotations

import importlib
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xconvert.errors import UnreadableError, UsageError
from xconvert.remote import split
from xconvert.tuples import NamedTuple

# What tells one content from another, by whichever name a store has it; a date alone would do for none of them.
_IDENTITIES = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "Digest", "blob_id", "generation", "mtime", "created")
_UNREACHABLE = ("ConnectError", "ConnectTimeout", "EndpointConnectionError", "ClientConnectorError", "ServerTimeoutError")
_EXTRAS = {
    "s3": "s3fs",
    "s3a": "s3fs",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "hf": "huggingface_hub",
    "http": "aiohttp",
    "https": "aiohttp",
}
_DENIED = "NoCredentialsError"


class UnreachableError(UnreadableError):
    """The machine that a URL names does not answer, or there is no network."""


class Stored(NamedTuple):
    """One file behind a URL: its path there, the name it gets here, and what tells its content from another, if anything does."""

    path: str
    name: str
    size: int | None
    identity: str


def opened(url: str) -> tuple[Any, str]:
    """The file system of ``url``, and the path in it. Raises ``UsageError`` where there is none for such URLs."""
    protocol = url.partition("://")[0].lower()
    try:
        fsspec = importlib.import_module("fsspec")
        options = {"client_kwargs": _http()} if protocol in ("http", "https") else {}
        fs, path = fsspec.url_to_fs(url, use_listings_cache=False, **options)
        return fs, str(path)
    except ImportError:
        hints = ["pip install 'xconvert[remote]'"]
        if _EXTRAS.get(protocol) == "gcsfs":
            hints = ["pip install 'xconvert[remote]' gcsfs"]
        raise UsageError(f"`{protocol}://` needs a package that is not installed", hints=hints) from None
    except ValueError as error:
        raise UsageError(f"`{protocol}://` is no kind of URL that is known", facts=[str(error)]) from None


def _http() -> dict[str, Any]:
    """Proxies as curl has them; and as long as it takes while anything comes, where aiohttp would stop after five minutes."""
    aiohttp = importlib.import_module("aiohttp")
    return {"trust_env": True, "timeout": aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)}


@contextmanager
def telling(url: str) -> Iterator[None]:
    """Say in one clause what is wrong with ``url``: whatever a store raises is one of a few things."""
    try:
        yield
    except (UnreadableError, UsageError):
        raise
    except Exception as error:  # each store has errors of its own, of no common kind
        raise _told(url, error) from None


def _told(url: str, error: Exception) -> UnreadableError:
    chain = list(_causes(error))
    names = {kind.__name__ for cause in chain for kind in type(cause).__mro__}
    reasons = [str(cause) for cause in chain if str(cause)]
    facts = [reasons[-1][:200]] if reasons else []
    unreachable = any(isinstance(cause, (socket.gaierror, ConnectionRefusedError, TimeoutError)) for cause in chain)
    if unreachable or names & set(_UNREACHABLE):
        return UnreachableError(
            f"`{url}` cannot be reached", facts=facts, hints=["is there a network, and does it let one there?"]
        )
    if (
        _DENIED in names
        or isinstance(error, PermissionError)
        or any(getattr(cause, "status", 0) in (401, 403) for cause in chain)
    ):
        hints = ["for a public bucket set `FSSPEC_S3_ANON=true`, else your credentials"] if url.startswith("s3") else []
        return UnreadableError(f"`{url}` is not for everybody", facts=facts, hints=hints)
    if any(isinstance(cause, FileNotFoundError) for cause in chain):
        return UnreadableError(f"`{url}` does not exist")
    return UnreadableError(f"`{url}` cannot be read", facts=[f"{type(error).__name__}: {error}"[:300]])


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def found(fs: Any, path: str) -> Mapping[str, Any] | None:
    """What ``fs`` says of ``path``; None where it is not there."""
    try:
        info: Mapping[str, Any] = fs.info(path)
    except FileNotFoundError as error:
        if any(isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError) for cause in _causes(error)):
            raise  # HTTP has but one error, for servers that do not answer too
        return None
    return info


def stored(path: str, info: Mapping[str, Any], name: str = "") -> Stored:
    """``info`` about ``path`` as one file."""
    identity = next((str(info[key]) for key in _IDENTITIES if info.get(key)), "")
    size = info.get("size")
    return Stored(path, name or path.partition("?")[0].rstrip("/").rpartition("/")[2], size, identity)


def size_of(url: str) -> int | None:
    """The bytes of the file ``url``; None where that is not told, or it is a folder. Raises as ``telling`` does."""
    address = split(url)[0]
    with telling(address):
        fs, path = opened(address)
        info = found(fs, path) or found(fs, f"{path}.index")
        if info is None:
            raise UnreadableError(f"`{address}` does not exist")
        return None if info.get("type") == "directory" else info.get("size")


def matching(pattern: str) -> list[str]:
    """The URLs that fit ``pattern``, with ``*`` and ``?`` as in names of files, sorted; raises as ``telling`` does."""
    with telling(pattern):
        fs, path = opened(pattern)
        return sorted(str(fs.unstrip_protocol(match)) for match in fs.glob(path) if ".data-" not in match)


def identity_of(url: str) -> str:
    """What tells the content at ``url`` from another: empty where nothing lies there, or the store does not say."""
    with telling(url):
        fs, path = opened(url)
        for other in (path, f"{path}.index", f"{path}/model.safetensors"):
            info = found(fs, other)
            if info and info.get("type") != "directory":
                there = stored(other, info)
                return f"{there.size} {there.identity}" if there.identity else ""
    return ""


def exists(url: str) -> bool:
    """Whether anything lies at ``url``, or a TensorFlow checkpoint goes by that prefix."""
    with telling(url):
        fs, path = opened(url)
        return any(found(fs, other) is not None for other in (path, f"{path}.index"))


def refuse_existing(url: str) -> None:
    """Raise ``UsageError`` where something lies at ``url`` already."""
    if exists(url):
        raise UsageError(f"`{url}` exists", hints=["pass `--force` to replace it, or name another with `-o`"])


def upload(folder: Path, url: str, force: bool) -> None:
    """Put what lies in ``folder`` beside ``url``, the file that readers look for last: whoever finds it finds all."""
    if not force:
        refuse_existing(url)
    files = sorted((file for file in folder.rglob("*") if file.is_file()), key=lambda file: (not _data(file), file.name))
    with telling(url):
        fs, path = opened(url)
        parent = path.rstrip("/").rpartition("/")[0]
        for file in files:
            target = f"{parent}/{file.relative_to(folder).as_posix()}"
            with suppress(NotImplementedError, OSError):  # HTTP has no folders, and not everybody may make a bucket
                fs.makedirs(target.rpartition("/")[0], exist_ok=True)
            try:
                fs.put_file(str(file), target)
            except NotImplementedError:
                raise UsageError(
                    f"`{url}` cannot be written: there one can only read", hints=["name a bucket or a file"]
                ) from None


def _data(file: Path) -> bool:
    """Whether others point at ``file``: a shard, of which the index tells, or a configuration beside weights."""
    return ".data-" in file.name or file.name == "config.json" or os.path.splitext(file.name)[1] in (".md",)  # noqa: PTH122
