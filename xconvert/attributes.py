"""What a checkpoint does not say and a network must know: the attributes, their values, and what the values mean."""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from typing import Any

from xconvert.errors import UsageError
from xconvert.tuples import NamedTuple


class Definition(NamedTuple):
    """One attribute: what it is, how a value is read, and what each value means in words.

    ``parse`` takes a TOML value or the text of ``--set`` and raises ``ValueError`` with what was expected. ``training``: whether
    it matters in training alone. No answer depends on such an attribute, so a difference in it is never refused and needs no
    fold; a network that states none has its published value.
    """

    describes: str
    parse: Callable[[Any], Any]
    meanings: Mapping[Any, str] = {}
    training: bool = False


def _fraction(example: float) -> Callable[[Any], float]:
    """Takes a number between 0 and 1, or its text, and neither 0 nor 1.

    No published network has either. A variance of 0 needs an epsilon; a momentum of 0 would leave no running statistics but
    those of the last batch, and with 1 they would never move.
    """
    expected = f"a number between 0 and 1, such as {example}"

    def parse(value: Any) -> float:
        if isinstance(value, bool):
            raise ValueError(expected)
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            raise ValueError(expected) from None
        if not 0 < number < 1:
            raise ValueError(expected)
        return number

    return parse


def _one_of(*values: str | float) -> Callable[[Any], Any]:
    """Takes one of ``values``, or its text."""

    def parse(value: Any) -> Any:
        for known in values:
            if not isinstance(value, bool) and (value == known or value == str(known)):
                return known
        raise ValueError("one of " + ", ".join(f"`{v}`" for v in values))

    return parse


DEFINITIONS: Mapping[str, Definition] = {
    "bn_epsilon": Definition("number added to the variance in every batch norm", _fraction(0.001)),
    "pool_padding": Definition(
        "where a strided 3×3 max-pool puts its border",
        _one_of("same_upper", "symmetric"),
        {"same_upper": "the odd pixel goes to the end", "symmetric": "one pixel on each side"},
    ),
    "exit_dilation": Definition(
        "how far apart the last block's depthwise convolutions look",
        _one_of(1, 2),
        {1: "at neighbouring pixels", 2: "at every other pixel"},
    ),
    "head_scale": Definition(
        "what the classifier's input is multiplied with",
        _one_of(1.0, 0.5),
        {1.0: "taken as it is", 0.5: "halved, as Paddle's dropout `downscale_in_infer` does when it answers"},
    ),
    # Keras', TensorFlow's, Paddle's, ONNX' and MindSpore's word and convention; PyTorch's momentum is the rest, 1 - this.
    "bn_momentum": Definition(
        "share of their running statistics that batch norms keep at each step of training", _fraction(0.99), training=True
    ),
}


def parse(name: str, value: Any) -> Any:
    """The value of attribute ``name``; raises ``UsageError`` when there is no such attribute or the value is none of
    its.
    """
    if name not in DEFINITIONS:
        raise UsageError(f"no attribute is called `{name}`", facts=["attributes: " + ", ".join(DEFINITIONS)])
    try:
        return DEFINITIONS[name].parse(value)
    except ValueError as error:
        told = value if isinstance(value, str) else shown(value)
        raise UsageError(f"`{name}` cannot be `{told}`", facts=[f"expected {error}"]) from None


def in_training(name: str) -> bool:
    """Whether attribute ``name`` matters in training alone."""
    return name in DEFINITIONS and DEFINITIONS[name].training


def answering(values: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes among ``values`` that a network's answer depends on: not those that matter in training alone."""
    return {name: value for name, value in values.items() if not in_training(name)}


def meaning(name: str, value: Any) -> str:
    """What ``value`` means in words; empty where it speaks for itself."""
    return DEFINITIONS[name].meanings.get(value, "")


def shown(value: Any) -> str:
    """``value`` from a file for a message: short, however long or deep it is."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # Python prints no integers beyond some thousand digits
        return "a number that is too long to show"


_SHORT = reprlib.Repr()
_SHORT.maxlevel = 2
