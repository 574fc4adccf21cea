"""Finding the state dict in what a pickled checkpoint holds: by structure, whatever the entry is called."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xconvert.errors import AmbiguousError, UnreadableError
from xconvert.formats import Choice
from xconvert.formats._arrays import Order, checked_name, is_text, shown
from xconvert.formats._limits import Budget, check_count
from xconvert.formats._pickle import Leaf, Opaque
from xconvert.formats._torch import Storage, TorchTensor, Unsupported, tensor_of
from xconvert.model import Checkpoint, Tensor
from xconvert.tuples import NamedTuple

# Entries of a training checkpoint that may hold tensors and are never the network.
_TRAINING = re.compile(r"opt(im(izer)?s?)?(_|$)|(lr_)?sched|(grad_|loss_)?scaler|amp(_|$)", re.IGNORECASE)
_MAX_DEPTH = 8  # of a state dict in the file
_MAX_VISITED = 200_000  # containers and tensors looked at, outer ones first
_NODES = (dict, list, tuple, Opaque, Leaf)
TORCH = "torch.save(model.state_dict(), path)"


def read_state_dict(
    path: Path,
    root: Any,
    choice: Choice,
    locate: Callable[[Storage], memoryview],
    order: Order,
    format_name: str,
    budget: Budget,
) -> Checkpoint:
    """The checkpoint that the unpickled ``root`` holds; ``locate`` returns all bytes of a storage.

    Raises ``AmbiguousError`` when it holds several state dicts and ``key`` names none, ``UnreadableError`` when there is none or
    one of its entries cannot be read.
    """
    chosen, notes = choose(path, root, choice, TORCH)
    tensors, skipped, storages = dict[str, Tensor](), list[str](), dict[str, int]()
    for name, value in chosen.items():
        if isinstance(value, Unsupported):
            raise UnreadableError(f"`{path}` holds `{shown(name)}` as {value.what}", hints=["save a plain, dense float tensor"])
        if isinstance(value, TorchTensor):
            held = locate(value.storage)
            storages[value.storage.key] = len(held)
            tensors[checked_name(path, name)] = tensor_of(value, held, order)
        else:
            skipped.append(name)
    budget.hold(tensors.values(), sum(storages.values()))
    notes += left_out(skipped) + _uncounted(chosen)
    return Checkpoint(tensors, _metadata(chosen), averages=bool(choice.ema), notes=tuple(notes), format=format_name)


def left_out(names: Sequence[str]) -> list[str]:
    """The note on entries of a state dict that are no tensors; none where there are none."""
    return [f"left out {_listed(names)}, not {'tensors' if len(names) > 1 else 'a tensor'}"] if names else []


def _uncounted(chosen: Mapping[str, Any]) -> list[str]:
    """The note on batch norms without their count of steps, where the state dict states versions of its modules: from version 2
    on PyTorch asks for it (torch/nn/modules/batchnorm.py, ``_load_from_state_dict``); without a version it makes up a zero.
    """
    counted = [
        f"{name}.num_batches_tracked".removeprefix(".")
        for name, entries in _modules(chosen).items()
        if isinstance(entries, dict) and isinstance(version := entries.get("version"), int) and version >= 2
        if f"{name}.running_mean".removeprefix(".") in chosen
    ]
    lacking = sum(name not in chosen for name in counted)
    told = f"lacks {lacking} of {len(counted)} `num_batches_tracked`, of no effect on answers, that strict loading asks for"
    return [told] if lacking else []


def _modules(chosen: Mapping[str, Any]) -> dict[Any, Any]:
    """What ``torch.save`` keeps of each module beside a state dict, by the module's name."""
    state = getattr(chosen, "state", None)
    modules = state.get("_metadata") if isinstance(state, dict) else None
    return modules if isinstance(modules, dict) else {}


def _metadata(chosen: Mapping[str, Any]) -> dict[str, str]:
    """What ``torch.save`` keeps beside a state dict: the text under the empty name of its ``_metadata``.

    A network inside another module, such as ``DataParallel``, has its own record under that module's name for it.
    """
    modules = _modules(chosen)
    texts = [_texts(entries) for entries in modules.values()]
    records = {entries["xconvert"] for entries in texts if "xconvert" in entries}
    found = _texts(modules.get(""))
    return {"xconvert": records.pop(), **found} if len(records) == 1 else found  # two networks in one file: neither


def _texts(entries: Any) -> dict[str, str]:
    pairs = entries.items() if isinstance(entries, dict) else ()
    return {k: v for k, v in pairs if is_text(k) and is_text(v)}


class _Candidate(NamedTuple):
    key: str
    entries: Mapping[str, Any]
    tensors: int

    def __str__(self) -> str:
        return f"`{shown(self.key)}` ({_counted(self.tensors)})" if self.key else f"the top level ({_counted(self.tensors)})"


