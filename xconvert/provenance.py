"""Where a file comes from: the record that xconvert writes into each, the fingerprint of files, and the digest of tensors.

The record is JSON text and has no paths and no dates, so the same input gives the same bytes:

- ``version`` of xconvert, ``implementation`` whose names the file has, ``published`` name, ``attributes``, ``preprocessing``;
- ``mapping``: ``name``, and ``sha256`` of the mapping file, followed by those that it takes names of;
- ``source``: ``sha256`` of the file that was converted, as ``fingerprint`` gives it, its ``format`` and ``implementation``;
- ``changes``: ``attribute``, ``source``, ``target`` and ``action`` of all that was folded, accepted, dropped, added or made new;
- ``omitted``: what the user asked to leave out;
- ``content``: the digest of the tensors as they were written, so that a change can be seen in formats without checksums.

The source is hashed, and the digest taken, while the tensors are written: until then ``PENDING`` stands for both.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from xconvert import __version__, formats
from xconvert.attributes import parse as parse_attribute
from xconvert.errors import UnreadableError, XconvertError
from xconvert.formats._maps import opened
from xconvert.implementation import Implementation
from xconvert.model import Checkpoint, Model
from xconvert.preprocessing import TABLE, TEXT, Kind, list_of, matching, mistakes, preprocessing_problems
from xconvert.sealing import PENDING, Digest, Sealed, changed_since, meanwhile

_BESIDE = {  # what else belongs to a checkpoint, by the end of the name of the file that is mapped
    ".index": ("{stem}.data-*",),
    ".pdiparams": ("{stem}.json", "{stem}.pdmodel", "{stem}.pdiparams.info"),
}
_IN_FOLDERS = {  # the same in a folder that was written for a zoo
    "model.safetensors": ("config.json",),
    "model.weights.h5": ("config.json", "metadata.json", "task.json", "preprocessor.json", "image_converter.json"),
}
_ROOM = 1 << 20  # bytes of a file that are hashed at a time
_MAX_RECORD = 1 << 20  # characters; ours have a thousand

SHA256 = matching("[0-9a-f]{64}", "a sha256 in hexadecimal digits")
WORDS = matching(".{1,1000}", "short text without control characters")


def _plain(value: Any) -> bool:
    """Whether a value can be an attribute's: true or false, a short text, or a number that JSON can write again."""
    return isinstance(value, bool) or WORDS.fits(value) or (type(value) in (int, float) and -1e300 < value < 1e300)


VALUE = Kind("a short text, a number, true or false", _plain)
_SOURCE = {"sha256": SHA256, "format": WORDS, "implementation": WORDS}
_MAPPING = {"name": WORDS, "sha256": SHA256}
_CHANGE = {"attribute": WORDS, "source": VALUE, "target": VALUE, "action": WORDS}
_FIELDS = {
    "version": TEXT,
    "published": WORDS,
    "mapping": TABLE,
    "source": TABLE,
    "changes": list_of(TABLE, most=1000),
    "omitted": list_of(WORDS, most=1000),
    "content": SHA256,
}


def record_of(model: Model, implementation: Implementation, hashed: bool = True) -> str:
    """What no tensor shows, as the JSON text that travels with a file of ``model`` under the names of ``implementation``;
    without the ``changes`` and the ``content``, which ``sealed`` adds, and without the sha256 of the source, which it adds too,
    unless that is to be ``hashed`` now.
    """
    published = implementation.model(model.depth)
    record = {
        "version": __version__,
        "implementation": implementation.name,
        **({"published": published.name} if published else {}),
        "attributes": model.values,
        "preprocessing": dict(model.preprocessing),
    }
    if implementation.sha256:
        record["mapping"] = _texts({"name": implementation.name, "sha256": implementation.sha256})
    if origin := model.origin:
        told = {"format": origin.checkpoint.format, "implementation": model.implementation}
        record["source"] = _texts({"sha256": origin.sha256() if hashed else PENDING, **told})
    if omitted := [name.strip("`") for name in model.omitted if WORDS.fits(name)]:
        record["omitted"] = omitted
    return json.dumps(record)


