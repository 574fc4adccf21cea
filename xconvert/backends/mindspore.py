"""MindSpore runs our graph, as an ordinary trainable ``mindspore.nn.Cell``: whatever the attributes, the same function as the
reference.

Cells stand under the names that the implementation gives them, so ``load_param_into_net`` takes a file written for it without
remainder. What has no weights (ReLU, pools, additions) is computed in ``construct`` and leaves no trace among the parameters.

MindSpore 2.10 has no convolution and no batch normalisation in float64 for the CPU (``TypeError: For primitive[Conv2D], the
input argument[w] must be a type of …``). In that precision both are put together from its multiplications and additions: it shows
that the parameters compute the reference's function, not how its fast kernels round, which the run in float32 shows.
"""

from __future__ import annotations

import gc
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

# Our parameters as attributes of MindSpore's cells, and the axes that those have where they are not ours.
ATTRIBUTES = {"mean": "moving_mean", "variance": "moving_variance"}
AXES = {"conv": "O I H W", "depthwise": "C 1 H W", "pointwise": "O I 1 1", "linear": "O I"}
SINGLE = "MindSpore's convolutions compute on a CPU in float32 alone"


def build(layers: Sequence[Layer], weights: Mapping[str, Array], names: Mapping[str, str], record: str = "") -> Any:
    """The graph as a ``mindspore.nn.Cell``, ready for inference; call ``set_train()`` to go on training it.

    ``weights``: ``"<layer>.<parameter>"`` in canonical axes; their shapes decide every width. ``names``: layer → dotted cell
    name, the layer's own where it has none. ``record`` is not used: a cell holds parameters alone.

    The cell takes (N, channels, H, W) of any size and returns logits (N, classes), or the last map (N, C, H, W) of a headless
    graph. Parameters are float32, or float64 if any of ``weights`` is. Raises ``ValueError`` when two layers have one name.
    """
    dtype = own_dtype(weights)
    network = _network_class()(layers, {layer.name: names.get(layer.name, layer.name) for layer in layers})
    for layer in layers:
        arrays = {p: np.asarray(weights[f"{layer.name}.{p}"]).astype(dtype) for p in layer.parameters}
        if arrays:
            _place(network, network.places[layer.name], _cell(layer, arrays, dtype))
    for name, parameter in network.parameters_and_names():
        parameter.name = name
    return network.set_train(False)


@cache
def _network_class() -> Any:
    """The class of the networks that ``build`` returns: made when first needed, because this file imports no MindSpore."""
    from mindspore import nn

    class Network(nn.Cell, Walk):  # type: ignore[misc]
        """A graph of named layers; ``places`` maps each layer to the path of its cell."""

        def __init__(self, layers: Sequence[Layer], places: Mapping[str, str]) -> None:
            super().__init__()
            self.graph, self.places = tuple(layers), dict(places)

        def construct(self, images: Any) -> Any:
            """Logits (N, classes), or the last map of a headless graph."""
            return self.answer(images)

        def _step(self, layer: Layer, inputs: list[Any]) -> Any:
            return _apply(layer, inputs, reduce(_child, self.places[layer.name].split("."), self) if layer.parameters else None)

    Network.__qualname__ = "Network"
    return Network


def __getattr__(name: str) -> Any:
    if name == "Network":
        return _network_class()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _child(cell: Any, name: str) -> Any:
    return cell.name_cells()[name]


def _place(network: Any, path: str, cell: Any) -> None:
    """Put ``cell`` under a dotted path, through empty cells where nothing else stands."""
    from mindspore import nn

    *parents, last = path.split(".")
    for name in parents:
        if name not in network.name_cells():
            network.insert_child_to_cell(name, nn.Cell())
        network = _child(network, name)
    if last in network.name_cells():
        raise ValueError(f"two layers are called `{path}`")
    network.insert_child_to_cell(last, cell)


