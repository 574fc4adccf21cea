"""A zoo for tests of batches: narrow checkpoints of every family, in the formats of their zoos."""

from __future__ import annotations

from pathlib import Path

from tests.narrow import TORCH, checkpoint, narrow
from xconvert.formats import formats

# family, depth, whose names, suffix, the attributes that its authors do not have
KINDS = (
    ("xception", 8, "keras.applications", ".h5", {}),
    ("xception", 8, "timm", ".pth", TORCH),
    ("xception_aligned", 8, "timm", ".safetensors", {}),
    ("xception_aligned", 8, "paddleclas", ".pdparams", {"exit_dilation": 2, "head_scale": 0.5}),
    ("xception_preact", 8, "timm", ".pth", {"bn_epsilon": 1e-5}),
    ("xception_paddleclas", 8, "paddleclas", ".pdparams", {}),
)
_WRITERS = {".h5": "keras-h5", ".pth": "torch", ".safetensors": "safetensors", ".pdparams": "paddle"}


def make(folder: Path, count: int = 24) -> list[Path]:
    """``count`` checkpoints of different weights in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for i in range(count):
        family, depth, names, suffix, attributes = KINDS[i % len(KINDS)]
        model = narrow(depth, family, divide=32, classes=10 + i // len(KINDS), **attributes)
        path = folder / f"{i:02}-{family}{suffix}"
        write = formats()[_WRITERS[suffix]].write
        assert write
        write(path, checkpoint(model, names))
        paths.append(path)
    return paths
