"""Graphs are asked for again and again, by every implementation of a family; each is made once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from xconvert.model import Depth, Layer

Build = Callable[[Depth, bool, Mapping[str, Any]], tuple[Layer, ...]]
_GRAPHS = 300  # of one family: each of its depths with and without a head


def once(build: Build) -> Build:
    """``build``, which gives the same tuple for the same depth, head and attributes."""

    @lru_cache(_GRAPHS)
    def known(depth: Depth, head: bool, attributes: tuple[tuple[str, Any], ...]) -> tuple[Layer, ...]:
        return build(depth, head, dict(attributes))

    return lambda depth, head, attributes: known(depth, head, tuple(attributes.items()))
