"""Load a .h5 and compute one image with xconvert."""

import sys

import xconvert
from xconvert.probe import images

print(int(xconvert.forward(xconvert.load(sys.argv[1]), images(299, 1))["logits"].argmax()))
