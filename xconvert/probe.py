"""Probe images: seeded, image-like, never constant, at sizes that can see padding."""

from __future__ import annotations

from xconvert.deferred import np
from xconvert.model import Array

# Sizes at which a pool pads unevenly: 75 meets it in block 3, 96 in blocks 4 and 13, 299 in block 3. Not of the form 32k+7 or
# 32k+8, where every pool sees an odd map and all paddings agree (semantics of strided 3x3 pools at the four depths).
SIZES = (75, 96)
NATIVE = 299


def images(size: int, batch: int = 2, channels: int = 3, seed: int = 0) -> Array:
    """``batch`` images, (N, H, W, channels) float32 in [-1, 1] in steps of 1/127.5, as 8-bit photographs give.

    Each is a smooth field, six translucent rectangles (edges) and a little noise. Same arguments, same images.
    """
    return np.stack([_image(size, channels, np.random.default_rng([seed, size, i])) for i in range(batch)])


def _image(size: int, channels: int, rng: np.random.Generator) -> Array:
    ramp = np.clip(1 - np.abs(np.linspace(0, 4, size)[:, None] - np.arange(5)), 0, 1)  # (H, 5): linear between five knots
    field = np.einsum("hj,wk,jkc->hwc", ramp, ramp, rng.uniform(-1, 1, (5, 5, channels)))
    for _ in range(6):
        top, left = rng.integers(0, size * 3 // 4, 2)
        height, width = rng.integers(max(size // 8, 1), max(size // 2, 2), 2)
        patch = field[top : top + height, left : left + width]
        field[top : top + height, left : left + width] = 0.3 * patch + rng.uniform(-0.9, 0.9, channels)
    field += 0.08 * rng.standard_normal(field.shape)
    steps: Array = np.rint((np.clip(field, -1, 1) + 1) * 127.5) / 127.5 - 1
    return steps.astype(np.float32)
