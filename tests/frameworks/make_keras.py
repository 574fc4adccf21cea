"""The Keras kinds of ``make.py``: ``keras.applications.Xception`` and keras-hub's classes, saved the ways people save
them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np

from tests.frameworks.make import Answer, Array, names, parts

# Keras wants its own suffixes: .h5 for the old layout, .weights.h5 and .keras for the new ones.
TRAINABLE = {"keras-nested": True, "keras-frozen": False}


def make(kind: str, out: Path, weights: Mapping[str, Array], divide: int) -> Answer:
    """Write ``out``; returns what gives the real class' answers."""
    if kind == "keras-float16":
        weights = {name: array.astype(np.float16).astype(np.float32) for name, array in weights.items()}
        keras.config.set_dtype_policy("float16")
    if kind == "keras-second":
        _build(kind, weights, divide, 299)  # takes the names conv2d … conv2d_3 away
    model = _build(kind, weights, divide, 299)
    if kind == "keras-trained":
        _train(model)
        _fill(model, weights)
    if kind.endswith(("-weights", "-backbone")):
        model.save_weights(str(out))
    else:
        model.save(str(out))

    def answer(x: Array, dtype: str) -> Array:
        keras.config.set_dtype_policy(dtype)
        return np.asarray(_build(kind, weights, divide, x.shape[1])(x.astype(dtype), training=False))

    return answer


def _build(kind: str, weights: Mapping[str, Array], divide: int, size: int) -> Any:
    """The real class with ``weights``, for images of ``size`` pixels where it cares."""
    head = weights.get("predictions.weight")
    channels = weights["block1.conv1.weight"].shape[2]
    if kind.startswith("hub-"):
        model = _hub(head, channels, divide)
    else:
        nested = kind in TRAINABLE
        xception = _narrow(divide)
        model = xception.Xception(
            weights=None,
            include_top=head is not None and not nested,
            classes=1000 if head is None else head.shape[1],
            classifier_activation="softmax" if kind == "keras-trained" else None,
            input_shape=(size, size, channels),
        )
        if nested and head is not None:
            model.trainable = TRAINABLE[kind]
            image = keras.Input((size, size, channels))
            pooled = keras.layers.GlobalAveragePooling2D()(model(image))
            model = keras.Model(image, keras.layers.Dense(head.shape[1])(pooled))
    _fill(model, weights)
    return model


def _narrow(divide: int) -> Any:
    """The module of Keras' class, its layers made narrower by what it takes for ``keras.layers``."""
    from keras.src.applications import xception

    def narrower(kind: Any) -> Any:
        return lambda filters, *rest, **how: kind(filters // divide if filters >= 32 else filters, *rest, **how)

    layers = keras.layers
    own = {"Conv2D": narrower(layers.Conv2D), "SeparableConv2D": narrower(layers.SeparableConv2D)}
    xception.layers = SimpleNamespace(**{**vars(layers), **own})
    return xception


def _hub(head: Array | None, channels: int, divide: int) -> Any:
    """keras-hub's classifier, or its backbone for a headless file; the arguments are those of the preset
    ``xception_41_imagenet``.
    """
    import keras_hub

    filters = [[32, 64], [128, 128], [256, 256], [728, 728], *[[728] * 3] * 8, [728, 1024], [1536, 2048]]
    pools = [False, True, True, True, *[False] * 8, True, False]
    narrow = [[n // divide for n in block] for block in filters]
    backbone = keras_hub.models.XceptionBackbone(narrow, pools, image_shape=(None, None, channels))
    return backbone if head is None else keras_hub.models.XceptionImageClassifier(backbone, num_classes=head.shape[1])


def _fill(model: Any, weights: Mapping[str, Array]) -> None:
    """Set every variable; what Keras numbers itself is taken in the order of the layers."""
    layers = _flat(model)
    table = names("hub" if any("residual" in layer.name for layer in layers) else "keras")
    by_name = {layer.name: layer for layer in layers}
    automatic = {
        stem: iter([layer for layer in layers if layer.name.startswith(stem)])
        for stem in ("conv2d", "batch_normalization", "dense")
    }
    kernels: dict[str, list[Array]] = {}
    for layer, arrays in parts(weights).items():
        name = table[layer]
        stem = next((s for s in automatic if name.startswith(s)), "")
        if layer == "predictions" and name not in by_name:
            stem = "dense"
        target = next(automatic[stem]) if stem else by_name[name]
        values = [_axes(layer, p, array) for p, array in arrays.items()]
        if layer.endswith((".depthwise", ".pointwise")):
            kernels.setdefault(name, []).extend(values)
            values = kernels[name]
        if not layer.endswith(".depthwise"):
            target.set_weights(values)


def _axes(layer: str, parameter: str, array: Array) -> Array:
    if layer.endswith(".depthwise"):
        return array[..., None]  # H W C → H W C 1
    return array[None, None] if layer.endswith(".pointwise") else array  # I O → 1 1 I O


def _flat(model: Any) -> list[Any]:
    """All layers with weights, nested models taken apart, in order."""
    return [x for layer in model.layers for x in (_flat(layer) if hasattr(layer, "layers") else [layer]) if x.weights]


def _train(model: Any) -> None:
    """One step of a real optimizer, for its slots in the file."""
    size, classes = model.input_shape[1], model.output_shape[1]
    rng = np.random.default_rng(0)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(rng.standard_normal((2, size, size, model.input_shape[3])), np.arange(2) % classes, verbose=0)
