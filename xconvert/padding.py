"""What a layer pads, and the size of its map: arithmetic that needs neither weights nor NumPy."""

from __future__ import annotations

from xconvert.model import Layer


def window(layer: Layer) -> int:
    """Pixels along an axis that one output pixel of ``layer`` sees: from the first of its kernel to the last."""
    return (layer.kernel - 1) * layer.dilation + 1


def pads(size: int, layer: Layer) -> tuple[int, int]:
    """Pixels that ``layer`` adds before and after an axis of ``size`` pixels.

    ``"same_upper"`` is TensorFlow's SAME (tensorflow/core/framework/common_shape_fns.cc): the output has ceil(size /
    stride) pixels and an odd one goes to the end.
    """
    if isinstance(layer.padding, int):
        return layer.padding, layer.padding
    total = max((-(-size // layer.stride) - 1) * layer.stride + window(layer) - size, 0)
    return total // 2, total - total // 2


def output_size(size: int, layer: Layer) -> int:
    """Pixels along an axis after ``layer``, given ``size`` before it."""
    return (size + sum(pads(size, layer)) - window(layer)) // layer.stride + 1
