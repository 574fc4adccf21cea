"""Manifests: TOML with ``[defaults]`` and an ``[[entry]]`` for each source, or the same made of a folder or of the catalogue.

Everything wrong with one is told at once.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xconvert import formats
from xconvert.attributes import DEFINITIONS, parse
from xconvert.batch import Entry
from xconvert.catalog import Released
from xconvert.conversion import stem
from xconvert.errors import UnreadableError, UsageError, XconvertError
from xconvert.formats._limits import parse_memory
from xconvert.formats._maps import mapped
from xconvert.preprocessing import FLAG, TABLE, TEXT, Kind, list_of, mistakes
from xconvert.provenance import SHA256, files_of
from xconvert.remote import is_url

MOST = 16 << 20  # bytes of a manifest; a thousand entries have 100 KB


def _words(value: Any) -> bool:
    return TEXT.fits(value) or (isinstance(value, list) and len(value) > 0 and all(map(TEXT.fits, value)))


WORDS = Kind("text, or a list of texts", _words)
_SHARED: Mapping[str, Kind] = {
    "to": WORDS,
    "accept": WORDS,
    "set": TABLE,
    "from": TEXT,
    "key": TEXT,
    "ema": FLAG,
    "ignore": WORDS,
    "layout": TEXT,
    "verify_with": WORDS,
    "max_memory": TEXT,
    "licence": TEXT,
    "output": TEXT,
}
# What takes a class away or adds one is said of each network by itself: all others of a zoo would lose one, too.
_OWN: Mapping[str, Kind] = {"drop_background": FLAG, "add_background": FLAG}
_ENTRY: Mapping[str, Kind] = {"source": WORDS, "name": TEXT, "sha256": SHA256, **_OWN, **_SHARED}
_TOP: Mapping[str, Kind] = {
    "defaults": TABLE,
    "entry": list_of(TABLE, 1),
}
_LISTS = ("accept", "ignore", "verify_with")


def read(path: Path, defaults: Mapping[str, Any]) -> tuple[list[Entry], list[str]]:
    """The entries of the manifest ``path``, and everything that is wrong with it; ``defaults`` overrule those that it has.

    Raises ``UnreadableError`` for what is no TOML.
    """
    table = _toml(path)
    problems = list(mistakes(table, _TOP, required=("entry",)))
    own = table.get("defaults", {})
    problems += mistakes(own, _SHARED, "defaults: ") if isinstance(own, dict) else []
    if problems:
        tables = table.get("entry", [])
        problems += [
            told for i, entry in enumerate(tables if isinstance(tables, list) else [], 1) for told in _problems(entry, i)
        ]
        return [], problems
    made = [_entry(i, entry, {**own, **defaults}, path.parent) for i, entry in enumerate(table["entry"], 1)]
    return [entry for entry, _ in made if entry], [problem for _, found in made for problem in found]


def _toml(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST:
            raise UnreadableError(f"`{path}` is no manifest: it has more than {MOST >> 20} MiB")
        return tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise UnreadableError(f"`{path}` does not exist") from None
    except OSError as error:
        raise UnreadableError(f"`{path}` cannot be opened: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        hint = "a manifest is TOML; a checkpoint is converted with `xconvert convert`, a folder of them with `--to`"
        raise UnreadableError(f"`{path}` is no manifest: {str(error)[:200]}", hints=[hint]) from None


def _problems(entry: Any, number: int) -> list[str]:
    where = f"entry {number}: "
    if not isinstance(entry, dict):
        return [f"{where}it is no table"]
    found = list(mistakes(entry, _ENTRY, where, required=("source",)))
    return found + [where + told for told in _option_problems(entry)]


def _entry(number: int, table: Mapping[str, Any], defaults: Mapping[str, Any], base: Path) -> tuple[Entry | None, list[str]]:
    found = _problems(table, number)
    told = {**defaults, **table}
    if "set" in defaults and "set" in table and not found:
        told["set"] = {**defaults["set"], **table["set"]}
    if "to" not in told:
        found.append(f"entry {number}: `to` is missing, here and in the defaults")
    if told.get("drop_background") and told.get("add_background"):
        found.append(f"entry {number}: a background class is dropped or added, not both")
    if not found:
        found += [f"entry {number}: {problem}" for problem in _option_problems(told)]
    return (None, list(dict.fromkeys(found))) if found else (_made(f"entry {number}", told, base), [])


def _made(where: str, told: Mapping[str, Any], base: Path) -> Entry:
    sources = tuple(source if is_url(source) else str(base / source) for source in _list(told["source"]))
    texts = {name: told.get(name, "") for name in ("name", "output", "sha256", "licence")}
    return Entry(where, sources, _list(told["to"]), **texts, options=options(told))


def options(told: Mapping[str, Any]) -> dict[str, Any]:
    """The options of ``convert`` that a checked table asks for, in JSON types, without those that it leaves as they are."""
    made: dict[str, Any] = {name: list(_list(told[name])) for name in _LISTS if name in told}
    made |= {name: told[name] for name in ("key", "ema", "layout") if name in told}
    if told.get("drop_background") or told.get("add_background"):
        made["background"] = "drop" if told.get("drop_background") else "add"
    if "from" in told:
        made["implementation"] = told["from"]
    if told.get("set"):
        made["settings"] = {name: parse(name, value) for name, value in sorted(told["set"].items())}
    if "max_memory" in told:
        made["max_memory"] = parse_memory(told["max_memory"])
    return made


def _option_problems(told: Mapping[str, Any]) -> Iterator[str]:
    """What no kind of value tells: attributes, backends and sizes that do not exist."""
    from xconvert.backends import find

    for name in _list(told.get("accept", ())):
        if name not in DEFINITIONS:
            yield f"no attribute is called `{name}`"
    for check, values in ((find, _list(told.get("verify_with", ()))), (parse_memory, _list(told.get("max_memory", ())))):
        for value in values:
            try:
                check(value)
            except XconvertError as error:
                yield error.message
    for name, value in (told["set"] if isinstance(told.get("set"), dict) else {}).items():
        try:
            parse(name, value)
        except XconvertError as error:
            yield error.message


def _list(value: Any) -> tuple[str, ...]:
    found = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else ()
    return tuple(text for text in found if isinstance(text, str))


def of_folder(folder: Path, told: Mapping[str, Any], without: Collection[Path] = ()) -> tuple[list[Entry], int]:
    """An entry for each checkpoint in ``folder`` and the folders in it, recognised by content, and how many other files there
    are. Those in the folders ``without`` are left out, and what is hidden.
    """
    entries: list[Entry] = []
    belonging, files = set[Path](), set[Path]()
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(place, name).resolve() not in without)
        files |= {Path(place, name) for name in names if not name.startswith(".")}
        found = [Path(place, name) for name in sorted(names) if not name.startswith(".") and _is_checkpoint(Path(place, name))]
        for file in found:
            whole = file.name == "model.safetensors" and "config.json" in names and file.parent != folder
            source = file.parent if whole else file.with_name(file.name.removesuffix(".index"))  # a folder of the Hub; a prefix
            inner = source.parent.relative_to(folder)
            named = (inner / stem(source.name)).as_posix() if inner.parts else ""
            entries.append(_made(str(source), {**told, "source": str(source), "name": named}, Path()))
            belonging |= set(files_of(source))
    return entries, len(files - belonging)


def _is_checkpoint(path: Path) -> bool:
    try:
        if not path.is_file() or path.stat().st_size == 0:
            return False
        data = mapped(path)
        return any(candidate.matches(data) for candidate in formats.formats().values())
    except (XconvertError, OSError):
        return False


def of_catalog(files: Sequence[Released], told: Mapping[str, Any]) -> tuple[list[Entry], list[str]]:
    """An entry for each of ``files``, and what is wrong with those that no program can fetch."""
    problems = [
        f"`{file.name}` is {file.by_hand}" if file.url else f"`{file.name}` lies {file.by_hand}" for file in files if file.by_hand
    ]
    made = []
    for file in files:
        if not file.by_hand:
            table = {"licence": file.licence, **told, "source": _answering(file), "name": file.name, "from": file.implementation}
            made.append(_made(file.name, table, Path()))
    return made, problems


def _answering(file: Released) -> str:
    """The first of the addresses of ``file`` that answers; the first of all where none does."""
    from xconvert.remote.store import size_of

    for address in file.addresses if file.mirrors else ():
        try:
            size_of(address)
        except XconvertError:
            continue
        return address
    return file.addresses[0]


def checked(told: Mapping[str, Any]) -> Mapping[str, Any]:
    """Options of the command line as the table of defaults that they are; raises ``UsageError`` for what cannot be."""
    if found := [*mistakes(told, _SHARED), *_option_problems(told)]:
        raise UsageError(found[0])
    return told
