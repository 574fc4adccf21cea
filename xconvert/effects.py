"""What a difference that no weights can hide does: which layer parts first, how far the output moves, where it cannot
be seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from xconvert.attributes import meaning
from xconvert.backends import forward
from xconvert.backends.numpy import output_size, pads
from xconvert.compare import check_finite, compare
from xconvert.errors import RefusedError
from xconvert.implementation import Implementation
from xconvert.model import Layer, Model
from xconvert.probe import NATIVE, images
from xconvert.reconcile import Change, reconcile


@dataclass(frozen=True, slots=True)
class Effect:
    """A difference in one attribute, measured at ``size``: the first layer that parts, and max |difference| / max
    |output|.

    ``layer`` is empty where nothing parts. ``unseen``: sizes near it at which nothing parts at all.
    """

    attribute: str
    size: int
    layer: str
    moved: float
    unseen: tuple[int, ...]


def measure(model: Model, change: Change, size: int = NATIVE) -> Effect:
    """Compute ``model`` with the attribute's source and target value, in float64, and compare."""
    other, _ = reconcile(model, {change.attribute: change.target}, accept=[change.attribute])
    probe = images(size, 1, model.weights[f"{model.layers[0].name}.weight"].shape[2])
    ours, theirs = (forward(m, probe, dtype="float64", taps="all") for m in (model, other))
    check_finite(model, ours)
    errors = compare([layer.name for layer in model.layers], size, ours, theirs)
    parted = next((error.name for error in errors if not error.ok), "")
    return Effect(change.attribute, size, parted, errors[-1].moved, unseen_sizes(model, other))


def padded_sizes(layers: Sequence[Layer], size: int) -> dict[str, tuple[int, int]]:
    """Layer → pixels it adds before and after each axis, for square images of ``size`` pixels."""
    sizes, padding = {"image": size}, {}
    for layer in layers:
        before = sizes[layer.inputs[0]]
        padding[layer.name] = pads(before, layer)
        sizes[layer.name] = output_size(before, layer)
    return padding


def first_parting(model: Model, other: Model, size: int = NATIVE) -> str:
    """The first layer that pads differently in two models of one architecture; empty where none does."""
    ours, theirs = (padded_sizes(m.layers, size) for m in (model, other))
    return next((name for name in ours if ours[name] != theirs[name]), "")


def unseen_sizes(model: Model, other: Model, near: int = NATIVE, reach: int = 40) -> tuple[int, ...]:
    """Image sizes within ``reach`` of ``near`` at which the two models pad alike."""
    return tuple(size for size in range(near - reach, near + reach + 1) if not first_parting(model, other, size))


def refusal(model: Model, changes: Sequence[Change], target: Implementation, framework: str) -> RefusedError:
    """The error for differences that were not accepted, with the facts measured on this very model."""
    facts, hints = [], []
    for change in changes:
        effect = measure(model, change)
        who = (("source", model.implementation, change.source), ("target", target.name, change.target))
        width = max(len(name) for _, name, _ in who)
        span = max(len(str(value)) for _, _, value in who)
        facts += [
            f"{side}  {name:{width}}  {value!s:{span}}  {meaning(change.attribute, value)}".rstrip() for side, name, value in who
        ]
        if effect.layer:
            output = "logits" if model.head else "features"
            facts += [
                "",
                f"At {NATIVE}×{NATIVE} the first layer to part is `{effect.layer}`; {output} move by {effect.moved:.1e}",
            ]
        if effect.unseen:
            facts.append(f"Nothing parts at {', '.join(map(str, effect.unseen))} pixels")
        hints.append(f"pass `--accept {change.attribute}` to convert anyway")
    names = " and ".join(f"`{change.attribute}`" for change in changes)
    verb = "differs" if len(changes) == 1 else "differ"
    hints.append(f"`--to {framework}` keeps the function exactly")
    return RefusedError(f"{names} {verb}, and no weights can make up for it", facts=facts, hints=hints)
