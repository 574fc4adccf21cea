"""Forward passes that go along with each other, layer by layer: of two networks that are compared, on images of several sizes.

What all of them have to do for a layer is shared out at once: on small images a single one has no work for a second thread.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager

from xconvert.backends._pass import Copies, Made, borrowed, steps
from xconvert.backends._stages import stages
from xconvert.backends._threads import Task, Workers
from xconvert.backends.numpy import Read, Start
from xconvert.model import Array, Layer


class Together:
    """Passes that wait for each other at every layer that one of them is asked for."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._passes: list[Outputs] = []

    def add(self, names: Collection[str], steps: Iterator[Made | list[Task]]) -> Outputs:
        """One more pass: what is to be done for it, and the layers that it makes, called ``names``."""
        self._passes.append(Outputs(self, names, steps))
        return self._passes[-1]

    def reach(self, name: str) -> None:
        """Let every pass that has yet to make this layer go on until it has."""
        behind = [each for each in self._passes if name in each.left]
        while behind:
            waiting = [(each, tasks) for each in behind if (tasks := each.until(name)) is not None]
            self._workers.do([task for _, tasks in waiting for task in tasks])
            behind = [each for each, _ in waiting]


class Outputs:
    """A forward pass that is asked for the output of one layer after another. ``left``: those that it has yet to make."""

    def __init__(self, together: Together, names: Collection[str], steps: Iterator[Made | list[Task]]) -> None:
        self.left = {*names}
        self._together, self._steps = together, steps
        self._made: dict[str, list[Array]] = {}
        self._latest = ""  # whose outputs are there until it goes on

    def output(self, name: str) -> list[Array] | None:
        """As ``xconvert.backends.numpy.Walk`` says."""
        if name in self.left:
            self._together.reach(name)
        return self._made.pop(name, None)

    def until(self, name: str) -> list[Task] | None:
        """What is to be done before it goes on; None as soon as it has made this layer."""
        self._keep(self._latest)
        for step in self._steps:
            if not isinstance(step, Made):
                return step
            self.left.discard(step.name)
            self._made[step.name], self._latest = step.outputs, step.name
            if step.name == name:
                break
            self._keep(step.name)
        return None

    def _keep(self, name: str) -> None:
        """Copy what was made before it was asked for."""
        if name in self._made:
            self._made[name] = [array.copy() for array in self._made[name]]


@contextmanager
def walking() -> Iterator[Start]:
    """As ``xconvert.backends.numpy.walking`` says."""
    with Workers() as workers, borrowed() as memory:
        together, kept = Together(workers), dict[str, Copies]()

        def start(layers: Sequence[Layer], weights: Mapping[str, Read], batches: Sequence[Array], dtype: str) -> list[Outputs]:
            copies, names = kept.setdefault(dtype, Copies(dtype, memory)), [layer.name for layer in layers]
            copies.expect(weights.values(), len(batches))
            started = []
            for images in (batch.astype(dtype, copy=False) for batch in batches):
                plan = stages(layers, images.shape[1:3], names)
                started.append(together.add(names, steps(plan, weights, copies, images, names, workers)))
            return started

        yield start