def _cell(layer: Layer, arrays: Mapping[str, Array], dtype: str) -> Any:
    """MindSpore's own cell for a layer with parameters, holding ``arrays``."""
    import mindspore
    from mindspore import nn

    number = getattr(mindspore, dtype)
    if layer.op == "batch_norm":
        cell: Any = nn.BatchNorm2d(len(arrays["gamma"]), eps=layer.epsilon, momentum=layer.momentum, dtype=number)
    elif layer.op == "linear":
        cell = nn.Dense(*arrays["weight"].shape, dtype=number)
    else:
        inputs, outputs, padding, groups = convolution(layer, arrays["weight"])
        how = {"pad_mode": "pad", "padding": padding, "dilation": layer.dilation, "group": groups, "has_bias": False}
        cell = nn.Conv2d(inputs, outputs, layer.kernel, layer.stride, **how, dtype=number)
    for parameter, array in arrays.items():
        ours = layer.parameters[parameter]
        moved = rearrange(array, ours, AXES[layer.op] if parameter == "weight" else ours)
        getattr(cell, ATTRIBUTES.get(parameter, parameter)).set_data(mindspore.Tensor(np.ascontiguousarray(moved)))
    return cell


def _apply(layer: Layer, inputs: list[Any], cell: Any) -> Any:
    import mindspore
    from mindspore import ops

    x = inputs[0]
    if layer.op == "relu":
        return ops.relu(x)
    if layer.op == "add":
        return x + inputs[1]
    if layer.op == "global_average":
        return x.mean((2, 3))
    if layer.op == "linear":
        return cell(x if layer.scale == 1 else x * mindspore.Tensor(layer.scale, x.dtype))
    exact = x.dtype == mindspore.float64 and not _in_training(cell)
    if layer.op == "batch_norm":
        return _exact_batch_norm(layer, x, cell) if exact else cell(x)
    if layer.op == "max_pool" or layer.padding == "same_upper" or exact:
        (top, bottom), (left, right) = pads(x.shape[2], layer), pads(x.shape[3], layer)
        if top + bottom + left + right:
            x = ops.pad(x, (left, right, top, bottom), value=float("-inf") if layer.op == "max_pool" else 0.0)
    if layer.op == "max_pool":
        return ops.max_pool2d(x, layer.kernel, layer.stride)
    return _exact_convolution(layer, x, cell.weight) if exact else cell(x)


def _in_training(cell: Any) -> bool:
    """Whether ``cell``, if there is one, is being trained."""
    return cell is not None and cell.training


def _exact_batch_norm(layer: Layer, x: Any, cell: Any) -> Any:
    """Inference with stored statistics in the precision of ``x``."""
    import mindspore

    def column(vector: Any) -> Any:
        return vector.reshape((1, -1, 1, 1))

    epsilon = mindspore.Tensor(layer.epsilon, x.dtype)  # a mere number would be one of float32
    scale = cell.gamma / (cell.moving_variance + epsilon).sqrt()
    return x * column(scale) + column(cell.beta - cell.moving_mean * scale)


