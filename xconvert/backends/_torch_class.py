"""What the PyTorch model classes have in common: strict loading, and activations seen through forward hooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from xconvert.backends import Job
from xconvert.backends._graph import refuse_width
from xconvert.backends.torch import channels_last, read_state
from xconvert.model import Array


def load(module: Any, job: Job, title: str) -> None:
    """Load the file ``job.path`` into ``module`` with ``strict=True``.

    Raises ``ValueError`` when the class called ``title`` has other widths, ``RuntimeError`` when names are missing or left over.
    """
    for layer in job.layers:
        if layer.op not in ("conv", "pointwise", "linear"):
            continue
        theirs = _submodule(module, job.names[layer.name], title).weight.shape
        *_, inputs, outputs = job.weights[f"{layer.name}.weight"].shape
        refuse_width(title, layer, "filters", theirs[0], outputs)
        refuse_width(title, layer, "input channels", theirs[1], inputs)
    if job.path is None:
        raise ValueError(f"{title} wants a file to load")
    module.load_state_dict(read_state(job.path), strict=True)


def _submodule(module: Any, path: str, title: str) -> Any:
    try:
        return module.get_submodule(path)
    except AttributeError:
        raise ValueError(f"{title} has no `{path}`: its depth is fixed") from None


def activations(module: Any, job: Job, features: Callable[[Any], Any]) -> dict[str, Array]:
    """Activations of ``job.taps``, as far as they are outputs of modules, and of the last layer; maps as (N, H, W, C).

    ``features`` computes the last map of a headless network from (N, C, H, W) images. Inference, in ``job.dtype``.
    """
    import torch

    module.eval().to(getattr(torch, job.dtype))
    seen: dict[str, Array] = {}
    for name, path in _visible(job, module).items():
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


def _visible(job: Job, module: Any) -> dict[str, str]:
    """Tapped layer → path of the module whose output it is.

    A residual block is a module with a sequence ``rep``: the block's output is our addition, the last of ``rep`` our pool.
    """
    paths = dict(job.names)
    for layer in job.layers:
        block = job.names.get(f"{layer.name.partition('.')[0]}.sepconv1.depthwise", "").partition(".rep.")[0]
        if layer.op == "add":
            paths[layer.name] = block
        elif layer.op == "max_pool":
            paths[layer.name] = f"{block}.rep.{len(module.get_submodule(block).rep) - 1}"
    return {tap: paths[tap] for tap in job.taps if tap in paths}
