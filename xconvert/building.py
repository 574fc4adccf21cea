"""A network that users can train and serve: a real ``torch.nn.Module`` or ``keras.Model`` of a checkpoint."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from xconvert.backends import backends, find
from xconvert.errors import UsageError
from xconvert.loading import load, record_of
from xconvert.mappings import library
from xconvert.model import Model
from xconvert.verification import native_names


def build(checkpoint: str | Path | Model, framework: str, **options: Any) -> Any:
    """The network in ``checkpoint`` as a ``torch.nn.Module`` (``framework="torch"``) or ``keras.Model``
    (``"keras"``), with its weights.

    It computes the checkpoint's own function whatever the file's framework: epsilon, padding, depth and widths are
    those of the checkpoint. The module takes (N, channels, H, W), the Keras model (N, H, W, channels), both already
    normalised; the output is logits (N, classes), or the last feature map without a head. Parameters have the names
    that ``--to <framework>`` writes. What ``torch.save`` makes of ``state_dict()``, and a Keras model saved whole,
    remember epsilon and padding and convert back; formats that hold tensors alone (``safetensors.save_file``, Keras'
    ``save_weights``) do not, and want them from ``--set``. ``options`` are those of ``load``. Raises ``UsageError``
    when the framework is not installed.
    """
    known = library()
    graphs = [backend.name for backend in backends().values() if backend.kind == "graph"]
    frameworks = [name for name in graphs if hasattr(import_module(f"xconvert.backends.{name}"), "build")]
    if framework not in frameworks:
        raise UsageError(f"no framework is called `{framework}`", facts=["frameworks: " + ", ".join(frameworks)])
    find(framework)
    model = checkpoint if isinstance(checkpoint, Model) else load(checkpoint, **options)
    implementation = known.customary(known.dialects[framework], model.family, model.depth)
    weights = {name: tensor.read() for name, tensor in model.weights.items()}
    backend = import_module(f"xconvert.backends.{framework}")
    return backend.build(model.layers, weights, native_names(framework, model), record_of(model, implementation))
