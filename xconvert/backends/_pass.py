"""The reference's forward pass, stage by stage, each in blocks of rows that a few threads share out.

How large blocks are is decided by shapes alone, and each image is computed by itself: neither threads nor batches nor taps change
a bit. Maps that later stages read are kept within the border that these ask for, in memory that is used again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from typing import Any

import numpy as np

from xconvert.backends import Job
from xconvert.backends._stages import ALONE, EVERYTHING, MIXING, NEIGHBOURS, Block, Stage, parts, stages
from xconvert.backends._threads import Task, Workers
from xconvert.backends.numpy import OPERATIONS, Read, border, padded
from xconvert.model import Array, Layer
from xconvert.padding import pads, window
from xconvert.tuples import NamedTuple

ANYWHERE = (*ALONE, "max_pool")  # operations that write as well where rows do not follow each other
SMALL = 2**16  # bytes of an array that need not be used again
# Bytes of maps that there may be at once, beyond which images wait for each other; and how many numbers those maps have, for each
# pixel of the image, that are there at once in an Xception as published.
MAPS, NUMBERS = 48 * 2**20, 104
KEPT = 128 * 2**20  # bytes that may wait for the next pass


class Memory:
    """Flat arrays of bytes that are used again and again: fresh ones cost the kernel as long as a pass over them."""

    def __init__(self) -> None:
        self._free: list[Array] = []
        self._lent: dict[int, Array] = {}  # by identity
        self._rooms: dict[tuple[int, int], Array] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array with whatever was in it before; of several as small, the one last used, which may still be in the cache."""
        size = prod(shape) * dtype.itemsize
        if size < SMALL:
            return np.empty(shape, dtype)
        fitting = [flat for flat in reversed(self._free) if size <= flat.size <= 4 * size]
        flat = min(fitting, key=len) if fitting else np.empty(size, np.uint8)
        self._free = [other for other in self._free if other is not flat]
        self._lent[id(flat)] = flat
        return flat[:size].view(dtype).reshape(shape)

    def give(self, array: Array) -> None:
        """Take back what ``take`` gave; anything else is let go."""
        flat = self._lent.pop(id(array.base), None)
        if flat is not None:
            self._free.append(flat)

    def reclaimed(self) -> int:
        """Bytes that are free once all that was lent is, also by a pass that was left before its end."""
        self._free += self._lent.values()
        self._lent.clear()
        return sum(flat.size for flat in self._free)

    def room(self, worker: int, place: int, shape: Sequence[int], dtype: np.dtype[Any]) -> Array:
        """Scratch of one worker: the same memory for the same ``place``."""
        size = prod(shape) * dtype.itemsize
        flat = self._rooms.get((worker, place))
        if flat is None or flat.size < size:
            flat = self._rooms[worker, place] = np.empty(size, np.uint8)
        return flat[:size].view(dtype).reshape(shape)


_idle: list[Memory] = []  # what earlier passes had, and the next ones take


@contextmanager
def borrowed() -> Iterator[Memory]:
    """Memory for one pass at a time, kept for the next one where that is not too much."""
    try:
        memory = _idle.pop()
    except IndexError:
        memory = Memory()
    try:
        yield memory
    finally:
        if memory.reclaimed() <= KEPT:
            _idle.append(memory)


class Map(NamedTuple):
    """The output of a layer, ``inner``, within ``whole``, which has the border that ``reader`` asks for, if any."""

    inner: Array
    whole: Array
    reader: Layer | None = None

    @classmethod
    def empty(cls, shape: tuple[int, int, int], dtype: np.dtype[Any], reader: Layer | None, memory: Memory) -> Map:
        """A map of ``shape`` to be filled, within its border."""
        (top, bottom), (left, right) = (pads(n, reader) if reader else (0, 0) for n in shape[:2])
        whole = memory.take((top + shape[0] + bottom, left + shape[1] + right, shape[2]), dtype)
        if reader:
            for edge in (whole[:top], whole[top + shape[0] :], whole[:, :left], whole[:, left + shape[1] :]):
                edge[...] = border(reader)
        return cls(whole[top : top + shape[0], left : left + shape[1]], whole, reader)

    def given_to(self, layer: Layer) -> Array:
        """What ``layer`` reads, with the border that it adds."""
        kin, shape = self.reader, self.inner.shape[:2]
        if kin and border(kin) == border(layer) and all(pads(n, kin) == pads(n, layer) for n in shape):
            return self.whole
        return padded(self.inner, layer)


