"""Two checkpoints tensor by tensor under canonical names, across frameworks and formats. Nothing is computed with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from xconvert import render
from xconvert.attributes import in_training
from xconvert.loading import load_pair
from xconvert.model import Model
from xconvert.naming import describe
from xconvert.weights import KINDS, Difference, differences, folded

SCHEMA = 1  # of the JSON; raised when a field changes its meaning
RUN = 4  # so many tensors that differ alike are told in one line
ROWS = 20  # with more lines than this, tensors that nothing explains are told in runs too


def diff(a: str | Path | Model, b: str | Path | Model, **options: Any) -> dict[str, Any]:
    """How the tensors and attributes of ``b`` differ from those of ``a``, in JSON types.

    ``same``: whether every tensor is bit-equal and every attribute the same; ``explained``: whether folding and rounding
    account for all that differs, attributes that matter in training alone left aside. ``counts``: tensors of each of
    ``weights.KINDS``. ``tensors``: one entry for each, in canonical order; none where the two are different networks.
    ``options`` are those of ``load_pair``. Raises the
    subclasses of ``XconvertError`` for what cannot be read.
    """
    first, second = load_pair(a, b, **options)
    alike = first.family is second.family
    found = differences(first, second) if alike else []
    attributes = list(_attributes(first, second, found)) if alike else []
    settings = sorted({**first.preprocessing, **second.preprocessing})
    pairs = {key: [first.preprocessing.get(key), second.preprocessing.get(key)] for key in settings}
    whole = alike and first.depth == second.depth
    return {
        "schema": SCHEMA,
        "a": {"file": _named(a), **describe(first)},
        "b": {"file": _named(b), **describe(second)},
        "same": whole and not attributes and all(d.kind == "identical" for d in found),
        "explained": whole and all(d.explained for d in found) and all(told["explained"] for told in attributes),
        "attributes": attributes,
        "preprocessing": {key: pair for key, pair in pairs.items() if pair[0] != pair[1]},
        "counts": {kind: count for kind in KINDS if (count := sum(d.kind == kind for d in found))},
        "tensors": [_plain(difference) for difference in found],
    }


def _named(given: str | Path | Model) -> str:
    return str(given) if not isinstance(given, Model) else given.origin.path if given.origin else ""


def _attributes(a: Model, b: Model, found: Sequence[Difference]) -> Iterator[dict[str, Any]]:
    """The attributes that differ; whether the weights make up for each."""
    made = folded(a, b, found)
    for name, value in a.values.items():
        if value != b.values[name]:
            told = {"attribute": name, "a": value, "b": b.values[name], "folded": made.get(name, False)}
            yield {**told, "explained": told["folded"] or in_training(name)}


def _plain(difference: Difference) -> dict[str, Any]:
    """A difference in JSON types: what is not finite is null, which JSON has no number for."""
    told = {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in asdict(difference).items()}
    return {**told, "explained": difference.explained}


def diff_text(told: Mapping[str, Any], every: bool = False) -> str:
    """``diff`` in at the most 80 columns: the two sides, counts, what differs, and what that proves; ``every`` tensor, or those
    that differ, with long runs of one kind in a line.
    """
    lines = []
    for side in (told["a"], told["b"]):
        lines += [render.title(render.clean(side["file"])), f"  {render.clean(render.network(side))}"]
    pairs = [(kind, f"{count}  {_words(kind)}".rstrip()) for kind, count in told["counts"].items()]
    pairs += [(change["attribute"], _told(change)) for change in told["attributes"]]
    if told["preprocessing"]:
        pairs.append(("preprocessing", f"{', '.join(told['preprocessing'])} differ"))
    lines += ["", *render.rows(pairs)]
    if tensors := told["tensors"] if every else _shown([t for t in told["tensors"] if t["kind"] != "identical"]):
        lines += ["", *_table(tensors)]
    return "\n".join([*lines, "", _verdict(told), *render.notes([PROVES])])


def _words(kind: str) -> str:
    return "" if KINDS[kind] == kind else KINDS[kind]


def _told(change: Mapping[str, Any]) -> str:
    told = f"{change['a']} → {change['b']}"
    if change["folded"]:
        return f"{told}, which the folded weights make up for"
    return f"{told}, " + ("which matters in training alone" if change["explained"] else "which no weight makes up for")


def _shown(tensors: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The tensors as lines: what nothing explains first, one by one as long as there are few."""
    ordered = sorted(tensors, key=lambda tensor: tensor["explained"])  # stable: canonical order within
    fine = list(_runs(ordered, lambda t: (t["kind"], t["detail"], _leaf(t), "" if t["explained"] or t["detail"] else t["name"])))
    return fine if len(fine) <= ROWS else list(_runs(ordered, lambda t: (t["kind"], _leaf(t))))


