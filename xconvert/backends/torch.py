"""PyTorch runs our graph, as an ordinary trainable ``torch.nn.Module``: whatever the attributes, the same function as the
reference.

Modules stand under the names that the implementation gives them, so a file written for it loads with ``strict=True``. What has no
weights (ReLU, pools, additions) is computed in ``forward`` and leaves no trace in the state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from xconvert.axes import rearrange
from xconvert.backends import Backend, Job, Serve
from xconvert.backends._graph import STATISTICS, Walk, channels_first, channels_last, convolution, own_dtype
from xconvert.model import Array, Layer
from xconvert.padding import pads

# Our parameters as attributes of PyTorch's modules, and the axes that those have where they are not ours.
ATTRIBUTES = {
    "weight": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "mean": "running_mean",
    "variance": "running_var",
}
AXES = {"conv": "O I H W", "depthwise": "C 1 H W", "pointwise": "O I 1 1", "linear": "O I"}


def build(layers: Sequence[Layer], weights: Mapping[str, Array], names: Mapping[str, str], record: str = "") -> Any:
    """The graph as a ``torch.nn.Module``, ready for inference; call ``train()`` to go on training it.

    ``weights``: ``"<layer>.<parameter>"`` in canonical axes; their shapes decide every width. ``names``: layer → dotted module
    name, the layer's own where it has none. ``record``: JSON text that every ``state_dict()`` of the module carries in
    ``_metadata[""]["xconvert"]``, so it outlives fine-tuning and ``torch.save``.

    The module takes (N, channels, H, W) of any size and returns logits (N, classes), or the last map (N, C, H, W) of a headless
    graph. Parameters are float32, or float64 if any of ``weights`` is. Raises ``ValueError`` when two layers have one name.
    """
    network = _network_class()(layers, {layer.name: names.get(layer.name, layer.name) for layer in layers}, record)
    for layer in layers:
        arrays = {p: np.asarray(weights[f"{layer.name}.{p}"]) for p in layer.parameters}
        if arrays:
            _place(network, network.places[layer.name], _module(layer, arrays))
    return (network.double() if own_dtype(weights) == "float64" else network).eval()


@cache
def _network_class() -> Any:
    """The class of the modules that ``build`` returns: made when first needed, because this file imports no PyTorch."""
    from torch import nn

    class Network(nn.Module, Walk):  # type: ignore[misc]
        """A graph of named layers; ``places`` maps each layer to the path of its module."""

        def __init__(self, layers: Sequence[Layer], places: Mapping[str, str], record: str) -> None:
            super().__init__()
            self.graph, self.places, self.record = tuple(layers), dict(places), record
            self.register_state_dict_post_hook(_attach_record)

        def forward(self, images: Any) -> Any:
            """Logits (N, classes), or the last map of a headless graph."""
            return self.answer(images)

        def _step(self, layer: Layer, inputs: list[Any]) -> Any:
            return _apply(layer, inputs, self.get_submodule(self.places[layer.name]) if layer.parameters else None)

    Network.__qualname__ = "Network"  # so that `torch.save(network)` and processes that are spawned find it, below
    return Network


def __getattr__(name: str) -> Any:
    if name == "Network":
        return _network_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _attach_record(module: Any, state: Any, prefix: str, metadata: dict[str, Any]) -> None:
    if module.record:
        metadata["xconvert"] = module.record


def _place(network: Any, path: str, module: Any) -> None:
    """Put ``module`` under a dotted path, through empty modules where nothing else stands."""
    from torch import nn

    *parents, last = path.split(".")
    for name in parents:
        if name not in dict(network.named_children()):
            network.add_module(name, nn.Module())
        network = network.get_submodule(name)
    if last in dict(network.named_children()):
        raise ValueError(f"two layers are called `{path}`")
    network.add_module(last, module)


def _module(layer: Layer, arrays: Mapping[str, Array]) -> Any:
    """PyTorch's own module for a layer with parameters, holding ``arrays``."""
    import torch
    from torch import nn

    if layer.op == "batch_norm":
        module: Any = nn.BatchNorm2d(len(arrays["gamma"]), eps=layer.epsilon, momentum=round(1 - layer.momentum, 12))
    elif layer.op == "linear":
        module = nn.Linear(*arrays["weight"].shape)
    else:
        inputs, outputs, padding, groups = convolution(layer, arrays["weight"])
        module = nn.Conv2d(inputs, outputs, layer.kernel, layer.stride, padding, layer.dilation, groups, bias=False)
    if any(array.dtype == np.float64 for array in arrays.values()):
        module.double()
    with torch.no_grad():
        for parameter, array in arrays.items():
            ours = layer.parameters[parameter]
            moved = rearrange(array, ours, AXES[layer.op] if parameter == "weight" else ours)
            target = getattr(module, ATTRIBUTES[parameter])
            target.copy_(torch.from_numpy(np.array(moved, str(target.dtype).removeprefix("torch."))))
    return module


