"""The graph of objects in a TensorFlow checkpoint: which variables are the network's, and what they are called.

A graph is a list of nodes, each with children (other nodes, by number and a name of the edge) and attributes (tensors, by key); a
variable is a node with the attribute ``VARIABLE_VALUE``.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from xconvert.errors import AmbiguousError, UnreadableError
from xconvert.formats._arrays import checked_name, shown
from xconvert.formats._protobuf import fields, message, parts, whole
from xconvert.model import Tensor
from xconvert.tuples import NamedTuple

# What a training run or an exporter adds, by the path that is the key. Keras 3's optimizers list the network's own variables too,
# under `_trainable_variables`, and that may be the shortest path to them.
_OTHERS = (
    (re.compile(r"(?:.*/)?optimizer/(?!_trainable_variables/).*|.*/\.OPTIMIZER_SLOT/.*"), "the optimizer's {} tensors"),
    (re.compile(r"(?:.*/)?keras_api/metrics/.*"), "the metrics' {} tensors"),
    (re.compile(r"save_counter/.*"), "`save_counter`"),
    (re.compile(r"(?:.*/)?_all_variables/.*"), "{} tensors that it holds twice (`_all_variables`)"),
)
_SEED = "/seed_generator_state"
_MOST_VISITS = 1_000_000  # of nodes; the graph of a SavedModel of Xception has some thousands
_COUNTED = "layer_with_weights-"
_SLOTS = {  # the classes of Keras by their weights, with the order in which Keras lists these
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "depthwise_conv2d": ("depthwise_kernel", "bias"),
    "conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
}


class Variable(NamedTuple):
    """A variable: its node's number, its own name or ``""``, and the key of its tensor."""

    node: int
    name: str
    key: str


def variables(graph: memoryview, tensors: Mapping[str, Tensor]) -> tuple[list[Variable], list[str]]:
    """The variables that are the network's, in the graph's order, and notes on the others.

    Raises ``ValueError`` for a damaged graph and for one with variables that are not in ``tensors``.
    """
    found, others, listed = [], Counter[str](), set[str]()
    for at, node in _nodes(graph):
        for attribute in parts(message(node), 2):
            name, full, key = _attribute(attribute)
            if name != "VARIABLE_VALUE" or key in listed:
                continue
            if key not in tensors:
                raise ValueError(f"its object graph names `{shown(key)}`, which is missing or holds no numbers")
            listed.add(key)
            told = next((told for pattern, told in _OTHERS if pattern.fullmatch(key)), None)
            if told or full.endswith(_SEED):
                others[told or "{} states of random numbers"] += 1
            else:
                found.append(Variable(at, full, key))
    notes = [f"left out {told.format(count)}" for told, count in others.items()]
    if unlisted := len(tensors) - len(listed):
        notes.append(f"left out {unlisted} tensors that its object graph does not list")
    return found, notes


def named(
    path: Path, graph: memoryview, found: Sequence[Variable], tensors: Mapping[str, Tensor], key: str | None
) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of the variables ``found`` by name, with notes; only those below the root's object ``key``, if given.

    Raises ``AmbiguousError`` where two have one name, ``UnreadableError`` where there is no object ``key`` or no names are to be
    had, ``ValueError`` for a damaged graph.
    """
    children = dict(_children(graph))
    if key is not None:
        owners = _owners(children, found)
        if key not in owners:
            known = [f"`{shown(name)}` ({len(below)} tensors)" for name, below in _largest(owners)]
            raise UnreadableError(f"`{path}` holds no object `{shown(key)}` with variables", facts=known)
        found = [variable for variable in found if variable.node in owners[key]]
    if found and not any(variable.name for variable in found):
        return _by_class(path, children, found, tensors)
    counts = Counter(variable.name for variable in found)
    if twice := [name for name, count in counts.items() if count > 1]:
        largest = _largest(_owners(children, found))
        raise AmbiguousError(
            f"`{path}` holds several variables of the same name",
            facts=[f"{counts[name]} are called `{shown(name)}`" for name in twice[:3]],
            hints=[f"`--key {shown(name)}` takes the {len(below)} tensors of that object" for name, below in largest],
        )
    return {checked_name(path, variable.name): tensors[variable.key] for variable in found}, []


def _by_class(
    path: Path, children: Mapping[int, Mapping[str, int]], found: Sequence[Variable], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[str]]:
    """Variables without names: layers by class and number, weights by number, as in ``.weights.h5``."""
    model = next((node for node in sorted(children) if f"{_COUNTED}0" in children[node]), None)
    at = {variable.node: tensors[variable.key] for variable in found}
    named, classes = dict[str, Tensor](), Counter[str]()
    layer = 0
    while model is not None and (node := children[model].get(f"{_COUNTED}{layer}")) is not None:
        weights = {name: at[child] for name, child in children.get(node, {}).items() if child in at}
        kind = next((kind for kind, slots in _SLOTS.items() if weights and set(weights) <= set(slots)), None)
        if kind == "conv2d" and len(weights.get("kernel", next(iter(weights.values()))).shape) == 2:
            kind = "dense"
        if kind is not None:
            prefix = f"{kind}_{classes[kind]}" if classes[kind] else kind
            named |= {f"{prefix}/{_SLOTS[kind].index(name)}": tensor for name, tensor in weights.items()}
            classes[kind] += 1
        layer += 1
    if len(named) != len(at):
        raise UnreadableError(
            f"`{path}` holds variables without names", facts=[f"{len(at) - len(named)} belong to no layer that xconvert knows"]
        )
    return named, ["its variables have no names; layers are counted by their class"]


def _owners(children: Mapping[int, Mapping[str, int]], found: Sequence[Variable]) -> dict[str, set[int]]:
    """The variables below each object of the root that has any, without what only an optimizer reaches."""
    wanted = {variable.node for variable in found}
    owners, visits = {}, 0
    for name, start in children.get(0, {}).items():
        seen, todo = {start}, [start]
        while todo:
            edges = children.get(todo.pop(), {})
            visits += len(edges) + 1
            if visits > _MOST_VISITS:
                raise ValueError("its object graph is too tangled")
            fresh = {node for edge, node in edges.items() if edge != "optimizer"} - seen
            seen |= fresh
            todo += fresh
        if below := seen & wanted:
            owners[name] = below
    return owners


def _largest(owners: Mapping[str, set[int]], most: int = 8) -> list[tuple[str, set[int]]]:
    return sorted(owners.items(), key=lambda owner: -len(owner[1]))[:most]


def _nodes(graph: memoryview) -> Iterator[tuple[int, memoryview]]:
    at = 0
    for number, value in fields(graph):
        if number == 1:
            if isinstance(value, int):
                raise ValueError("its object graph is none")
            yield at, value
            at += 1


def _children(graph: memoryview) -> Iterator[tuple[int, dict[str, int]]]:
    """(number, children by name) of each node that has any."""
    for at, node in _nodes(graph):
        children = [message(child) for child in parts(message(node), 1)]
        if children:
            yield at, {bytes(parts(child, 2)[-1]).decode(): whole(child, 1) for child in children}


def _attribute(data: memoryview) -> tuple[str, str, str]:
    """(name, the variable's own name, key); absent ones are empty."""
    attribute = message(data)
    name, full, key = (bytes(b"".join(parts(attribute, field)[-1:])).decode() for field in (1, 2, 3))
    return name, full, key
