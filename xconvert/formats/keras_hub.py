"""The folder of a keras-hub preset: the backbone's configuration and weights, and the classifier's beside them.

From ``KerasPresetSaver`` and ``KerasPresetLoader`` in keras_hub/src/utils/preset_utils.py (0.32): a preset with a ``task.json``
is a classifier, whose own layer is in ``task.weights.h5``; ``model.weights.h5`` has the backbone alone. Read by what it holds:
the weights are Keras 3's, beside which that reader finds the classifier.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from xconvert.formats import Format, keras_weights
from xconvert.formats._folders import CARD, meant_for, publish
from xconvert.formats.keras_weights import PRESET, PRESET_HEAD
from xconvert.model import Checkpoint, Graph
from xconvert.stacks import stacks

_MODELS = "keras_hub.src.models.xception.xception_"
_JSON = ("config.json", "metadata.json", "task.json", "preprocessor.json", "image_converter.json")
_HEAD = ("dense/0", "dense/1")


def matches(data: mmap.mmap) -> bool:
    """Never: a folder has no bytes, and the file in it is one of Keras' weights."""
    return False


def files(path: Path) -> tuple[Path, ...]:
    """All files that the folder ``path`` may have; one without a head, or whose images are unknown, has not all of them."""
    return tuple(path / name for name in (*_JSON, CARD, PRESET_HEAD, PRESET))


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create the folder ``path``, which ``keras_hub.models.XceptionImageClassifier.from_preset`` opens, and without a head
    ``XceptionBackbone.from_preset``.

    Raises ``UsageError`` for names other than keras-hub's.
    """
    graph, record = meant_for("keras-hub", checkpoint, "a preset holds keras-hub's own network", published=False)
    told = configurations(graph, record["preprocessing"])
    path.mkdir(exist_ok=True)
    for name, content in told.items():
        (path / name).write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")
    if head := {name: checkpoint.tensors[name] for name in _HEAD if name in checkpoint.tensors}:
        keras_weights.write(path / PRESET_HEAD, checkpoint._replace(tensors=head, metadata={}))
    backbone = {name: tensor for name, tensor in checkpoint.tensors.items() if name not in head}
    keras_weights.write(path / PRESET, checkpoint._replace(tensors=backbone))  # last: its record has the digest of both


def configurations(graph: Graph, preprocessing: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON files of a preset for ``graph``, by name."""
    filters, pools = stacks(graph.layers, graph.weights)
    channels = graph.weights[f"{graph.layers[0].name}.weight"].shape[2]
    own = {"stackwise_conv_filters": filters, "stackwise_pooling": pools, "image_shape": [None, None, channels]}
    backbone = _serialized("backbone", "Backbone", own)
    told: dict[str, Any] = {"config.json": backbone, "metadata.json": _metadata(graph)}
    converter = _converter(preprocessing)
    if converter:
        own = {"image_converter": converter, "config_file": "preprocessor.json"}
        told["preprocessor.json"] = _serialized("image_classifier_preprocessor", "ImageClassifierPreprocessor", own)
        told["image_converter.json"] = converter
    if graph.layers[-1].op == "linear":
        classes = graph.weights[f"{graph.layers[-1].name}.weight"].shape[1]
        own = {"backbone": backbone, "preprocessor": told.get("preprocessor.json"), "name": "xception_image_classifier"}
        own |= {"num_classes": classes, "pooling": "avg", "activation": None, "dropout": 0.0}
        task = _serialized("image_classifier", "ImageClassifier", {})
        told["task.json"] = {**task, "config": own}
    return told


def _serialized(module: str, name: str, own: Mapping[str, Any]) -> dict[str, Any]:
    """An object of keras-hub as ``keras.saving.serialize_keras_object`` writes it."""
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "float32"}, "registered_name": None}
    return {
        "module": _MODELS + module,
        "class_name": f"Xception{name}",
        "config": {"name": f"xception_{module}", "trainable": True, "dtype": policy, **own},
        "registered_name": f"keras_hub>Xception{name}",
    }


def _converter(preprocessing: Mapping[str, Any]) -> dict[str, Any] | None:
    """What makes images of bytes, (value/255 - mean) / std, into the network's inputs; None where that is not known.

    keras-hub resizes to the size itself: it has no larger image from which the centre is cropped.
    """
    if not {"mean", "std", "size"} <= preprocessing.keys() or preprocessing.get("channels", "RGB") != "RGB":
        return None
    mean, std, size = (preprocessing[name] for name in ("mean", "std", "size"))
    scale, offset = [1 / (255 * s) for s in std], [-m / s for m, s in zip(mean, std, strict=True)]
    own = {
        "image_size": [size, size],
        "scale": scale[0] if len(set(scale)) == 1 else scale,
        "offset": offset[0] if len(set(offset)) == 1 else offset,
        "interpolation": preprocessing.get("interpolation", "bilinear"),
        "antialias": False,
        "crop_to_aspect_ratio": True,
        "pad_to_aspect_ratio": False,
        "bounding_box_format": "yxyx",
    }
    return _serialized("image_converter", "ImageConverter", own)


def _metadata(graph: Graph) -> dict[str, Any]:
    """What keras-hub writes beside; the date is the same whenever it is written."""
    import math

    backbone = sum(math.prod(t.shape) for name, t in graph.weights.items() if not name.startswith("predictions."))
    versions = {"keras_version": "3.6.0", "keras_hub_version": "0.32.0"}
    return {**versions, "parameter_count": backbone, "date_saved": "1980-01-01@00:00:00", "tasks": ["ImageClassifier"]}


FORMAT = Format(
    "keras-hub",
    "keras-hub's preset",
    (),
    matches,
    keras_weights.read,
    write,
    dialects={"keras": "keras_weights"},
    files=files,
    publish=partial(publish, files=files),
    inside=(PRESET,),
    card=CARD,
)
