"""Which network is in a checkpoint: complete agreement of names and shapes with one mapping, or a precise account of
what is not.

Nothing is matched by order alone, by suffix or by shape alone: a tensor is bound because its full name, or its
declared position, is the one that a mapping gives, and then its shape must fit the graph.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from xconvert import axes
from xconvert.errors import AmbiguousError
from xconvert.implementation import Dialect, Implementation, Library, positions
from xconvert.model import PARAMETERS, Checkpoint, Depth, Layer, Tensor
from xconvert.tuples import NamedTuple


class Match(NamedTuple):
    """How far a checkpoint agrees with one implementation, spelled in one dialect, at one depth.

    ``bound``: our weight → (their tensor, its axes). ``missing`` and ``unexpected`` are their names; ``misshapen``
    are clauses. ``ignored``: pattern and reason → number of tensors. ``prefix``: what was stripped from every name.
    """

    implementation: Implementation
    dialect: Dialect
    depth: Depth
    head: bool
    bound: Mapping[str, tuple[str, str]]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    misshapen: tuple[str, ...]
    ignored: Mapping[str, int]
    prefix: str

    @property
    def exact(self) -> bool:
        """Whether every name is in the file, every tensor of the file has its place, and every shape fits."""
        return not (self.missing or self.unexpected or self.misshapen)

    @property
    def distance(self) -> tuple[int, int]:
        """Smaller is closer: by the tensors that have their place, then by those that stand in the way of an exact match."""
        return -len(self.bound), len(self.missing) + len(self.unexpected) + len(self.misshapen)


AS_ASKED = "as asked"  # the reason for leaving out what the user named
_NUMBER = re.compile(r"\d+")
AUTOMATIC = re.compile(r"_\d+$")  # what automatic numbering adds to the stem


def identify(
    checkpoint: Checkpoint,
    library: Library,
    where: str,
    *,
    wanted: str | None = None,
    hint: str | None = None,
    ignore: Sequence[str] = (),
) -> tuple[Match, tuple[Match, ...]]:
    """The match that the checkpoint agrees with completely, and others that describe the same function.

    ``where`` is the file's name for messages. ``wanted`` restricts the search to one implementation, or one
    framework's; ``hint`` (from our own record in the file) chooses between equals. ``ignore``: patterns of tensors to
    leave out. Raises ``NetworkError`` with the closest mapping when none agrees, and ``AmbiguousError`` when two
    agree that compute different functions.
    """
    searched = [i for i in library.implementations if wanted in (None, i.name, i.dialect)] or library.named(str(wanted))
    pairs = [(i, d) for i in searched for d in library.spoken(i)]
    shapes = _shapes(checkpoint)
    promising = [pair for pair in pairs if _promising(shapes, *pair)]
    exact, tried = _search(checkpoint, promising, ignore)
    if not exact:
        closest = tried or _search(checkpoint, pairs, ignore)[1]
        from xconvert.closest import no_network

        raise no_network(where, min(closest, key=lambda match: match.distance))
    exact.sort(key=lambda match: match.implementation.name != hint)
    first, *others = exact
    others = [m for m in others if m.implementation.name != first.implementation.name]
    different = [m for m in others if _function(m) != _function(first)]
    if different and first.implementation.name != hint:
        raise AmbiguousError(
            f"`{where}` fits two implementations that compute different functions",
            facts=[f"{m.implementation.name:20} {_spoken(m.implementation)}" for m in (first, *different)],
            hints=[f"pass `--from {first.implementation.name}` or `--from {different[0].implementation.name}`"],
        )
    return first, tuple(m for m in others if _function(m) == _function(first))


def _shapes(checkpoint: Checkpoint) -> frozenset[str]:
    """The names of the tensors without their numbers."""
    return frozenset(_NUMBER.sub("#", name) for name in checkpoint.tensors)


def _promising(shapes: Iterable[str], implementation: Implementation, dialect: Dialect) -> bool:
    """Whether the file has the names that the network's first weight and its first batch norm must have, with whatever numbers
    and behind whatever prefix: this rules out nearly all pairs at once.
    """
    if not all(_there(shapes, ("#",), dialect, dialect.spellings[op][p][0]) for op, p in (("conv", "weight"), _STATISTIC)):
        return False
    family = implementation.family
    layers = family.build(family.depths[0], False, implementation.attributes)
    norm = next(layer for layer in layers if layer.op == "batch_norm")
    chosen = {layer.name: (layer, parameter) for layer, parameter in ((layers[0], "weight"), (norm, "variance"))}
    names = positions(implementation, dialect, family.depths[0], [layer for layer, _ in chosen.values()])
    return all(_there(shapes, names[name], dialect, dialect.spellings[layer.op][p][0]) for name, (layer, p) in chosen.items())


_STATISTIC = ("batch_norm", "variance")


def _there(shapes: Iterable[str], names: Sequence[str], dialect: Dialect, spelling: str) -> bool:
    if any(name.startswith("#") for name in names):  # automatic names: the spelling alone must do
        ends = [_NUMBER.sub("#", spelling.replace("{layer}", ""))]
    else:
        ends = [_NUMBER.sub("#", dialect.tensor(name, spelling)) for name in names]
    return any(shape.endswith(end) for shape in shapes for end in ends)


def _search(
    checkpoint: Checkpoint, pairs: Sequence[tuple[Implementation, Dialect]], ignore: Sequence[str]
) -> tuple[list[Match], list[Match]]:
    """Exact matches, and all that were tried: the published depths, and where none of them fits, others that may."""
    seen: dict[str, Seen] = {}  # by dialect, of which there are fewer than networks
    known: dict[Any, Match] = {}  # several zoos have the same names for the same layers

    def tried(implementation: Implementation, dialect: Dialect, depth: Depth, head: bool) -> Match:
        if dialect.name not in seen:
            seen[dialect.name] = see(checkpoint, dialect, ignore)
        implementation = implementation.at(depth)
        layers = implementation.family.build(depth, head, implementation.attributes)
        case = (dialect.name, depth, head, layers, tuple(positions(implementation, dialect, depth, layers).items()))
        if case not in known:
            known[case] = attempt(seen[dialect.name], implementation, dialect, depth, head)
        return known[case]._replace(implementation=implementation)

    found = []
    for i, d in pairs:
        for depth in dict.fromkeys([i.family.depths[0], *(published.depth for published in i.published)]):
            found.append((tried(i, d, depth, True), i))
            if not found[-1][0].exact:  # else the classifier alone would have no place
                found.append((tried(i, d, depth, False), i))
    if not any(match.exact for match, _ in found):
        by_distance = sorted(found, key=lambda pair: pair[0].distance)
        near: dict[Any, tuple[Match, Implementation]] = {}
        for m, i in by_distance:  # each once, where it is closest
            near.setdefault((id(i), m.dialect.name, m.head), (m, i))
        found += [
            (tried(i, m.dialect, depth, m.head), i)
            for m, i in near.values()
            for depth in _plausible_depths(m, len(checkpoint.tensors) - sum(m.ignored.values()))
        ]
    matches = [match for match, _ in found]
    return [match for match in matches if match.exact], matches


def _plausible_depths(match: Match, count: int) -> Iterator[Depth]:
    """The depths at which a network of this family has ``count`` tensors, with or without those that the dialect
    adds.
    """
    family = match.implementation.family
    for depth, operations in _operations(family.build, family.depths, match.head, tuple(family.attributes.items())).items():
        own = sum(times * len(PARAMETERS[op]) for op, times in operations.items())
        added = sum(times * len(match.dialect.added.get(op, ())) for op, times in operations.items())
        if own <= count <= own + added:
            yield depth


@cache  # asked for by every implementation of the family
def _operations(
    build: Callable[..., tuple[Layer, ...]], depths: tuple[Depth, ...], head: bool, attributes: tuple[tuple[str, Any], ...]
) -> dict[Depth, Counter[str]]:
    """How often each operation with parameters is in the graph of each depth."""

    def counted(depth: Depth) -> Counter[str]:
        return Counter(layer.op for layer in build(depth, head, dict(attributes)) if layer.parameters)

    found: dict[Depth, Counter[str]] = {}
    for entry in dict.fromkeys(depth.entry for depth in depths):
        middles = sorted(depth.middle for depth in depths if depth.entry == entry)
        known = {middle: counted(Depth(entry, middle)) for middle in {*middles[:2], *middles[-1:]}}
        first, *others = sorted(known)
        for middle in middles:  # every middle block is like the next, so a hundred graphs need not be built
            if middle not in known:
                known[middle] = _between(known[first], known[others[0]], (middle - first) / (others[0] - first))
        found |= {Depth(entry, middle): known[middle] for middle in middles}
    return found


def _between(first: Counter[str], second: Counter[str], steps: float) -> Counter[str]:
    return Counter({op: round(first[op] + steps * (second[op] - first[op])) for op in second})


def _function(match: Match) -> tuple[object, ...]:
    return match.implementation.family.name, *sorted(match.implementation.attributes.items())


def _spoken(implementation: Implementation) -> str:
    return ", ".join(f"{name} {value}" for name, value in implementation.attributes.items())


class Seen(NamedTuple):
    """What a dialect sees of a checkpoint: its tensors without what is ignored and without the prefix of all names."""

    tensors: Mapping[str, Tensor]
    prefix: str
    ignored: Mapping[str, int]


def see(checkpoint: Checkpoint, dialect: Dialect, ignore: Sequence[str] = ()) -> Seen:
    """``checkpoint`` as names of ``dialect``; ``ignore``: patterns of tensors to leave out."""
    tensors, ignored = _ignore(checkpoint.tensors, dialect, ignore)  # before the prefixes, which what is left may share
    prefix, tensors = strip_prefixes(tensors, dialect.prefixes)
    tensors, more = _ignore(tensors, dialect, ignore)
    return Seen(tensors, prefix, {told: ignored.get(told, 0) + more.get(told, 0) for told in {**ignored, **more}})


def attempt(seen: Seen, implementation: Implementation, dialect: Dialect, depth: Depth, head: bool) -> Match:
    """Compare a checkpoint's names and shapes with those of an implementation; never raises for what it finds."""
    tensors, prefix, ignored = seen
    layers = implementation.family.build(depth, head, implementation.attributes)
    table = positions(implementation, dialect, depth, layers)
    names = resolve([layer for layer in layers if layer.parameters], table, dialect, tensors)
    bound, missing, misshapen = {}, [], []
    for layer in layers:
        for parameter in layer.parameters:
            spelling, *patterns = dialect.spellings[layer.op][parameter]
            theirs = dialect.tensor(names[layer.name], spelling)
            if theirs not in tensors:
                missing.append(theirs)
                continue
            fitting = [pattern for pattern in patterns if axes.fits(tensors[theirs].shape, pattern)]
            bound[f"{layer.name}.{parameter}"] = (theirs, fitting[0] if fitting else "")
            if not fitting:
                misshapen.append(f"`{theirs}` has shape {tensors[theirs].shape}, expected axes {' or '.join(patterns)}")
            elif not tensors[theirs].dtype.startswith(("float", "bfloat")):
                misshapen.append(f"`{theirs}` is {tensors[theirs].dtype}, expected floating point")
    added = {dialect.tensor(names[layer.name], name) for layer in layers for name in dialect.added.get(layer.op, ())}
    unexpected = tensors.keys() - {theirs for theirs, _ in bound.values()} - added
    if not (missing or misshapen):
        misshapen += _misfits(layers, bound, tensors)
    bound = {weight: (prefix + theirs, pattern) for weight, (theirs, pattern) in bound.items()}
    kept = tuple(name for name in tensors if name in unexpected)
    return Match(implementation, dialect, depth, head, bound, tuple(missing), kept, tuple(misshapen), ignored, prefix)


