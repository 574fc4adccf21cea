"""What there is: in a file, in a mapping, in this installation. As JSON types first, then as text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xconvert import formats, render
from xconvert.architectures import families
from xconvert.attributes import DEFINITIONS, in_training
from xconvert.implementation import Implementation, Published
from xconvert.loading import load
from xconvert.mappings import dialects, examine, library
from xconvert.naming import describe


def inspect(path: str | Path, **options: Any) -> dict[str, Any]:
    """What is in a checkpoint, and where each attribute was learned; ``options`` are those of ``load``."""
    model = load(path, **options)
    assert model.origin  # noqa: S101  (it was read from a file)
    checkpoint = model.origin.checkpoint
    first = model.weights[f"{model.layers[0].name}.weight"]
    widths = [
        t.shape[-1] for n, t in model.weights.items() if n.endswith((".conv1.weight", ".conv2.weight", ".pointwise.weight"))
    ]
    return {
        "file": str(path),
        "format": checkpoint.format,
        "describes": formats.formats()[checkpoint.format].describes,
        "tensors": len(checkpoint.tensors),
        **describe(model),
        "input_channels": first.shape[2],
        "widths": list(dict.fromkeys(widths)),
        "notes": list(model.notes),
        "record": dict(model.origin.record) or None,
    }


def inspect_text(told: Mapping[str, Any]) -> str:
    """``inspect`` in two columns."""
    head = f"{told['classes']} classes" if told["classes"] else "no head"
    blocks = ", ".join(f"{count} {flow}" for flow, count in told["blocks"].items()) + " blocks"
    pairs = [
        ("format", f"{told['format']}: {told['describes']}"),
        (
            "architecture",
            f"{told['architecture']}: {blocks}, {head}, {told['input_channels']} input channels",
        ),
        ("widths", ", ".join(map(str, told["widths"]))),
        ("implementation", f"{told['implementation']} {told['published'] or ''}".rstrip()),
        ("parameters", f"{told['parameters']:,} in {told['tensors']} tensors, {'/'.join(told['dtypes'])}"),
    ]
    width = max((len(str(a["value"])) for a in told["attributes"].values()), default=0)
    pairs += [(name, f"{a['value']!s:{width}}  {a['source']}") for name, a in told["attributes"].items()]
    pairs.append(("preprocessing", ", ".join(f"{k} {_plain(v)}" for k, v in told["preprocessing"].items())))
    pairs.append(("input values", input_range(told["preprocessing"])))
    pairs += _written(told["record"]) if told["record"] else []
    return "\n".join([render.clean(told["file"]), *render.rows(pairs), *render.notes(told["notes"])])


def _written(record: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What xconvert says in a file of how it was made: by which version and mapping, from what, with which changes."""
    mapping, source = record.get("mapping"), record.get("source")
    told = f"xconvert {record.get('version', 'of an unknown version')}"
    if mapping:
        told += f" with mapping {mapping.get('name', '')} (sha256 {mapping['sha256'][:12]}…)"
    yield "written by", told
    if source:
        yield "from", f"{source.get('format', '')}, names of {source.get('implementation', '')} (sha256 {source['sha256'][:12]}…)"
    for change in record.get("changes", ()):
        yield change["action"], f"{change['attribute']} {change['source']} → {change['target']}"
    yield "left out", ", ".join(record.get("omitted", ()))
    if "content" in record:  # to compare them means to read them all
        yield "tensors", f"sha256 {record['content'][:12]}… when written; `xconvert verify` compares"


def input_range(preprocessing: Mapping[str, Any]) -> str:
    """What black and white become: ``-1 to 1``; empty where the normalisation is not known."""
    if not {"mean", "std"} <= preprocessing.keys():
        return ""
    pairs = list(zip(preprocessing["mean"], preprocessing["std"], strict=True))
    lowest, highest = min((0 - mean) / std for mean, std in pairs), max((1 - mean) / std for mean, std in pairs)
    return f"{lowest:.3g} to {highest:.3g}"


def _plain(value: Any) -> str:
    return "/".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def check(path: Path, mappings: Sequence[Path] = ()) -> dict[str, Any]:
    """Whether a mapping file is complete and one-to-one, and what is wrong with it. Raises ``MappingError`` if it is
    not TOML, or if the dialects in ``mappings`` are wrong.
    """
    implementation, problems = examine(path, dialects(*mappings), *mappings)
    if implementation is None:
        return {"file": str(path), "ok": False, "problems": problems}
    family = implementation.family
    layers = [layer for layer in family.build(family.depths[0], True, implementation.attributes) if layer.parameters]
    tensors = sum(len(layer.parameters) for layer in layers)
    return {"file": str(path), "ok": True, "problems": [], "architecture": family.name, "layers": len(layers), "tensors": tensors}


