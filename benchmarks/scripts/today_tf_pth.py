"""TensorFlow reads the checkpoint of a Keras model, timm's class takes the weights, PyTorch saves them."""

import sys

import tensorflow as tf
from _common import keras_layers, save_with_timm, torch_state

ORDER = ["gamma", "beta", "moving_mean", "moving_variance", "depthwise_kernel", "pointwise_kernel", "_kernel", "kernel", "bias"]
reader = tf.train.load_checkpoint(sys.argv[1])
layers: dict[int, list[str]] = {}
for key in reader.get_variable_to_shape_map():
    if key.startswith("model/_operations/"):
        layers.setdefault(int(key.split("/")[2]), []).append(key)
state = {}
for number, (_, targets) in zip(sorted(layers), keras_layers(), strict=True):
    keys = sorted(layers[number], key=lambda key: ORDER.index(key.split("/")[3]))
    state.update(torch_state(targets, [reader.get_tensor(key) for key in keys]))
save_with_timm(state, sys.argv[2])
