"""Reads mapping files and ``dialects.toml`` and checks them: right types, complete, one-to-one, all problems at once."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from xconvert import axes
from xconvert.architectures import families
from xconvert.attributes import parse as parse_attribute
from xconvert.attributes import shown
from xconvert.errors import MappingError, UsageError, XconvertError
from xconvert.implementation import (
    OWN,
    Dialect,
    Implementation,
    Library,
    Published,
    Rule,
    own_names,
    placeholder_problems,
    problems,
)
from xconvert.model import PARAMETERS, Depth, Family
from xconvert.plugins import offered
from xconvert.preprocessing import FLAG, TABLE, TEXT, Kind, list_of, matching, mistakes, one_of, preprocessing_problems, table_of

MAPPING: Mapping[str, Kind] = {
    "architecture": TEXT,
    "dialect": TEXT,
    "describes": TEXT,
    "names_of": matching(r"[^/\\]{1,60}", "the name of another mapping"),
    "attributes": TABLE,
    "preprocessing": TABLE,
    "published": TABLE,
    "layers": TABLE,
}
KEYS = ("architecture", "dialect", "describes", "attributes")  # those that every mapping file has
BLOCKS = Kind(
    "the blocks of entry and middle flow, such as [3, 8]",
    lambda v: isinstance(v, list) and len(v) == 2 and all(type(n) is int and 0 <= n < 1000 for n in v),
)
_LARGEST = 1 << 18  # bytes of a mapping file; the largest that is shipped has 10,000
_MOST_DOTS = 100  # in a line; tomllib takes quadratic time for a key of many parts
COUNT = Kind("a whole number from 1", lambda v: type(v) is int and 0 < v < 1_000_000)
PUBLISHED: Mapping[str, Kind] = {"blocks": BLOCKS, "classes": COUNT, "attributes": TABLE, "preprocessing": TABLE}
NAMES = Kind("a name or a list of names", lambda v: v == "" or TEXT.fits(v) or list_of(TEXT, 1).fits(v))
DTYPE = matching("bool|u?int(8|16|32|64)|float(16|32|64)", "a dtype such as `int64`")
DIALECT: Mapping[str, Kind] = {  # explained at the head of `mappings/dialects.toml`
    "separator": TEXT,
    "suffix": matching(r"(\.\w+)+", "a suffix such as `.pth`"),
    "default": list_of(TEXT),
    "prefixes": list_of(TEXT),
    "ignored": table_of(TEXT),
    "added": table_of(table_of(DTYPE), PARAMETERS),
    "family": TEXT,
    "numbered": table_of(TEXT, PARAMETERS),
    "file_order": FLAG,
    "positional": FLAG,
    "apart": TEXT,
    "averaged": TEXT,
    **{operation: table_of(list_of(TEXT, 2), parameters, exactly=True) for operation, parameters in PARAMETERS.items()},
}
Tables = Mapping[Path, Mapping[str, Any]]  # what is in mapping files that were read


@cache
def folder() -> Path:
    """Where the shipped mappings are, which `make test` checks: beside the package in a checkout, in it when from a wheel."""
    package = Path(__file__).resolve().parent
    return installed if (installed := package / "mappings").is_dir() else package.parent / "mappings"


def _real(path: Path) -> Path:
    """The mapping file by which others are known to be the same."""
    return path if path.is_relative_to(folder()) else path.resolve()


@cache  # entry points are looked for among all that is installed
def _strangers() -> list[Path]:
    return [Path(str(place)) for place in offered("mappings")]


def _folders(extra: tuple[Path, ...]) -> list[Path]:
    """The shipped folder, those of entry points in the group ``xconvert.mappings``, and ``extra``."""
    for path in extra:
        if not path.is_dir():
            raise UsageError(f"`{path}` is no folder of mapping files")
    return [folder(), *_strangers(), *extra]


@cache
def library(*extra: Path) -> Library:
    """All mappings and dialects: the shipped ones, those of entry points, and those in the folders ``extra``.

    Raises ``MappingError`` with every problem of the first file that has any, and for two mappings of one architecture
    with one name.
    """
    known = dialects(*extra)
    paths = {_real(path): (path, table, place) for place in _folders(extra) for path, table in _mapping_files(place)}
    loaded: dict[tuple[str, str], tuple[Implementation, Path]] = {}
    tables = {path: table for path, table, _ in paths.values()}
    for path, _, place in paths.values():
        found = load(path, known, *extra, tables=tables, trusted=place == folder())
        if twin := loaded.get((found.family.name, found.name)):
            message = f"two mappings are called `{found.name}`"
            raise MappingError(
                message, facts=[str(twin[1]), str(path)], hints=[f"rename `{path}`: the file's name is the mapping's"]
            )
        loaded[found.family.name, found.name] = found, path
    favourites = [name for dialect in known.values() for name in dialect.default]
    inside = sorted((found for found, _ in loaded.values()), key=lambda i: i.name not in favourites)  # stable: the folder's order
    return Library(known, (*inside, *_own(known, inside)))


def _own(known: Mapping[str, Dialect], inside: Sequence[Implementation]) -> Iterator[Implementation]:
    """Our own names, for every framework and family of which no zoo is the framework's customary one."""
    covered = {(i.dialect, i.family.name, i.name) for i in inside}
    for framework in (dialect for dialect in known.values() if dialect.suffix):
        for family in families().values():
            if not any((framework.name, family.name, name) in covered for name in framework.default):
                yield own_names(framework, family)


