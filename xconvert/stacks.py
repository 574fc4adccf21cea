"""A network in the terms of keras-hub's ``XceptionBackbone``: what its convolutions and pools are, block by block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from xconvert.model import Array, Layer, Tensor


def stacks(layers: Sequence[Layer], weights: Mapping[str, Array] | Mapping[str, Tensor]) -> tuple[list[list[int]], list[bool]]:
    """The backbone's arguments: filters of each block's convolutions, and whether it ends in a pool."""
    blocks: dict[str, list[Layer]] = {}
    for layer in layers:
        blocks.setdefault(layer.name.partition(".")[0], []).append(layer)
    filters = [
        [weights[f"{x.name}.weight"].shape[-1] for x in block if x.op in ("conv", "pointwise") and ".shortcut." not in x.name]
        for block in blocks.values()
    ]
    pools = [any(layer.op == "max_pool" for layer in block) for block in blocks.values()]
    kept = [i for i, widths in enumerate(filters) if widths]  # the head has none
    return [filters[i] for i in kept], [pools[i] for i in kept]