def check_text(told: Mapping[str, Any]) -> str:
    """``check`` as a line, or a list of problems."""
    file = render.clean(told["file"])
    if told["ok"]:
        covered = f"{told['layers']} layers, {told['tensors']} tensors of {told['architecture']}"
        return f"{file}: complete and one-to-one; {covered}"
    return "\n".join([f"{file}: {len(told['problems'])} problem(s)", *("  " + render.clean(p) for p in told["problems"])])


def everything(mappings: Sequence[Path] = ()) -> dict[str, Any]:
    """Architectures, implementations, formats, backends."""
    from xconvert.backends import backends

    known = library(*mappings)
    written = {suffix for f in formats.formats().values() if f.write for suffix in f.suffixes}
    return {
        "architectures": [
            {"name": f.name, "describes": f.describes, "attributes": list(f.attributes)} for f in families().values()
        ],
        "attributes": [
            {"name": name, "describes": d.describes, "values": list(d.meanings), "training": d.training}
            for name, d in DEFINITIONS.items()
        ],
        "frameworks": [
            {"name": d.name, "names": list(d.default), "suffix": d.suffix} for d in known.dialects.values() if d.suffix in written
        ],
        "implementations": [
            {
                "name": i.name,
                "architecture": i.family.name,
                "dialect": i.dialect,
                "describes": i.describes.replace(" {model}", "").replace(".{model}", ""),
                "attributes": dict(i.attributes),
                "published": [_published(i, published) for published in i.published],
            }
            for i in sorted(known.implementations, key=lambda i: (i.family.name, i.name))
            if not i.own
        ],
        "formats": [
            {"name": f.name, "describes": f.describes, "suffixes": list(f.suffixes), "written": f.write is not None}
            for f in formats.formats().values()
        ],
        "backends": [
            {"name": b.name, "describes": b.describes, "kind": b.kind, "installed": b.installed} for b in backends().values()
        ],
    }


def _published(implementation: Implementation, published: Published) -> dict[str, Any]:
    """A published network: what holds for it alone, and how large it is with the classes its zoo trained."""
    from xconvert.counting import count

    there = implementation.at(published.depth)
    size = count(there.family.build(published.depth, True, there.attributes), published.classes)
    return {
        "name": published.name,
        "blocks": published.depth._asdict(),
        "classes": published.classes,
        "attributes": dict(there.attributes),
        "preprocessing": dict(there.preprocessing),
        "parameters": {"trained": size.trained, "with_statistics": size.parameters},
        "multiply_adds": size.multiply_adds,
    }


def everything_text(told: Mapping[str, Any], long: bool = False) -> str:
    """``everything`` as tables of at the most 80 columns, without what matters in training alone; or ``long``, 88, with the
    size of every published network.
    """
    parts: list[tuple[str, Sequence[str], Sequence[Sequence[str]]]] = []
    for family in told["architectures"]:
        own = [i for i in told["implementations"] if i["architecture"] == family["name"]]
        models = [(i["name"], model) for i in own for model in i["published"]]
        shown = [] if long else [a for a in family["attributes"] if not in_training(a)]
        head = ["implementation", "published as", *shown]
        body = [[zoo, model["name"], *(str(model["attributes"][a]) for a in shown)] for zoo, model in models]
        if long:
            head += ["trained", "+ statistics", "multiply-adds"]
            for row, (_, model) in zip(body, models, strict=True):
                sizes = (*model["parameters"].values(), model["multiply_adds"])
                row += [f"{number:,}".rjust(14 if number > 10**9 else 12) for number in sizes]
        parts.append((f"{family['name']}: {family['describes']}", head, body))
    frameworks = [(f["name"], ", ".join(f["names"]) or "xconvert", f["suffix"]) for f in told["frameworks"]]
    parts.append(("frameworks", ("name", "names of", "suffix"), frameworks))
    kinds = [
        (f["name"], " ".join(f["suffixes"]), "read, write" if f["written"] else "read", f["describes"]) for f in told["formats"]
    ]
    parts.append(("formats", ("name", "suffixes", "", ""), kinds))
    runners = [(b["name"], "installed" if b["installed"] else "–", b["describes"]) for b in told["backends"]]
    parts.append(("backends", ("name", "", ""), runners))
    return "\n\n".join("\n".join([render.title(name), *render.table(head, body)]) for name, head, body in parts)