def dialects(*extra: Path) -> dict[str, Dialect]:
    """The dialects of all folders by name, a later folder's instead of an earlier one's; raises ``MappingError`` with
    every problem of the first file that has any.
    """
    known: dict[str, Dialect] = {}
    for place in _folders(extra):
        if (path := place / "dialects.toml").is_file():
            tables = _toml(path)
            if place != folder() and (found := list(_dialect_problems(tables, known))):
                raise _wrong(path, found)
            known |= {name: _dialect(name, table) for name, table in tables.items()}
    return known


def _mapping_files(place: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The mapping files of a folder, which may lie among other files, such as a project's own TOML, and what is in them; of those
    that are shipped without their lines.
    """
    shipped = place == folder()
    for path in (p for sub in (place, *(place / name for name in families())) for p in sorted(sub.glob("*.toml"))):
        if (
            path != place / "dialects.toml"
            and path.is_file()
            and (table := _toml(path, "head" if shipped else "")).keys() & {"architecture", "dialect"}
        ):
            yield path, table


def load(
    path: Path,
    known: Mapping[str, Dialect],
    *extra: Path,
    tables: Tables | None = None,
    trusted: bool = False,
) -> Implementation:
    """Read and check one mapping file; raises ``MappingError`` that lists all of its problems at once.

    ``extra``: folders in which ``names_of`` looks before the shipped ones. ``tables``: what is in mapping files that were read.
    ``trusted``: it is known to be right, and its lines need not be in ``tables``: they are read when they are asked for, which
    those of most mappings never are.
    """
    implementation, found = examine(path, known, *extra, tables=tables, trusted=trusted)
    if implementation is None:
        raise _wrong(path, found)
    return implementation


def examine(
    path: Path,
    known: Mapping[str, Dialect],
    *extra: Path,
    tables: Tables | None = None,
    trusted: bool = False,
) -> tuple[Implementation | None, list[str]]:
    """One mapping file, or what is wrong with it; raises ``MappingError`` when it cannot be read as TOML at all. ``tables`` and
    ``trusted`` are those of ``load``.
    """
    table = (tables or {}).get(path) or _toml(path)
    mistyped = [] if trusted else list(_typing_problems(table, known))
    found = [f"a mapping may not be called `{OWN}`, which is what our own names are"] if path.stem == OWN else []
    attributes: dict[str, Any] = {}
    name = table.get("architecture")
    family = families().get(name) if isinstance(name, str) else None
    if family and isinstance(table.get("attributes"), dict):
        found += _read_attributes(table["attributes"], family, attributes)
        found += (f"attribute `{name}` is missing" for name in family.attributes if name not in table["attributes"])
    if family is None or mistyped:
        return None, _lines(mistyped + found)
    chain = _inherited(path, table, None if trusted else known, extra, found, tables or {})
    implementation = Implementation(
        path.name.removesuffix(".toml"),
        family,
        table["dialect"],
        table["describes"],
        attributes,
        table.get("preprocessing", {}),
        cache(partial(_rules, chain)),
        tuple(_published(table.get("published", {}), family, found)),
        tuple(chain),
    )
    if not trusted:
        found += placeholder_problems(implementation)
        found = found or problems(implementation, known[table["dialect"]])
    return None if found else implementation, _lines(found)


def _published(table: Mapping[str, Any], family: Family, found: list[str]) -> Iterator[Published]:
    """The networks of the table ``published``; problems go to ``found``."""
    for name, told in table.items():
        attributes: dict[str, Any] = {}
        found += (
            f"published `{name}`: {problem}" for problem in _read_attributes(told.get("attributes", {}), family, attributes)
        )
        yield Published(name, Depth(*told["blocks"]), attributes, told.get("preprocessing", {}), told.get("classes", 1000))


def _typing_problems(table: Mapping[str, Any], known: Mapping[str, Dialect]) -> Iterator[str]:
    """What is wrong with a mapping file as a table; nothing else may look into a table that has any of it."""
    schema = {**MAPPING, "architecture": one_of(families()), "dialect": one_of(known)}
    yield from mistakes(table, schema, required=KEYS)
    if isinstance(lines := table.get("layers"), dict):
        yield from mistakes(lines, dict.fromkeys(lines, NAMES), "line ")
    if isinstance(told := table.get("preprocessing"), dict):
        yield from preprocessing_problems(told)
    if isinstance(models := table.get("published"), dict):
        yield from mistakes(models, dict.fromkeys(models, TABLE), "published ")
        for name, own in models.items():
            if isinstance(own, dict):
                yield from mistakes(own, PUBLISHED, f"published `{name}`: ", required=("blocks",))
                yield from preprocessing_problems(own.get("preprocessing", {}))


def _inherited(
    path: Path,
    table: Mapping[str, Any],
    known: Mapping[str, Dialect] | None,
    extra: tuple[Path, ...],
    found: list[str],
    tables: Tables,
) -> dict[Path, Mapping[str, Any]]:
    """The file and what is in it, before the one that ``names_of`` asks for, and so on; problems go to ``found``, if it is
    ``known`` what to hold them against.
    """
    folders = [f / sub for f in reversed(_folders(extra)) for sub in ("", table["architecture"])]
    seen = {_real(path): table}
    while "names_of" in table:
        name = f"{table['names_of']}.toml"
        parent = next((place / name for place in (path.parent, *folders) if (place / name).is_file()), None)
        if parent is None or _real(parent) in seen:
            what = "is not there" if parent is None else "leads back to itself"
            found.append(f"`names_of` asks for `{name}`, which {what}")
            break
        path, table = parent, tables.get(parent) or _toml(parent)
        if known is not None and (wrong := [f"`{path}`: {problem}" for problem in _typing_problems(table, known)]):
            found += wrong
            break
        seen[_real(path)] = table
    return seen


def _rules(chain: Tables) -> tuple[Rule, ...]:
    """The lines of each file, before those of the next where both speak of the same layers; read now where they were not."""
    lines: dict[str, Any] = {}
    for path, table in chain.items():
        own = table if "layers" in table else _toml(path, "lines")
        lines |= {ours: theirs for ours, theirs in own.get("layers", {}).items() if ours not in lines}
    return tuple(Rule(ours, (theirs,) if isinstance(theirs, str) else tuple(theirs)) for ours, theirs in lines.items())


def _read_attributes(table: Mapping[str, Any], family: Family, into: dict[str, Any]) -> Iterator[str]:
    for name, value in table.items():
        if name not in family.attributes:
            yield f"attribute `{name}` is none of {family.name}'s: {', '.join(family.attributes)}"
            continue
        try:
            into[name] = parse_attribute(name, value)
        except XconvertError as error:
            yield f"{error.message}: {error.facts[0]}"


def _dialect_problems(tables: Mapping[str, Any], known: Mapping[str, Dialect]) -> Iterator[str]:
    """What is wrong with the tables of a ``dialects.toml``; ``known`` are those before it."""
    for name, table in tables.items():
        yield from _table_problems(name, table, tables, known)


def _table_problems(name: str, table: Any, tables: Mapping[str, Any], known: Mapping[str, Dialect]) -> Iterator[str]:
    if not isinstance(table, dict):
        yield f"[{name}] is {shown(table)}, expected a table"
        return
    yield from (mistyped := [*mistakes(table, DIALECT, f"[{name}] ", required=("separator", *PARAMETERS))])
    if mistyped:
        return
    own = {n for n, t in tables.items() if isinstance(t, dict) and t.get("family", n) == n}
    roots = own | {n for n, dialect in known.items() if dialect.family == n}
    if (family := table.get("family", name)) not in roots:
        yield f"[{name}] family `{family}` is none of the dialects {', '.join(sorted(roots))}"
    if (apart := table.get("apart", name)) not in {**tables, **known}:
        yield f"[{name}] apart `{apart}` is none of the dialects {', '.join(sorted({**tables, **known}))}"
    if table.get("positional") and (lacking := PARAMETERS.keys() - table.get("numbered", {}).keys()):
        yield f"[{name}] is `positional`, so `numbered` must give a stem for {', '.join(sorted(lacking))}"
    for op, parameters in PARAMETERS.items():
        for parameter, canonical in parameters.items():
            yield from (f"[{name}] {op}.{parameter}: {told}" for told in axes.problems(table[op][parameter][1:], canonical))


def _dialect(name: str, table: Mapping[str, Any]) -> Dialect:
    spellings = {op: {p: tuple(words) for p, words in table[op].items()} for op in PARAMETERS}
    options: dict[str, Any] = {"family": name, **{key: value for key, value in table.items() if key not in PARAMETERS}}
    options |= {key: tuple(value) for key, value in options.items() if isinstance(value, list)}
    return Dialect(name=name, spellings=spellings, **options)


def _toml(path: Path, part: Literal["", "head", "lines"] = "") -> dict[str, Any]:
    """What is in a file, or in a ``part`` of it: its lines, which must come last, or all before them. Raises ``MappingError``."""
    try:
        if not path.is_file() and path.exists():  # a named pipe would be waited for, a device be read for ever
            raise MappingError(f"`{path}` is no file")
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        if (dots := max(line.count(b".") for line in text.split(b"\n"))) > _MOST_DOTS:
            raise MappingError(f"`{path}` has a line with {dots} dots", facts=[f"expected at most {_MOST_DOTS}"])
        if len(text) > _LARGEST:
            raise MappingError(f"`{path}` is too long for a mapping file", facts=[f"expected at most {_LARGEST} bytes"])
        head, heading, lines = text.partition(b"\n[layers]")
        return tomllib.loads({"": text, "head": head, "lines": heading + lines}[part].decode())
    except OSError as error:
        raise MappingError(f"`{path}` cannot be opened: {error.strerror}") from None
    except RecursionError:
        raise MappingError(f"`{path}` is nested too deeply for a mapping file") from None
    except ValueError as error:  # not UTF-8, not TOML, or a number of more digits than Python reads
        raise MappingError(f"`{path}` is not TOML", facts=[str(error)]) from None


def _wrong(path: Path, found: list[str]) -> MappingError:
    count = "one problem" if len(found) == 1 else f"{len(found)} problems"
    return MappingError(f"`{path}` has {count}", facts=_lines(found))


def _lines(found: list[str]) -> list[str]:
    """Each problem as one line: names in a mapping file may hold anything."""
    return ["".join(c if c.isprintable() else repr(c)[1:-1] for c in problem) for problem in found]
