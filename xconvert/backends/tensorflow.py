"""TensorFlow runs our graph with its plain operations, as a ``tf.Module`` whose variables are named and shaped as slim does.

There is no tree of layers: what counts are the names of the variables, ``<layer>/weights``, under which a checkpoint has them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from xconvert.axes import rearrange
from xconvert.backends import Backend, Job, Serve
from xconvert.backends._graph import STATISTICS, execute, own_dtype
from xconvert.model import Array, Layer

# Slim's names of our parameters (tf_slim/layers/layers.py: conv2d, separable_conv2d, batch_norm) …
SPELLINGS = {
    "weight": "weights",
    "bias": "biases",
    "gamma": "gamma",
    "beta": "beta",
    "mean": "moving_mean",
    "variance": "moving_variance",
}
# … and the axes that its weights have where they are not ours: its classifiers are convolutions.
AXES = {"depthwise": "H W C 1", "pointwise": "1 1 I O", "linear": "1 1 I O"}


def build(layers: Sequence[Layer], weights: Mapping[str, Array], names: Mapping[str, str], record: str = "") -> Any:
    """The graph as a ``tf.Module``: (N, H, W, channels) of any size → logits (N, classes), or the last map.

    ``weights``: ``"<layer>.<parameter>"`` in canonical axes; their shapes decide every width. ``names``: layer → the scope of its
    variables, the layer's own name where it has none. Variables are float32, or float64 if any of ``weights`` is; the
    statistics of batch norms are not trainable. Called with ``training=True`` batch norms take the statistics of the batch, and
    move their own; without, nothing moves. ``variables`` lists them; ``answer`` is the ``tf.function`` behind the latter, to be
    saved as a signature. ``record``: JSON text, kept as an attribute. Raises ``ValueError`` when two variables have one name.
    """
    scopes = {layer.name: names.get(layer.name, layer.name) for layer in layers}
    dtype = own_dtype(weights)
    arrays = {
        layer.name: {parameter: _slim(layer, parameter, weights, dtype) for parameter in layer.parameters} for layer in layers
    }
    return _network_class()(layers, scopes, arrays, dtype, record)


def _slim(layer: Layer, parameter: str, weights: Mapping[str, Array], dtype: str) -> Array:
    """A parameter with the axes that slim gives it."""
    axes = layer.parameters[parameter]
    theirs = AXES.get(layer.op, axes) if parameter == "weight" else axes
    return np.ascontiguousarray(rearrange(np.asarray(weights[f"{layer.name}.{parameter}"]), axes, theirs), dtype)


def variable_name(layer: Layer, parameter: str, scope: str) -> str:
    """What slim calls a parameter of a layer in ``scope``."""
    return f"{scope}/{'depthwise_' * (layer.op == 'depthwise')}{SPELLINGS[parameter]}"


@cache
def _network_class() -> Any:
    """The class of the modules that ``build`` returns: made when first needed, because this file imports no TensorFlow."""
    import tensorflow as tf

    class Network(tf.Module):  # type: ignore[misc]
        """A graph of layers over variables; ``variables_of`` has those of each layer by our parameter names."""

        def __init__(
            self,
            layers: Sequence[Layer],
            scopes: Mapping[str, str],
            arrays: Mapping[str, Mapping[str, Array]],
            dtype: str,
            record: str,
        ) -> None:
            super().__init__(name="xconvert")
            self.graph, self.record = tuple(layers), record
            found: dict[str, Any] = {}
            for layer in layers:
                for parameter, array in arrays[layer.name].items():
                    name = variable_name(layer, parameter, scopes[layer.name])
                    if name in found:
                        raise ValueError(f"two variables are called `{name}`")
                    found[name] = tf.Variable(array, trainable=parameter not in STATISTICS, name=name)
            self.by_name = found
            self.variables_of = {
                layer.name: {p: found[variable_name(layer, p, scopes[layer.name])] for p in layer.parameters} for layer in layers
            }
            channels = arrays[layers[0].name]["weight"].shape[2]
            spec = tf.TensorSpec([None, None, None, channels], dtype, name="image")
            self.answer = tf.function(self._answer, input_signature=[spec])

        def activations(self, images: Any, wanted: Sequence[str], training: bool = False) -> dict[str, Any]:
            """Outputs of the ``wanted`` layers by name, maps as (N, H, W, C)."""
            return execute(self.graph, images, partial(self._step, training=training), wanted)

        def _answer(self, image: Any) -> Any:
            last = self.graph[-1].name
            return self.activations(image, [last])[last]

        def __call__(self, images: Any, training: bool = False) -> Any:
            """Logits (N, classes), or the last map of a headless graph."""
            last = self.graph[-1].name
            return self.activations(images, [last], training=True)[last] if training else self.answer(images)

        def _step(self, layer: Layer, inputs: list[Any], training: bool) -> Any:
            apply = _normalised if training and layer.op == "batch_norm" else _apply
            return apply(layer, inputs, **self.variables_of[layer.name])

    return Network


def _apply(layer: Layer, inputs: list[Any], **variables: Any) -> Any:
    """One layer, of maps (N, H, W, C); batch norm by its formula, because the fused kernel knows no float64."""
    import tensorflow as tf

    x = inputs[0]
    if layer.op == "relu":
        return tf.nn.relu(x)
    if layer.op == "add":
        return x + inputs[1]
    if layer.op == "global_average":
        return tf.reduce_mean(x, (1, 2))
    if layer.op == "linear":
        weight = tf.squeeze(variables["weight"], (0, 1))
        return tf.matmul(x if layer.scale == 1 else x * layer.scale, weight) + variables["bias"]
    if layer.op == "batch_norm":
        scale = variables["gamma"] / tf.sqrt(variables["variance"] + layer.epsilon)
        return x * scale + (variables["beta"] - variables["mean"] * scale)
    return _window(layer, x, **variables)


def _normalised(layer: Layer, inputs: list[Any], gamma: Any, beta: Any, mean: Any, variance: Any) -> Any:
    """A batch norm in training: by the moments of the batch, of which the running statistics take their share.

    The variance is the biased one, as ``tf.nn.moments`` gives it; only TensorFlow's fused kernel, which knows no float64, would
    divide by n - 1.
    """
    import tensorflow as tf

    now = tf.nn.moments(inputs[0], (0, 1, 2))
    for running, moment in zip((mean, variance), now, strict=True):
        running.assign(running * layer.momentum + moment * (1 - layer.momentum))
    return tf.nn.batch_normalization(inputs[0], *now, beta, gamma, layer.epsilon)


def _window(layer: Layer, x: Any, weight: Any = None) -> Any:
    """A convolution or a max-pool."""
    import tensorflow as tf

    padding = "SAME" if layer.padding == "same_upper" else "VALID"
    if layer.padding not in (0, "same_upper"):
        around = (layer.padding, layer.padding)
        x = tf.pad(x, ((0, 0), around, around, (0, 0)), constant_values=float("-inf") if layer.op == "max_pool" else 0.0)
    if layer.op == "max_pool":
        return tf.nn.max_pool2d(x, layer.kernel, layer.stride, padding)
    if layer.op == "depthwise":
        return tf.nn.depthwise_conv2d(x, weight, (1, layer.stride, layer.stride, 1), padding, dilations=(layer.dilation,) * 2)
    return tf.nn.conv2d(x, weight, layer.stride, padding, dilations=layer.dilation)


def load(network: Any, path: Path) -> None:
    """Fill ``network`` from the checkpoint that TensorFlow itself finds under the prefix ``path``.

    Raises ``KeyError`` where it lacks a variable, ``RuntimeError`` where one has another shape.
    """
    import tensorflow as tf

    prefix = str(path).removesuffix(".index")
    reader = tf.train.load_checkpoint(prefix)
    for name, variable in network.by_name.items():
        if not reader.has_tensor(name):
            raise KeyError(f"the checkpoint has no variable `{name}`")
        value = reader.get_tensor(name)
        if value.shape != tuple(variable.shape):
            raise RuntimeError(f"variable `{name}` has the shape {value.shape}, expected {tuple(variable.shape)}")
        variable.assign(value.astype(variable.dtype.as_numpy_dtype))


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps`` and of the last layer, in ``job.dtype``, by layer name; maps as (N, H, W, C)."""
    import tensorflow as tf

    network = _filled(job)
    outputs = network.activations(tf.constant(job.images.astype(job.dtype)), {*job.taps, job.layers[-1].name})
    return {name: output.numpy() for name, output in outputs.items()}