def strip_prefixes(tensors: Mapping[str, Tensor], prefixes: Sequence[str]) -> tuple[str, dict[str, Tensor]]:
    """What every name starts with of ``prefixes``, one or several in a row, and the tensors without it."""
    stripped, whole = dict(tensors), ""
    while stripped and (found := next((p for p in prefixes if all(n.startswith(p) and n != p for n in stripped)), None)):
        stripped = {name.removeprefix(found): tensor for name, tensor in stripped.items()}
        whole += found
    return whole, stripped


def _ignore(tensors: Mapping[str, Tensor], dialect: Dialect, asked: Sequence[str]) -> tuple[dict[str, Tensor], dict[str, int]]:
    reasons = {**dialect.ignored, **dict.fromkeys(asked, AS_ASKED)}
    kept, ignored = {}, dict[str, int]()
    for name, tensor in tensors.items():
        if pattern := next((pattern for pattern in reasons if fnmatchcase(name, pattern)), None):
            told = f"`{pattern}`, {reasons[pattern]}"
            ignored[told] = ignored.get(told, 0) + 1
        else:
            kept[name] = tensor
    return kept, ignored


def resolve(
    layers: Sequence[Layer], table: Mapping[str, tuple[str, ...]], dialect: Dialect, tensors: Iterable[str]
) -> dict[str, str]:
    """Our layer → their layer in this file: the first of its names that is there, else its position's, else its first
    name.
    """
    present = dict.fromkeys(name.rpartition(dialect.separator)[0] for name in tensors)
    names = {layer.name: next((n for n in table[layer.name] if n in present), "") for layer in layers}
    claimed = {*names.values()}
    automatic: dict[str, list[str]] = {}
    for name in present:
        if name not in claimed:
            automatic.setdefault(AUTOMATIC.sub("", name), []).append(name)
    if not dialect.file_order:  # some formats sort names as text: conv2d_10 before conv2d_9
        for kin in automatic.values():
            kin.sort(key=_count)
    taken: dict[tuple[str, str], int] = {}
    for layer in layers:
        if names[layer.name]:
            continue
        stem = next((n[1:] for n in table[layer.name] if n.startswith("#")), None)
        if stem is None:
            names[layer.name] = table[layer.name][0]
            continue
        slot = (stem, dialect.slot(layer.op))
        index = taken[slot] = taken.get(slot, -1) + 1
        there = automatic.get(stem, [])
        names[layer.name] = there[index] if index < len(there) else f"{stem}#{index + 1}"
    return names


