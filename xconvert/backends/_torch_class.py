"""What the PyTorch model classes have in common: strict loading, and activations seen through forward hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xconvert.backends import Job
from xconvert.backends._class import refuse_widths, visible
from xconvert.backends.torch import channels_last, read_state
from xconvert.model import Array


def load(module: Any, job: Job, title: str) -> None:
    """Load the file ``job.path`` into ``module`` with ``strict=True``.

    Raises ``ValueError`` when the class called ``title`` has other widths, ``RuntimeError`` when names are missing or left over.
    """
    refuse_widths(job, title, dict(module.named_modules()))
    if job.path is None:
        raise ValueError(f"{title} wants a file to load")
    module.load_state_dict(read_state(job.path), strict=True)


def activations(module: Any, job: Job, features: Callable[[Any], Any]) -> dict[str, Array]:
    """Activations of ``job.taps``, as far as they are outputs of modules, and of the last layer; maps as (N, H, W, C).

    ``features`` computes the last map of a headless network from (N, C, H, W) images. Inference, in ``job.dtype``.
    """
    import torch

    module.eval().to(getattr(torch, job.dtype))
    seen: dict[str, Array] = {}
    for name, path in visible(job, dict(module.named_modules()), _activates).items():
        module.get_submodule(path).register_forward_hook(_keep(seen, name))
    images = torch.from_numpy(np.ascontiguousarray(job.images.transpose(0, 3, 1, 2), job.dtype))
    with torch.inference_mode():
        headed = any(layer.op == "linear" for layer in job.layers)
        seen[job.layers[-1].name] = channels_last(module(images) if headed else features(images))
    return seen


def _keep(seen: dict[str, Array], name: str) -> Callable[[Any, Any, Any], None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        seen[name] = channels_last(output.clone())  # an in-place ReLU or addition is about to overwrite it

    return hook


def _activates(module: Any) -> bool:
    """Whether a batch norm is timm's ``BatchNormAct2d`` with an activation in it."""
    from torch import nn

    return not isinstance(getattr(module, "act", nn.Identity()), nn.Identity)
