"""What was compared, how far apart it was, and the first layer at which it parted. Data; text and JSON are made from
it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = 1  # of the JSON; raised when a field changes its meaning


@dataclass(frozen=True, slots=True)
class LayerError:
    """How far one layer's activations are apart at one size.

    ``relative``: largest relative L2 over the images, ||other - reference|| / ||reference - mean||; ``maximum``:
    largest absolute difference; ``scale``: largest absolute reference value; ``allowed``: the tolerance for
    ``relative``.
    """

    name: str
    size: int
    relative: float
    maximum: float
    scale: float
    allowed: float

    @property
    def ok(self) -> bool:
        """Within tolerance; not a number never is."""
        return self.relative <= self.allowed

    @property
    def moved(self) -> float:
        """The largest difference as a share of the largest reference value; infinite where all of that is zero."""
        return self.maximum / self.scale if self.scale else math.inf if self.maximum else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON types."""
        numbers = {k: v if not isinstance(v, float) or math.isfinite(v) else None for k, v in asdict(self).items()}
        return numbers | {"ok": self.ok}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked: names, shapes, dtypes, values, or the layers of one comparison."""

    name: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True)
class Report:
    """The outcome of a conversion or a verification.

    ``source`` and ``target`` describe the two sides. ``checks`` are in the order in which they were made. ``layers``:
    every layer compared, in order of execution, for every size. ``changes``: what was folded or accepted.
    ``notes``: one clause each. ``omitted``: what the source has and the result, as asked, has not.
    """

    source: Mapping[str, Any]
    target: Mapping[str, Any]
    checks: tuple[Check, ...] = ()
    layers: tuple[LayerError, ...] = ()
    changes: tuple[Mapping[str, Any], ...] = ()
    notes: tuple[str, ...] = ()
    precision: str = ""
    output: str = ""
    omitted: tuple[str, ...] = ()

    @property
    def verified(self) -> bool:
        """Whether anything was compared at all."""
        return bool(self.checks or self.layers)

    @property
    def equal(self) -> bool:
        """Whether something was compared, every check passed and every layer is within tolerance."""
        return self.verified and all(check.ok for check in self.checks) and all(layer.ok for layer in self.layers)

    @property
    def first_divergence(self) -> LayerError | None:
        """The first layer, in order of execution, that is over tolerance at any size."""
        return next((layer for layer in self.layers if not layer.ok), None)

    @property
    def outputs(self) -> tuple[LayerError, ...]:
        """The network's last layer, once per size."""
        return tuple(layer for layer in self.layers if layer.name == self.layers[-1].name)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types; what is not finite is null, which JSON has no number for."""
        first = self.first_divergence
        return {
            "schema": SCHEMA,
            "verified": self.verified,
            "equal": self.equal if self.verified else None,
            "first_divergence": first.to_dict() if first else None,
            **{k: v for k, v in asdict(self).items() if v and k != "layers"},
            "layers": [layer.to_dict() for layer in self.layers],
        }
