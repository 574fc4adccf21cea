"""Keras runs our graph, as an ordinary functional ``keras.Model``: whatever the attributes, the same function as the
reference.

Layers are those of ``keras.applications`` under the names of the implementation; a depthwise and a pointwise
convolution of one name are one ``SeparableConv2D``. Their order is Keras' own too, so files that Keras loads by
position fit.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from xconvert.axes import rearrange
from xconvert.backends import Backend, Job, Serve
from xconvert.backends._graph import STATISTICS, execute, own_dtype
from xconvert.model import Array, Layer
from xconvert.padding import window

# Axes of Keras' weights where they are not ours.
AXES = {"depthwise": "H W C 1", "pointwise": "1 1 I O"}


def build(layers: Sequence[Layer], weights: Mapping[str, Array], names: Mapping[str, str], record: str = "") -> Any:
    """The graph as a trainable functional ``keras.Model``: (N, H, W, channels) of any size → logits (N, classes), or
    the last map.

    ``weights``: ``"<layer>.<parameter>"`` in canonical axes; their shapes decide every width. ``names``: layer →
    Keras layer name; a layer without one has its own, with underscores for dots. Variables are float32, or float64 if
    any of ``weights`` is. ``record`` is not used: the configurations of the layers say the same, where the model is
    saved whole.

    A network with symmetric pools holds ``SymmetricMaxPooling2D``; import it from here before loading a saved one.
    """
    import keras

    image, outputs = _network(layers, weights, names, {layers[-1].name}, own_dtype(weights))
    return keras.Model(image, outputs[layers[-1].name])


def _network(
    layers: Sequence[Layer], weights: Mapping[str, Array], names: Mapping[str, str], wanted: Collection[str], dtype: str
) -> tuple[Any, dict[str, Any]]:
    """The symbolic input, and the symbolic outputs of the ``wanted`` layers."""
    import keras

    depthwise = _separable(layers, names)
    halves = {layer.name for layer in depthwise.values()}

    def step(layer: Layer, inputs: list[Any]) -> Any:
        if layer.name in halves:
            return inputs[0]  # computed with its pointwise half
        first = depthwise.get(layer.name)
        arrays = _arrays(first, weights) + _arrays(layer, weights)
        x, *others = [_prepared(first or layer, value, dtype) for value in inputs]
        made = _layer(layer, first, arrays, name=names.get(layer.name, layer.name.replace(".", "_")), dtype=dtype)
        output = made([x, *others] if others else x)
        made.set_weights(arrays)
        return output

    channels = weights[f"{layers[0].name}.weight"].shape[2]
    image = keras.Input((None, None, channels), dtype=dtype, name="image")
    return image, execute(layers, image, step, set(wanted) - halves)


def _separable(layers: Sequence[Layer], names: Mapping[str, str]) -> dict[str, Layer]:
    """Pointwise layer → the depthwise layer before it, where both have one name."""
    by_name = {layer.name: layer for layer in layers}
    pairs = [(layer, by_name[layer.inputs[0]]) for layer in layers if layer.op == "pointwise" and layer.inputs[0] in by_name]
    return {
        layer.name: before
        for layer, before in pairs
        if before.op == "depthwise" and layer.name in names and names[layer.name] == names.get(before.name)
    }


def _arrays(layer: Layer | None, weights: Mapping[str, Array]) -> list[Array]:
    if layer is None:
        return []
    return [
        rearrange(np.asarray(weights[f"{layer.name}.{parameter}"]), axes, AXES.get(layer.op, axes))
        for parameter, axes in layer.parameters.items()
    ]


def _padding(layer: Layer) -> str:
    """Keras' word for a padding; ``"explicit"`` for one that it has no word for."""
    if layer.padding == 0:
        return "valid"
    centred = layer.padding * 2 == window(layer) - 1 and layer.stride == 1 and layer.op != "max_pool"
    return "same" if layer.padding == "same_upper" or centred else "explicit"


def _prepared(layer: Layer, x: Any, dtype: str) -> Any:
    """``x`` after what Keras' own layer for ``layer`` leaves out: zeros around a map, the scale of a classifier's input."""
    from keras import layers

    name = layer.name.replace(".", "_")
    if layer.scale != 1:
        return layers.Rescaling(layer.scale, dtype=dtype, name=f"{name}_scale")(x)
    if layer.op == "max_pool" or _padding(layer) != "explicit":
        return x
    return layers.ZeroPadding2D(layer.padding, dtype=dtype, name=f"{name}_pad")(x)


