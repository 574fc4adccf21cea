"""Reads ``mappings/**/*.toml`` and checks them: complete, one-to-one, every attribute stated; all problems at
once.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from xconvert import axes
from xconvert.architectures import families
from xconvert.attributes import parse as parse_attribute
from xconvert.errors import MappingError, UsageError, XconvertError
from xconvert.implementation import PLACEHOLDER, Dialect, Implementation, Library, Rule, problems
from xconvert.model import PARAMETERS, Family


def folder() -> Path:
    """Where the shipped mappings are: beside the package in a checkout, inside it when installed from a wheel."""
    installed = Path(__file__).parent / "mappings"
    return installed if installed.is_dir() else Path(__file__).parents[1] / "mappings"


@cache
def library(*extra: Path) -> Library:
    """The shipped mappings, those of entry points in the group ``xconvert.mappings``, and those in the folders
    ``extra``.

    Raises ``MappingError`` with every problem of the first file that has any.
    """
    strangers = [Path(str(entry.load())) for entry in entry_points(group="xconvert.mappings")]
    folders = [folder(), *strangers, *extra]
    dialects: dict[str, Dialect] = {}
    for path in (f / "dialects.toml" for f in folders):
        if path.is_file():
            dialects |= {name: _dialect(path, name, table) for name, table in _toml(path).items()}
    paths = [p for f in folders for p in sorted(f.glob("**/*.toml")) if p.name != "dialects.toml"]
    for path in extra:
        if not path.is_dir():
            raise UsageError(f"`{path}` is no folder of mapping files")
    loaded = [load(path, dialects) for path in paths]
    favourites = [name for dialect in dialects.values() for name in dialect.default]
    return Library(dialects, tuple(sorted(loaded, key=lambda i: i.name not in favourites)))  # stable: the folder's order


def load(path: Path, dialects: Mapping[str, Dialect]) -> Implementation:
    """Read and check one mapping file; raises ``MappingError`` that lists all of its problems at once."""
    table = _toml(path)
    found = list(_key_problems(table, dialects))
    if found:
        raise _wrong(path, found)
    family = families()[table["architecture"]]
    attributes: dict[str, Any] = {}
    found += _read_attributes(table.get("attributes", {}), family, attributes)
    found += _preprocessing_problems(table.get("preprocessing", {}))
    implementation = Implementation(
        path.name.removesuffix(".toml"),
        family,
        table["dialect"],
        table["describes"],
        attributes,
        table.get("preprocessing", {}),
        tuple(
            Rule(ours, (theirs,) if isinstance(theirs, str) else tuple(theirs)) for ours, theirs in _lines(path, table).items()
        ),
    )
    found += _placeholder_problems(implementation)
    found = found or problems(implementation, dialects[table["dialect"]])
    if found:
        raise _wrong(path, found)
    return implementation


def _lines(path: Path, table: Mapping[str, Any]) -> dict[str, Any]:
    """The lines of the file, before those of the mapping that ``names_of`` asks for."""
    own = dict(table.get("layers", {}))
    if "names_of" not in table:
        return own
    name = f"{table['names_of']}.toml"
    for place in (path.parent, folder() / table["architecture"]):
        if (place / name).is_file():
            parent = _toml(place / name)
            return own | {ours: theirs for ours, theirs in _lines(place / name, parent).items() if ours not in own}
    raise _wrong(path, [f"`names_of` asks for `{name}`, which is not beside this file"])


def _key_problems(table: Mapping[str, Any], dialects: Mapping[str, Dialect]) -> Iterator[str]:
    known = {"architecture", "dialect", "describes", "names_of", "attributes", "preprocessing", "layers"}
    yield from (f"`{key}` is no key of a mapping file" for key in table.keys() - known)
    yield from (f"`{key}` is missing" for key in ("architecture", "dialect", "describes", "attributes") if key not in table)
    for key, choices in (("architecture", families()), ("dialect", dialects)):
        if key in table and table[key] not in choices:
            yield f"{key} `{table[key]}` is unknown: it is one of {', '.join(choices)}"
    for ours, theirs in table.get("layers", {}).items():
        names = theirs if isinstance(theirs, list) else [theirs]
        if not names or not all(isinstance(name, str) for name in names):
            yield f"line `{ours}` must give a name or a list of names"


def _read_attributes(table: Mapping[str, Any], family: Family, into: dict[str, Any]) -> Iterator[str]:
    yield from (f"attribute `{name}` is missing" for name in family.attributes if name not in table)
    for name, value in table.items():
        if name not in family.attributes:
            yield f"attribute `{name}` is none of {family.name}'s: {', '.join(family.attributes)}"
            continue
        try:
            into[name] = parse_attribute(name, value)
        except XconvertError as error:
            yield f"{error.message}: {error.facts[0]}"


PREPROCESSING = {"size": int, "resize": int, "interpolation": str, "mean": list, "std": list, "channels": str}


def _preprocessing_problems(table: Mapping[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if name not in PREPROCESSING:
            yield f"preprocessing `{name}` is none of {', '.join(PREPROCESSING)}"
        elif not isinstance(value, PREPROCESSING[name]):
            yield f"preprocessing `{name}` is {value!r}, expected {PREPROCESSING[name].__name__}"


def _placeholder_problems(implementation: Implementation) -> Iterator[str]:
    constants = implementation.family.constants(0)
    for rule in implementation.rules:
        bound = {m[2] for m in PLACEHOLDER.finditer(rule.ours) if not (m[1] or m[3])} | constants.keys()
        for text in (rule.ours, *rule.theirs):
            if "{" in PLACEHOLDER.sub("", text) or "}" in PLACEHOLDER.sub("", text):
                yield f"`{text}`: a placeholder is {{i}}, {{i+1}}, {{3*i-2}}, and nothing else"
            for match in PLACEHOLDER.finditer(text):
                if match[2] not in bound:
                    yield f"`{text}`: `{match[2]}` is not bound on the left, where it must stand alone as {{{match[2]}}}"


def _dialect(path: Path, name: str, table: Mapping[str, Any]) -> Dialect:
    options = {key: value for key, value in table.items() if key not in PARAMETERS}
    spellings = {op: {p: tuple(words) for p, words in table[op].items()} for op in PARAMETERS if op in table}
    found = [f"[{name}] `{key}` is no option of a dialect" for key in options.keys() - Dialect.__dataclass_fields__.keys()]
    for op, parameters in PARAMETERS.items():
        if spellings.get(op, {}).keys() != parameters.keys():
            found.append(f"[{name}] `{op}` must spell exactly {', '.join(parameters)}")
        for parameter, (_, *patterns) in spellings.get(op, {}).items():
            found += _axes_problems(f"[{name}] {op}.{parameter}", patterns, parameters.get(parameter, ""))
    if found:
        raise _wrong(path, found)
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return Dialect(name=name, spellings=spellings, **{"family": name, **options})


def _axes_problems(where: str, patterns: list[str], canonical: str) -> Iterator[str]:
    for pattern in patterns:
        try:
            theirs, ours = {*axes.parse(pattern)} - {"1"}, {*axes.parse(canonical)}
        except ValueError as error:
            yield f"{where}: {error}"
            continue
        if pattern_missing := (ours - theirs) - {"H", "W"}:
            yield f"{where}: `{pattern}` lacks the axes {', '.join(sorted(pattern_missing))}"


def _toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MappingError(f"`{path}` cannot be opened: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MappingError(f"`{path}` is not TOML", facts=[str(error)]) from None


def _wrong(path: Path, found: list[str]) -> MappingError:
    count = "one problem" if len(found) == 1 else f"{len(found)} problems"
    return MappingError(f"`{path}` has {count}", facts=found)
