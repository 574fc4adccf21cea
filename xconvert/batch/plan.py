"""What becomes of each source: patterns are resolved, outputs named, and everything that cannot be is told before any work."""

from __future__ import annotations

import glob
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from xconvert.batch import Entry, Job
from xconvert.conversion import stem
from xconvert.errors import UsageError, XconvertError
from xconvert.mappings import library
from xconvert.provenance import files_of
from xconvert.remote import is_url, name_of, split
from xconvert.tuples import NamedTuple

_SHARD = re.compile(r"\.data-\d{5}-of-\d{5}$|(^|/)\.xconvert-")


class Plan(NamedTuple):
    """``jobs`` in their order, everything wrong in ``problems``, the bytes of each source where they are known, and the addresses
    that did not answer, with why.
    """

    jobs: tuple[Job, ...]
    problems: tuple[str, ...]
    sizes: Mapping[str, int | None]
    unreachable: Mapping[str, str]


def plan(entries: Sequence[Entry], folder: str, mappings: Sequence[Path] = ()) -> Plan:
    """What ``entries`` mean for outputs in ``folder`` (or under a URL). In another order they give the same jobs,
    which are sorted by output.
    """
    problems: list[str] = []
    jobs: list[Job] = []
    suffixes = _Suffixes(mappings)
    for entry in entries:
        sources, found = _sources(entry)
        problems += found
        problems += [f"{entry.where}: {told}" for to in entry.to if (told := suffixes.problem(to))]
        if not found:
            jobs += [_job(entry, source, to, suffixes) for source in sources for to in entry.to if not suffixes.problem(to)]
    jobs = sorted(_distinct(jobs), key=lambda job: (job.output, job.source))
    problems += _clashes(jobs, folder)
    sizes, missing, unreachable = _sizes(list(dict.fromkeys(job.source for job in jobs)))
    return Plan(tuple(jobs), tuple(dict.fromkeys([*problems, *missing])), sizes, unreachable)


def _sources(entry: Entry) -> tuple[list[str], list[str]]:
    found: list[str] = []
    problems: list[str] = []
    for source in entry.sources:
        try:
            matched = _matched(source)
        except XconvertError as error:  # a pattern in a store that does not answer
            problems.append(f"{entry.where}: {error.message}")
            continue
        if not matched:
            problems.append(f"{entry.where}: nothing is called `{source}`")
        found += matched
    found = list(dict.fromkeys(found))
    for name in ("sha256", "name"):
        if getattr(entry, name) and len(found) > 1:
            problems.append(f"{entry.where}: `{name}` is given, but {len(found)} sources")
    if entry.output and len(found) > 1 and "{name}" not in entry.output:
        problems.append(
            f"{entry.where}: `{entry.output}` is one output, but there are {len(found)} sources; say `{{name}}` in it"
        )
    if entry.output and len(entry.to) > 1 and "{to}" not in entry.output:
        problems.append(
            f"{entry.where}: `{entry.output}` is one output, but there are {len(entry.to)} targets; say `{{to}}` in it"
        )
    return found, problems


def _matched(source: str) -> list[str]:
    """The files or URLs that ``source`` means; a name that is there means itself, whatever characters it has."""
    if is_url(source):
        if not glob.has_magic(split(source)[0].partition("?")[0]):
            return [source]
        from xconvert.remote.store import matching

        return matching(source)
    path = Path(source)
    try:
        if path.exists() or path.with_name(f"{path.name}.index").exists():
            return [str(path)]
        return sorted(
            match
            for match in glob.glob(source, recursive=True)  # noqa: PTH207  (of any folder)
            if not _SHARD.search(match)
        )
    except (OSError, ValueError):  # a name that cannot be
        return []


class _Suffixes:
    """What files for a target are called, by the target's name."""

    def __init__(self, mappings: Sequence[Path]) -> None:
        self._known = library(*mappings)

    def of(self, to: str) -> str:
        dialect = self._known.dialects.get(to)
        if dialect is None or not dialect.suffix:
            implementation = self._known.named(to)[0]
            dialect = self._known.framework(self._known.dialects[implementation.dialect].family)
        if not dialect.suffix:
            raise UsageError(f"`{to}` is only read")
        return dialect.suffix

    def problem(self, to: str) -> str:
        try:
            self.of(to)
        except UsageError as error:
            return "; ".join([error.message, *error.facts])
        return ""


