"""Files made to harm who opens them, each with the message that xconvert answers with.

``python -m tests.attacks`` writes them into ``fixtures/hostile/attacks``. What would run only creates an empty file.
"""

from tests.attacks import (
    hdf5,
    hdf5_costs,
    keras,
    mindspore,
    npz,
    onnx,
    other,
    paddle,
    pickles_that_cost,
    pickles_that_run,
    safetensors,
    tensorflow,
    tensorflow_tables,
    torch,
    zips,
)
from tests.attacks.registry import ATTACKS, FOLDER, MARKER, Attack

__all__ = [
    "ATTACKS",
    "FOLDER",
    "MARKER",
    "Attack",
    "hdf5",
    "hdf5_costs",
    "keras",
    "mindspore",
    "npz",
    "onnx",
    "other",
    "paddle",
    "pickles_that_cost",
    "pickles_that_run",
    "safetensors",
    "tensorflow",
    "tensorflow_tables",
    "torch",
    "zips",
]
