"""Keras' class loads the .h5, Paddle saves its arrays. Paddle comes first: after TensorFlow it crashes when imported."""

import sys

import paddle  # isort: skip
import keras
from _common import keras_layers, torch_state

model = keras.applications.Xception(weights=sys.argv[1], classifier_activation=None)
state = {}
for name, targets in keras_layers():
    for key, array in torch_state(targets, model.get_layer(name).get_weights()):
        state[key] = paddle.to_tensor(array.copy())
paddle.save(state, sys.argv[2])
