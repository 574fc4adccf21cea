"""Axis notation: ``rearrange(array, "O I H W", "H W I O")``. Letters name axes; ``1`` is an axis of one element."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache

from xconvert.model import Array


@cache
def parse(pattern: str) -> tuple[str, ...]:
    """The axes of ``pattern``; raises ``ValueError`` unless they are distinct letters and ones, separated by
    blanks.
    """
    axes = tuple(pattern.split())
    named = [axis for axis in axes if axis != "1"]
    if len(set(named)) != len(named) or any(not (len(a) == 1 and a.isalpha()) for a in named):
        raise ValueError(f"`{pattern}` is no list of distinct axes such as `O I H W`")
    return axes


@cache
def letters(pattern: str) -> tuple[str, ...]:
    """The axes of ``pattern`` without those of one element: what is in the same order in two arrays has the same bytes."""
    return tuple(axis for axis in parse(pattern) if axis != "1")


def fits(shape: tuple[int, ...], pattern: str) -> bool:
    """Whether an array of ``shape`` can have the axes of ``pattern``: as many, and one element where it says
    ``1``.
    """
    axes = parse(pattern)
    return len(shape) == len(axes) and all(n == 1 for n, axis in zip(shape, axes, strict=True) if axis == "1")


def reshape(shape: tuple[int, ...], source: str, target: str) -> tuple[int, ...]:
    """What ``shape`` becomes when its axes go from ``source`` to ``target``; both name the same letters."""
    sizes = dict(zip(parse(source), shape, strict=True))
    return tuple(1 if axis == "1" else sizes[axis] for axis in parse(target))


def rearrange(array: Array, source: str, target: str) -> Array:
    """``array`` with its axes in the order of ``target``: a view where NumPy can make one.

    ``source`` names the axes that it has. Raises ``ValueError`` when the shape does not fit ``source``, or the two
    patterns name different letters.
    """
    before, after = letters(source), letters(target)
    if {*before} != {*after}:
        raise ValueError(f"`{source}` and `{target}` name different axes")
    if not fits(array.shape, source):
        raise ValueError(f"an array of shape {array.shape} does not have the axes `{source}`")
    squeezed = array.reshape([n for n, axis in zip(array.shape, parse(source), strict=True) if axis != "1"])
    moved = squeezed.transpose([before.index(axis) for axis in after])
    return moved.reshape(reshape(array.shape, source, target))


def problems(patterns: Sequence[str], canonical: str) -> Iterator[str]:
    """What is wrong with the ``patterns`` of a weight with the axes ``canonical``: the first is written and must have all of
    them, those that are only read may lack H and W.
    """
    ours = {*parse(canonical)}
    for pattern, spare in zip(patterns, [set[str](), *[{"H", "W"}] * len(patterns)], strict=False):
        try:
            theirs = {*letters(pattern)}
        except ValueError as error:
            yield str(error)
            continue
        if missing := ours - theirs - spare:
            yield f"`{pattern}` lacks the axes {', '.join(sorted(missing))}"
        if stray := theirs - ours:
            yield f"`{pattern}` has the axes {', '.join(sorted(stray))}, expected {canonical}"
