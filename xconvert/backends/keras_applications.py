"""Keras' own class: ``keras.applications.Xception``."""

from __future__ import annotations

from typing import Any

from xconvert.backends import Backend, Job
from xconvert.backends._keras_class import activations, load
from xconvert.backends.keras import step
from xconvert.model import Array

TITLE = "keras.applications' Xception"


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps``, as far as layers show them, and of the last layer.

    With its head the class wants a fixed image size, at least 71; without, any. Raises ``ValueError`` when the checkpoint
    has other widths than the class, whose input channels and classes alone are free.
    """
    return activations(_loaded(job), job)


def train(job: Job) -> dict[str, Array]:
    """One step of training; raises as ``run`` does."""
    return step(_loaded(job), job)


def _loaded(job: Job) -> Any:
    """The class with the weights of the job's file."""
    import keras

    keras.utils.clear_session()  # a second model of one process would have other names
    keras.config.set_floatx(job.dtype)
    head = job.weights.get("predictions.weight")
    model = keras.applications.Xception(
        weights=None,
        include_top=head is not None,
        classes=1000 if head is None else head.shape[1],
        classifier_activation=None,
        input_shape=job.images.shape[1:],
    )
    load(model, job, TITLE)
    return model


BACKEND = Backend(
    "keras.applications",
    TITLE,
    requires=("keras", "tensorflow"),
    kind="class",
    run=run,
    train=train,
    opens=(".h5", ".weights.h5"),
)
