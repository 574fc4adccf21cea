"""Xception (Chollet, 2017, https://arxiv.org/abs/1610.02357, figure 5), as keras.applications builds it.

Names follow that file (keras/src/applications/xception.py) with dots for the underscores between parts:
``block2.sepconv1.pointwise``, ``block3.shortcut.bn``, ``block3.pool``. The order is that of Keras' ``model.layers``:
within a block the shortcut comes after the separable convolutions; mappings that go by position rely on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xconvert.architectures._norms import Norms
from xconvert.architectures._once import once
from xconvert.model import Depth, Family, Layer

PUBLISHED = Depth(3, 8)  # figure 5: "repeated eight times"


def build(depth: Depth, head: bool, attributes: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The layers of an Xception of ``depth``; without ``head`` it ends at the last activation.

    ``attributes``: ``bn_epsilon`` and ``bn_momentum`` (floats), and ``pool_padding`` (``"same_upper"`` or ``"symmetric"``).
    """
    return tuple(_layers(depth, head, Norms.of(attributes), attributes["pool_padding"]))


def _layers(depth: Depth, head: bool, norms: Norms, pool_padding: str) -> Iterator[Layer]:
    pool = 1 if pool_padding == "symmetric" else pool_padding
    yield Layer("block1.conv1", "conv", ("image",), kernel=3, stride=2, width=32)
    yield from _normalised("block1.conv1", norms, relu=True)
    yield Layer("block1.conv2", "conv", ("block1.conv1.act",), kernel=3, width=64)
    yield from _normalised("block1.conv2", norms, relu=True)
    last = depth.middle + 6
    downsampling = {2: (128, 128), 3: (256, 256), 4: (728, 728), last - 1: (728, 1024)}  # entry flow, exit flow's first
    end = "block1.conv2.act"
    for number in range(2, last):
        if widths := downsampling.get(number):
            yield from _downsampling(f"block{number}", end, widths, norms, pool, activate_first=number > 2)
        else:
            yield from _middle(f"block{number}", end, norms)
        end = f"block{number}.add"
    for i, width in enumerate((1536, 2048), 1):  # the exit flow's separable convolutions have their ReLU behind
        yield from _separable(f"block{last}.sepconv{i}", end, width, norms)
        end = f"block{last}.sepconv{i}.act"
        yield Layer(end, "relu", (f"block{last}.sepconv{i}.bn",))
    if head:
        yield Layer("avg_pool", "global_average", (end,))
        yield Layer("predictions", "linear", ("avg_pool",))


def _downsampling(
    block: str, start: str, widths: tuple[int, int], norms: Norms, pool: int | str, activate_first: bool
) -> Iterator[Layer]:
    end = start
    for i, width in enumerate(widths, 1):
        if i > 1 or activate_first:
            yield Layer(f"{block}.sepconv{i}.act", "relu", (end,))
            end = f"{block}.sepconv{i}.act"
        yield from _separable(f"{block}.sepconv{i}", end, width, norms)
        end = f"{block}.sepconv{i}.bn"
    yield Layer(f"{block}.shortcut.conv", "conv", (start,), stride=2, width=widths[-1])
    yield norms.layer(f"{block}.shortcut.bn", f"{block}.shortcut.conv")
    yield Layer(f"{block}.pool", "max_pool", (end,), kernel=3, stride=2, padding=pool)
    yield Layer(f"{block}.add", "add", (f"{block}.pool", f"{block}.shortcut.bn"))


def _middle(block: str, start: str, norms: Norms) -> Iterator[Layer]:
    end = start
    for i in (1, 2, 3):
        yield Layer(f"{block}.sepconv{i}.act", "relu", (end,))
        yield from _separable(f"{block}.sepconv{i}", f"{block}.sepconv{i}.act", 728, norms)
        end = f"{block}.sepconv{i}.bn"
    yield Layer(f"{block}.add", "add", (end, start))


def _separable(name: str, start: str, width: int, norms: Norms) -> Iterator[Layer]:
    yield Layer(f"{name}.depthwise", "depthwise", (start,), kernel=3, padding=1)
    yield Layer(f"{name}.pointwise", "pointwise", (f"{name}.depthwise",), width=width)
    yield norms.layer(f"{name}.bn", f"{name}.pointwise")


def _normalised(name: str, norms: Norms, relu: bool) -> Iterator[Layer]:
    yield norms.layer(f"{name}.bn", name)
    if relu:
        yield Layer(f"{name}.act", "relu", (f"{name}.bn",))


FAMILY = Family(
    name="xception",
    describes="Xception as published (Chollet 2017)",
    source="Chollet 2017, arXiv:1610.02357; keras/src/applications/xception.py",
    differs="pools, and normalises behind pointwise convolutions alone",
    attributes={"bn_epsilon": 1e-3, "pool_padding": "same_upper", "bn_momentum": 0.99},  # Keras' own defaults for both numbers
    depths=(PUBLISHED, *(Depth(3, n) for n in range(0, 65) if n != PUBLISHED.middle)),
    build=once(build),
    constants=lambda depth: {"last": depth.middle + 6},
)
