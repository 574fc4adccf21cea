"""ONNX models: the network itself, with its weights as initializers under their names. Read and written without onnx.

Field numbers are those of onnx/onnx.proto. What is written is what ``xconvert/onnx_graph.py`` makes, and that alone is read: a
graph may compute anything, whatever its initializers are called, so ``formats/_onnx_program.py`` takes none on trust.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from xconvert import onnx_graph
from xconvert.deferred import np
from xconvert.errors import UnreadableError, UsageError
from xconvert.formats import Choice, Format, no_choice
from xconvert.formats._arrays import (
    MAX_DIMENSIONS,
    checked_name,
    checked_shape,
    damaged,
    dtype_named,
    elements,
    shown,
    truncated,
    view,
)
from xconvert.formats._limits import MAX_TENSORS, Budget
from xconvert.formats._onnx_program import HINTS, Node, evidence, parse, part, program, text
from xconvert.formats._protobuf import Field, block, fields, packed, signed, varint
from xconvert.model import Array, Checkpoint, Layer, Tensor

_DTYPES = {kind: name for name, kind in onnx_graph.FLOATS.items()}
# The fields of a tensor that may hold its numbers: as they are in memory, any or those of one dtype, and the bits as varints.
_PLAIN = {9: tuple(_DTYPES.values()), 4: ("float32",), 10: ("float64",)}
_VARINTS = {5: ("float16", "bfloat16")}
_MODEL = (1, 2, 3, 4, 5, 6, 7, 8, 14)  # fields that no function or training is in
_FIRST = 64  # fields of a model that are looked at to tell what it is


def matches(data: mmap.mmap) -> bool:
    """Whether a version comes first, as a number, and a graph after it, as a message."""
    if data[:1] != b"\x08":
        return False
    buffer, at = memoryview(data), 0
    try:
        for _ in range(_FIRST):
            tag, at = varint(buffer, at)
            if tag == 7 << 3 | 2:
                return True
            value, at = varint(buffer, at)
            at += value if tag & 7 == 2 else 0
            if tag & 7 not in (0, 2):
                return False
    except ValueError:
        pass
    return False


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The initializers of the graph as views of the map, and the graph as ``program``; there is no choice.

    Evidence is what the program shows. Raises ``UnreadableError`` for a damaged file, for one whose tensors lie in other
    files, and for every graph that is not, node by node, as xconvert writes it.
    """
    no_choice(path, choice)
    graphs, metadata, opsets = list[memoryview](), dict[str, str](), list[bytes]()
    try:
        for field, value in fields(memoryview(data)):
            if field == 7:
                graphs.append(part(value))
            elif field == 8:
                opsets.append(bytes(part(value)))
            elif field == 14:
                entry = dict(fields(part(value)))
                metadata[text(entry.get(1, _NOTHING))] = text(entry.get(2, _NOTHING))
            elif field not in _MODEL:
                raise UnreadableError(f"`{path}` holds more than a network, in field {field} of the model", hints=HINTS)
        if len(graphs) != 1:
            raise ValueError(f"it holds {len(graphs)} graphs")
        found = _graph(path, graphs[0], choice.limits.budget(path, len(data)))
    except ValueError as error:
        raise (truncated if "past" in str(error) else damaged)(path, str(error)) from None
    if opsets != [onnx_graph.OPSETS]:
        raise UnreadableError(f"`{path}` uses operators that are not those of version {onnx_graph.OPSET}", hints=HINTS)
    return found._replace(metadata=metadata)


def _graph(path: Path, graph: memoryview, budget: Budget) -> Checkpoint:
    """The initializers by name, and what the nodes compute with them."""
    nodes, initializers, interface = list[Node](), list[memoryview](), list[bytes]()
    for count, (field, value) in enumerate(fields(graph)):
        if count > 2 * MAX_TENSORS:
            raise UnreadableError(f"`{path}` is no checkpoint: its graph has more than {2 * MAX_TENSORS} parts")
        if field == 1:
            budget.parse(len(part(value)), "a node of its graph")
            nodes.append(parse(path, part(value)))
        elif field == 5:
            initializers.append(part(value))
        elif field in (11, 12):
            interface.append(block(field, bytes(part(value))))
        elif field == 15:
            raise UnreadableError(f"`{path}` holds sparse tensors, which xconvert does not read")
    tensors = dict[str, Tensor]()
    for name, tensor in (_tensor(path, data) for data in initializers):
        if name in tensors:
            raise damaged(path, f"it holds `{shown(name)}` twice")
        tensors[name] = tensor
    layers = program(path, nodes, tensors, b"".join(interface))
    return Checkpoint(tensors, evidence=evidence(layers), program=layers, format="onnx")


