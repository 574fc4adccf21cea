"""Checkpoints and images from a seed, as the oracles in ``fixtures/oracles`` were made. NumPy only.

A tensor depends on the seed, its own name, shape and role, and on how many 1x1 kernels the checkpoint has. The
numbers below are part of the recipe: with others the oracles' answers belong to other weights.
"""

from __future__ import annotations

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[1] / "fixtures" / "oracles"
GAIN = {"conv": 3.0, "depthwise": 1.15, "fc": 8.0, "logits": 8.0}
CENTRED = {"conv": 0.0, "depthwise": 0.8, "pointwise": 1.0, "fc": 1.0, "logits": 1.0}
SMALL = 0.001  # share of variances in 3e-3..1e-2


@dataclass(frozen=True)
class Oracle:
    """One network's answers: ``meta`` and the arrays of its ``.npz``, and the inventory of its checkpoint."""

    name: str
    meta: dict[str, Any]
    answers: dict[str, np.ndarray]
    inventory: dict[str, Any]

    def checkpoint(self) -> dict[str, np.ndarray]:
        """Every tensor by native name, in native layout and file order; checked against the CRC in ``meta``."""
        tensors = weights(self.inventory, self.meta["seed"])
        crc = 0
        for name in sorted(tensors):
            crc = zlib.crc32(tensors[name].tobytes(), crc)
        assert crc == self.meta["weights_crc32"], "NumPy's random streams have changed"
        return tensors

    def images(self, size: int) -> np.ndarray:
        """(N, size, size, 3) float32 in [-1, 1]; checked against the CRC in ``meta``."""
        made = image(size, 1 if size == 299 else 2, self.meta["seed"])
        assert zlib.crc32(made.tobytes()) == self.meta["image_crc32"][str(size)]
        return made


def oracle(name: str) -> Oracle:
    answers = dict(np.load(FOLDER / f"{name}.npz"))
    meta = json.loads(str(answers.pop("meta")))
    return Oracle(name, meta, answers, inventory(meta["inventory"].removesuffix(".json")))


def inventory(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text())


def weights(inventory: dict[str, Any], seed: int) -> dict[str, np.ndarray]:
    tensors = inventory["tensors"]
    pointwise = sum(t["role"] == "pointwise.kernel" for t in tensors)
    gain = GAIN | {"pointwise": 0.96 - 0.0016 * pointwise}  # keeps the sum over many residual blocks in range
    return {t["name"]: _tensor(t["name"], tuple(t["shape"]), t["role"], inventory["layout"], gain, seed) for t in tensors}


def _tensor(name: str, shape: tuple[int, ...], role: str, layout: str, gain: dict[str, float], seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    kind, part = role.split(".")
    if part == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if part == "kernel":
        axes = _fan_in(len(shape), kind, layout)
        value = rng.standard_normal(shape) * (gain[kind] / np.sqrt(np.prod([shape[a] for a in axes])))
        value -= CENTRED[kind] * value.mean(axes, keepdims=True)
    elif part == "gamma":
        value = rng.uniform(0.5, 1.5, shape)
    elif part == "moving_variance":
        value = 1 / np.where(rng.random(shape) < SMALL, rng.uniform(100, 333, shape), rng.uniform(0.35, 2.2, shape))
    else:  # beta, moving_mean, bias
        value = 0.1 * rng.standard_normal(shape)
    return value.astype(np.float32)


def _fan_in(rank: int, kind: str, layout: str) -> tuple[int, ...]:
    if rank == 2:
        return (0,) if "[in,out]" in layout else (1,)
    spatial, channels = ((0, 1), 2) if "HWIO" in layout else ((2, 3), 1)
    return spatial if kind == "depthwise" else (*spatial, channels)


def image(size: int, batch: int, seed: int) -> np.ndarray:
    """A smooth field, six translucent rectangles and a little noise, in steps of 1/127.5."""
    out = np.empty((batch, size, size, 3), np.float32)
    for i in range(batch):
        rng = np.random.default_rng([seed, size, i])
        ramp = np.clip(1 - np.abs(np.linspace(0, 4, size)[:, None] - np.arange(5)), 0, 1)
        field = np.einsum("hj,wk,jkc->hwc", ramp, ramp, rng.uniform(-1, 1, (5, 5, 3)))
        for _ in range(6):
            y, x = rng.integers(0, size * 3 // 4, 2)
            h, w = rng.integers(size // 8, size // 2, 2)
            field[y : y + h, x : x + w] = 0.3 * field[y : y + h, x : x + w] + rng.uniform(-0.9, 0.9, 3)
        field += 0.08 * rng.standard_normal(field.shape)
        out[i] = np.rint((np.clip(field, -1, 1) + 1) * 127.5) / 127.5 - 1
    return out