def _count(name: str) -> int:
    match = AUTOMATIC.search(name)
    return int(match[0][1:]) if match else 0


def _misfits(layers: Sequence[Layer], bound: Mapping[str, tuple[str, str]], tensors: Mapping[str, Tensor]) -> Iterator[str]:
    """Weights whose shape does not fit the graph: kernel sizes, and channels that do not meet."""
    channels: dict[str, int] = {}
    for layer in layers:
        shapes = {}
        for parameter, canonical in layer.parameters.items():
            theirs, pattern = bound[f"{layer.name}.{parameter}"]
            named = zip(axes.parse(pattern), tensors[theirs].shape, strict=True)
            shapes[parameter] = {**dict.fromkeys(axes.parse(canonical), 1), **dict(named)}
        first = channels.get(layer.inputs[0])
        for parameter, sizes in shapes.items():
            theirs = bound[f"{layer.name}.{parameter}"][0]
            if 0 in sizes.values():
                yield f"`{theirs}` is empty"
            if sizes.get("H", layer.kernel) != layer.kernel or sizes.get("W", layer.kernel) != layer.kernel:
                yield f"`{theirs}` is a {sizes['H']}x{sizes['W']} kernel, expected {layer.kernel}x{layer.kernel}"
            expected = sizes.get("I", sizes.get("C")) if first is None else first
            if (found := sizes.get("I", sizes.get("C", expected))) != expected:
                yield f"`{theirs}` takes {found} channels, its input has {expected}"
        outputs = {s["O"] for s in shapes.values() if "O" in s}
        if len(outputs) > 1:
            yield f"`{bound[f'{layer.name}.weight'][0]}` and its bias have {' and '.join(map(str, sorted(outputs)))} outputs"
        if len(layer.inputs) > 1 and len({channels[name] for name in layer.inputs if name in channels}) > 1:
            yield f"`{layer.name}` adds maps of {' and '.join(str(channels[name]) for name in layer.inputs)} channels"
        own = outputs or {s["C"] for s in shapes.values() if "C" in s}
        channels[layer.name] = min(own) if own else channels[layer.inputs[0]]