def _layer(layer: Layer, depthwise: Layer | None, arrays: Sequence[Array], **common: Any) -> Any:
    """Keras' own layer for one of ours, or for two: with ``depthwise``, a separable convolution."""
    from keras import layers

    if layer.op == "max_pool":
        if _padding(layer) == "explicit":
            return symmetric_max_pooling()(layer.kernel, layer.stride, layer.padding, **common)
        return layers.MaxPooling2D(layer.kernel, layer.stride, _padding(layer), **common)
    if layer.op == "batch_norm":
        return layers.BatchNormalization(epsilon=layer.epsilon, momentum=layer.momentum, **common)
    if layer.op == "linear":
        return layers.Dense(arrays[0].shape[1], **common)
    if layer.op == "relu":
        return layers.Activation("relu", **common)
    if layer.op in ("add", "global_average"):
        return {"add": layers.Add, "global_average": layers.GlobalAveragePooling2D}[layer.op](**common)
    first = depthwise or layer
    padding = "valid" if _padding(first) == "explicit" else _padding(first)
    common |= {"strides": first.stride, "padding": padding, "dilation_rate": first.dilation, "use_bias": False}
    if layer.op == "depthwise":
        return layers.DepthwiseConv2D(layer.kernel, **common)
    kind = layers.SeparableConv2D if depthwise else layers.Conv2D
    return kind(arrays[-1].shape[3], first.kernel, **common)


@cache
def symmetric_max_pooling() -> Any:
    """``SymmetricMaxPooling2D``, made and registered with Keras when first asked for, because this file imports no
    Keras.
    """
    import keras

    @keras.saving.register_keras_serializable(package="xconvert")
    class SymmetricMaxPooling2D(keras.layers.Layer):  # type: ignore[misc]
        """Max-pooling with ``padding`` pixels of minus infinity on every side, as PyTorch's ``MaxPool2d`` pads.

        Keras' own padding puts an odd pixel at the end, and ``ZeroPadding2D`` would let zeros win over negative
        values.
        """

        def __init__(self, pool_size: int = 3, strides: int = 2, padding: int = 1, **kwargs: Any) -> None:
            super().__init__(**kwargs)
            self.pool_size, self.strides, self.padding = pool_size, strides, padding

        def call(self, x: Any) -> Any:
            around = (self.padding, self.padding)
            x = keras.ops.pad(x, ((0, 0), around, around, (0, 0)), constant_values=float("-inf"))
            return keras.ops.max_pool(x, self.pool_size, self.strides, "valid", "channels_last")

        def compute_output_shape(self, input_shape: Any) -> tuple[Any, ...]:
            batch, *sizes, channels = input_shape
            after = [n and (n + 2 * self.padding - self.pool_size) // self.strides + 1 for n in sizes]
            return (batch, *after, channels)

        def get_config(self) -> dict[str, Any]:
            own = {"pool_size": self.pool_size, "strides": self.strides, "padding": self.padding}
            return {**super().get_config(), **own}

    return SymmetricMaxPooling2D


def __getattr__(name: str) -> Any:
    if name == "SymmetricMaxPooling2D":
        return symmetric_max_pooling()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps`` and of the last layer, in ``job.dtype``, by layer name; maps as (N, H, W, C).

    The depthwise half of a ``SeparableConv2D`` cannot be seen. Of a ``.keras`` file the model in it is run; raises
    ``ValueError`` where that computes in another precision.
    """
    import keras

    if job.path and job.path.suffix == ".keras":
        model, seen = _opened(job)
    else:
        image, outputs = _network(job.layers, job.weights, job.names, {*job.taps, job.layers[-1].name}, job.dtype)
        model, seen = keras.Model(image, list(outputs.values())), list(outputs)
        if job.path:
            model.load_weights(str(job.path))
    computed = model(job.images.astype(job.dtype), training=False)
    return {name: np.asarray(output) for name, output in zip(seen, keras.tree.flatten(computed), strict=True)}


def train(job: Job) -> dict[str, Array]:
    """One step of training in ``job.dtype``; of a ``.keras`` file with the model in it."""
    import keras

    if job.path and job.path.suffix == ".keras":
        return step(_whole(job), job)
    image, outputs = _network(job.layers, job.weights, job.names, {job.layers[-1].name}, job.dtype)
    model = keras.Model(image, outputs[job.layers[-1].name])
    if job.path:
        model.load_weights(str(job.path))
    return step(model, job)


def step(model: Any, job: Job) -> dict[str, Array]:
    """Loss, gradients and statistics of a functional ``model``, as ``Backend.train`` says, by Keras on TensorFlow.

    What gets no gradient, as a layer that is not trainable, has one of zeros. Raises ``ValueError`` on another backend of Keras.
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ValueError("a step of training wants Keras on TensorFlow, set `KERAS_BACKEND`")
    import tensorflow as tf

    entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True, dtype=job.dtype)
    with tf.GradientTape() as tape:
        output = model(job.images.astype(job.dtype), training=True)
        loss = tf.reduce_mean(tf.square(output)) / 2 if job.labels is None else entropy(job.labels, output)
    trained = model.trainable_variables
    gradients = {v.path: g for v, g in zip(trained, tape.gradient(loss, [v.value for v in trained]), strict=True)}
    found = {"loss": np.asarray(loss)}
    made = {layer.name: layer for layer in model.layers}
    for layer in job.layers:
        for parameter, ours in layer.parameters.items():
            variable = getattr(*_place(made, job, layer, parameter))
            moved = variable if parameter in STATISTICS else gradients.get(variable.path)
            array = np.zeros(variable.shape, job.dtype) if moved is None else np.asarray(moved)
            found[f"{layer.name}.{parameter}"] = rearrange(array, AXES.get(layer.op, ours), ours)
    return found


