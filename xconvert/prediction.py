"""What is in an image: the classes that a network holds most likely."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np

from xconvert import render
from xconvert.errors import UsageError
from xconvert.images import prepare
from xconvert.labels import Label
from xconvert.model import Array, Model
from xconvert.serving import Server, answering, probabilities, server
from xconvert.tuples import NamedTuple

Image = str | Path | Array
BATCH = 8  # images that are computed at a time
BAR = 24  # characters of a probability of 1


class Guess(NamedTuple):
    """One class: its number in the network, what it is called, its probability and its logit."""

    number: int
    label: Label
    probability: float
    logit: float


class Prediction(NamedTuple):
    """What a network says of an ``image``, as the user called it: the likeliest classes first."""

    image: str
    guesses: tuple[Guess, ...]


def predict(
    model: str | Path | Model,
    images: Image | Sequence[Image],
    *,
    top: int = 5,
    backend: str = "numpy",
    labels: str | Path | None = None,
    **options: Any,
) -> list[Prediction]:
    """Classify ``images``, files or arrays (H, W, C) uint8, with the checkpoint's own preprocessing.

    ``top``: how many classes of each, at most all. ``labels``: a file with a name a line, instead of ImageNet's. ``backend``:
    what runs the network. ``options`` are those of ``load``; their ``settings`` may state preprocessing too (``{"size": 224}``).
    Raises the subclasses of ``XconvertError``: ``UnreadableError`` for what is no image.
    """
    given = list(images) if isinstance(images, (list, tuple)) else [images]
    return run(server(model, backend=backend, labels=labels, **options), given, top=top)


def run(served: Server, images: Sequence[Any], *, top: int = 5) -> list[Prediction]:
    """``predict`` with a network that is open already."""
    if top < 1:
        raise UsageError(f"`--top {top}` asks for no class", hints=["give 1 or more"])
    if not images:
        raise UsageError("there is no image to classify")
    names = [f"image {i}" if isinstance(image, np.ndarray) else str(image) for i, image in enumerate(images)]
    found = []
    with answering(served) as answer:
        for start in range(0, len(images), BATCH):
            ready = [prepare(image, served.preprocessing) for image in images[start : start + BATCH]]
            found += [guesses(row, served.labels, top) for row in answer(np.stack(ready))]
    return [Prediction(name, made) for name, made in zip(names, found, strict=True)]


def guesses(logits: Array, labels: Sequence[Label], top: int) -> tuple[Guess, ...]:
    """The ``top`` likeliest classes of one image's logits (classes,); of equal ones the first first."""
    shares = probabilities(logits[None])[0]
    order = np.argsort(-logits.astype(np.float64), kind="stable")[:top]
    return tuple(Guess(int(i), labels[i], float(shares[i]), float(logits[i])) for i in order)


def to_dict(served: Server, predictions: Sequence[Prediction]) -> dict[str, Any]:
    """Predictions in JSON types."""
    return {
        "schema": 1,
        "file": served.name,
        "backend": served.backend,
        "preprocessing": dict(served.preprocessing),
        "predictions": [{"image": p.image, "classes": [_told(guess) for guess in p.guesses]} for p in predictions],
        "notes": list(served.notes),
    }


def _told(guess: Guess) -> Mapping[str, Any]:
    synset = {"synset": guess.label.synset} if guess.label.synset else {}
    return {
        "class": guess.number,
        "label": guess.label.name,
        **synset,
        "probability": guess.probability,
        "logit": guess.logit,
    }


def text(served: Server, predictions: Sequence[Prediction]) -> str:
    """Predictions for a terminal: a bar for each class."""
    lines = []
    width = min(max(len(render.clean(g.label.name)) for p in predictions for g in p.guesses), 40)
    for prediction in predictions:
        lines.append(click.style(render.clean(prediction.image), bold=True))
        for guess in prediction.guesses:
            name, synset = render.clean(guess.label.name), render.clean(guess.label.synset)
            lines.append(f"  {guess.probability:7.2%}  {bar(guess.probability)}  {name:{width}}  {synset}".rstrip())
    return "\n".join([*lines, *render.notes(served.notes)])


def bar(share: float) -> str:
    """A share of 1 as blocks of an eighth of a character, ``BAR`` characters wide."""
    eighths = round(share * BAR * 8)
    blocks: str = "█" * (eighths // 8) + ("", *"▏▎▍▌▋▊▉")[eighths % 8]
    return blocks.ljust(BAR)
