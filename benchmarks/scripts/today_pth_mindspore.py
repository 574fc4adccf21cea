"""PyTorch loads the .pth, MindSpore saves its arrays; the third argument is where PyTorch is installed."""

import sys

import mindspore
from _common import ROWS

sys.path.append(sys.argv[3])
import torch

NORMS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
names = {row["timm"]: row["mindcv"] for row in ROWS}
state = torch.load(sys.argv[1], weights_only=True)
arrays = []
for key, tensor in state.items():
    layer, _, parameter = key.rpartition(".")
    if parameter != "num_batches_tracked":
        norm = f"{layer}.running_mean" in state
        name = f"{names[layer]}.{NORMS[parameter] if norm else parameter}"
        arrays.append({"name": name, "data": mindspore.Tensor(tensor.numpy())})
mindspore.save_checkpoint(arrays, sys.argv[2])
