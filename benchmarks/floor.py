"""The floor under a NumPy forward pass: the same matrix products and nothing else.

Every convolution with weights that a product can compute, as (pixels, inputs) × (inputs, outputs), in blocks of rows that the
cache holds: the blocking that was the fastest of those tried (shared/facts/performance.md, B1 and B3). Rows of one image, or
whole images where there are several, are split among ``threads``.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np

from xconvert import load
from xconvert.model import Array, Model
from xconvert.padding import output_size

SIZE = 299
BLOCK = 2 << 20  # bytes of a block's input and output
LEAST = 170  # rows of a block: below that a product loses speed


def shapes(model: Model) -> list[tuple[int, int, int]]:
    """(pixels, inputs, outputs) of every product, in order."""
    pixels, found = {"image": SIZE}, []
    for layer in model.layers:
        before = pixels[layer.inputs[0]]
        after = pixels[layer.name] = 1 if layer.op in ("global_average", "linear") else output_size(before, layer)
        if layer.op in ("conv", "pointwise", "linear"):
            *inputs, outputs = model.weights[f"{layer.name}.weight"].shape
            found.append((after**2, int(np.prod(inputs)), outputs))
    return found


def products(file: Path, batch: int, dtype: str, threads: int) -> Callable[[], None]:
    """What computes all of them once for each image."""
    rng = np.random.default_rng(0)
    plan = shapes(load(file))
    weights = [rng.standard_normal((inputs, outputs)).astype(dtype) for _, inputs, outputs in plan]
    # one map for the inputs and one for the outputs of all layers, and another pair for each image that is computed at once
    most = [max(m * k for m, k, _ in plan), max(m * n for m, _, n in plan)]
    maps = [[rng.standard_normal(size).astype(dtype) for size in most] for _ in range(min(batch, threads))]
    pool = ThreadPoolExecutor(threads)

    def image(pair: list[Array]) -> None:
        for (m, k, n), weight in zip(plan, weights, strict=True):
            _rows(pair[0][: m * k].reshape(m, k), weight, pair[1][: m * n].reshape(m, n))

    def rows() -> None:
        for (m, k, n), weight in zip(plan, weights, strict=True):
            x, out = maps[0][0][: m * k].reshape(m, k), maps[0][1][: m * n].reshape(m, n)
            edges = [m * i // threads for i in range(threads + 1)]
            parts = [slice(a, b) for a, b in pairwise(edges) if a < b]
            list(pool.map(lambda part, x=x, w=weight, out=out: _rows(x[part], w, out[part]), parts))

    def compute() -> None:
        if threads == 1:
            for _ in range(batch):
                image(maps[0])
        elif batch == 1:
            rows()
        else:
            list(pool.map(lambda i: [image(maps[i]) for _ in range(i, batch, len(maps))], range(len(maps))))

    return compute


def _rows(x: Array, weight: Array, out: Array) -> None:
    """One product, block by block."""
    step = max(LEAST, BLOCK // ((x.shape[1] + out.shape[1]) * x.itemsize))
    for start in range(0, len(x), step):
        np.matmul(x[start : start + step], weight, out=out[start : start + step])
