"""PyTorch's first format, of ``torch.save`` before 1.6: five pickles one after the other, then every storage's numbers.

Layout from ``_legacy_save`` in ``torch/serialization.py``: magic number, protocol version, system, the object, the keys of its
storages; then for each key the number of elements as int64, and the elements. Read only: PyTorch writes zip archives since.
"""

from __future__ import annotations

import mmap
from pathlib import Path
from typing import Any

from xconvert.formats import Choice, Format
from xconvert.formats._arrays import Order, damaged, shown, truncated
from xconvert.formats._pickle import load
from xconvert.formats._state_dict import read_state_dict
from xconvert.formats._torch import Storage, handlers, persistent_storage
from xconvert.model import Checkpoint

# 0x1950a86a20f9469cfc6c as LONG1; after it comes STOP. Protocol 4 puts a frame before it.
_MAGIC = b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19."


def matches(data: mmap.mmap) -> bool:
    """Whether the file starts with a pickle of PyTorch's magic number."""
    start = data[:32]
    return start[:1] == b"\x80" and start[1:2] in b"\x02\x03\x04\x05" and _MAGIC in start


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The state dict in ``data``, its tensors views of the map; ``key`` is the dotted path to it where there are several."""
    storages: dict[str, Storage] = {}

    def persistent(identity: Any) -> Any:
        storage = persistent_storage(identity)
        if isinstance(storage, Storage) and storages.setdefault(storage.key, storage).itemsize != storage.itemsize:
            raise ValueError("a storage of two types")
        return storage

    whole, at, budget = memoryview(data), 0, choice.limits.budget(path, len(data))
    pickles = []
    for _ in range(5):
        value, at = load(path, whole, handlers(path), persistent=persistent, start=at, budget=budget)
        pickles.append(value)
    _, version, system, root, keys = pickles
    if version != 1001 or not isinstance(system, dict) or not isinstance(keys, list):
        raise damaged(path, "it is no PyTorch file of protocol 1001")
    found = _storages(path, whole, at, keys, storages)

    def locate(storage: Storage) -> memoryview:
        if storage.key not in found or len(found[storage.key]) < storage.total * storage.itemsize:
            raise damaged(path, f"storage `{shown(storage.key)}` is missing or too small")
        return found[storage.key]

    order: Order = "<" if system.get("little_endian", True) else ">"
    return read_state_dict(path, root, choice, locate, order, "torch-legacy", budget)


def _storages(path: Path, whole: memoryview, at: int, keys: list[Any], described: dict[str, Storage]) -> dict[str, memoryview]:
    """The bytes of every storage in the file, in the order of ``keys``."""
    found: dict[str, memoryview] = {}
    for key in keys:
        if not isinstance(key, str) or key not in described or key in found:
            raise damaged(path, "its list of storages does not fit its tensors")
        size = int.from_bytes(whole[at : at + 8], "little", signed=True) * described[key].itemsize
        start, at = at + 8, at + 8 + size
        if size < 0 or at > len(whole):
            raise truncated(path, f"storage `{shown(key)}` goes on to byte {at} of {len(whole)}")
        found[key] = whole[start:at]
    return found


FORMAT = Format("torch-legacy", "PyTorch stream, before 1.6", (), matches, read)
