"""Implementations: how one zoo names the layers of one architecture, and the value of every attribute.

A mapping is data. Its rules are expanded over the architecture's finite list of layers into a table; the reverse is
that table inverted, nothing is ever run backwards. Dialects say what a framework decides for all its zoos.
``mappings.py`` reads both.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from xconvert.errors import UsageError
from xconvert.model import Depth, Family, Layer
from xconvert.tuples import NamedTuple


class Dialect(NamedTuple):
    """A framework's spelling; the fields are explained at the head of ``mappings/dialects.toml``."""

    name: str
    family: str
    separator: str
    spellings: Mapping[str, Mapping[str, tuple[str, ...]]]
    suffix: str = ""
    default: tuple[str, ...] = ()
    prefixes: tuple[str, ...] = ()
    ignored: Mapping[str, str] = {}
    added: Mapping[str, Mapping[str, str]] = {}
    numbered: Mapping[str, str] = {}
    positional: bool = False
    file_order: bool = False
    apart: str = ""
    averaged: str = ""

    def slot(self, operation: str) -> str:
        """Which of a layer's weights is the first of an operation: a separable convolution is two of our layers and one of
        theirs, so layers are counted by the place that their weights take in it.
        """
        return next(iter(self.spellings[operation].values()))[0]

    def tensor(self, layer: str, parameter: str) -> str:
        """Their name of the tensor: their layer name, the separator, their parameter name; this alone of a nameless layer."""
        return f"{layer}{self.separator}{parameter.replace('{layer}', layer)}" if layer else parameter


class Published(NamedTuple):
    """A network that a zoo publishes: its name there, its depth, its classes, and what holds for it alone."""

    name: str
    depth: Depth
    attributes: Mapping[str, Any] = {}
    preprocessing: Mapping[str, Any] = {}
    classes: int = 1000


class Implementation(NamedTuple):
    """One mapping file, checked; or ``own_names``, in a dialect that has no mapping for the family.

    ``lines``: reads its ``rules``, which are asked of few mappings. ``files``: it and those that it takes names of; none where
    there is no file.
    """

    name: str
    family: Family
    dialect: str
    describes: str
    attributes: Mapping[str, Any]
    preprocessing: Mapping[str, Any]
    lines: Callable[[], tuple[Rule, ...]]
    published: tuple[Published, ...] = ()
    files: tuple[Path, ...] = ()

    @property
    def rules(self) -> tuple[Rule, ...]:
        """How the zoo names layers, in the order in which they hold."""
        return self.lines()

    @property
    def sha256(self) -> str:
        """Of its files one after another; empty where there are none. Raises ``OSError`` when one is gone."""
        import hashlib

        return hashlib.sha256(b"".join(file.read_bytes() for file in self.files)).hexdigest() if self.files else ""

    @property
    def own(self) -> bool:
        """Whether its names are ours, as no rule of a zoo gives others."""
        return self.name == OWN

    def model(self, depth: Depth) -> Published | None:
        """What the zoo publishes of this depth."""
        return next((published for published in self.published if published.depth == depth), None)

    def at(self, depth: Depth) -> Implementation:
        """The implementation as it is for networks of ``depth``: with what holds for the one published there."""
        if (own := self.model(depth)) is None:
            return self._replace(describes=self.describes.replace("{model}", self.family.describes))
        return self._replace(
            describes=self.describes.replace("{model}", own.name),
            attributes={**self.attributes, **own.attributes},
            preprocessing={**self.preprocessing, **own.preprocessing},
        )


class Rule(NamedTuple):
    """``ours`` with placeholders for digits, and the names it gives, the first of which is written."""

    ours: str
    theirs: tuple[str, ...]