def _whole(value: Field) -> int:
    if not isinstance(value, int):
        raise ValueError("a field has the wrong type")
    return value


def _tensor(path: Path, data: memoryview) -> tuple[str, Tensor]:
    """Name and numbers of an initializer."""
    name, kind, external, dims, held = "", 0, False, list[int](), list[tuple[int, memoryview]]()
    for field, value in fields(data):
        if field == 1:
            dims += [value] if isinstance(value, int) else packed(value[: MAX_DIMENSIONS + 1])
        elif field == 2:
            kind = _whole(value)
        elif field == 8:
            name = checked_name(path, text(value))
        elif field in _PLAIN or field in _VARINTS:
            held.append((field, part(value)))
        external |= field == 13 or (field == 14 and value == 1)
        if field == 3 or len(dims) > MAX_DIMENSIONS or len(held) > 1:
            raise ValueError(f"`{shown(name)}` is in pieces")
    checked_name(path, name)
    if external:
        hint = "save it as one file: `onnx.save(onnx.load('model.onnx'), 'one.onnx')`"
        raise UnreadableError(f"`{path}` keeps the numbers of `{shown(name)}` in another file", hints=[hint])
    if kind not in _DTYPES:
        raise UnreadableError(f"`{path}` holds `{shown(name)}` as ONNX type {kind}, which xconvert does not read")
    shape = checked_shape(path, name, [signed(size) for size in dims])
    return name, _held(path, name, shape, _DTYPES[kind], *(held or [(9, memoryview(b""))])[0])


def _held(path: Path, name: str, shape: tuple[int, ...], dtype: str, field: int, numbers: memoryview) -> Tensor:
    """The tensor whose ``numbers`` are in a field of ``TensorProto``."""
    if dtype not in (*_PLAIN.get(field, ()), *_VARINTS.get(field, ())):
        raise damaged(path, f"`{shown(name)}` cannot be `{dtype}`")
    if field in _PLAIN:
        if len(numbers) != elements(shape) * dtype_named(dtype).itemsize:
            raise damaged(path, f"`{shown(name)}` does not have the size of its shape")
        return view(numbers, dtype_named(dtype), shape)
    if np.count_nonzero(np.frombuffer(numbers, np.uint8) < 128) != elements(shape):  # each number ends in such a byte
        raise damaged(path, f"`{shown(name)}` does not have the size of its shape")
    found = dtype_named(dtype)
    bits = np.dtype(f"u{found.itemsize}")

    def load() -> Array:
        wide = np.fromiter(packed(numbers), np.uint64, elements(shape)).view(np.int64).reshape(shape)
        exact = wide.astype(bits)
        if not np.array_equal(exact.astype(np.int64), wide):
            raise damaged(path, f"`{shown(name)}` holds numbers that no `{dtype}` is")
        return exact.view(found)

    return Tensor(shape, found, load)


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create ``path``, a model that any ONNX runtime computes, with the checkpoint's tensors as initializers.

    Metadata are the model's own. Numbers are computed in float32 whatever they are stored as. Raises ``UsageError`` where there
    is no graph, for names that are not those of its layers, for dtypes that are no floats of 16 bits or more, and for what
    exceeds protobuf's 2 GB.
    """
    graph = checkpoint.graph
    if graph is None:
        raise UsageError("an `.onnx` file holds the network itself, and only weights are there")
    _check_names(graph.layers, checkpoint)
    with path.open("wb") as file:
        for piece in onnx_graph.model(graph.layers, checkpoint.tensors, checkpoint.metadata):
            file.write(piece)


def _check_names(layers: tuple[Layer, ...], checkpoint: Checkpoint) -> None:
    """Initializers are called as their layers are, for a graph in which they are not says two things."""
    expected = {f"{layer.name}.{parameter}" for layer in layers for parameter in layer.parameters}
    if differing := sorted(expected ^ checkpoint.tensors.keys()):
        raise UsageError(f"an `.onnx` network has xconvert's own names, and `{differing[0]}` differs")


_NOTHING = memoryview(b"")
FORMAT = Format("onnx", "ONNX model", (".onnx",), matches, read, write, {"onnx": "onnx"})
