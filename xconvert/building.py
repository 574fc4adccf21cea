"""A network that users can train and serve: a framework's own kind of module, made of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xconvert.backends import builder
from xconvert.loading import load
from xconvert.mappings import library
from xconvert.model import Model
from xconvert.naming import native_names
from xconvert.provenance import record_of


def build(checkpoint: str | Path | Model, framework: str, **options: Any) -> Any:
    """The network in ``checkpoint``, with its weights, as a ``torch.nn.Module`` (``framework="torch"``), ``keras.Model``
    (``"keras"``), ``tf.Module`` (``"tensorflow"``), ``paddle.nn.Layer`` (``"paddle"``) or ``mindspore.nn.Cell``
    (``"mindspore"``).

    It computes the checkpoint's own function whatever the file's framework: its attributes, depth and widths are those of
    the checkpoint. Keras and TensorFlow take images as (N, H, W, channels), the others as (N, channels, H, W), all already
    normalised; the output is logits (N, classes), or the last feature map without a head. Parameters have the names
    that ``--to <framework>`` writes. What ``torch.save`` makes of ``state_dict()``, and a Keras model saved whole,
    remember the attributes and convert back; what holds tensors alone (``safetensors.save_file``, ``save_weights``,
    ``paddle.save``, ``mindspore.save_checkpoint``) does not, and wants them from ``--set``. ``options`` are those of
    ``load``. Raises ``UsageError`` when the framework is not installed.
    """
    make = builder(framework)
    known = library()
    model = checkpoint if isinstance(checkpoint, Model) else load(checkpoint, **options)
    implementation = known.customary(known.dialects[framework], model.family, model.depth)
    weights = {name: tensor.read() for name, tensor in model.weights.items()}
    return make(model.layers, weights, native_names(framework, model), record_of(model, implementation))