class Library(NamedTuple):
    """All dialects and implementations at hand."""

    dialects: Mapping[str, Dialect]
    implementations: tuple[Implementation, ...]

    def spoken(self, implementation: Implementation) -> list[Dialect]:
        """The dialects in which a file of ``implementation`` may be spelled, its own first."""
        own = self.dialects[implementation.dialect]
        return [own, *(d for d in self.dialects.values() if d.family == own.family and d is not own)]

    def framework(self, family: str) -> Dialect:
        """The dialect of the framework whose files are spelled in a dialect ``family``: it, or the one it is ``apart`` from."""
        return next((d for d in self.dialects.values() if d.suffix and d.apart == family), self.dialects[family])

    def find(self, name: str, family: Family, depth: Depth) -> Implementation | None:
        """The implementation called ``name`` of this family, as it is at this depth."""
        return next((i.at(depth) for i in self.implementations if i.name == name and i.family is family), None)

    def customary(self, framework: Dialect, family: Family, depth: Depth) -> Implementation:
        """Whose names a framework's files of this family have: those of its best-known zoo, else our own."""
        zoos = [self.find(name, family, depth) for name in framework.default]
        return next((zoo for zoo in zoos if zoo), None) or own_names(framework, family).at(depth)

    def named(self, name: str) -> list[Implementation]:
        """The implementations called ``name``, one for each family that it has; raises ``UsageError`` when there is none."""
        if found := [i for i in self.implementations if i.name == name]:
            return found
        written = {i.name for i in self.implementations if not i.own and self.framework(self.dialects[i.dialect].family).suffix}
        known = sorted(written | {d.name for d in self.dialects.values() if d.suffix})
        raise UsageError(f"no implementation or framework is called `{name}`", facts=["known: " + ", ".join(known)])


OWN = "xconvert"  # the implementation whose names are ours


def own_names(framework: Dialect, family: Family) -> Implementation:
    """Our own names as an implementation: for a framework in which no zoo has the family.

    What no file says is then as the family's authors published it.
    """
    return Implementation(OWN, family, framework.apart or framework.name, "xconvert's {model}", family.attributes, {}, tuple)


PLACEHOLDER = re.compile(r"\{(?:(\d{1,4})\*)?([a-z]+)([+-][a-z]+)?([+-]\d{1,4})?\}")


def _number(match: re.Match[str], values: Mapping[str, int]) -> str:
    factor, name, other, offset = match.groups()
    added = (-1 if other[0] == "-" else 1) * values[other[1:]] if other else 0
    return str(int(factor or 1) * values[name] + added + int(offset or 0))


def _filled(name: str, values: Mapping[str, int]) -> str:
    return PLACEHOLDER.sub(lambda match: _number(match, values), name) if "{" in name else name


_NUMBER = re.compile(r"\d+")


@cache  # layers have the same names in every attempt at a file
def _numbers(name: str) -> tuple[str, tuple[str, ...]]:
    """``name`` without its numbers, and these: what differs in the first part can never be the same."""
    return _NUMBER.sub("#", name), tuple(_NUMBER.findall(name))


_Line = tuple[dict[int, str], dict[str, int], Rule]


@lru_cache(100)
def _by_shape(rules: tuple[Rule, ...], stated: tuple[tuple[str, int], ...]) -> dict[str, list[_Line]]:
    """The rules by their left sides without numbers; each with the numbers that it states, by place, and the places of its
    placeholders, such as ``{i}``.
    """
    found: dict[str, list[_Line]] = {}
    constants = dict(stated)
    for rule in rules:
        ours = PLACEHOLDER.sub(lambda m: _number(m, constants) if m[2] in constants else m[0], rule.ours)
        parts = list(enumerate(_PART.findall(ours)))
        fixed = {place: part for place, part in parts if part[0] != "{"}
        free = {part[1:-1]: place for place, part in parts if part[0] == "{"}
        found.setdefault(_PART.sub("#", ours), []).append((fixed, free, rule))
    return found


_PART = re.compile(r"\{[a-z]+\}|\d+")


def expand(implementation: Implementation, depth: Depth, layers: Iterable[Layer]) -> tuple[dict[str, tuple[str, ...]], set[Rule]]:
    """Our name of every one of ``layers`` with parameters, of a network of this depth → the names they may give it; and the rules
    that gave any.

    A name that starts with ``#`` is a position: the next layer in the file whose automatic name has that stem.
    """
    if implementation.own:
        return {layer.name: (layer.name,) for layer in layers if layer.parameters}, set()
    return _expanded(implementation.rules, tuple(implementation.family.constants(depth).items()), tuple(layers))