def _texts(told: Mapping[str, str]) -> dict[str, str]:
    """What of ``told`` may stand in a record; a mapping file can have any name."""
    return {name: text for name, text in told.items() if WORDS.fits(text)}


def sealed(checkpoint: Checkpoint, changes: Sequence[Mapping[str, Any]], fingerprint: Callable[[], str]) -> Checkpoint:
    """``checkpoint``, about to be written, with the ``changes`` (``attribute``, ``source``, ``target``, ``action``) in its
    record, and as soon as the last of its tensors was written their digest and the ``fingerprint`` of the source, which is taken
    meanwhile.
    """
    record = json.loads(checkpoint.metadata["xconvert"])
    record |= {"changes": [{key: change[key] for key in _CHANGE} for change in changes], "content": PENDING}
    digest = Digest(checkpoint.tensors)
    told = {name: tensor._replace(told=partial(digest.add, name)) for name, tensor in checkpoint.tensors.items()}
    metadata = Sealed(checkpoint.metadata, record, digest, meanwhile(fingerprint))
    return checkpoint._replace(tensors=told, metadata=metadata)


def read_record(checkpoint: Checkpoint, where: str) -> dict[str, Any]:
    """Our record in a file that xconvert wrote, checked, without fields that this version does not know; empty for other
    files. Raises ``UnreadableError`` when damaged.
    """
    text = checkpoint.metadata.get("xconvert")
    if text is None:
        return {}
    try:
        if len(text) > _MAX_RECORD:
            raise ValueError
        record = json.loads(text)
        attributes = {name: parse_attribute(name, value) for name, value in record["attributes"].items()}
        if preprocessing_problems(record["preprocessing"]) or not isinstance(record["implementation"], str):
            raise TypeError
        known = {name: value for name, value in record.items() if name in _FIELDS}
        if any(_problems(known)):
            raise TypeError
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, XconvertError):
        raise UnreadableError(f"xconvert's own record in `{where}` is damaged", facts=[repr(text[:200])]) from None
    kept = {"implementation": record["implementation"], "attributes": attributes, "preprocessing": record["preprocessing"]}
    return {**kept, **known}


def _problems(known: Mapping[str, Any]) -> list[str]:
    found = list(mistakes(known, _FIELDS))
    if not found:
        tables: list[tuple[Mapping[str, Any], Mapping[str, Kind], Collection[str]]] = [
            (known[name], kinds, ("sha256",)) for name, kinds in (("mapping", _MAPPING), ("source", _SOURCE)) if name in known
        ]
        tables += [(change, _CHANGE, _CHANGE) for change in known.get("changes", ())]
        found = [problem for table, kinds, needed in tables for problem in mistakes(table, kinds, required=needed)]
    return found


def files_of(path: Path) -> tuple[Path, ...]:
    """The files of the checkpoint that is read for ``path``, sorted by name: the one that is mapped; the shards of a TensorFlow
    checkpoint; the program beside Paddle's ``.pdiparams``; and of a folder for a zoo the configurations in it.
    """
    found = formats.locate(path)
    patterns = [pattern.format(stem=_literal(found.stem)) for pattern in _BESIDE.get(found.suffix, ())]
    patterns += ["task.weights.h5"] if found.name == "model.weights.h5" else []
    patterns += _IN_FOLDERS.get(found.name, ()) if path.is_dir() else ()
    beside = {other for pattern in patterns for other in found.parent.glob(pattern) if other.is_file()}
    return tuple(sorted({found, *beside}, key=lambda file: file.name))


def _literal(name: str) -> str:
    """``name`` as a pattern of ``Path.glob`` that only it fits."""
    return "".join(f"[{character}]" if character in "*?[" else character for character in name)


def fingerprint(path: str | Path, algorithm: str = "sha256") -> str:
    """The sha256, or another digest, of the checkpoint ``path``: of its bytes, or of ``files_of`` one after another in the order
    of their names, as ``cat FILES | sha256sum`` gives it. Raises ``UnreadableError`` for what cannot be read.
    """
    import hashlib

    digest = hashlib.new(algorithm, usedforsecurity=False)
    for file in files_of(Path(path)):
        with opened(file) as source:  # read, not mapped: mapped pages count as this process's memory
            room = memoryview(bytearray(_ROOM))
            while size := source.readinto(room):  # type: ignore[attr-defined]
                digest.update(room[:size])
    return digest.hexdigest()