def _place(made: Mapping[str, Any], job: Job, layer: Layer, parameter: str) -> tuple[Any, str]:
    """The Keras layer that has a parameter of ours, and what it calls it."""
    own, separable = (name.replace(".", "_") for name in (layer.name, layer.name.rpartition(".")[0]))
    found = next(made[name] for name in (job.names.get(layer.name, ""), own, separable) if name in made)
    if parameter == "weight":
        return found, f"{layer.op}_kernel" if hasattr(found, "pointwise_kernel") else "kernel"
    return found, f"moving_{parameter}" if parameter in STATISTICS else parameter


def _opened(job: Job) -> tuple[Any, list[str]]:
    """The model in the file, and those of our layers whose outputs it gives: what xconvert names as they are called."""
    import keras

    whole = _whole(job)
    made = {layer.name: layer.output for layer in whole.layers}
    found: dict[str, Any] = {}
    for layer in job.layers:
        separable = layer.name.rpartition(".")[0] if layer.op == "pointwise" else ""
        name = next((n for n in (layer.name.replace(".", "_"), separable.replace(".", "_")) if n in made), None)
        if name and layer.name in job.taps:
            found[layer.name] = made[name]
    found[job.layers[-1].name] = whole.output
    return keras.Model(whole.inputs, list(found.values())), list(found)


def _whole(job: Job) -> Any:
    """The model in a ``.keras`` file; raises ``ValueError`` where it computes in another precision."""
    import keras

    symmetric_max_pooling()
    whole = keras.saving.load_model(job.path)  # noqa: TID251  (xconvert wrote it)
    if whole.variables[0].dtype != job.dtype:
        raise ValueError(f"the model in `{job.path}` computes in {whole.variables[0].dtype}")
    return whole


def serve(job: Job) -> Serve:
    """The model, ready to answer as Keras predicts, compiled."""
    import keras

    image, outputs = _network(job.layers, job.weights, job.names, {job.layers[-1].name}, job.dtype)
    model = keras.Model(image, outputs[job.layers[-1].name])
    return lambda images: np.asarray(model.predict_on_batch(images.astype(job.dtype)))


BACKEND = Backend(
    "keras",
    "the graph as a functional Keras model",
    requires=("keras", "tensorflow"),
    kind="graph",
    run=run,
    serve=serve,
    serves="model.predict_on_batch",
    train=train,
    build=build,
    opens=(".h5", ".weights.h5", ".keras"),
)
