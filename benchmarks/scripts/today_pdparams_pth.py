"""Paddle loads the .pdparams, timm's class takes the weights, PyTorch saves them."""

import sys

import paddle
from _common import ROWS, save_with_timm

PARAMETERS = {"_mean": "running_mean", "_variance": "running_var"}
names = {row["layer"]: row["timm"] for row in ROWS}
state = {}
for key, tensor in paddle.load(sys.argv[1]).items():
    layer, _, parameter = key.rpartition(".")
    array = tensor.numpy()
    state[f"{names[layer]}.{PARAMETERS.get(parameter, parameter)}"] = array.T if array.ndim == 2 else array
save_with_timm(state, sys.argv[2])
