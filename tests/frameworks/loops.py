"""The zoos' own evaluation, as people write it: ``python -m tests.frameworks.loops ZOO CHECKPOINT LIST OUT.npz [CLASSES]``.

The zoo's class loads the checkpoint, the zoo's transforms take each image of the list (``path label``), and its answer is kept.
Runs in a process that has the framework.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.frameworks.preprocess import ZOOS


def timm(checkpoint: str, classes: int) -> Any:
    import torch

    from tests.frameworks.make_torch import _narrow_timm

    model = _narrow_timm(classes, 3, 16)
    model.load_state_dict(torch.load(checkpoint, weights_only=True))
    model.eval()

    def answer(image: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return model(torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None])[0].numpy()

    return answer


def keras(checkpoint: str, classes: int) -> Any:
    import keras

    model = keras.models.load_model(checkpoint)
    return lambda image: model.predict_on_batch(image[None])[0]


if __name__ == "__main__":
    zoo, checkpoint, listed, out, *rest = sys.argv[1:]
    answer = {"timm": timm, "keras.applications": keras}[zoo](checkpoint, int(rest[0]) if rest else 10)
    read, folder = ZOOS[zoo](), Path(listed).parent
    names, labels = zip(*(line.rsplit(" ", 1) for line in Path(listed).read_text().splitlines()), strict=True)
    logits = np.stack([answer(read(str(folder / name))) for name in names])
    np.savez(out, names=np.array(names), labels=np.array(labels, np.int64), logits=logits)
