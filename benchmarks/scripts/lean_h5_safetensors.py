"""Without any framework: h5py reads, safetensors saves."""

import sys

import h5py
import numpy as np
from _common import keras_layers, torch_state
from safetensors.numpy import save_file

state = {}
with h5py.File(sys.argv[1]) as file:
    for name, targets in keras_layers():
        group = file["model_weights"][name]
        arrays = [group[weight][()] for weight in group.attrs["weight_names"]]
        for key, array in torch_state(targets, arrays):
            state[key] = np.ascontiguousarray(array)
save_file(state, sys.argv[2])
