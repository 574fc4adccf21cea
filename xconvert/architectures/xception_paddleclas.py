"""PaddleClas' own Xception41, 65 and 71: pointwise before depthwise convolution, a batch norm behind each, shortcuts without
batch norm, and pools that are there even where they do not stride.

From PaddleClas, ppcls/arch/backbone/model_zoo/xception.py. Despite the names it is none of the other networks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from xconvert.architectures._flows import (
    XCEPTION_41,
    XCEPTION_65,
    XCEPTION_71,
    Block,
    chained,
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
    """The layers of a PaddleClas Xception of ``depth``; without ``head`` it ends at the last activation.

    ``attributes``: ``bn_epsilon`` and ``bn_momentum`` (floats).
    """
    return tuple(_layers(depth, head, Norms.of(attributes)))


def _layers(depth: Depth, head: bool, norms: Norms) -> Iterator[Layer]:
    yield from convolution("entry.conv1", "image", 32, norms, stride=2)
    yield from convolution("entry.conv2", "entry.conv1.act", 64, norms)
    end = "entry.conv2.act"
    for block in (*entry_flow(depth, 2), *middle_flow(depth), Block("exit.block1", (728, 1024), 2)):
        yield from _residual(block, end, norms)
        end = f"{block.name}.add"
    for i, width in enumerate((1536, 2048), 1):
        name = f"exit.block2.sepconv{i}"
        yield from _separable(name, end, width, norms)
        end = f"{name}.act"
        yield Layer(end, "relu", (f"{name}.depthwise.bn",))
    if head:
        yield from classifier(end)


def _residual(block: Block, start: str, norms: Norms) -> Iterator[Layer]:
    """ReLU and separable convolution, as often as the block has widths, plus the input; outside the middle flow then a pool,
    and the input is projected. The first block takes maps that are activated already.
    """
    end = start
    for i, width in enumerate(block.widths, 1):
        name = f"{block.name}.sepconv{i}"
        if i > 1 or block.name != "entry.block1":
            yield Layer(f"{name}.act", "relu", (end,))
            end = f"{name}.act"
        yield from _separable(name, end, width, norms)
        end = f"{name}.depthwise.bn"
    skip = start
    if not block.name.startswith("middle"):
        skip = f"{block.name}.shortcut"
        yield Layer(skip, "conv", (start,), stride=block.stride, width=block.widths[-1])
        yield Layer(f"{block.name}.pool", "max_pool", (end,), kernel=3, stride=block.stride, padding=1)
        end = f"{block.name}.pool"
    yield Layer(f"{block.name}.add", "add", (end, skip))


def _separable(name: str, start: str, width: int, norms: Norms) -> Iterator[Layer]:
    """A pointwise and then a depthwise convolution, a batch norm behind each."""
    norm = norms._asdict()
    parts: list[tuple[str, str, Mapping[str, Any]]] = [
        (f"{name}.pointwise", "pointwise", {"width": width}),
        (f"{name}.pointwise.bn", "batch_norm", norm),
        (f"{name}.depthwise", "depthwise", {"kernel": 3, "padding": 1}),
        (f"{name}.depthwise.bn", "batch_norm", norm),
    ]
    yield from chained(parts, start)


FAMILY = Family(
    name="xception_paddleclas",
    describes="PaddleClas' own Xception of 41, 65 or 71 layers",
    source="PaddleClas, ppcls/arch/backbone/model_zoo/xception.py",
    differs="convolves pointwise before depthwise, and normalises behind each",
    attributes={"bn_epsilon": 1e-5, "bn_momentum": 0.9},  # paddle.nn.BatchNorm's defaults
    depths=depths(XCEPTION_41, XCEPTION_65, XCEPTION_71),
    build=once(build),
    constants=constants,
)
