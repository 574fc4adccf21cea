"""keras-hub's own classes: ``XceptionBackbone``, and ``XceptionImageClassifier`` around it.

The classifier nests its backbone as one layer, so neither it nor the backbone can load a flat file with a head. Their
layers, strung into one flat model, can: Keras' own ``load_weights`` fills the variables of both. A headless file is what
the backbone loads as it stands; its ``.weights.h5`` is the ``model.weights.h5`` of a preset.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from xconvert.backends import Backend, Job
from xconvert.backends._keras_class import activations, load
from xconvert.backends.keras import step
from xconvert.model import Array
from xconvert.stacks import stacks

TITLE = "keras-hub's Xception"


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps``, as far as layers show them, and of the last layer. Widths and depth are free."""
    flat, classifier = _loaded(job)
    if classifier is None:
        return activations(flat, job)
    logits = np.asarray(classifier(job.images.astype(job.dtype), training=False))
    return {**activations(flat, job), job.layers[-1].name: logits}


def train(job: Job) -> dict[str, Array]:
    """One step of training, of the layers strung into one model. Widths and depth are free."""
    return step(_loaded(job)[0], job)


def _loaded(job: Job) -> tuple[Any, Any]:
    """The model that loads the job's file, and the classifier whose layers it has; None of a headless network."""
    import keras
    import keras_hub

    keras.config.set_floatx(job.dtype)
    filters, pools = stacks(job.layers, job.weights)
    backbone = keras_hub.models.XceptionBackbone(filters, pools, image_shape=(None, None, job.images.shape[3]))
    head = job.weights.get("predictions.weight")
    if head is None:
        load(backbone, job, TITLE)
        return backbone, None
    classifier = keras_hub.models.XceptionImageClassifier(backbone, num_classes=head.shape[1])
    flat = keras.Model(backbone.input, classifier.output_dense(classifier.pooler(backbone.output)))
    load(flat, job, TITLE)
    return flat, classifier


BACKEND = Backend(
    "keras-hub",
    TITLE,
    requires=("keras", "keras_hub", "tensorflow"),
    kind="class",
    run=run,
    train=train,
    opens=(".h5", ".weights.h5"),
)
