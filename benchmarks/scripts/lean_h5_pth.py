"""Without Keras and timm: h5py reads, PyTorch saves."""

import sys

import h5py
import numpy as np
import torch
from _common import keras_layers, torch_state

state = {}
with h5py.File(sys.argv[1]) as file:
    for name, targets in keras_layers():
        group = file["model_weights"][name]
        arrays = [group[weight][()] for weight in group.attrs["weight_names"]]
        for key, array in torch_state(targets, arrays):
            state[key] = torch.from_numpy(np.ascontiguousarray(array))
torch.save(state, sys.argv[2])
