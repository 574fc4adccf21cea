"""What was compared, how far apart it was, and the first layer at which it parted. Data; text and JSON are made from
it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from xconvert.model import Array
from xconvert.tuples import NamedTuple

SCHEMA = 1  # of the JSON; raised when a field changes its meaning


# What a diagnosis may be about.
KINDS = (
    "epsilon",  # another number is added to the variance
    "padding",  # a pool or convolution pads on another side
    "dilation",  # a convolution looks at other pixels
    "scale",  # what a layer multiplies with is left out or done twice
    "swapped",  # two layers or two tensors stand in each other's place
    "moved",  # a layer has the weights of another one, as when blocks are counted from elsewhere
    "transposed",  # a kernel has its axes in another order
    "classes",  # the classes are shifted
    "statistics",  # running statistics are missing, or a standard deviation stands where the variance belongs
    "missing",  # a tensor was never loaded: it is as initialised
    "preprocessing",  # the first convolution is made for other input values, or another order of channels
    "activation",  # an activation or one side of an addition is left out
    "precision",  # weights were rounded to fewer bits, or overflowed
    "network",  # the two are different networks
    "not finite",  # a weight is infinite or not a number, or a variance negative
    "weights",  # other weights, of which no more can be said
)


class LayerError(NamedTuple):
    """How far one layer's activations are apart at one size.

    ``relative``: largest relative L2 over the images, ||other - reference|| / ||reference - mean||, which is held to ``allowed``;
    ``maximum``: largest absolute difference; ``scale``: largest absolute reference value; ``rms``: root of the mean squared
    difference; ``cosine``: least cosine similarity over the images; ``rounding``: ``relative`` of what rounding alone does to the
    reference, 0 where nothing is rounded.
    """

    name: str
    size: int
    relative: float
    maximum: float
    scale: float
    allowed: float
    rms: float = 0.0
    cosine: float = 1.0
    rounding: float = 0.0

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
        told: dict[str, Any] = _plain(self)
        return told


class Check(NamedTuple):
    """One thing that was checked: names, shapes, dtypes, values, or the layers of one comparison."""

    name: str
    ok: bool
    detail: str = ""


class Agreement(NamedTuple):
    """How the answers to ``images`` images of one size agree: for how many the first class, and the set of the first five, is
    the same on both sides. Information only: a wrong epsilon moves logits by 2 % with 100 % agreement.
    """

    size: int
    images: int
    top1: int
    top5: int


class Diagnosis(NamedTuple):
    """Why two networks part at ``layer``: a fault that, injected into the reference, gives what the other side computes there.

    ``kind`` is one of ``KINDS``. ``told``: the fault in a clause; ``hint``: what to do about it. ``last``: whether, with this
    and the diagnoses before it injected, nothing else differs.
    """

    kind: str
    layer: str
    told: str
    hint: str = ""
    last: bool = False


class Activations(NamedTuple):
    """What both sides computed at the layer where they part, for one image: (H, W) of the ``channel`` that differs most, or
    the whole vector (C,) where a layer has no map; ``channel`` is then -1.
    """

    layer: str
    size: int
    channel: int
    reference: Array
    other: Array


class Step(NamedTuple):
    """One step of training on both sides: the loss of each, the gradient of every parameter and the running statistics after
    it, each as a ``LayerError`` by canonical weight name (``block1.conv1.weight``). ``reasons``: why something must differ, or
    how conventions differ that were made up for, a clause each.
    """

    loss: LayerError
    losses: tuple[float, float]
    gradients: tuple[LayerError, ...]
    statistics: tuple[LayerError, ...]
    reasons: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether loss, gradients and statistics are within tolerance."""
        return all(error.ok for error in (self.loss, *self.gradients, *self.statistics))


class Trial(NamedTuple):
    """One row of the acceptance table: the logits for ``batch`` images of one ``seed``, ``maximum`` the largest absolute
    difference, which is held to ``allowed``, and for how many of them the first class is the same; None without classes.
    """

    seed: int
    batch: int
    maximum: float
    allowed: float
    top1: int | None

    @property
    def same(self) -> str:
        """For how many of the images the first class is the same, in words."""
        return "–" if self.top1 is None else f"{self.top1} of {self.batch}"

    @property
    def ok(self) -> bool:
        """Within tolerance; not a number never is."""
        return self.maximum <= self.allowed


class Report(NamedTuple):
    """The outcome of a conversion or a verification.

    ``source`` and ``target`` describe the two sides. ``checks`` are in the order in which they were made. ``layers``:
    every layer compared, in order of execution, for every size. ``agreement``: of the answers, by size. ``diagnoses``: why the
    two part, the first cause first. ``activations``: of the first layer that parts. ``training`` and ``trials``: where asked for.
    ``changes``: what was folded or accepted,
    or is the target's in training alone. ``notes``: one clause each. ``omitted``: what the source has and the result, as
    asked, has not. ``provenance``: files, hashes, versions and probes, as ``provenance.describe`` gives them.
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
    agreement: tuple[Agreement, ...] = ()
    diagnoses: tuple[Diagnosis, ...] = ()
    activations: Activations | None = None
    training: Step | None = None
    trials: tuple[Trial, ...] = ()
    provenance: Mapping[str, Any] = {}

    @property
    def verified(self) -> bool:
        """Whether anything was compared at all."""
        return bool(self.checks or self.layers)

    @property
    def equal(self) -> bool:
        """Whether something was compared, every check passed and everything computed is within tolerance."""
        compared: tuple[Check | LayerError | Trial | Step, ...]
        compared = (*self.checks, *self.layers, *self.trials, *([self.training] if self.training else []))
        return self.verified and all(part.ok for part in compared)

    @property
    def head(self) -> str:
        """What became of the head, where that was asked for: ``"new"`` or ``"dropped"``; else empty."""
        return next((str(change["action"]) for change in self.changes if change["attribute"] == "head"), "")

    @property
    def answers(self) -> str:
        """What was compared at the end: ``"logits"``, or without a head ``"features"``."""
        headed = self.head == "new" or (self.source.get("classes") and self.head != "dropped")
        return "logits" if headed else "features"

    @property
    def first_divergence(self) -> LayerError | None:
        """The first layer, in order of execution, that is over tolerance at any size."""
        return next((layer for layer in self.layers if not layer.ok), None)

    @property
    def outputs(self) -> tuple[LayerError, ...]:
        """The network's last layer, once per size."""
        return tuple(layer for layer in self.layers if layer.name == self.layers[-1].name)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON types; what is not finite is null, which JSON has no number for. Activations are left out."""
        first = self.first_divergence
        told: dict[str, Any] = {
            "schema": SCHEMA,
            "verified": self.verified,
            "equal": self.equal if self.verified else None,
            "first_divergence": _plain(first),
        }
        told |= {name: _plain(value) for name, value in self._asdict().items() if value and name not in ("layers", "activations")}
        return {**told, "layers": _plain(self.layers)}


def _plain(value: Any) -> Any:
    """``value`` in JSON types: named tuples as objects, what is not finite as null."""
    if hasattr(value, "_asdict"):
        return _plain(value._asdict() | {name: getattr(value, name) for name in ("moved", "ok") if hasattr(value, name)})
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def block(name: str) -> str:
    """What a layer is a part of: ``block3``, ``middle.block3``, or a layer by itself."""
    match = re.match(r"(\w+\.)?block\d+|[^.]+(\.conv\d)?", name)
    return match[0] if match else name
