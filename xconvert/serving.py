"""A checkpoint that answers: the network, its preprocessing, what its classes are called, and something to run it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from xconvert.attributes import meaning
from xconvert.backends import Job, Serve, find
from xconvert.backends._stream import streaming
from xconvert.backends.numpy import serve
from xconvert.errors import RefusedError, UsageError
from xconvert.formats._maps import let_go
from xconvert.images import complete
from xconvert.labels import Label, labels_of
from xconvert.loading import load
from xconvert.model import Array, Model, Tensor
from xconvert.parity import channels
from xconvert.preprocessing import PREPROCESSING, parse_setting, preprocessing_problems
from xconvert.reconcile import classes
from xconvert.tuples import NamedTuple
from xconvert.verification import given_to, known_as

Answer = Callable[[Array], Array]


class Server(NamedTuple):
    """A classifier in use.

    ``name``: what the user calls it. ``preprocessing``: complete, see ``images.complete``. ``labels``: one for each class.
    ``backend``: what runs it. ``notes``: what was taken for granted, one clause each.
    """

    name: str
    model: Model
    preprocessing: Mapping[str, Any]
    labels: tuple[Label, ...]
    backend: str = "numpy"
    notes: tuple[str, ...] = ()

    @property
    def background(self) -> bool:
        """Whether the first class is TensorFlow's background, which no image is labelled as."""
        return len(self.labels) == 1001


def server(
    model: str | Path | Model,
    *,
    backend: str = "numpy",
    labels: str | Path | None = None,
    name: str = "the model",
    **options: Any,
) -> Server:
    """Open a checkpoint to classify images; ``options`` are those of ``load``, whose ``settings`` may also overrule
    preprocessing.

    Raises ``UsageError`` for a network without a head, or that does not say how its images are normalised.
    """
    settings = dict(options.pop("settings", None) or {})
    overruled = {key: settings.pop(key) for key in list(settings) if key in PREPROCESSING}
    found = model if isinstance(model, Model) else load(model, settings=settings, **options)
    called = str(model) if not isinstance(model, Model) else found.origin.path if found.origin else name
    if not found.head:
        raise UsageError(f"`{called}` has no head, so there are no classes", hints=["`xconvert.forward` computes its features"])
    find(backend)
    stated = {**found.preprocessing, **{key: _parsed(key, value) for key, value in overruled.items()}}
    table = complete(stated, called)
    if channels(found) != len(table["mean"]):
        told = f"`{called}` takes images of {channels(found)} channels, its preprocessing makes {len(table['mean'])}"
        raise UsageError(told, hints=["state it, for example `--set channels=GRAY --set mean=0.5 --set std=0.5`"])
    return Server(called, found, table, labels_of(classes(found), labels), backend, tuple(_guesses(stated, table)))


def _parsed(key: str, value: Any) -> Any:
    if isinstance(value, str):
        return parse_setting(key, value)
    if problems := preprocessing_problems({key: value}):
        raise UsageError(problems[0])
    return value


def _guesses(stated: Mapping[str, Any], table: Mapping[str, Any]) -> Iterator[str]:
    if missing := [key for key in ("crop", "interpolation") if key not in stated]:
        told = ", ".join(f"`{key}` {table[key]}" for key in missing)
        yield f"the file does not say how images are resized: taken as {told}"


@contextmanager
def answering(server: Server) -> Iterator[Answer]:
    """A function from images (N, size, size, C) float32, prepared, to logits (N, classes) float32.

    A framework is started once. Raises ``RefusedError`` where a zoo's class cannot compute this network's function,
    ``UsageError`` when the framework fails, and for logits that are not finite.
    """
    if server.backend == "numpy":
        answer = reference(server.model)
        yield lambda images: _finite(server, answer(images))
        return
    with given_to(server.backend, server.model) as (given, changes, path):
        for change in changes:
            if change.action == "refused":
                facts = [f"{who}: {meaning(change.attribute, v)}" for who, v in _sides(server, change.source, change.target)]
                told = f"`{server.backend}` differs in `{change.attribute}`, so it would not be this network that answers"
                raise RefusedError(
                    told, facts=facts, hints=["`--backend torch` and the other frameworks run the network as it is"]
                )
        weights = {name: tensor.read() for name, tensor in given.weights.items()}
        job = Job(given.layers, weights, np.zeros(0), path=path, **known_as(server.backend, given))
        with streaming(find(server.backend), given, job) as run:
            yield lambda images: _finite(server, run(images)[given.layers[-1].name])


def reference(model: Model, dtype: str = "float32") -> Serve:
    """``model`` in NumPy, as ``Backend.serve`` says. Of a file that is mapped it keeps no page that it does not compute with."""
    return serve(Job(model.layers, _Read(model.weights), np.zeros(0), dtype))


class _Read(Mapping[str, Array]):
    """Tensors as arrays, each read when it is asked for; what was read of mapped files before is let go of."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors = tensors

    def __getitem__(self, name: str) -> Array:
        let_go()
        return self._tensors[name].read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _sides(server: Server, source: Any, target: Any) -> list[tuple[str, Any]]:
    return [(server.name, source), (server.backend, target)]


def _finite(server: Server, logits: Array) -> Array:
    if not np.isfinite(logits).all():
        hints = [f"`xconvert verify {server.name} --backend numpy` names the layer"]
        raise UsageError(f"`{server.name}` answers with numbers that are not finite", hints=hints)
    return logits


def without_background(server: Server) -> Server:
    """The same with the names of the classes behind the background alone; whoever asks leaves the first logit out."""
    return server._replace(labels=server.labels[1:]) if server.background else server


def probabilities(logits: Array) -> Array:
    """Softmax of (N, classes), in float64."""
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    powers = np.exp(shifted)
    found: Array = powers / powers.sum(1, keepdims=True)
    return found