def _apply(layer: Layer, inputs: list[Any], module: Any) -> Any:
    from torch.nn import functional as F

    x = inputs[0]
    if layer.op == "relu":
        return F.relu(x)
    if layer.op == "add":
        return x + inputs[1]
    if layer.op == "global_average":
        return x.mean((2, 3))
    if layer.padding == "same_upper":
        (top, bottom), (left, right) = pads(x.shape[2], layer), pads(x.shape[3], layer)
        x = F.pad(x, (left, right, top, bottom), value=float("-inf") if layer.op == "max_pool" else 0.0)
    if layer.op == "max_pool":
        return F.max_pool2d(x, layer.kernel, layer.stride, layer.padding if isinstance(layer.padding, int) else 0)
    return module(x if layer.scale == 1 else x * layer.scale)


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps`` and of the last layer, in ``job.dtype``, by layer name; maps as (N, H, W, C)."""
    import torch

    network = _filled(job).eval()
    with torch.inference_mode():
        outputs = network.activations(as_tensor(job), {*job.taps, job.layers[-1].name})
    return {name: as_array(output) for name, output in outputs.items()}


def train(job: Job) -> dict[str, Array]:
    """One step of training in ``job.dtype``, by PyTorch's autograd."""
    network = _filled(job).train()
    return step(network, network, network.places, job)


def step(network: Any, answer: Callable[[Any], Any], places: Mapping[str, str], job: Job) -> dict[str, Array]:
    """Loss, gradients and statistics, as ``Backend.train`` says, of ``network``, which is in training mode already.

    ``answer`` computes logits or the last map from (N, C, H, W); ``places``: layer → path of its module. What gets no gradient,
    as a parameter that is frozen, has one of zeros.
    """
    import torch
    from torch.nn import functional as F

    output = answer(as_tensor(job))
    loss = output.square().mean() / 2 if job.labels is None else F.cross_entropy(output, torch.from_numpy(job.labels))
    loss.backward()
    found = {"loss": loss.detach().numpy()}
    for layer in job.layers:
        for parameter, ours in layer.parameters.items():
            tensor = getattr(network.get_submodule(places[layer.name]), ATTRIBUTES[parameter])
            if parameter not in STATISTICS:
                tensor = torch.zeros_like(tensor) if tensor.grad is None else tensor.grad
            theirs = AXES[layer.op] if parameter == "weight" else ours
            found[f"{layer.name}.{parameter}"] = rearrange(tensor.detach().numpy(), theirs, ours)
    return found


def _filled(job: Job) -> Any:
    """The network of a job with its weights, in ``job.dtype``."""
    import torch

    network = build(job.layers, job.weights, job.names)
    if job.path:
        network.load_state_dict(read_state(job.path), strict=True)
    return network.to(getattr(torch, job.dtype))


def as_tensor(job: Job) -> Any:
    """The images of a job as PyTorch takes them: (N, C, H, W)."""
    import torch

    return torch.from_numpy(channels_first(job.images, job.dtype))


def read_state(path: Path) -> Any:
    """The state dict in ``path``, as PyTorch or safetensors itself reads it, without running anything in it."""
    import torch

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(str(path))
    return torch.load(path, weights_only=True)  # noqa: TID251  (xconvert wrote it)


def as_array(output: Any) -> Array:
    """A tensor as an array: (N, C, H, W) → (N, H, W, C), anything else as it is."""
    return channels_last(output.detach().numpy())


def serve(job: Job) -> Serve:
    """The module, ready to answer."""
    import torch

    network = _filled(job).eval()

    def answer(images: Array) -> Array:
        with torch.inference_mode():
            return as_array(network(as_tensor(job._replace(images=images))))

    return answer


BACKEND = Backend(
    "torch",
    "the graph as a PyTorch module",
    requires=("torch",),
    kind="graph",
    run=run,
    serve=serve,
    serves="torch.inference_mode",
    train=train,
    variance="unbiased",
    opens=(".safetensors", ".pth", ".pt"),
    build=build,
)
