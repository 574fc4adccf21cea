"""PaddlePaddle runs our graph, as an ordinary trainable ``paddle.nn.Layer``: whatever the attributes, the same function as
the reference.

Sublayers stand under the names that the implementation gives them, so ``set_state_dict`` takes a file written for it without
remainder. What has no weights (ReLU, pools, additions) is computed in ``forward`` and leaves no trace in the state dict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, reduce
from pathlib import Path
from typing import Any

import numpy as np

from xconvert.axes import rearrange
from xconvert.backends import Backend, Job, Serve
from xconvert.backends._graph import STATISTICS, Walk, channels_first, channels_last, convolution, own_dtype
from xconvert.model import Array, Layer
from xconvert.padding import pads

# Our parameters as attributes of Paddle's layers, and the axes that those have where they are not ours.
ATTRIBUTES = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias", "mean": "_mean", "variance": "_variance"}
AXES = {"conv": "O I H W", "depthwise": "C 1 H W", "pointwise": "O I 1 1"}


def build(layers: Sequence[Layer], weights: Mapping[str, Array], names: Mapping[str, str], record: str = "") -> Any:
    """The graph as a ``paddle.nn.Layer``, ready for inference; call ``train()`` to go on training it.

    ``weights``: ``"<layer>.<parameter>"`` in canonical axes; their shapes decide every width. ``names``: layer → dotted sublayer
    name, the layer's own where it has none. ``record`` is not used: a state dict of Paddle holds tensors alone.

    The network takes (N, channels, H, W) of any size and returns logits (N, classes), or the last map (N, C, H, W) of a headless
    graph. Parameters are float32, or float64 if any of ``weights`` is. Raises ``ValueError`` when two layers have one name.
    """
    dtype = own_dtype(weights)
    network = _network_class()(layers, {layer.name: names.get(layer.name, layer.name) for layer in layers})
    for layer in layers:
        arrays = {p: np.asarray(weights[f"{layer.name}.{p}"]).astype(dtype) for p in layer.parameters}
        if arrays:
            _place(network, network.places[layer.name], _module(layer, arrays, dtype))
    network.eval()
    return network


@cache
def _network_class() -> Any:
    """The class of the networks that ``build`` returns: made when first needed, because this file imports no Paddle."""
    from paddle import nn

    class Network(nn.Layer, Walk):  # type: ignore[misc]
        """A graph of named layers; ``places`` maps each layer to the path of its sublayer."""

        def __init__(self, layers: Sequence[Layer], places: Mapping[str, str]) -> None:
            super().__init__()
            self.graph, self.places = tuple(layers), dict(places)

        def forward(self, images: Any) -> Any:
            """Logits (N, classes), or the last map of a headless graph."""
            return self.answer(images)

        def _step(self, layer: Layer, inputs: list[Any]) -> Any:
            return _apply(layer, inputs, reduce(getattr, self.places[layer.name].split("."), self) if layer.parameters else None)

    Network.__qualname__ = "Network"
    return Network


def __getattr__(name: str) -> Any:
    if name == "Network":
        return _network_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _place(network: Any, path: str, module: Any) -> None:
    """Put ``module`` under a dotted path, through empty layers where nothing else stands."""
    from paddle import nn

    *parents, last = path.split(".")
    for name in parents:
        children = dict(network.named_children())
        network = children[name] if name in children else network.add_sublayer(name, nn.Layer())
    if last in dict(network.named_children()):
        raise ValueError(f"two layers are called `{path}`")
    network.add_sublayer(last, module)


def _module(layer: Layer, arrays: Mapping[str, Array], dtype: str) -> Any:
    """Paddle's own layer for a layer with parameters, holding ``arrays``."""
    import paddle
    from paddle import nn

    if layer.op == "batch_norm":
        module: Any = nn.BatchNorm2D(len(arrays["gamma"]), epsilon=layer.epsilon, momentum=layer.momentum)
    elif layer.op == "linear":
        module = nn.Linear(*arrays["weight"].shape)
    else:
        inputs, outputs, padding, groups = convolution(layer, arrays["weight"])
        module = nn.Conv2D(
            inputs, outputs, layer.kernel, layer.stride, padding, dilation=layer.dilation, groups=groups, bias_attr=False
        )
    module.to(dtype=dtype)
    for parameter, array in arrays.items():
        ours = layer.parameters[parameter]
        moved = rearrange(array, ours, AXES.get(layer.op, ours) if parameter == "weight" else ours)
        getattr(module, ATTRIBUTES[parameter]).set_value(paddle.to_tensor(np.ascontiguousarray(moved)))
    return module


