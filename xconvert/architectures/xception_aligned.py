"""The aligned Xceptions of DeepLab (Chen et al. 2018, https://arxiv.org/abs/1802.02611, section 3.2): 41, 65 and 71 layers.

Strided depthwise convolutions stand where Xception pools, and a batch norm follows every depthwise and every pointwise
convolution. From tensorflow/models, research/deeplab/core/xception.py; timm/models/xception_aligned.py computes the same.
Explicit padding makes both agree at every size (semantics.md, 4).
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
    """The layers of an aligned Xception of ``depth``; without ``head`` it ends at the last activation.

    ``attributes``: ``bn_epsilon`` and ``bn_momentum`` (floats), ``exit_dilation`` (1 or 2) of the last block's depthwise
    convolutions, and ``head_scale``, what the classifier's input is multiplied with.
    """
    return tuple(_layers(depth, head, Norms.of(attributes), attributes["exit_dilation"], attributes["head_scale"]))


def _layers(depth: Depth, head: bool, norms: Norms, dilation: int, scale: float) -> Iterator[Layer]:
    yield from convolution("entry.conv1", "image", 32, norms, stride=2)
    yield from convolution("entry.conv2", "entry.conv1.act", 64, norms)
    end = "entry.conv2.act"
    exit1 = Block("exit.block1", (728, 1024, 1024), 2)
    for block in (*entry_flow(depth, 3), *middle_flow(depth), exit1):
        yield from _residual(block, end, norms)
        end = f"{block.name}.add"
    for i, width in enumerate((1536, 1536, 2048), 1):
        name = f"exit.block2.sepconv{i}"
        yield from _separable(name, end, width, norms, activated=True, dilation=dilation)
        end = f"{name}.pointwise.act"
    if head:
        yield from classifier(end, scale=scale)


def _residual(block: Block, start: str, norms: Norms) -> Iterator[Layer]:
    """Three times ReLU and separable convolution, the last one strided; plus the input, or its projection in the entry and
    exit flow (``middle`` keeps width and size).
    """
    end = start
    for i, width in enumerate(block.widths, 1):
        name = f"{block.name}.sepconv{i}"
        yield Layer(f"{name}.act", "relu", (end,))
        stride = block.stride if i == len(block.widths) else 1
        yield from _separable(name, f"{name}.act", width, norms, stride=stride)
        end = f"{name}.pointwise.bn"
    skip = start
    if not block.name.startswith("middle"):
        skip = f"{block.name}.shortcut.bn"
        yield Layer(f"{block.name}.shortcut.conv", "conv", (start,), stride=block.stride, width=block.widths[-1])
        yield norms.layer(skip, f"{block.name}.shortcut.conv")
    yield Layer(f"{block.name}.add", "add", (end, skip))


def _separable(
    name: str, start: str, width: int, norms: Norms, *, stride: int = 1, dilation: int = 1, activated: bool = False
) -> Iterator[Layer]:
    """A depthwise and a pointwise convolution, a batch norm behind each, and with ``activated`` a ReLU behind that."""
    window = {"kernel": 3, "stride": stride, "padding": dilation, "dilation": dilation}
    parts: list[tuple[str, str, Mapping[str, Any]]] = []
    for half, options in (("depthwise", window), ("pointwise", {"width": width})):
        parts += [(f"{name}.{half}", half, options), (f"{name}.{half}.bn", "batch_norm", norms._asdict())]
        parts += [(f"{name}.{half}.act", "relu", {})] * activated
    yield from chained(parts, start)


FAMILY = Family(
    name="xception_aligned",
    describes="aligned Xception (DeepLab) of 41, 65 or 71 layers",
    source="Chen et al. 2018, arXiv:1802.02611; tensorflow/models, research/deeplab/core/xception.py",
    differs="strides instead of pooling, and normalises behind each convolution",
    # epsilon and momentum: xception_arg_scope, batch_norm_epsilon and batch_norm_decay
    attributes={"bn_epsilon": 1e-3, "exit_dilation": 1, "head_scale": 1.0, "bn_momentum": 0.9997},
    depths=depths(XCEPTION_41, XCEPTION_65, XCEPTION_71),
    build=once(build),
    constants=constants,
)
