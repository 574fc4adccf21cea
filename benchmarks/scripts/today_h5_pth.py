"""Keras' class loads the .h5, timm's class takes the weights, PyTorch saves them."""

import sys

import keras
from _common import keras_layers, save_with_timm, torch_state

model = keras.applications.Xception(weights=sys.argv[1], classifier_activation=None)
state = {}
for name, targets in keras_layers():
    state.update(torch_state(targets, model.get_layer(name).get_weights()))
save_with_timm(state, sys.argv[2])