class Work(NamedTuple):
    """A stage for one image. ``parameters``: of each layer; ``maps``: of this and the stages before; ``memory``: for scratch."""

    stage: Stage
    parameters: Mapping[str, Sequence[Array]]
    maps: dict[str, Map]
    memory: Memory
    dtype: np.dtype[Any]

    def tasks(self) -> list[Task]:
        """What is to be done, after making the maps that are kept."""
        stage, first = self.stage, self.stage.layers[0]
        if stage.size is None:
            return [self.whole]
        source = self.maps[first.inputs[0]].given_to(first) if first.op in NEIGHBOURS else None
        depths = {name: each.inner.shape[-1] for name, each in self.maps.items()}
        for layer in stage.layers:
            depths[layer.name] = self.parameters[layer.name][0].shape[-1] if layer.op in MIXING else depths[layer.inputs[0]]
        for name, reader in stage.kept.items():
            self.maps[name] = Map.empty((*stage.size, depths[name]), self.dtype, reader, self.memory)
        blocks = stage.blocks(max(depths[layer.name] for layer in stage.layers), self.dtype.itemsize)
        return [partial(self.block, depths, source, block) for block in blocks]

    def whole(self, worker: int) -> None:
        """Layers that look at the whole map, or at vectors."""
        for layer in self.stage.layers:
            out = OPERATIONS[layer.op](*(self.maps[name].inner for name in layer.inputs), layer, *self.parameters[layer.name])
            self.maps[layer.name] = Map(out, out)

    def block(self, depths: Mapping[str, int], source: Array | None, block: Block, worker: int) -> None:
        """A block through all layers. ``depths``: channels of each; ``source``: what the first looks at, border and all."""
        assert self.stage.size  # noqa: S101  (``tasks`` has looked)
        values: dict[str, Array] = {}
        for layer in self.stage.layers:
            inputs = [values[name] if name in values else self.maps[name].inner[block] for name in layer.inputs]
            alone = layer
            if not values and layer.op in MIXING:
                inputs = [self.maps[layer.inputs[0]].inner[block[0]]]
            if not values and source is not None:
                inputs, alone = [_seen(source, layer, block[0])], layer._replace(padding=0)
            kept = self.maps[layer.name].inner[block] if layer.name in self.stage.kept else None
            if kept is not None and (kept.flags.c_contiguous or layer.op in ANYWHERE):
                out = kept
            elif layer.name in self.stage.over:
                out = inputs[0]
            else:
                shape = [len(range(n)[part]) for n, part in zip((*self.stage.size, depths[layer.name]), block, strict=True)]
                out = self.memory.room(worker, len(values), shape, self.dtype)
            parameters = [array[..., block[2]] for array in self.parameters[layer.name]]
            OPERATIONS[layer.op](*inputs, alone, *parameters, out=out)
            if kept is not None and out is not kept:
                kept[...] = out
            values[layer.name] = out


def _seen(source: Array, layer: Layer, rows: slice) -> Array:
    """The rows of ``source``, with its border, that some rows of the output of ``layer`` look at."""
    end = None if rows.stop is None else (rows.stop - 1) * layer.stride + window(layer)
    return source[(rows.start or 0) * layer.stride : end]


def ready(array: Array, dtype: np.dtype[Any]) -> Array:
    """``array`` as the operations want a weight: itself where it is as it should be, else a copy."""
    if _fits(array, dtype):
        return array
    copy = np.empty(array.shape, dtype)
    _fill(copy, array)
    return copy


def _fits(array: Array, dtype: np.dtype[Any]) -> bool:
    return array.dtype == dtype and array.flags.c_contiguous and array.flags.aligned


