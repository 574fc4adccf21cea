"""timm's own classes: ``timm.create_model`` of the network that timm publishes under this name."""

from __future__ import annotations

from typing import Any

from xconvert.backends import Backend, Job, _torch_class
from xconvert.backends._torch_class import activations, load
from xconvert.model import Array


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps``, as far as modules show them, and of the last layer.

    Raises ``ValueError`` when timm publishes no network of this depth, and when the checkpoint has other widths than the class,
    whose input channels and classes alone are free.
    """
    module = _loaded(job)
    return activations(module, job, module.forward_features)


def train(job: Job) -> dict[str, Array]:
    """One step of training; raises as ``run`` does."""
    module = _loaded(job)
    return _torch_class.train(module, job, module.forward_features)


def _loaded(job: Job) -> Any:
    """The class with the weights of the job's file."""
    if not job.published:
        raise ValueError("timm publishes no network of this depth")
    timm = import_timm()
    head = job.weights.get("predictions.weight")
    classes = 0 if head is None else head.shape[1]
    channels = job.weights[f"{job.layers[0].name}.weight"].shape[2]
    module = timm.create_model(job.published, num_classes=classes, in_chans=channels)
    load(module, job, f"timm's {job.published}")
    return module


def import_timm() -> Any:
    """The module; beside a PyTorch of another build, torchvision misses its C++ operators and cannot even be imported."""
    import torch

    try:
        import timm
    except RuntimeError as error:  # "operator torchvision::nms does not exist": its name is enough, nothing here calls it
        if "torchvision::" not in str(error):
            raise
        for name in ("nms", "qnms"):
            torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import timm
    return timm


BACKEND = Backend(
    "timm",
    "timm's own class",
    requires=("torch", "torchvision", "timm", "safetensors"),
    kind="class",
    run=run,
    train=train,
    variance="unbiased",
    opens=(".safetensors", ".pth", ".pt"),
)
