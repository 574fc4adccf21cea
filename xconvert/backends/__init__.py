"""Executors: the same graph run by NumPy or a framework, and the frameworks' own model classes.

One module per backend, each offering a ``BACKEND``. A module imports its framework only inside the functions that
need it, and every framework runs in a process of its own (TensorFlow and Paddle crash when imported together).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from xconvert import supervision
from xconvert.deferred import np
from xconvert.errors import UsageError
from xconvert.model import Array, Layer, Model
from xconvert.plugins import discover
from xconvert.tuples import NamedTuple


class Job(NamedTuple):
    """One forward pass, or one step of training.

    ``layers`` and ``weights`` (``"<layer>.<parameter>"``, canonical axes) describe the graph; ``names`` gives each
    layer with parameters the name that a module or Keras layer has in the implementation at hand, and ``published`` is what
    its zoo calls the network, if it publishes it; ``path`` is a file that the framework loads itself. ``images``: (N, H, W,
    channels), already normalised. ``dtype``: ``"float32"`` or ``"float64"``. ``taps``: layers whose activations are wanted.
    ``labels``: (N,) int64, the class of each image, to train a classifier with.
    """

    layers: tuple[Layer, ...]
    weights: Mapping[str, Array]
    images: Array
    dtype: str = "float32"
    taps: tuple[str, ...] = ()
    names: Mapping[str, str] = {}
    published: str = ""
    path: Path | None = None
    labels: Array | None = None


Serve = Callable[[Array], Array]


class Backend(NamedTuple):
    """What one backend module offers.

    ``kind``: ``"graph"`` executes ``Job.layers`` and bears the name of a dialect; ``"class"`` is a zoo's own model class and
    bears the name of its mapping. ``requires``: modules it imports. ``opens``: suffixes of files that the framework itself
    can load as ``Job.path``, the one to write first; a class needs one. ``run`` returns activations by layer name, maps as
    (N, H, W, C), always those of the last layer, and of ``taps`` as far as it can see them.
    ``serve`` makes the network of a job ready and returns what answers images (N, H, W, channels) with the output of the last
    layer, as whoever serves it in the framework would; images and taps of the job are not used. ``serves``: how that is called
    there. None where nothing is served.
    ``build(layers, weights, names, record)`` makes the framework's own kind of module; None where there is none.

    ``train`` takes one step of training, forward and back, without changing a weight, and returns ``"loss"``: the mean softmax
    cross-entropy of ``Job.labels``, or mean(features²) / 2 of a network without a head; ``"<layer>.<parameter>"``: the gradients
    in canonical axes; and ``"<layer>.mean"``, ``"<layer>.variance"``: the running statistics after it. None where no step can be
    taken: ``untrained`` says why. ``variance``: which variance of the batch enters the running one, divided by n or by n - 1.
    ``single``: what training holds in float32, whatever it computes in: the epsilon or momentum of batch norms, or the 1 / n by
    which an average over n pixels hands its gradient back. ``kept``: what stays as in inference while the rest is trained, in a
    clause.
    """

    name: str
    describes: str
    requires: tuple[str, ...]
    kind: Literal["graph", "class"]
    run: Callable[[Job], dict[str, Array]]
    opens: tuple[str, ...] = ()
    build: Callable[..., Any] | None = None
    train: Callable[[Job], dict[str, Array]] | None = None
    untrained: str = ""
    variance: Literal["biased", "unbiased"] = "biased"
    single: tuple[Literal["epsilon", "momentum", "average"], ...] = ()
    kept: str = ""
    serve: Callable[[Job], Serve] | None = None
    serves: str = ""

    @property
    def missing(self) -> list[str]:
        """What it imports and cannot be found here."""
        return [module for module in self.requires if not find_spec(module)]

    @property
    def installed(self) -> bool:
        """Whether everything it imports can be found, here or in the Python that is set for it."""
        return python_of(self.name) != sys.executable or not self.missing


def backends() -> dict[str, Backend]:
    """Every backend by name."""
    return discover("backends", "BACKEND")


def forward(
    model: Model,
    images: Array,
    *,
    backend: str = "numpy",
    dtype: str = "float32",
    taps: Sequence[str] | Literal["all"] = (),
    names: Mapping[str, str] | None = None,
    published: str = "",
    path: Path | None = None,
) -> dict[str, Array]:
    """Run ``model`` on ``images`` (N, H, W, channels), already normalised, and return activations by layer name.

    ``taps``: canonical layer names, or ``"all"``. The network's output is there as ``"logits"`` (N, classes), or ``"features"``
    (N, H, W, C) for a headless network. ``names``: what the layers are called in the framework, ``published`` the network in its
    zoo. ``path``: a file that the framework itself loads, instead of being handed the weights; a backend of kind ``"class"``
    needs all three. Raises ``UsageError`` for an unknown backend or tap, for images that do not fit, and when the framework is
    missing or fails.
    """
    return next(
        forward_each(model, [images], backend=backend, dtype=dtype, taps=taps, names=names, published=published, path=path)
    )


def forward_each(
    model: Model,
    batches: Sequence[Array],
    *,
    backend: str,
    dtype: str,
    taps: Sequence[str] | Literal["all"],
    names: Mapping[str, str] | None = None,
    published: str = "",
    path: Path | None = None,
) -> Iterator[dict[str, Array]]:
    """``forward`` for several batches, which may differ in size; a framework is started once for all of them."""
    layers = model.layers
    known = [layer.name for layer in layers]
    chosen = tuple(known) if taps == "all" else tuple(taps)
    if unknown := [tap for tap in chosen if tap not in known]:
        raise UsageError(f"no layer is called `{unknown[0]}`", facts=["the layers are " + ", ".join(known)])
    for images in batches:
        _check_images(model, images)
    executor = find(backend)
    weights = {name: tensor.read() for name, tensor in model.weights.items()}
    jobs = [Job(layers, weights, images, dtype, chosen, names or {}, published, path) for images in batches]
    for out in map(executor.run, jobs) if backend == "numpy" else run_apart(executor, model, jobs):
        out["logits" if model.head else "features"] = out[known[-1]]
        yield out


def train(
    model: Model,
    images: Array,
    labels: Array | None = None,
    *,
    backend: str = "numpy",
    dtype: str = "float32",
    taps: Sequence[str] = (),
    names: Mapping[str, str] | None = None,
    published: str = "",
    path: Path | None = None,
) -> dict[str, Array]:
    """Take one step of training with ``images`` (N, H, W, channels), already normalised, of the classes ``labels`` (N,).

    Returns loss, gradients and running statistics as ``Backend.train`` says, and where the backend shows them the activations of
    ``taps``; no weight is changed. A network without a head takes no labels. The other arguments are those of ``forward``. Raises
    ``UsageError`` as ``forward`` does, for labels that do not fit, and for a backend that cannot train, with the reason.
    """
    executor = find(backend)
    if executor.train is None:
        raise UsageError(f"backend `{backend}` cannot train", facts=[executor.untrained] if executor.untrained else [])
    _check_images(model, images)
    _check_labels(model, images, labels)
    weights = {name: tensor.read() for name, tensor in model.weights.items()}
    job = Job(model.layers, weights, images, dtype, tuple(taps), names or {}, published, path, labels if model.head else None)
    return executor.train(job) if backend == "numpy" else next(run_apart(executor, model, [job], train=True))


def find(name: str) -> Backend:
    """The backend called ``name``; raises ``UsageError`` when there is none or it is not installed."""
    known = backends()
    if name not in known:
        raise UsageError(f"no backend is called `{name}`", facts=["backends: " + ", ".join(known)])
    if not known[name].installed:
        raise _not_installed(known[name], f"or set {_variable(name)} to a Python that has it")
    return known[name]


def builder(name: str) -> Callable[..., Any]:
    """What makes a module of the framework ``name`` here; raises ``UsageError`` when there is none or it is not installed."""
    frameworks = {backend.name: backend for backend in backends().values() if backend.build}
    if name not in frameworks:
        raise UsageError(f"no network can be built in `{name}`", facts=["frameworks: " + ", ".join(frameworks)])
    if frameworks[name].missing:
        raise _not_installed(frameworks[name])
    build = frameworks[name].build
    assert build is not None  # noqa: S101  (told above)
    return build


def _not_installed(backend: Backend, *hints: str) -> UsageError:
    extra = f"`pip install 'xconvert[{backend.name.split('.')[0]}]'`"
    return UsageError(f"backend `{backend.name}` needs the package `{backend.missing[0]}`", hints=[extra, *hints])


def run_apart(backend: Backend, model: Model, jobs: Sequence[Job], *, train: bool = False) -> Iterator[dict[str, Array]]:
    """Run ``jobs``, which differ in their images alone, in a Python process of their own; arrays travel as ``.npz``.

    ``train``: a step of training each, instead of a forward pass.
    """
    import subprocess

    with supervision.temporary() as folder:
        describe_job(folder, backend, model, jobs[0], train=train)
        save_images(folder, jobs)
        command = command_of("worker", backend.name, str(folder))
        done = subprocess.run(command, capture_output=True, text=True, env=environment(train), check=False)  # noqa: S603
        if done.returncode:
            raise failed(backend.name, done.returncode, (done.stderr or done.stdout).strip().splitlines())
        for i in range(len(jobs)):
            with loadz(folder / f"out_{i}.npz") as out:
                yield dict(out)


def describe_job(folder: Path, backend: Backend, model: Model, job: Job, *, train: bool = False) -> None:
    """Write what a worker must know of ``job``, but for its images, into ``folder``: ``job.json`` and ``weights.npz``."""
    description = {
        "backend": backend.name,
        "family": model.family.name,
        "depth": model.depth,
        "head": model.head,
        "attributes": model.values,
        "dtype": job.dtype,
        "taps": job.taps,
        "names": dict(job.names),
        "published": job.published,
        "path": str(job.path.resolve()) if job.path else None,
        "train": train,
    }
    (folder / "job.json").write_text(json.dumps(description))
    plain = {n: a if a.dtype.kind == "f" and a.dtype.itemsize > 1 else a.astype(np.float32) for n, a in job.weights.items()}
    savez(folder / "weights.npz", **plain)  # npz knows no bfloat16


def save_images(folder: Path, jobs: Sequence[Job]) -> None:
    """Write the images and labels of ``jobs``, which differ in nothing else, into ``folder``: ``worker.read`` takes them."""
    savez(folder / "images.npz", *(j.images for j in jobs))
    savez(folder / "labels.npz", *(j.labels for j in jobs if j.labels is not None))


def command_of(module: str, backend: str, *arguments: str) -> list[str]:
    """The command that runs a module of this package in the Python of ``backend``, and not from the current folder."""
    return [python_of(backend), "-P", "-m", f"xconvert.backends.{module}", *arguments]


def savez(file: Path, *arrays: Array, **named: Array) -> None:
    """``np.savez``: its stubs in NumPy 2 want `allow_pickle` beside other keywords, and NumPy 1 takes that for an array."""
    save: Callable[..., None] = np.savez
    save(file, *arrays, **named)


def loadz(file: Path) -> Any:
    """What ``savez`` wrote."""
    return np.load(file)  # noqa: TID251


CANNOT = 3  # exit code of the worker when the backend says that it cannot run this network


def failed(name: str, code: int, lines: Sequence[str]) -> UsageError:
    """What to say of a worker for the backend ``name`` that exited with ``code``; ``lines``: what it told before."""
    last = lines[-1].strip() if lines else f"it exited with {code}"
    if code == CANNOT:
        return UsageError(f"backend `{name}` cannot run this network: {last}")
    return UsageError(f"backend `{name}` failed: {last}", facts=lines[-6:-1])


def _variable(name: str) -> str:
    return "XCONVERT_PYTHON_" + name.upper().replace(".", "_").replace("-", "_")


def python_of(name: str) -> str:
    """The Python that runs a backend: a setting, because a framework may need an environment of its own."""
    return os.environ.get(_variable(name), sys.executable)


def environment(train: bool = False) -> dict[str, str]:
    """What a backend's process starts with: what the user set, else this. TensorFlow 2.21's oneDNN kernels have been seen to
    corrupt the heap when a narrow Xception is trained (``tests/conftest.py``).
    """
    training = {"TF_ENABLE_ONEDNN_OPTS": "0"} if train else {}
    return {"TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow", **training, **os.environ}


def _check_images(model: Model, images: Array) -> None:
    first = model.weights[f"{model.layers[0].name}.weight"]
    if images.ndim != 4 or images.shape[3] != first.shape[2]:
        raise UsageError(
            f"images have shape {images.shape}, the network takes (N, H, W, {first.shape[2]})",
            hints=["channels come last; transpose (N, C, H, W) images with `images.transpose(0, 2, 3, 1)`"],
        )


def _check_labels(model: Model, images: Array, labels: Array | None) -> None:
    if not model.head:
        return
    count = model.weights[f"{model.layers[-1].name}.bias"].shape[0]
    if labels is None or labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise UsageError(f"a classifier is trained with a label for each of the {len(images)} images, whole numbers (N,)")
    if labels.min() < 0 or labels.max() >= count:
        raise UsageError(f"the labels are classes 0 to {count - 1}, found {labels.min()} to {labels.max()}")