def _fill(copy: Array, array: Array, part: slice = EVERYTHING, _worker: int = 0) -> None:
    """Fill a part of the last axis of ``copy``. Of a transposed matrix 16 columns at a time, a line of the cache: half as long as
    all at once (shared/facts/performance.md, A4).
    """
    into, source = copy[..., part], array[..., part]
    step = 16 if array.ndim == 2 and array.flags.f_contiguous else max(array.shape[-1], 1)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is the verifier's to tell
        for start in range(0, source.shape[-1], step):
            into[..., start : start + step] = source[..., start : start + step]


class Copies:
    """Weights as the operations want them, for passes that go along with each other, also of several networks: of those that are
    read by the same function there is one copy, from when the first pass needs it until the last does no more.
    """

    def __init__(self, dtype: str, memory: Memory) -> None:
        self._dtype, self.memory = np.dtype(dtype), memory
        self._held: dict[Read, Array] = {}
        self._left = Counter[Read]()

    def expect(self, weights: Iterable[Read], passes: int = 1) -> None:
        """So many more passes will need each of ``weights``."""
        for read in weights:
            self._left[read] += passes

    def take(self, weights: Sequence[Read], workers: Workers) -> list[Array]:
        """Each array itself where it is as it should be, else a copy; large ones are copied by all ``workers``."""
        tasks: list[Task] = []
        for read in weights:
            if read not in self._held:
                array = read()
                if not _fits(array, self._dtype):
                    copy = self.memory.take(array.shape, self._dtype)
                    if copy.nbytes > SMALL:
                        tasks += [partial(_fill, copy, array, part) for part in parts(copy.shape[-1], 2, 16)]
                    else:
                        _fill(copy, array)
                    array = copy
                self._held[read] = array
        workers.do(tasks)
        return [self._held[read] for read in weights]

    def done(self, read: Read) -> None:
        """A pass needs it no more."""
        self._left[read] -= 1
        if not self._left[read]:
            self.memory.give(self._held.pop(read))


class Made(NamedTuple):
    """The output of a layer for each image."""

    name: str
    outputs: list[Array]


def steps(
    plan: Sequence[Stage], weights: Mapping[str, Read], copies: Copies, images: Array, wanted: Collection[str], workers: Workers
) -> Iterator[Made | list[Task]]:
    """A forward pass for ``images`` (N, H, W, C), in the dtype to compute in: what is to be done before it goes on, and after
    that each wanted layer, whose outputs are to be looked at before it goes on. ``plan``: the stages for images of this size;
    ``copies``: expect it.
    """
    memory, maps = copies.memory, [{"image": Map(image, image)} for image in images]
    for stage in plan:
        named = {layer.name: [f"{layer.name}.{parameter}" for parameter in layer.parameters] for layer in stage.layers}
        needed = [weights[name] for own in named.values() for name in own]
        given = iter(copies.take(needed, workers))
        parameters = {layer: [next(given) for _ in own] for layer, own in named.items()}
        yield [task for each in maps for task in Work(stage, parameters, each, memory, images.dtype).tasks()]
        for name in stage.kept:
            if name in wanted:
                yield Made(name, [each[name].inner for each in maps])
        for read in needed:
            copies.done(read)
        for whole in (each.pop(name).whole for each in maps for name in stage.last if name in each):
            memory.give(whole)


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps`` and of the last layer, in ``job.dtype``, by layer name."""
    wanted = [*dict.fromkeys((*job.taps, job.layers[-1].name))]
    size = prod(job.images.shape[1:3]) * NUMBERS * np.dtype(job.dtype).itemsize
    together = max(MAPS // size, 1)
    plan = stages(job.layers, job.images.shape[1:3], wanted)
    weights = {name: partial(job.weights.__getitem__, name) for name in job.weights}
    found: dict[str, Array] = {}
    with Workers() as workers, borrowed() as memory:
        for start in range(0, len(job.images), together):
            images = job.images[start : start + together].astype(job.dtype, copy=False)
            copies = Copies(job.dtype, memory)
            copies.expect(weights.values())
            for step in steps(plan, weights, copies, images, wanted, workers):
                if not isinstance(step, Made):
                    workers.do(step)
                    continue
                if step.name not in found:
                    found[step.name] = np.empty((len(job.images), *step.outputs[0].shape), job.dtype)
                for i, array in enumerate(step.outputs, start):
                    found[step.name][i] = array
    return {name: found[name] for name in wanted}