def _job(entry: Entry, source: str, to: str, suffixes: _Suffixes) -> Job:
    name = entry.name or stem(name_of(source).name) or "checkpoint"
    suffix = "" if entry.options.get("layout") else suffixes.of(to)
    output = entry.output or "{to}/{name}{suffix}"
    for placeholder, value in (("{to}", to), ("{suffix}", suffix), ("{name}", name)):
        output = output.replace(placeholder, value)
    return Job(name, source, to, str(PurePosixPath(output)), entry.sha256, entry.licence, entry.options)


def _distinct(jobs: Sequence[Job]) -> list[Job]:
    """``jobs`` once each; where several sources share an output that goes by the names of their files, they keep the suffixes."""
    once: dict[str, Job] = {repr(job): job for job in jobs}
    sharing: dict[str, set[str]] = defaultdict(set)
    for job in once.values():
        sharing[job.output].add(job.source)
    return [_with_suffix(job) if len(sharing[job.output]) > 1 else job for job in once.values()]


def _with_suffix(job: Job) -> Job:
    name, file, output = PurePosixPath(job.name), name_of(job.source).name, PurePosixPath(job.output)
    if stem(file) != name.name or not output.name.startswith(name.name):  # somebody chose these names
        return job
    rest = output.name.removeprefix(name.name)
    return job._replace(name=str(name.with_name(file)), output=str(output.with_name(file + rest)))


def _clashes(jobs: Sequence[Job], folder: str) -> Iterator[str]:
    """Outputs that several sources have, that lie elsewhere, or are sources themselves."""
    for output, count in Counter(job.output for job in jobs).items():
        if count > 1:
            sources = ", ".join(f"`{job.source}`" for job in jobs if job.output == output)
            yield f"`{output}` would be the output of {count} conversions: of {sources}"
        parts = PurePosixPath(output).parts
        if output.startswith("/") or ".." in parts or re.search(r"[\\\x00-\x1f\x7f{}]|^\w+:", output) or not output.strip("."):
            yield f"`{output}` is no name in the folder of outputs"
        if parts and (parts[0].startswith(".xconvert") or parts[0] == "reports"):
            yield f"`{output}` would lie where the batch keeps what it did"
    if is_url(folder):
        return
    there = {file.resolve() for job in jobs if not is_url(job.source) for file in _files(job.source)}
    for job in jobs:
        if Path(folder, job.output).resolve() in there:
            yield f"`{Path(folder, job.output)}` is a source"


def _files(source: str) -> tuple[Path, ...]:
    try:
        return files_of(Path(source))
    except (XconvertError, OSError):
        return ()


def _sizes(sources: Sequence[str]) -> tuple[dict[str, int | None], list[str], dict[str, str]]:
    """The bytes of each source; what is wrong with those that are not there; and those that do not answer, with why."""
    from xconvert.remote import cache, store

    sizes: dict[str, int | None] = {s: sum(f.stat().st_size for f in _files(s) if f.is_file()) for s in sources if not is_url(s)}
    urls = [source for source in sources if is_url(source)]
    missing, unreachable = [], {}

    def ask(url: str) -> Any:
        try:
            return cache.size_of(url) if cache.has(url) else store.size_of(url)
        except XconvertError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        for url, answer in zip(urls, pool.map(ask, urls), strict=True):
            if isinstance(answer, store.UnreachableError):
                unreachable[url] = "; ".join(answer.facts) or answer.message
            elif isinstance(answer, XconvertError):
                missing.append(answer.message + "".join(f"; {hint}" for hint in answer.hints if "pip" in hint))
            sizes[url] = answer if isinstance(answer, int) else None
    return sizes, missing, unreachable


def explicit(jobs: Sequence[Job]) -> list[Entry]:
    """Entries that mean ``jobs`` and nothing else: their plan is the same plan."""
    return [
        Entry(job.output, (job.source,), (job.to,), job.name, job.output, job.sha256, job.licence, job.options) for job in jobs
    ]
