"""Which layers of a graph the reference computes together, and in which blocks: a map goes through a convolution, its batch norm,
ReLU and the next 1x1 convolution while the cache holds it.

Blocks are decided by shapes alone, because products of other sizes may round otherwise: neither threads nor taps change them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import pairwise
from typing import Literal

from xconvert.model import Layer
from xconvert.padding import output_size
from xconvert.tuples import NamedTuple

ALONE = ("batch_norm", "relu", "add")  # they look at one number of each input
NEIGHBOURS = ("conv", "depthwise", "max_pool")  # they look at a window
MIXING = ("conv", "pointwise")  # they look at all channels; the rest of the operations at the whole map
Size = tuple[int, int]
Cut = Literal["rows", "channels"]
Block = tuple[slice, slice, slice]  # rows, columns and channels of a map
EVERYTHING = slice(None)

# As measured on Zen 4 and Sapphire Rapids. A block of rows is so many bytes of the widest map of its stage, and so many pixels at
# the least: with fewer, BLAS takes as long to look through a kernel as to multiply with it. So maps of few pixels are multiplied
# with a part of the kernel instead, of about so many channels. 19x19 are not that few: in rows a product takes 3 % longer there,
# but threads wait for each other half as often, and what a depthwise convolution made is still in the cache.
BYTES, PIXELS = 2 * 2**20, 48
FEW, CHANNELS = 300, 352


class Stage(NamedTuple):
    """Layers that are computed together, in blocks of rows or of channels. Those behind the first look at what it made, number
    by number, or where it is cut in rows, pixel by pixel. ``kept``: outputs that later stages read, or whoever asked, each with
    the layer whose border it has, if any. ``over``: layers that may write over their first input. ``last``: maps that are read
    for the last time. ``size``: of the maps; None where these are not cut.
    """

    layers: tuple[Layer, ...]
    size: Size | None
    cut: Cut
    kept: Mapping[str, Layer | None]
    over: frozenset[str]
    last: tuple[str, ...]

    def blocks(self, depth: int, itemsize: int) -> list[Block]:
        """What threads share out, for maps of up to ``depth`` channels: an even number of blocks of about equal size, or one."""
        assert self.size  # noqa: S101  (whoever asks has looked)
        height, width = self.size
        if self.cut == "channels":
            count = 2 * (depth // (2 * CHANNELS)) if height * width > PIXELS else 1
            return [(EVERYTHING, EVERYTHING, part) for part in parts(depth, count, 16)]  # 16: a row of registers
        count = min(2 * -(-height * width * depth * itemsize // (2 * BYTES)), height * width // PIXELS, height)
        return [(part, EVERYTHING, EVERYTHING) for part in parts(height, count)]


def parts(length: int, count: int, unit: int = 1) -> list[slice]:
    """``length`` in up to ``count`` parts, at least one, of whole units but for the last. The larger come first: whoever shares
    them out takes the first at once, while the others wake up.
    """
    count = max(count, 1)
    ends = dict.fromkeys(min(-(-length * i // (count * unit)) * unit, length) for i in range(count + 1))
    return [slice(start, end) for start, end in pairwise(ends)]


def stages(layers: Sequence[Layer], image: Size, wanted: Collection[str]) -> list[Stage]:
    """``layers`` as stages, in order of execution, for images of a size; the outputs of ``wanted`` are kept."""
    sizes = _sizes(layers, image)
    parts, place = _grouped(layers, sizes)
    readers: dict[str, list[Layer]] = {name: [] for name in place}
    for layer in layers:
        for name in dict.fromkeys(layer.inputs):
            readers[name].append(layer)
    ended: list[list[str]] = [[] for _ in parts]
    last = {name: max([at, *(place[layer.name] for layer in readers[name])]) for name, at in place.items()}
    for name, at in last.items():
        ended[at].append(name)
    made = []
    for i, part in enumerate(parts):
        kept = {layer.name: _border_of(readers[layer.name]) for layer in part if last[layer.name] > i or layer.name in wanted}
        free = {layer.name for layer in part if layer.name not in kept and len(readers[layer.name]) == 1}
        over = frozenset(layer.name for layer in part if layer.op in ALONE and layer.inputs[0] in free)
        size = sizes[part[0].name]
        cut: Cut = "channels" if size and _mixes_few(part[0], size) else "rows"
        made.append(Stage(tuple(part), size, cut, kept, over, tuple(ended[i])))
    return made


def _sizes(layers: Sequence[Layer], image: Size) -> dict[str, Size | None]:
    """Layer → height and width of its map, None for vectors."""
    sizes: dict[str, Size | None] = {"image": image}
    for layer in layers:
        size = sizes[layer.inputs[0]] if layer.op in (*ALONE, *NEIGHBOURS, *MIXING) else None
        sizes[layer.name] = (output_size(size[0], layer), output_size(size[1], layer)) if size else None
    return sizes


def _grouped(layers: Sequence[Layer], sizes: Mapping[str, Size | None]) -> tuple[list[list[Layer]], dict[str, int]]:
    """The layers of each stage; and layer, or ``"image"`` → which stage makes it."""
    parts: list[list[Layer]] = []
    place = {"image": -1}
    for layer in layers:
        latest, size = max(place[name] for name in layer.inputs), sizes[layer.name]
        joins = layer.op in ALONE or (layer.op == "pointwise" and size and not _mixes_few(layer, size))
        if latest < 0 or not joins or sizes[parts[latest][0].name] is None:
            latest = len(parts)
            parts.append([])
        parts[latest].append(layer)
        place[layer.name] = latest
    return parts, place


def _mixes_few(layer: Layer, size: Size) -> bool:
    return layer.op in MIXING and size[0] * size[1] <= FEW


def _border_of(readers: Sequence[Layer]) -> Layer | None:
    return next((layer for layer in readers if layer.op in NEIGHBOURS and layer.padding), None)