def train(job: Job) -> dict[str, Array]:
    """One step of training in ``job.dtype``, by TensorFlow's gradients."""
    import tensorflow as tf

    network = _filled(job)
    with tf.GradientTape() as tape:
        output = network(tf.constant(job.images.astype(job.dtype)), training=True)
        if job.labels is None:
            loss = tf.reduce_mean(tf.square(output)) / 2
        else:
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(job.labels, output))
    gradients = tape.gradient(loss, network.variables_of)
    found = {"loss": loss.numpy()}
    for layer in job.layers:
        for parameter, ours in layer.parameters.items():
            moved = network.variables_of[layer.name][parameter] if parameter in STATISTICS else gradients[layer.name][parameter]
            theirs = AXES.get(layer.op, ours) if parameter == "weight" else ours
            found[f"{layer.name}.{parameter}"] = rearrange(moved.numpy(), theirs, ours)
    return found


def _filled(job: Job) -> Any:
    """The network of a job with its weights, in ``job.dtype``."""
    network = build(job.layers, {name: array.astype(job.dtype) for name, array in job.weights.items()}, job.names)
    if job.path:
        load(network, job.path)
    return network


def serve(job: Job) -> Serve:
    """The module, ready to answer by its compiled function."""
    import tensorflow as tf

    network = _filled(job)
    return lambda images: np.asarray(network(tf.constant(images.astype(job.dtype))))


BACKEND = Backend(
    "tensorflow",
    "the graph in TensorFlow's plain operations",
    requires=("tensorflow",),
    kind="graph",
    run=run,
    serve=serve,
    serves="tf.function",
    train=train,
    build=build,
    opens=(".ckpt",),
)
