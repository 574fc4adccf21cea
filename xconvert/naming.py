"""What a model is, in words: its implementation, its published name, and its names in what a backend runs."""

from __future__ import annotations

import math
from typing import Any

from xconvert.errors import RefusedError
from xconvert.implementation import Implementation, Library, written_names
from xconvert.mappings import library
from xconvert.model import Model
from xconvert.reconcile import classes


def describe(model: Model) -> dict[str, Any]:
    """What a model is, in JSON types."""
    implementation = library().find(model.implementation, model.family, model.depth)
    published = implementation.model(model.depth) if implementation else None
    return {
        "implementation": model.implementation,
        "published": published.name if published else None,
        "architecture": model.family.name,
        "blocks": model.depth._asdict(),
        "classes": classes(model) or None,
        "parameters": sum(math.prod(tensor.shape) for tensor in model.weights.values()),
        "dtypes": sorted({tensor.dtype for tensor in model.weights.values()}),
        "attributes": {name: attribute._asdict() for name, attribute in model.attributes.items()},
        "preprocessing": dict(model.preprocessing),
    }


def named(known: Library, name: str, model: Model, where: str = "") -> Implementation:
    """The implementation called ``name`` of the model's own network; raises ``RefusedError`` when it has only others.
    ``where`` is the model's name in messages.
    """
    if own := known.find(name, model.family, model.depth):
        return own
    others = [i.at(model.depth if i.model(model.depth) else i.family.depths[0]) for i in known.named(name)]
    mine = known.find(model.implementation, model.family, model.depth)
    rows = [("source", mine.describes if mine else model.family.name, model.family.differs)]
    rows += [("target" if i is others[0] else "", i.describes, i.family.differs) for i in others]
    width = max(len(who) for _, who, _ in rows)
    framework = known.framework(known.dialects[others[0].dialect].family).name
    raise RefusedError(
        f"{where or 'it'} cannot become {' or '.join(i.describes for i in others)}: they are different networks",
        facts=[f"{side:6}  {who:{width}}  {what}" for side, who, what in rows],
        hints=[f"`--to {framework}` keeps the function exactly, in a network of xconvert's"] if where else [],
    )


def native_names(backend: str, model: Model) -> dict[str, str]:
    """Our layer → its name in what ``backend`` runs: in the class of that name, or as the framework's files have it."""
    from xconvert.backends import find

    if not find(backend).requires:  # NumPy's reference knows ours
        return {}
    implementation = native(backend, model)
    return written_names(implementation, library().dialects[implementation.dialect], model.depth, model.head)


def native(backend: str, model: Model) -> Implementation:
    """The implementation that ``backend`` is the class of, or whose names its framework's files have."""
    from xconvert.backends import find

    known = library()
    if find(backend).kind == "class":
        return named(known, backend, model)
    return known.customary(known.dialects[backend], model.family, model.depth)
