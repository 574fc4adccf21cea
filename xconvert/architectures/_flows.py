"""What the deeper Xceptions share: an entry flow of three blocks, or of five in those of 71 layers; their depths."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from xconvert.architectures._norms import Norms
from xconvert.model import Depth, Layer
from xconvert.tuples import NamedTuple

XCEPTION_41, XCEPTION_65, XCEPTION_71 = Depth(3, 8), Depth(3, 16), Depth(5, 16)
MIDDLE = 728  # channels of the middle flow


class Block(NamedTuple):
    """One residual block: its place, ``entry.block1`` or ``middle.block8``, the channels of its separable convolutions, and
    the stride of its last one.
    """

    name: str
    widths: tuple[int, ...]
    stride: int


def entry_flow(depth: Depth, convolutions: int) -> list[Block]:
    """The blocks of the entry flow: every one, or with five the first, third and fifth, halves the map."""
    widths, strides = ((128, 256, MIDDLE), (2, 2, 2)) if depth.entry == 3 else ((128, 256, 256, MIDDLE, MIDDLE), (2, 1, 2, 1, 2))
    pairs = zip(widths, strides, strict=True)
    return [Block(f"entry.block{b}", (width,) * convolutions, stride) for b, (width, stride) in enumerate(pairs, 1)]


def middle_flow(depth: Depth) -> list[Block]:
    """The blocks of the middle flow."""
    return [Block(f"middle.block{b}", (MIDDLE,) * 3, 1) for b in range(1, depth.middle + 1)]


def depths(*published: Depth) -> tuple[Depth, ...]:
    """The published depths, then all others that are looked for."""
    others = [Depth(entry, middle) for entry in (3, 5) for middle in range(65)]
    return (*published, *(depth for depth in others if depth not in published))


def constants(depth: Depth) -> Mapping[str, int]:
    """Numbers that mapping files may use: blocks of the entry flow, ``blocks`` before the exit flow, and ``layers`` on the
    main path, which published networks are named for (41, 65, 71): two convolutions, three in each block.
    """
    blocks = depth.entry + depth.middle
    return {"entry": depth.entry, "blocks": blocks, "layers": 2 + 3 * (blocks + 2)}


def convolution(name: str, start: str, width: int, norms: Norms, stride: int = 1) -> Iterator[Layer]:
    """A 3x3 convolution of the stem with one pixel of padding, a batch norm and a ReLU."""
    yield Layer(name, "conv", (start,), kernel=3, stride=stride, padding=1, width=width)
    yield norms.layer(f"{name}.bn", name)
    yield Layer(f"{name}.act", "relu", (f"{name}.bn",))


def classifier(start: str, scale: float = 1.0) -> Iterator[Layer]:
    """The mean over all pixels, and the classifier."""
    yield Layer("avg_pool", "global_average", (start,))
    yield Layer("predictions", "linear", ("avg_pool",), scale=scale)


def chained(parts: Sequence[tuple[str, str, Mapping[str, float | int]]], start: str) -> Iterator[Layer]:
    """Layers each of which takes the one before: (name, operation, options)."""
    for name, op, options in parts:
        yield Layer(name, op, (start,), **options)  # type: ignore[arg-type]
        start = name