def _apply(layer: Layer, inputs: list[Any], module: Any) -> Any:
    import paddle
    from paddle.nn import functional as F

    x = inputs[0]
    if layer.op == "relu":
        return F.relu(x)
    if layer.op == "add":
        return x + inputs[1]
    if layer.op == "global_average":
        return x.mean((2, 3))
    if layer.op == "linear":
        return module(x if layer.scale == 1 else x * layer.scale)
    if layer.op == "batch_norm" and x.dtype == paddle.float64 and not module.training:
        return _exact_batch_norm(layer, x, module)
    if layer.padding == "same_upper":
        (top, bottom), (left, right) = pads(x.shape[2], layer), pads(x.shape[3], layer)
        x = F.pad(x, [left, right, top, bottom], value=float("-inf") if layer.op == "max_pool" else 0.0)
    if layer.op == "max_pool":
        return F.max_pool2d(x, layer.kernel, layer.stride, layer.padding if isinstance(layer.padding, int) else 0)
    return module(x)


def _exact_batch_norm(layer: Layer, x: Any, module: Any) -> Any:
    """Inference in float64 with an epsilon in float64: Paddle keeps 1e-3 as the float32 nearest to it, 5e-8 away in relative
    terms, whatever the dtype of the map.
    """

    def column(vector: Any) -> Any:
        return vector.reshape([1, -1, 1, 1])

    scale = module.weight / (module._variance + layer.epsilon).sqrt()
    return x * column(scale) + column(module.bias - module._mean * scale)


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps`` and of the last layer, in ``job.dtype``, by layer name; maps as (N, H, W, C)."""
    import paddle

    network = _filled(job)
    with paddle.no_grad():
        outputs = network.activations(as_tensor(job), {*job.taps, job.layers[-1].name})
    return {name: as_array(output) for name, output in outputs.items()}


def train(job: Job) -> dict[str, Array]:
    """One step of training in ``job.dtype``, by Paddle's autograd and its own batch norms."""
    network = _filled(job)
    network.train()
    return step(network, network, network.places, job)


def step(network: Any, answer: Callable[[Any], Any], places: Mapping[str, str], job: Job) -> dict[str, Array]:
    """Loss, gradients and statistics, as ``Backend.train`` says, of ``network``, which is in training mode already.

    ``answer`` computes logits or the last map from (N, C, H, W); ``places``: layer → path of its sublayer. What gets no gradient,
    as a parameter that is frozen, has one of zeros.
    """
    import paddle
    from paddle.nn import functional as F

    output = answer(as_tensor(job))
    loss = output.square().mean() / 2 if job.labels is None else F.cross_entropy(output, paddle.to_tensor(job.labels))
    loss.backward()
    found = {"loss": loss.numpy()}
    sublayers = dict(network.named_sublayers())
    for layer in job.layers:
        for parameter, ours in layer.parameters.items():
            tensor = getattr(sublayers[places[layer.name]], ATTRIBUTES[parameter])
            if parameter not in STATISTICS:
                tensor = paddle.zeros_like(tensor) if tensor.grad is None else tensor.grad
            theirs = AXES.get(layer.op, ours) if parameter == "weight" else ours
            found[f"{layer.name}.{parameter}"] = rearrange(tensor.numpy(), theirs, ours)
    return found


def _filled(job: Job) -> Any:
    """The network of a job with its weights, in ``job.dtype``."""
    network = build(job.layers, job.weights, job.names)
    if job.path:
        load(network, job.path)
    network.to(dtype=job.dtype)
    return network


def as_tensor(job: Job) -> Any:
    """The images of a job as Paddle takes them: (N, C, H, W)."""
    import paddle

    return paddle.to_tensor(channels_first(job.images, job.dtype))


def load(network: Any, path: Path) -> None:
    """Load a ``.pdparams`` with Paddle's own loader, which unpickles: for files that xconvert wrote.

    Raises ``RuntimeError`` when names are missing or left over: Paddle itself only warns. Half floats are widened first, because
    ``set_state_dict`` takes other dtypes for other bits.
    """
    import paddle

    state, known = paddle.load(str(path)), network.state_dict()  # noqa: TID251  (xconvert wrote it)
    missing, left = [name for name in known if name not in state], [name for name in state if name not in known]
    if missing or left:
        raise RuntimeError(f"{path.name} does not fit: missing {missing[:4]}, unexpected {left[:4]}")
    network.set_state_dict({name: tensor.astype(known[name].dtype) for name, tensor in state.items()})


def as_array(output: Any) -> Array:
    """A tensor as an array: (N, C, H, W) → (N, H, W, C), anything else as it is."""
    return channels_last(output.numpy())


def serve(job: Job) -> Serve:
    """The layer, ready to answer eagerly."""
    import paddle

    network = _filled(job)

    def answer(images: Array) -> Array:
        with paddle.no_grad():
            return as_array(network(as_tensor(job._replace(images=images))))

    return answer


BACKEND = Backend(
    "paddle",
    "the graph as a PaddlePaddle layer",
    requires=("paddle",),
    kind="graph",
    run=run,
    serve=serve,
    serves="paddle.no_grad, eager",
    train=train,
    single=("epsilon", "momentum"),
    opens=(".pdparams",),
    build=build,
)