def _exact_convolution(layer: Layer, x: Any, weight: Any) -> Any:
    """A convolution of ``x``, padded already, in its own precision: one product for each pixel of the kernel.

    ``weight``: (O, I, kh, kw), or (C, 1, kh, kw) of a depthwise convolution.
    """
    from mindspore import ops

    reach, stride = layer.dilation * (layer.kernel - 1) + 1, layer.stride
    height, width = ((size - reach) // stride + 1 for size in x.shape[2:])
    total: Any = 0
    for i in range(layer.kernel):
        for j in range(layer.kernel):
            top, left = i * layer.dilation, j * layer.dilation
            seen = x[:, :, top : top + stride * (height - 1) + 1 : stride, left : left + stride * (width - 1) + 1 : stride]
            if layer.op == "depthwise":
                total = total + seen * weight[:, 0, i, j].reshape((1, -1, 1, 1))
            else:
                rows = seen.reshape((seen.shape[0], seen.shape[1], -1))
                total = total + ops.matmul(weight[:, :, i, j], rows)
    return total.reshape((x.shape[0], -1, height, width))


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps`` and of the last layer, in ``job.dtype``, by layer name; maps as (N, H, W, C)."""
    network = _filled(job)
    try:
        outputs = network.activations(as_tensor(job), {*job.taps, job.layers[-1].name})
        return {name: as_array(output) for name, output in outputs.items()}
    finally:  # a cell that dies with the interpreter writes an error of its own, after ours
        del network
        gc.collect()


def train(job: Job) -> dict[str, Array]:
    """One step of training, eagerly, by MindSpore's autograd. Raises ``ValueError`` for float64, which its convolutions do not
    compute on a CPU.
    """
    if job.dtype != "float32":
        raise ValueError(SINGLE)
    network = _filled(job)
    try:
        network.set_train(True)
        return step(network, network, network.places, job)
    finally:
        del network
        gc.collect()


def step(network: Any, answer: Callable[[Any], Any], places: Mapping[str, str], job: Job) -> dict[str, Array]:
    """Loss, gradients and statistics, as ``Backend.train`` says, of ``network``, which is in training mode already.

    ``answer`` computes logits or the last map from (N, C, H, W); ``places``: layer → path of its cell. What gets no gradient, as
    a parameter that is frozen, has one of zeros.
    """
    import mindspore
    from mindspore import ops

    def loss_of(images: Any) -> Any:
        output = answer(images)
        if job.labels is None:
            return ops.square(output).mean() / 2
        return ops.cross_entropy(output, mindspore.Tensor(job.labels.astype(np.int32)))

    trained = network.trainable_params()
    loss, found_gradients = mindspore.value_and_grad(loss_of, None, weights=trained)(as_tensor(job))
    gradients = {p.name: gradient.asnumpy() for p, gradient in zip(trained, found_gradients, strict=True)}
    found = {"loss": loss.asnumpy()}
    cells = dict(network.cells_and_names())
    for layer in job.layers:
        for parameter, ours in layer.parameters.items():
            tensor = getattr(cells[places[layer.name]], ATTRIBUTES.get(parameter, parameter))
            array = tensor.asnumpy() if parameter in STATISTICS else gradients.get(tensor.name, np.zeros(tensor.shape, job.dtype))
            found[f"{layer.name}.{parameter}"] = rearrange(array, AXES[layer.op] if parameter == "weight" else ours, ours)
    return found


def _filled(job: Job) -> Any:
    """The network of a job with its weights, in ``job.dtype``."""
    network = build(job.layers, {name: array.astype(job.dtype) for name, array in job.weights.items()}, job.names)
    if job.path:
        load(network, job.path)
    return network


def as_tensor(job: Job) -> Any:
    """The images of a job as MindSpore takes them: (N, C, H, W)."""
    import mindspore

    return mindspore.Tensor(channels_first(job.images, job.dtype))


def load(network: Any, path: Path) -> None:
    """Load a ``.ckpt`` or ``.safetensors`` with MindSpore's own loader.

    Raises ``RuntimeError`` when names are missing or left over: MindSpore itself only warns, and tries other prefixes.
    """
    import mindspore

    state = mindspore.load_checkpoint(str(path), format=path.suffix.removeprefix("."))
    known = [parameter.name for parameter in network.get_parameters()]
    missing, left = [name for name in known if name not in state], [name for name in state if name not in known]
    if missing or left:
        raise RuntimeError(f"{path.name} does not fit: missing {missing[:4]}, unexpected {left[:4]}")
    mindspore.load_param_into_net(network, state)


def as_array(output: Any) -> Array:
    """A tensor as an array: (N, C, H, W) → (N, H, W, C), anything else as it is."""
    return channels_last(output.asnumpy())


def serve(job: Job) -> Serve:
    """The cell, ready to answer."""
    network = _filled(job)
    return lambda images: as_array(network(as_tensor(job._replace(images=images))))


BACKEND = Backend(
    "mindspore",
    "the graph as a MindSpore cell",
    requires=("mindspore",),
    kind="graph",
    run=run,
    serve=serve,
    serves="nn.Cell",
    train=train,
    variance="unbiased",
    opens=(".ckpt", ".safetensors"),
    build=build,
)
