"""The batch norms of a network: what is the same for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xconvert.model import Layer
from xconvert.tuples import NamedTuple


class Norms(NamedTuple):
    """The attributes ``bn_epsilon`` and ``bn_momentum``."""

    epsilon: float
    momentum: float

    @classmethod
    def of(cls, attributes: Mapping[str, Any]) -> Norms:
        """Those that the attributes of a network state."""
        return cls(attributes["bn_epsilon"], attributes["bn_momentum"])

    def layer(self, name: str, start: str) -> Layer:
        """The batch norm called ``name`` behind the layer ``start``."""
        return Layer(name, "batch_norm", (start,), epsilon=self.epsilon, momentum=self.momentum)