@lru_cache(100)  # the zoos of a framework share names, and every attempt at a file asks for them
def _expanded(
    lines: tuple[Rule, ...], stated: tuple[tuple[str, int], ...], layers: tuple[Layer, ...]
) -> tuple[dict[str, tuple[str, ...]], set[Rule]]:
    constants, rules = dict(stated), _by_shape(lines, stated)
    table: dict[str, tuple[str, ...]] = {}
    used: set[Rule] = set()
    for layer in layers:
        if not layer.parameters:
            continue
        shape, numbers = _numbers(layer.name)
        for fixed, free, rule in rules.get(shape, ()):
            if all(numbers[place] == number for place, number in fixed.items()):
                values = {**constants, **{name: int(numbers[place]) for name, place in free.items()}}
                table[layer.name] = tuple(_filled(name, values) for name in rule.theirs)
                used.add(rule)
                break
    return table, used


def positions(
    implementation: Implementation, dialect: Dialect, depth: Depth, layers: Sequence[Layer]
) -> dict[str, tuple[str, ...]]:
    """The names of ``expand``, with every layer by its position where the dialect knows no names."""
    if not dialect.positional:
        return expand(implementation, depth, layers)[0]
    return {layer.name: ("#" + dialect.numbered[layer.op],) for layer in layers if layer.parameters}


def numbered(stem: str, index: int) -> str:
    """The automatic name of the ``index``-th layer of its class, as Keras gives it: ``conv2d``, ``conv2d_1``, …"""
    return f"{stem}_{index}" if index else stem


def written_names(implementation: Implementation, dialect: Dialect, depth: Depth, head: bool) -> dict[str, str]:
    """Our layer name → the name it is written under."""
    layers = implementation.family.build(depth, head, implementation.attributes)
    operation = {layer.name: layer.op for layer in layers}
    count: dict[tuple[str, str], int] = {}
    names = {}
    for ours, (theirs, *_) in positions(implementation, dialect, depth, layers).items():
        if theirs.startswith("#"):
            place = (theirs, dialect.slot(operation[ours]))
            names[ours] = numbered(theirs[1:], count.get(place, 0))
            count[place] = count.get(place, 0) + 1
        else:
            names[ours] = theirs
    return names


def problems(implementation: Implementation, dialect: Dialect) -> list[str]:
    """What is wrong with the rules of a mapping: layers without a line, lines without a layer, names used twice."""
    family, depth = implementation.family, implementation.family.depths[0]
    layers = {layer.name: layer for layer in family.build(depth, True, implementation.attributes) if layer.parameters}
    table, used = expand(implementation, depth, layers.values())
    found = [f"layer `{name}` has no line" for name in layers if name not in table]
    found += [f"line `{rule.ours}` serves no layer" for rule in implementation.rules if rule not in used]
    owners: dict[str, str] = {}
    names = written_names(implementation, dialect, depth, True) if not found else {}
    for ours, theirs in names.items():
        for parameter, (spelling, *_) in dialect.spellings[layers[ours].op].items():
            tensor = dialect.tensor(theirs, spelling)
            if tensor in owners:
                found.append(f"`{owners[tensor]}` and `{ours}.{parameter}` are both called `{tensor}`")
            owners[tensor] = f"{ours}.{parameter}"
    return found


def placeholder_problems(implementation: Implementation) -> Iterator[str]:
    """What is wrong with the placeholders in the rules of a mapping."""
    constants = implementation.family.constants(implementation.family.depths[0])
    for rule in implementation.rules:
        free = [m for m in PLACEHOLDER.finditer(rule.ours) if m[2] not in constants]
        bound = {m[2] for m in free if not (m[1] or m[3] or m[4])} | constants.keys()
        if len({m[2] for m in free}) < len(free):
            yield f"`{rule.ours}`: a placeholder stands there twice"
        if re.search(r"\d\{|\}\{|\}\d", rule.ours):
            yield f"`{rule.ours}`: a placeholder stands beside digits, so nobody knows which of them are its own"
        for text in (rule.ours, *rule.theirs):
            if "{" in PLACEHOLDER.sub("", text) or "}" in PLACEHOLDER.sub("", text):
                yield f"`{text}`: a placeholder is {{i}}, {{i+1}}, {{3*i-2}}, {{i+{next(iter(constants))}-1}}, and nothing else"
            for match in PLACEHOLDER.finditer(text):
                if match[2] not in bound:
                    yield f"`{text}`: `{match[2]}` is not bound on the left, where it must stand alone as {{{match[2]}}}"
                if match[3] and match[3][1:] not in constants:
                    yield f"`{text}`: `{match[3][1:]}` is none of the numbers {', '.join(constants)}"