def remarks(*models: Model) -> list[str]:
    """A clause for each of ``models`` whose file has changed since xconvert wrote it, and for each that was made from a file of
    the kind of another one, but not from that, or before it changed.
    """
    origins = [(model.origin, model.implementation) for model in models if model.origin]
    told = [f"`{o.path}` has changed since xconvert wrote it" for o, _ in origins if changed_since(o.checkpoint, o.record)]
    for made, _ in origins:
        source = made.record.get("source", {})
        for origin, names in origins:
            same_kind = (source.get("format"), source.get("implementation")) == (origin.checkpoint.format, names)
            if origin is not made and same_kind and source["sha256"] != origin.sha256():
                told.append(f"`{made.path}` was not made from `{origin.path}` as it is now")
    return told


class Later(Mapping[str, Any]):
    """What ``describe`` tells, as soon as somebody looks at it: it reads every byte of the files, and few look."""

    def __init__(self, described: Callable[[], Mapping[str, Any]]) -> None:
        self._told = cache(described)

    def __getitem__(self, name: str) -> Any:
        return self._told()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._told())

    def __len__(self) -> int:
        return len(self._told())


def describe(
    a: Model, b: Model | str | Path | None = None, *, backends: Sequence[str] = (), probe: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Which files were compared by which programs, in JSON types.

    ``source`` and ``target``, for a side that is a file or was read from one: the name of the ``file``, ``sha256``, size in
    ``bytes``, and xconvert's ``record`` in it, if it has one. ``versions`` of NumPy and of the packages of ``backends``; of one
    that runs in another Python, that Python's, under ``"<package> (<backend>)"``. ``probe`` is taken as it is.
    """
    import platform
    import sys
    from importlib import metadata

    from xconvert.backends import find, python_of

    versions = {"numpy": metadata.version("numpy")}
    for backend in backends:
        python, requires = python_of(backend), find(backend).requires
        there = _elsewhere(python, requires, backend) if python != sys.executable else _versions(requires)
        versions |= there
    told: dict[str, Any] = {"xconvert": __version__, "python": platform.python_version(), "versions": versions}
    told |= {"source": _side(a), "target": _side(b), "probe": dict(probe or {})}
    return {name: value for name, value in told.items() if value}


def _side(side: Model | str | Path | None) -> dict[str, Any]:
    """The file of one side; empty for a model that was made in memory."""
    origin = side.origin if isinstance(side, Model) else None
    path = origin.path if origin else None if isinstance(side, Model) else side
    if path is None:
        return {}
    sha256 = origin.sha256() if origin else fingerprint(path)
    place = Path(origin.place or path) if origin else Path(path)
    told = {"file": str(path), "sha256": sha256, "bytes": sum(file.stat().st_size for file in files_of(place))}
    return {**told, **({"record": dict(origin.record)} if origin and origin.record else {})}


def _versions(modules: Sequence[str]) -> dict[str, str]:
    """The versions of installed ``modules``, by their names; of those that no package says it brings, none."""
    from importlib import metadata

    found = {}
    for module in modules:
        try:
            found[module] = metadata.version(module)
        except metadata.PackageNotFoundError:  # TensorFlow is brought by `tensorflow-cpu`
            if packages := metadata.packages_distributions().get(module):
                found[module] = metadata.version(packages[0])
    return found


_ASK = """
import json, platform, sys
from importlib import metadata
brought = metadata.packages_distributions()
found = {m: metadata.version(brought[m][0]) for m in ("numpy", *sys.argv[1:]) if m in brought}
print(json.dumps({"python": platform.python_version(), **found}))
"""


def _elsewhere(python: str, modules: Sequence[str], backend: str) -> dict[str, str]:
    """``_versions`` in another Python, which need not have xconvert, and its own; empty where it does not answer."""
    import subprocess

    command = [python, "-P", "-c", _ASK, *modules]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)  # noqa: S603
        found = json.loads(done.stdout)
        return {f"{name} ({backend})": str(version) for name, version in found.items()}
    except (OSError, ValueError, AttributeError, subprocess.SubprocessError):
        return {}
