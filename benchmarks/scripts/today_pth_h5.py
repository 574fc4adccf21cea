"""PyTorch loads the .pth, Keras' class takes the weights and is saved."""

import sys

import keras
import torch
from _common import keras_layers, keras_weights

state = {name: tensor.numpy() for name, tensor in torch.load(sys.argv[1], weights_only=True).items()}
model = keras.applications.Xception(weights=None, classifier_activation=None)
for name, targets in keras_layers():
    model.get_layer(name).set_weights(keras_weights(targets, state))
model.save(sys.argv[2])
