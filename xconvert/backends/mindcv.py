"""MindCV's own class: ``mindcv.create_model("xception")``, run eagerly, so that hooks see its cells."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

from xconvert.backends import Backend, Job
from xconvert.backends._class import refuse_widths, visible
from xconvert.backends.mindspore import SINGLE, as_array, as_tensor, load, step
from xconvert.model import Array

TITLE = "MindCV's xception"


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps``, as far as cells show them, and of the last layer.

    Raises ``ValueError`` for float64, which MindSpore's convolutions do not compute on a CPU, and when the checkpoint has
    other widths than the class, whose input channels and classes alone are free.
    """
    return _with_class(job, _activations)


def train(job: Job) -> dict[str, Array]:
    """One step of training, but for dropout, which stays as in inference because its masks are random. Raises as ``run`` does."""
    return _with_class(job, _trained)


def _with_class(job: Job, act: Callable[[Any, Job, Callable[[Any], Any]], dict[str, Array]]) -> dict[str, Array]:
    """What ``act`` makes of the class with the weights of the job's file, the job, and what computes its answer."""
    if job.dtype != "float32":
        raise ValueError(SINGLE)
    head = job.weights.get("predictions.weight")
    channels = job.weights[f"{job.layers[0].name}.weight"].shape[2]
    network = create(0 if head is None else head.shape[1], channels)
    try:
        refuse_widths(job, TITLE, dict(network.cells_and_names()))
        if job.path is None:
            raise ValueError(f"{TITLE} wants a file to load")
        load(network, job.path)
        return act(network, job, network if head is not None else network.forward_features)
    finally:  # a cell that dies with the interpreter writes an error of its own, after ours
        del network
        gc.collect()


def create(classes: int, channels: int) -> Any:
    """The class without trained weights, for inference; for no ``classes`` without its classifier."""
    import mindspore
    from mindcv.models import create_model

    mindspore.set_context(mode=mindspore.PYNATIVE_MODE)
    network = create_model("xception", num_classes=classes or 1, in_channels=channels)
    if not classes:
        del network.classifier
    return network.set_train(False)


def _activations(network: Any, job: Job, answer: Callable[[Any], Any]) -> dict[str, Array]:
    seen: dict[str, Array] = {}
    cells = dict(network.cells_and_names())
    for name, path in visible(job, cells, lambda cell: False).items():
        cells[path].register_forward_hook(_keep(seen, name))
    seen[job.layers[-1].name] = as_array(answer(as_tensor(job)))
    return seen


def _trained(network: Any, job: Job, answer: Callable[[Any], Any]) -> dict[str, Array]:
    from mindspore import nn

    network.set_train(True)
    for _, cell in network.cells_and_names():
        if isinstance(cell, nn.Dropout):
            cell.set_train(False)
    return step(network, answer, job.names, job)


def _keep(seen: dict[str, Array], name: str) -> Callable[[Any, Any, Any], None]:
    def hook(cell: Any, inputs: Any, output: Any) -> None:
        seen[name] = as_array(output)

    return hook


BACKEND = Backend(
    "mindcv",
    TITLE,
    requires=("mindspore", "mindcv"),
    kind="class",
    run=run,
    train=train,
    variance="unbiased",
    kept="dropout, because its masks are random",
    opens=(".ckpt", ".safetensors"),
)
