"""What a batch remembers: a record for each conversion, in ``.xconvert-batch/`` of its folder, and a page in ``reports/``.

A record is written before its conversion starts, and again when that ended, each time in one step: so whatever kills the batch,
what was finished is known, and what lies half-way in the folder is known to be its own. Finished is what has a record with the
same content of the source, options, target and version of xconvert, and whose output is still what was written.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xconvert import __version__
from xconvert.batch import Job
from xconvert.errors import UsageError, XconvertError
from xconvert.outputs import replaced
from xconvert.provenance import fingerprint
from xconvert.remote import cache, fetched, is_url, store

try:
    import fcntl
except ImportError:  # Windows: two batches in one folder are not kept apart
    fcntl = None  # type: ignore[assignment]


class State:
    """The records of the batch whose outputs go to ``folder``, which may be a URL: then they lie in the user's cache."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        home = cache.folder() / "batch" / hashlib.sha256(folder.encode()).hexdigest()[:32] if is_url(folder) else Path(folder)
        self.records, self.pages = home / ".xconvert-batch", home / "reports"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """While no other batch works in this folder; raises ``UsageError`` where one does."""
        try:
            self.records.mkdir(parents=True, exist_ok=True)
            lock = (self.records / "lock").open("w")
        except OSError as error:
            raise UsageError(f"`{self.folder}` cannot be written: {error.strerror}") from None
        with lock:
            try:
                if fcntl:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(f"another batch works in `{self.folder}`", hints=["wait, or name another folder"]) from None
            except OSError:  # a file system without locks
                pass
            yield

    def output(self, job: Job) -> str:
        """Where the output of ``job`` goes."""
        return f"{self.folder.rstrip('/')}/{job.output}" if is_url(self.folder) else str(Path(self.folder, job.output))

    def page(self, job: Job) -> Path:
        """Where the page of ``job`` lies."""
        return self.pages / f"{job.output}.html"

    def progress(self, job: Job) -> Path:
        """Where the worker that has ``job`` writes how far it is."""
        return self.records / f"{job.output}.progress"

    def record(self, job: Job) -> dict[str, Any]:
        """What is known of ``job``; empty where nothing is, or it cannot be read."""
        with suppress(OSError, ValueError):
            told = json.loads(self._file(job).read_text("utf-8"))
            if isinstance(told, dict) and told.get("status") in ("running", "verified", "refused", "failed"):
                return told
        return {}

    def write(self, job: Job, told: Mapping[str, Any]) -> None:
        """Remember ``told`` of ``job``, in one step."""
        file = self._file(job)
        file.parent.mkdir(parents=True, exist_ok=True)
        page = told.get("page")
        if page is not None:
            self.page(job).parent.mkdir(parents=True, exist_ok=True)
            replaced(self.page(job), page.encode("utf-8", "backslashreplace"))
        kept = {name: value for name, value in told.items() if name != "page"}
        replaced(file, json.dumps(kept, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace"))

    def started(self, job: Job) -> None:
        """Remember that ``job`` is in flight: what is found at its output from now on is its own."""
        self.write(job, {"status": "running"})

    def ended(self, job: Job, answer: Mapping[str, Any]) -> None:
        """Remember what came of ``job``."""
        told = dict(answer)
        if told["status"] == "verified":
            told["key"] = key(job, told["source"]["sha256"])
            if is_url(self.folder):  # a store tells whether it still has the same, without reading it all
                told["output"] = {**told["output"], "identity": store.identity_of(self.output(job))}
        self.write(job, told)

    def exists(self, job: Job) -> bool:
        """Whether anything lies where the output of ``job`` goes."""
        output = self.output(job)
        if is_url(output):
            return store.exists(output)
        return os.path.lexists(output) or os.path.lexists(f"{output}.index")

    def owns(self, job: Job) -> bool:
        """Whether what lies at the output of ``job`` is the batch's own: it was being written, or is as it was then."""
        told = self.record(job)
        return told.get("status") == "running" or (told.get("status") == "verified" and self._unchanged(job, told))

    def _unchanged(self, job: Job, told: Mapping[str, Any]) -> bool:
        output = self.output(job)
        try:
            if is_url(output):
                return bool(told["output"]["identity"]) and store.identity_of(output) == told["output"]["identity"]
            return bool(fingerprint(output) == told["output"]["sha256"])
        except (XconvertError, OSError, KeyError, TypeError):
            return False

    def finished(self, job: Job) -> bool:
        """Whether ``job`` need not be done again."""
        told = self.record(job)
        if told.get("status") != "verified":
            return False
        try:
            with fetched(job.source) as place:
                same = told.get("key") == key(job, fingerprint(place))
        except (XconvertError, OSError):
            return False
        return same and self.page(job).is_file() and self._unchanged(job, told)

    def _file(self, job: Job) -> Path:
        return self.records / f"{job.output}.json"


def key(job: Job, sha256: str) -> str:
    """A digest of all that the output of ``job`` depends on, when its source has the content ``sha256``."""
    mappings = [file for folder in job.options.get("mappings", ()) for file in sorted(Path(folder).rglob("*.toml"))]
    contents = [hashlib.sha256(file.read_bytes()).hexdigest() for file in mappings]
    told = [__version__, sha256, job.sha256, job.to, job.output, job.options, contents]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
