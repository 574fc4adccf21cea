"""timm's aligned Xceptions with pre-activation, 41p and 65p: batch norm and ReLU stand before the convolutions, and what a
block adds to is its normalised and activated input. From timm/models/xception_aligned.py, ``PreXceptionModule``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xconvert.architectures._flows import (
    XCEPTION_41,
    XCEPTION_65,
    Block,
    classifier,
    constants,
    convolution,
    depths,
    entry_flow,
    middle_flow,
)
from xconvert.architectures._norms import Norms
from xconvert.architectures._once import once
from xconvert.model import Depth, Family, Layer


def build(depth: Depth, head: bool, attributes: Mapping[str, Any]) -> tuple[Layer, ...]:
    """The layers of a pre-activation Xception of ``depth``; without ``head`` it ends at the last activation.

    ``attributes``: ``bn_epsilon`` and ``bn_momentum`` (floats).
    """
    return tuple(_layers(depth, head, Norms.of(attributes)))


def _layers(depth: Depth, head: bool, norms: Norms) -> Iterator[Layer]:
    yield from convolution("entry.conv1", "image", 32, norms, stride=2)
    yield Layer("entry.conv2", "conv", ("entry.conv1.act",), kernel=3, padding=1, width=64)
    end = "entry.conv2"
    exit_flow = (Block("exit.block1", (728, 1024, 1024), 2), Block("exit.block2", (1536, 1536, 2048), 1))
    for block in (*entry_flow(depth, 3), *middle_flow(depth), *exit_flow):
        yield from _block(block, end, norms)
        end = f"{block.name}.add"
    yield Layer("exit.act", "relu", ("exit.block2.sepconv3.pointwise",))
    if head:
        yield from classifier("exit.act")


def _block(block: Block, start: str, norms: Norms) -> Iterator[Layer]:
    """Batch norm and ReLU, three separable convolutions with batch norm and ReLU between them; plus what the first ReLU
    gave, or its projection. The last block of the network has no shortcut.
    """
    yield from _normalised(block.name, start, norms)
    end = f"{block.name}.act"
    for i, width in enumerate(block.widths, 1):
        name = f"{block.name}.sepconv{i}"
        if i > 1:
            yield from _normalised(name, end, norms)
            end = f"{name}.act"
        stride = block.stride if i == len(block.widths) else 1
        yield Layer(f"{name}.depthwise", "depthwise", (end,), kernel=3, stride=stride, padding=1)
        end = f"{name}.pointwise"
        yield Layer(end, "pointwise", (f"{name}.depthwise",), width=width)
    if block.name == "exit.block2":
        return
    skip = f"{block.name}.act"
    if not block.name.startswith("middle"):
        skip = f"{block.name}.shortcut"
        yield Layer(skip, "conv", (f"{block.name}.act",), stride=block.stride, width=block.widths[-1])
    yield Layer(f"{block.name}.add", "add", (end, skip))


def _normalised(name: str, start: str, norms: Norms) -> Iterator[Layer]:
    yield norms.layer(f"{name}.bn", start)
    yield Layer(f"{name}.act", "relu", (f"{name}.bn",))


FAMILY = Family(
    name="xception_preact",
    describes="aligned Xception with pre-activation (timm) of 41 or 65 layers",
    source="timm/models/xception_aligned.py, PreXceptionModule",
    differs="normalises and activates before its convolutions",
    attributes={"bn_epsilon": 1e-3, "bn_momentum": 0.9},  # momentum: torch.nn.BatchNorm2d's default, 0.1 in its words
    depths=depths(XCEPTION_41, XCEPTION_65),
    build=once(build),
    constants=constants,
)
