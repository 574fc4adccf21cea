"""MindSpore loads the .ckpt, timm's class takes the weights, PyTorch saves them. MindSpore's Python may lack PyTorch: the third
argument is where that is installed, and comes behind MindSpore's own packages, whose NumPy must be the older one.
"""

import sys

import mindspore
from _common import ROWS, save_with_timm

sys.path.append(sys.argv[3])
PARAMETERS = {"gamma": "weight", "beta": "bias", "moving_mean": "running_mean", "moving_variance": "running_var"}
names = {row["mindcv"]: row["timm"] for row in ROWS}
state = {}
for key, tensor in mindspore.load_checkpoint(sys.argv[1]).items():
    layer, _, parameter = key.rpartition(".")
    state[f"{names[layer]}.{PARAMETERS.get(parameter, parameter)}"] = tensor.asnumpy()
save_with_timm(state, sys.argv[2])
