"""What a difference that no weights can hide does: which layer parts first, how far the output moves, where it cannot
be seen.
"""

from __future__ import annotations

from collections.abc import Sequence

from xconvert.attributes import meaning
from xconvert.backends import forward
from xconvert.compare import check_finite, compare
from xconvert.deferred import np
from xconvert.errors import RefusedError, UsageError
from xconvert.implementation import Implementation
from xconvert.model import Layer, Model
from xconvert.padding import output_size, pads
from xconvert.probe import NATIVE, SIZES, images
from xconvert.reconcile import Change, reconcile
from xconvert.tuples import NamedTuple


class Effect(NamedTuple):
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


def check_sizes(model: Model, sizes: Sequence[int]) -> None:
    """Raise ``UsageError`` for no sizes at all, and for one that leaves no pixel of an image somewhere in the network."""
    if not sizes:
        raise UsageError("there is no size of images to compute", hints=["give one, such as `--sizes 75`"])
    for size in sizes:
        pixels = map_sizes(model.layers, size)
        if min(pixels.values()) < 1:
            raise UsageError(f"images of {size} pixels are too small for {model.family.name}", hints=["give 71 or more"])


def normalisation(a: Model, b: Model, names: tuple[str, str]) -> tuple[str, ...]:
    """A note where two models want images normalised differently, with what that does: both given the same photograph, each as
    its own preprocessing says. It is no part of the network, so it fails nothing.
    """
    pairs = [[model.preprocessing.get(key) for key in ("mean", "std", "channels")] for model in (a, b)]
    if pairs[0] == pairs[1] or not all(all(pair) for pair in pairs):
        return ()
    photograph = (images(SIZES[0], 1, 3).astype(np.float64) + 1) / 2
    if a.weights[f"{a.layers[0].name}.weight"].shape[2] != 3:
        return ()
    batches = [(photograph[..., :: -1 if order == "BGR" else 1] - np.array(mean)) / np.array(std) for mean, std, order in pairs]
    ours, theirs = (forward(a, batch, dtype="float64")[a.layers[-1].name] for batch in batches)
    moved, output = float(np.abs(theirs - ours).max() / np.abs(ours).max()), "logits" if a.head else "features"
    wants = [f"`{name}` mean {mean}, std {std}, {order}" for name, (mean, std, order) in zip(names, pairs, strict=True)]
    told = f"images must be normalised differently: {', '.join(wants)}; the other way the {output} move by {moved:.1e}"
    return (told,)


def padded_sizes(layers: Sequence[Layer], size: int) -> dict[str, tuple[int, int]]:
    """Layer → pixels it adds before and after each axis, for square images of ``size`` pixels."""
    sizes = map_sizes(layers, size)
    return {layer.name: pads(sizes[layer.inputs[0]], layer) for layer in layers}


def map_sizes(layers: Sequence[Layer], size: int) -> dict[str, int]:
    """Layer → pixels along an axis of its map, for square images of ``size`` pixels; below 1 where nothing is left."""
    sizes = {"image": size}
    for layer in layers:
        sizes[layer.name] = output_size(sizes[layer.inputs[0]], layer)
    return sizes


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
