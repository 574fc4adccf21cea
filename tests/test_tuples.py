"""Named tuples: the same as the standard library's, but for what defining one takes."""

from __future__ import annotations

import copy
import pickle
import typing
from collections.abc import Callable
from typing import Any

import pytest

from xconvert.tuples import NamedTuple


class Ours(NamedTuple):
    """One of ours."""

    name: str
    size: int = 3
    rest: tuple[int, ...] = ()

    def doubled(self) -> int:
        """Methods see fields."""
        return 2 * self.size


class Theirs(typing.NamedTuple):
    """The same of the standard library."""

    name: str
    size: int = 3
    rest: tuple[int, ...] = ()


@pytest.mark.parametrize(
    "use",
    [
        lambda kind: kind("a"),
        lambda kind: kind("a", 4, (1,)),
        lambda kind: kind(rest=(2,), name="b"),
        lambda kind: kind("a")._replace(size=5),
        lambda kind: kind("a")._asdict(),
        lambda kind: kind._fields,
        lambda kind: kind.__match_args__,
        lambda kind: {kind("a"): 1}[("a", 3, ())],
        lambda kind: (kind("a").name, kind("a").size, *kind("a")),
        lambda kind: copy.deepcopy(kind("a")),
        lambda kind: pickle.loads(pickle.dumps(kind("a", 7))),
        lambda kind: repr(kind("a")).partition("(")[2],
        lambda kind: kind("a").__getnewargs__(),
    ],
)
def test_they_are_what_the_standard_librarys_are(use: Callable[[Any], Any]) -> None:
    assert use(Ours) == use(Theirs)


@pytest.mark.parametrize(
    "use",
    [
        lambda kind: kind(),
        lambda kind: kind("a", 1, (), 2),
        lambda kind: kind("a", name="b"),
        lambda kind: kind("a", other=1),
        lambda kind: kind(size=1),
    ],
)
def test_too_few_and_too_many_values_are_no_tuple(use: Callable[[Any], Any]) -> None:
    for kind in (Ours, Theirs):
        with pytest.raises(TypeError):
            use(kind)


def test_nothing_else_can_be_put_into_one() -> None:
    one: Any = Ours("a")
    assert one.doubled() == 6
    with pytest.raises(AttributeError):
        one.size = 4
    with pytest.raises(AttributeError):
        one.other = 4
    with pytest.raises(TypeError):
        one._replace(other=4)
    match one:
        case Ours(name, size):
            assert (name, size) == ("a", 3)
