"""The reference's forward pass, stage by stage, each in blocks of rows that a few threads share out.

How large blocks are is decided by shapes alone, and each image is computed by itself: neither threads nor batches nor taps change
a bit. Maps that later stages read are kept within the border that these ask for, in memory that is used again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import Any

import numpy as np

from xconvert.backends import Job
from xconvert.backends._stages import ALONE, IN_PLACE, NEIGHBOURS, Stage, blocks, stages
from xconvert.backends._threads import Task, Workers
from xconvert.backends.numpy import OPERATIONS, border, output_size, padded, pads, window
from xconvert.model import Array, Layer

ANYWHERE = (*IN_PLACE, "max_pool")  # operations that write as well where rows do not follow each other
SMALL = 2**16  # bytes of an array that need not be used again
# Bytes of maps that there may be at once, beyond which images wait for each other; and how many numbers the maps have for each pixel
# of the image that are there at once in an Xception as published.
MAPS, NUMBERS = 48 * 2**20, 104
Parameters = Mapping[str, Sequence[Array]]  # of each layer


class Memory:
    """Flat arrays of bytes that are used again and again: fresh ones cost the kernel as long as a pass over them."""

    def __init__(self) -> None:
        self._free: list[Array] = []
        self._rooms: dict[tuple[int, int], Array] = {}

    def take(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array with whatever was in it before."""
        size = prod(shape) * dtype.itemsize
        fitting = [flat for flat in self._free if size <= flat.size <= 4 * size]
        flat = min(fitting, key=len) if fitting else np.empty(size, np.uint8)
        self._free = [other for other in self._free if other is not flat]
        return flat[:size].view(dtype).reshape(shape)

    def give(self, array: Array) -> None:
        """Take back what ``take`` gave; anything else is let go."""
        flat = array.base
        if isinstance(flat, np.ndarray) and flat.dtype == np.uint8 and flat.size >= SMALL:
            self._free.append(flat)


    def room(self, worker: int, place: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """Scratch of one worker: the same memory for the same ``place``."""
        size = prod(shape) * dtype.itemsize
        flat = self._rooms.get((worker, place))
        if flat is None or flat.size < size:
            flat = self._rooms[worker, place] = np.empty(size, np.uint8)
        return flat[:size].view(dtype).reshape(shape)


_idle: list[Memory] = []  # what earlier passes had, and the next ones take


@contextmanager
def borrowed() -> Iterator[Memory]:
    """Memory for one pass at a time, kept for the next one."""
    try:
        memory = _idle.pop()
    except IndexError:
        memory = Memory()
    try:
        yield memory
    finally:
        _idle.append(memory)


@dataclass(frozen=True, slots=True)
class Map:
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


class Pass:
    """A forward pass through the stages ``plan``. ``weight``: reads one by its name, as it is needed."""

    def __init__(self, plan: Sequence[Stage], weight: Callable[[str], Array], dtype: str, workers: Workers, memory: Memory) -> None:
        self._plan, self._read, self._dtype, self._workers = plan, weight, np.dtype(dtype), workers
        self._memory = memory

    def outputs(self, images: Sequence[Array]) -> Iterator[tuple[str, list[Array]]]:
        """Each layer that is kept with its output for each of ``images`` (H, W, C), which may differ in size. It is to be looked at
        before the next one is asked for.
        """
        maps = [{"image": Map(image, image)} for image in (image.astype(self._dtype, copy=False) for image in images)]
        for stage in self._plan:
            parameters = {layer.name: [self._weight(f"{layer.name}.{p}") for p in layer.parameters] for layer in stage.layers}
            self._workers.do([task for each in maps for task in self._tasks(stage, parameters, each)])
            for name in stage.kept:
                yield name, [each[name].inner for each in maps]
            for array in (array for arrays in parameters.values() for array in arrays):
                self._memory.give(array)
            for whole in (each.pop(name).whole for each in maps for name in stage.last if name in each):
                self._memory.give(whole)

    def _weight(self, name: str) -> Array:
        """A weight as the operations want it: the array itself where it is so, else a copy."""
        array = self._read(name)
        if array.dtype == self._dtype and array.flags.c_contiguous:
            return array
        copy = self._memory.take(array.shape, self._dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is the verifier's to tell
            np.copyto(copy, array, casting="unsafe")
        return copy

    def _tasks(self, stage: Stage, parameters: Parameters, maps: dict[str, Map]) -> list[Task]:
        """What is to be done for one image; makes the maps that are kept."""
        first = stage.layers[0]
        given = [maps[name] for name in first.inputs]
        if first.op not in (*ALONE, *NEIGHBOURS) or given[0].inner.ndim != 3:
            return [partial(self._whole, stage, parameters, maps)]
        height, width = (output_size(n, first) for n in given[0].inner.shape[:2])
        source = given[0].given_to(first) if first.op in NEIGHBOURS else None
        depths = {name: each.inner.shape[-1] for name, each in maps.items()}
        for layer in stage.layers:
            makes = layer.op in ("conv", "pointwise")
            depths[layer.name] = parameters[layer.name][0].shape[-1] if makes else depths[layer.inputs[0]]
        shapes = {layer.name: (height, width, depths[layer.name]) for layer in stage.layers}
        maps.update({n: Map.empty(shapes[n], self._dtype, reader, self._memory) for n, reader in stage.kept.items()})
        block = partial(self._block, stage, parameters, maps, shapes, source)
        return [partial(block, *rows) for rows in blocks(height, width, self._dtype.itemsize * max(map(prod, shapes.values())))]

    def _whole(self, stage: Stage, parameters: Parameters, maps: dict[str, Map], worker: int) -> None:
        """Layers that look at the whole map, or at vectors."""
        for layer in stage.layers:
            out = OPERATIONS[layer.op](*(maps[name].inner for name in layer.inputs), layer, *parameters[layer.name])
            maps[layer.name] = Map(out, out)

    def _block(
        self,
        stage: Stage,
        parameters: Parameters,
        maps: Mapping[str, Map],
        shapes: Mapping[str, tuple[int, ...]],
        source: Array | None,
        start: int,
        end: int,
        worker: int,
    ) -> None:
        """Rows ``start`` to ``end`` of one image through all layers of the stage; ``source``: what the first of them looks at."""
        values: dict[str, Array] = {}
        for layer in stage.layers:
            inputs = [values[name] if name in values else maps[name].inner[start:end] for name in layer.inputs]
            alone = layer
            if source is not None and not values:
                inputs = [source[start * layer.stride : (end - 1) * layer.stride + window(layer)]]
                alone = replace(layer, padding=0)
            kept = maps[layer.name].inner[start:end] if layer.name in stage.kept else None
            if kept is not None and (kept.flags.c_contiguous or layer.op in ANYWHERE):
                out = kept
            elif layer.name in stage.over:
                out = inputs[0]
            else:
                out = self._memory.room(worker, len(values), (end - start, *shapes[layer.name][1:]), self._dtype)
            OPERATIONS[layer.op](*inputs, alone, *parameters[layer.name], out=out)
            if kept is not None and out is not kept:
                kept[...] = out
            values[layer.name] = out


def run(job: Job) -> dict[str, Array]:
    """Activations of ``job.taps`` and of the last layer, in ``job.dtype``, by layer name."""
    wanted = [*dict.fromkeys((*job.taps, job.layers[-1].name))]
    plan = stages(job.layers, wanted)
    found: dict[str, Array] = {}
    size = prod(job.images.shape[1:3]) * NUMBERS * np.dtype(job.dtype).itemsize
    together = max(MAPS // size, 1)
    with Workers() as workers, borrowed() as memory:
        forward = Pass(plan, job.weights.__getitem__, job.dtype, workers, memory)
        for start in range(0, len(job.images), together):
            for name, outputs in forward.outputs(job.images[start : start + together]):
                if name not in found and name in wanted:
                    found[name] = np.empty((len(job.images), *outputs[0].shape), job.dtype)
                for i, output in enumerate(outputs if name in wanted else ()):
                    found[name][start + i] = output
    return {name: found[name] for name in wanted}
