"""Cadene's own class, ``pretrainedmodels.models.xception``: the file alone, because the package's ``__init__`` needs more
than it.
"""

from __future__ import annotations

from typing import Any

from xconvert.backends import Backend, Job
from xconvert.backends._class import import_file
from xconvert.backends._torch_class import activations, load
from xconvert.model import Array

TITLE = "pretrainedmodels' xception"


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps``, as far as modules show them, and of the last layer.

    Raises ``ValueError`` when the checkpoint has other widths than the class, whose classes alone are free.
    """
    head = job.weights.get("predictions.weight")
    module = import_xception().xception(num_classes=1 if head is None else head.shape[1], pretrained=None)
    if head is None:
        del module.last_linear
    load(module, job, TITLE)
    return activations(module, job, lambda images: module.relu(module.features(images)))  # `features` ends before the ReLU


def import_xception() -> Any:
    """The module ``pretrainedmodels/models/xception.py``; raises ``ModuleNotFoundError`` when it is not installed."""
    return import_file("pretrainedmodels", "models/xception.py")


BACKEND = Backend(
    "cadene",
    TITLE,
    requires=("torch", "pretrainedmodels", "safetensors"),
    kind="class",
    run=run,
    opens=(".safetensors", ".pth", ".pt"),
)
