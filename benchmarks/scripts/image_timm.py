"""Load a .pth and compute one image with timm's class; ``image_xconvert.py`` is the same with xconvert."""

import sys

import torch
from _common import timm

module = timm().create_model("legacy_xception")
module.load_state_dict(torch.load(sys.argv[1], weights_only=True))
module.eval()
with torch.inference_mode():
    print(int(module(torch.rand(1, 3, 299, 299) * 2 - 1).argmax()))