def _leaf(tensor: Mapping[str, Any]) -> str:
    return ".".join(tensor["name"].split(".")[-2:])


def _runs(tensors: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], Any]) -> Iterator[dict[str, Any]]:
    """The tensors, those with one ``key`` as one entry where they are many."""
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for tensor in tensors:
        groups.setdefault(key(tensor), []).append(tensor)
    for group in groups.values():
        if len(group) < RUN:
            yield from (dict(tensor) for tensor in group)
            continue
        told = {figure: max((t[figure] for t in group), key=_size) for figure in ("maximum", "relative")}
        told["detail"] = group[0]["detail"] if len({t["detail"] for t in group}) == 1 else ""
        yield {**group[0], **told, "name": f"{len(group)} × {_pattern([t['name'] for t in group])}"}


def _size(figure: float | None) -> float:
    return math.inf if figure is None else figure


def _pattern(names: Sequence[str]) -> str:
    """What all names end in, after a star: ``*.bn.gamma``."""
    endings = [name.split(".")[::-1] for name in names]
    common = []
    for parts in zip(*endings, strict=False):
        if len(set(parts)) > 1:
            break
        common.append(parts[0])
    return ".".join(["*", *common[::-1]])


def _table(tensors: Sequence[Mapping[str, Any]]) -> list[str]:
    """Name, kind, largest difference, relative L2 and detail; a detail that does not fit stands in a line of its own."""
    head = ("tensor", "kind", "max abs", "rel. L2")
    body = [(t["name"], t["kind"], _figure(t, "maximum"), _figure(t, "relative")) for t in tensors]
    lines = render.table(head, body)
    width = 2 + sum(max(len(row[i]) for row in (head, *body)) + 2 for i in range(4))
    told = lines[:1]
    for line, tensor in zip(lines[1:], tensors, strict=True):
        detail = render.clean(tensor["detail"])
        if detail and width + len(detail) <= render.WIDTH:
            told.append(line.ljust(width) + detail)
        else:
            told += [line, f"      {detail}"] if detail else [line]
    return told


def _figure(tensor: Mapping[str, Any], name: str) -> str:
    if tensor["kind"] not in ("rounded", "folded", "close", "different"):
        return ""
    return "not finite" if tensor[name] is None else f"{tensor[name]:.1e}"


def _verdict(told: Mapping[str, Any]) -> str:
    a, b = told["a"], told["b"]
    if told["same"]:
        return _answer("identical", "every tensor is bit-equal and every attribute the same")
    if told["explained"]:
        return _answer("explained", f"{' and '.join(_reasons(told))} account for what differs")
    if a["architecture"] != b["architecture"]:
        return _answer("different", f"no tensor of {a['architecture']} has a counterpart in {b['architecture']}")
    if a["blocks"] != b["blocks"]:
        depths = [f"{side['blocks']['entry']} and {side['blocks']['middle']}" for side in (a, b)]
        return _answer("different", f"{' against '.join(depths)} blocks of entry and middle flow")
    unexplained = sum(not tensor["explained"] for tensor in told["tensors"])
    parts = [f"{unexplained} tensor{'s' * (unexplained != 1)}"] if unexplained else []
    parts += [f"`{change['attribute']}`" for change in told["attributes"] if not change["explained"]]
    return _answer("different", ", ".join(parts))


def _reasons(told: Mapping[str, Any]) -> list[str]:
    """What makes the differences of two networks that do not differ otherwise."""
    found = {"folds": any(change["folded"] for change in told["attributes"])}
    found["rounding and dtypes"] = not {"widened", "rounded", "close"}.isdisjoint(told["counts"])
    found["settings of training"] = any(not change["folded"] for change in told["attributes"])
    return [reason for reason, there in found.items() if there]


def _answer(word: str, why: str) -> str:
    return click.style(word, fg="red" if word == "different" else "green", bold=True) + f": {why}"


PROVES = "tensors were compared, nothing was computed; `xconvert verify` computes"
