"""What becomes of the classifier on request: a class dropped or added, a new head for fine-tuning, or none.

The background class stands in ``reconcile``, because ``verify`` leaves it out too. Here is what only a conversion does. The rest
of the network stays as it is, to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Literal

from xconvert.deferred import np
from xconvert.errors import UsageError
from xconvert.model import Array, Model, Tensor
from xconvert.reconcile import Change, classes, folded_dtype, with_background, without_background
from xconvert.tuples import NamedTuple

MOST = 1_000_000  # classes of a new head: 8 GB for 2048 features
WEIGHT, BIAS = "predictions.weight", "predictions.bias"


class Init(NamedTuple):
    """How a new classifier starts: in words, and as ``draw(rng, inputs, outputs)``, which gives (I, O) and (O,) in float64."""

    told: str
    draw: Callable[[np.random.Generator, int, int], tuple[Array, Array]]


def _uniform(rng: np.random.Generator, inputs: int, outputs: int) -> tuple[Array, Array]:
    bound = 1 / math.sqrt(inputs)
    return rng.uniform(-bound, bound, (inputs, outputs)), rng.uniform(-bound, bound, outputs)


def _glorot(rng: np.random.Generator, inputs: int, outputs: int) -> tuple[Array, Array]:
    bound = math.sqrt(6 / (inputs + outputs))
    return rng.uniform(-bound, bound, (inputs, outputs)), np.zeros(outputs)


def _normal(rng: np.random.Generator, inputs: int, outputs: int) -> tuple[Array, Array]:
    return rng.normal(0, 0.01, (inputs, outputs)), np.zeros(outputs)


INITS: Mapping[str, Init] = {
    # torch/nn/modules/linear.py, reset_parameters: kaiming_uniform_ with a = sqrt(5); MindSpore's nn.Dense is the same
    "uniform": Init("uniform within 1/sqrt(inputs), weights and biases", _uniform),
    # keras/src/initializers/random_initializers.py, GlorotUniform: what Dense starts with; so do slim's and Paddle's
    "glorot": Init("uniform within sqrt(6/(inputs + classes)), biases 0", _glorot),
    # torchvision's and MindCV's models (mindcv/models/xception.py, _initialize_weights)
    "normal": Init("normal with deviation 0.01, biases 0", _normal),
}
CUSTOMARY = {"torch": "uniform", "mindspore": "uniform"}  # dialect family → what its framework does; the others: glorot


class Asked(NamedTuple):
    """What is to become of the classifier: see ``conversion.convert``. ``init``: one of ``INITS``, empty for the customary."""

    background: Literal["drop", "add"] | None = None
    num_classes: int | None = None
    head: bool = True
    init: str = ""
    seed: int | None = None

    def check(self) -> None:
        """Raise ``UsageError`` for what contradicts itself, or makes no sense."""
        given = [(not self.head, "--no-head"), (self.num_classes is not None, "--num-classes")]
        given.append((self.background is not None, f"--{self.background}-background"))
        if len(asked := [option for present, option in given if present]) > 1:
            told = f"`{asked[0]}` and `{asked[1]}` ask for different heads"
            raise UsageError(told, hints=["pass one of the two"])
        if self.num_classes is None and (self.init or self.seed is not None):
            option = "--head-init" if self.init else "--seed"
            raise UsageError(f"`{option}` is about a new head", hints=["pass `--num-classes N` too, or leave it away"])
        if self.num_classes is not None and not 1 <= self.num_classes <= MOST:
            raise UsageError(f"a head cannot have {self.num_classes} classes", facts=[f"it can have 1 to {MOST:,}"])
        if self.init and self.init not in INITS:
            facts = [f"{name:8} {init.told}" for name, init in INITS.items()]
            raise UsageError(f"no head starts as `{self.init}`", facts=facts)
        if self.seed is not None and self.seed < 0:
            raise UsageError(f"a seed cannot be {self.seed}", hints=["give a whole number from 0"])


def operated(model: Model, asked: Asked, family: str) -> tuple[Model, tuple[Change, ...]]:
    """``model`` with the head that was ``asked`` for, and what that changed; ``family``: of the dialect that it is written in,
    which decides how a new head customarily starts. Raises ``UsageError`` as ``Asked.check`` and the background functions do.
    """
    asked.check()
    if asked.background == "drop":
        return without_background(model), (Change("background", "first", "none", "dropped"),)
    if asked.background == "add":
        return with_background(model), (Change("background", "none", "first", "added"),)
    if not asked.head:
        return without_head(model)
    if asked.num_classes is not None:
        return with_head(model, asked.num_classes, asked.init or CUSTOMARY.get(family, "glorot"), asked.seed or 0)
    return model, ()


def without_head(model: Model) -> tuple[Model, tuple[Change, ...]]:
    """``model`` up to its last map, as a zoo has it headless; a model without a head stays as it is."""
    if not model.head:
        return model, ()
    kept = {name: tensor for name, tensor in model.weights.items() if name not in (WEIGHT, BIAS)}
    note = f"left out the head of {classes(model)} classes: the last map is the answer"
    change = Change("head", f"{classes(model)} classes", "none", "dropped")
    return model._replace(head=False, weights=kept, notes=(*model.notes, note)), (change,)


def with_head(model: Model, count: int, init: str, seed: int) -> tuple[Model, tuple[Change, ...]]:
    """``model`` with a new classifier of ``count`` classes, drawn by NumPy's PCG64 from ``seed``, in the old one's dtype."""
    before = f"{classes(model)} classes" if model.head else "none"
    last = next(layer for layer in reversed(model.layers) if layer.parameters and layer.name != "predictions")
    features = model.weights[f"{last.name}.{next(iter(last.parameters))}"]
    dtype = model.weights[WEIGHT].dtype if model.head else folded_dtype(features.dtype)
    weight, bias = INITS[init].draw(np.random.default_rng(seed), features.shape[-1], count)
    made = {WEIGHT: Tensor.of(weight.astype(dtype)), BIAS: Tensor.of(bias.astype(dtype))}
    note = f"the head is new and untrained, {count} classes: {INITS[init].told}, seed {seed}"
    change = Change("head", before, f"{count} classes, {init}, seed {seed}", "new")
    return model._replace(head=True, weights={**model.weights, **made}, notes=(*model.notes, note)), (change,)
