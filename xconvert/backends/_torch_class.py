"""What the PyTorch model classes have in common: strict loading, and activations seen through forward hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from xconvert.backends import Job
from xconvert.backends._class import refuse_widths, visible
from xconvert.backends.torch import as_array, as_tensor, read_state, step
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
    headed = any(layer.op == "linear" for layer in job.layers)
    seen: dict[str, Array] = {}
    for name, path in visible(job, dict(module.named_modules()), _activates).items():
        module.get_submodule(path).register_forward_hook(_keep(seen, name))
    with torch.inference_mode():
        seen[job.layers[-1].name] = as_array((module if headed else features)(as_tensor(job)))
    return seen


def train(module: Any, job: Job, features: Callable[[Any], Any]) -> dict[str, Array]:
    """One step of training of ``module`` as ``Backend.train`` says, in ``job.dtype``; ``features`` as for ``activations``.

    Dropout stays as in inference, because its masks are random.
    """
    import torch
    from torch import nn

    module.train().to(getattr(torch, job.dtype))
    for part in module.modules():
        if isinstance(part, nn.modules.dropout._DropoutNd):
            part.eval()
    return step(module, module if job.layers[-1].op == "linear" else features, job.names, job)


def _keep(seen: dict[str, Array], name: str) -> Callable[[Any, Any, Any], None]:
    def hook(module: Any, inputs: Any, output: Any) -> None:
        seen[name] = as_array(output.clone())  # an in-place ReLU or addition is about to overwrite it

    return hook


def _activates(module: Any) -> bool:
    """Whether a batch norm is timm's ``BatchNormAct2d`` with an activation in it."""
    from torch import nn

    return not isinstance(getattr(module, "act", nn.Identity()), nn.Identity)
