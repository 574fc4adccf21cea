"""Which layers of a graph the reference computes together: operations that look at one pixel alone follow the one before them, so
that a map goes through a convolution, its batch norm, ReLU and the next 1x1 convolution while the cache holds it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from xconvert.model import Layer

ALONE = ("pointwise", "batch_norm", "relu", "add")  # they look at one pixel alone
NEIGHBOURS = ("conv", "depthwise", "max_pool")  # the rest look at the whole map
IN_PLACE = ("batch_norm", "relu", "add")  # one number of the first input makes one of the output
# Bytes of its widest map that a stage computes at once, as measured (shared/facts/performance.md, B3), and the fewest pixels: with
# fewer, BLAS takes as long to look through a kernel as to multiply with it.
BLOCK, LEAST = 2 * 2**20, 48


@dataclass(frozen=True, slots=True)
class Stage:
    """Layers that are computed together: one that looks at neighbours, or at the whole map, and those that follow it pixel by
    pixel. ``kept``: outputs that later stages read, or whoever asked, each with the layer whose border it has, if any.
    ``over``: layers that may write over their first input. ``last``: maps that are read for the last time.
    """

    layers: tuple[Layer, ...]
    kept: Mapping[str, Layer | None]
    over: frozenset[str]
    last: tuple[str, ...]


def stages(layers: Sequence[Layer], wanted: Collection[str]) -> list[Stage]:
    """``layers`` as stages, in order of execution; the outputs of ``wanted`` are kept. These change nothing else: the same layers
    are computed together whatever is wanted.
    """
    parts, place = _parts(layers)
    readers: dict[str, list[Layer]] = {name: [] for name in place}
    for layer in layers:
        for name in dict.fromkeys(layer.inputs):
            readers[name].append(layer)
    last = {name: max([at, *(place[layer.name] for layer in readers[name])]) for name, at in place.items()}
    made = []
    ended: list[list[str]] = [[] for _ in parts]
    for name, at in last.items():
        ended[at].append(name)
    for i, part in enumerate(parts):
        kept = {layer.name: _border_of(readers[layer.name]) for layer in part if last[layer.name] > i or layer.name in wanted}
        free = {layer.name for layer in part if layer.name not in kept and len(readers[layer.name]) == 1}
        over = frozenset(layer.name for layer in part if layer.op in IN_PLACE and layer.inputs[0] in free)
        made.append(Stage(tuple(part), kept, over, tuple(ended[i])))
    return made


def _parts(layers: Sequence[Layer]) -> tuple[list[list[Layer]], dict[str, int]]:
    """The layers of each stage; and layer, or ``"image"`` → which stage makes it."""
    parts: list[list[Layer]] = []
    place = {"image": -1}
    for layer in layers:
        latest = max(place[name] for name in layer.inputs)
        if layer.op in ALONE and latest >= 0 and parts[latest][0].op in (*ALONE, *NEIGHBOURS):
            parts[latest].append(layer)
        else:
            latest = len(parts)
            parts.append([layer])
        place[layer.name] = latest
    return parts, place


def _border_of(readers: Sequence[Layer]) -> Layer | None:
    return next((layer for layer in readers if layer.op in NEIGHBOURS and layer.padding), None)


def blocks(height: int, width: int, size: int) -> list[tuple[int, int]]:
    """First row and end of each block of a map of ``size`` bytes. An even number of them, for threads to share out, of about equal
    size; decided by the map alone, because products of other sizes may round otherwise.
    """
    count = 2 * -(-size // (2 * BLOCK))
    count = max(min(count, height * width // LEAST, height), 1)
    return [(height * i // count, height * (i + 1) // count) for i in range(count)]
