"""Cadene's own class, ``pretrainedmodels.models.xception``: the file alone, because the package's ``__init__`` needs more
than it.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from xconvert.backends import Backend, Job, _torch_class
from xconvert.backends._class import import_file
from xconvert.backends._torch_class import activations, load
from xconvert.model import Array

TITLE = "pretrainedmodels' xception"


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps``, as far as modules show them, and of the last layer.

    Raises ``ValueError`` when the checkpoint has other widths than the class, whose classes alone are free.
    """
    module = _loaded(job)
    return activations(module, job, partial(_features, module))


def train(job: Job) -> dict[str, Array]:
    """One step of training; raises as ``run`` does."""
    module = _loaded(job)
    return _torch_class.train(module, job, partial(_features, module))


def _features(module: Any, images: Any) -> Any:
    return module.relu(module.features(images))  # `features` ends before the ReLU


def _loaded(job: Job) -> Any:
    """The class with the weights of the job's file."""
    head = job.weights.get("predictions.weight")
    module = import_xception().xception(num_classes=1 if head is None else head.shape[1], pretrained=None)
    if head is None:
        del module.last_linear
    load(module, job, TITLE)
    return module


def import_xception() -> Any:
    """The module ``pretrainedmodels/models/xception.py``; raises ``ModuleNotFoundError`` when it is not installed."""
    return import_file("pretrainedmodels", "models/xception.py")


BACKEND = Backend(
    "cadene",
    TITLE,
    requires=("torch", "pretrainedmodels", "safetensors"),
    kind="class",
    run=run,
    train=train,
    variance="unbiased",
    opens=(".safetensors", ".pth", ".pt"),
)