def choose(path: Path, root: Any, choice: Choice, save: str) -> tuple[Mapping[str, Any], list[str]]:
    """The state dict in ``root`` that is meant, its tensors ``Leaf``, and notes on what else there is; ``save`` is the call
    that makes one. Raises as ``read_state_dict`` does.
    """
    key = choice.key
    candidates, training, classes = _candidates(root)
    if not candidates:
        raise _nothing(path, root, classes, save)
    # Statistics of three tensors are a state dict only where there is no larger one.
    large = [c for c in candidates if c.tensors >= 4] or candidates
    fitting = large if key is None else [c for c in candidates if c.key == key]
    if choice.ema is not None and key is None:
        large = [c for c in large if _averaged(c) is choice.ema]
        if not large:
            raise UnreadableError(
                f"`{path}` holds {'no averaged weights' if choice.ema else 'nothing but averaged weights'}",
                facts=_some(candidates),
                hints=[f"leave `--{'' if choice.ema else 'no-'}ema` away"],
            )
        fitting = large
    if not fitting:
        hint = f"pass `--key {shown(candidates[0].key)}`" if candidates[0].key else "leave `--key` away"
        raise UnreadableError(f"`{path}` holds no state dict under `{shown(str(key))}`", facts=_some(candidates), hints=[hint])
    if len(fitting) > 1:
        count = {2: "two", 3: "three", 4: "four"}.get(len(fitting), str(len(fitting)))
        either = ["or `--ema` for the averaged weights, `--no-ema` for the others"] if any(map(_averaged, fitting)) else []
        raise AmbiguousError(
            f"`{path}` holds {count} state dicts",
            facts=_some(fitting),
            hints=[f"pass `--key {shown(fitting[0].key)}`", *either],
        )
    chosen = fitting[0]
    check_count(path, chosen.tensors)
    notes = [f"unwrapped `{shown(chosen.key)}`"] if chosen.key else []
    others = _some([*(c for c in candidates if c is not chosen), *training])
    return chosen.entries, notes + [f"left out {other}" for other in others]


def _some(found: Sequence[Any], most: int = 20) -> list[str]:
    """What is ``found`` as text; of very many the first, and how many more there are."""
    more = [f"{len(found) - most} more"] if len(found) > most else []
    return [*map(str, found[:most]), *more]


_AVERAGED = re.compile(r"(^|[._])(ema|averaged?)([._]|$)", re.IGNORECASE)


def _averaged(candidate: _Candidate) -> bool:
    """Whether a state dict is named for what timm, Lornatang and others keep there: a moving average of the weights."""
    return _AVERAGED.search(candidate.key) is not None


def _nothing(path: Path, root: Any, classes: list[str], save: str) -> UnreadableError:
    if classes:
        return UnreadableError(
            f"`{path}` holds a whole `{shown(classes[0])}` object, not a state dict",
            hints=[f"load it where its class is defined, and run `{save}`"],
        )
    entries = _entries(root)
    fact = f"its top level has {_listed([str(k) for k in entries])}" if entries else "its top level is no dict with entries"
    return UnreadableError(f"`{path}` holds no state dict", facts=[fact], hints=[f"save one with `{save}`"])


def _candidates(root: Any) -> tuple[list[_Candidate], list[str], list[str]]:
    """(state dicts in ``root``, training entries with tensors, classes of whole modules), each once, in the file's order."""
    found, training, classes, counted = list[_Candidate](), list[str](), list[str](), set[int]()
    for key, value in _walk(root, lambda key, value: _is_training(key) or _as_candidate(key, value) is not None):
        candidate = _as_candidate(key, value)
        if _is_training(key):
            count = sum(_is_tensor(v) for _, v in _walk(value, seen=counted))
            training += [f"`{shown(key)}` ({_counted(count)})"] * (count > 0)
        elif candidate:
            found.append(candidate)
        elif isinstance(value, Opaque) and isinstance(value.state, dict) and "_modules" in value.state:
            classes.append(value.name)
    return found, training, classes


def _walk(
    root: Any, leaf: Callable[[str, Any], bool] = lambda key, value: False, seen: set[int] | None = None
) -> Iterator[tuple[str, Any]]:
    """Every container and tensor in ``root`` with its dotted path, outer first, shared ones once; no further where ``leaf``.

    A small pickle may describe a graph with endlessly many paths, or one endlessly deep: what was ``seen``, in this walk or in
    others that share it, is not entered again.
    """
    seen = set() if seen is None else seen
    seen.add(id(root))
    pending = deque([("", "", root, 0)])
    for _ in range(_MAX_VISITED):
        if not pending:
            return
        outer, name, value, depth = pending.popleft()
        key = f"{outer}.{name}" if outer else name  # made only now: of all that are pending they would fill the memory
        yield key, value
        if leaf(key, value) or depth == _MAX_DEPTH:
            continue
        for part, inner in enumerate(value) if isinstance(value, (list, tuple)) else _entries(value).items():
            if isinstance(inner, _NODES) and isinstance(part, (str, int)) and id(inner) not in seen:
                seen.add(id(inner))
                pending.append((key, str(part)[:200], inner, depth + 1))


def _entries(value: Any) -> Mapping[Any, Any]:
    """The items of a dict, or of an object of an unknown class that is one (EasyDict, CfgNode)."""
    return value if isinstance(value, dict) else value.items if isinstance(value, Opaque) else {}


def _as_candidate(key: str, value: Any) -> _Candidate | None:
    entries = _entries(value)
    tensors = sum(_is_tensor(v) for v in entries.values())
    if not tensors or not all(isinstance(name, str) for name in entries):
        return None
    total = sum(not name.endswith("@@") for name in entries)  # Paddle's name table is no entry of its own
    return _Candidate(key, entries, tensors) if tensors == total or (tensors >= 4 and 2 * tensors > total) else None


def _is_tensor(value: Any) -> bool:
    return isinstance(value, Leaf)


def _is_training(key: str) -> bool:
    return _TRAINING.match(key.rpartition(".")[2]) is not None


def _counted(tensors: int) -> str:
    return f"{tensors} tensor{'s' * (tensors != 1)}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{shown(name)}`" for name in names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
