"""PyTorch's zip archives, written by ``torch.save`` since 1.6: a pickle that describes tensors, and a member for each storage.

Layout from ``torch/serialization.py`` and ``caffe2/serialize/inline_container.cc``. Only what ``torch.load`` needs is written;
``.format_version`` is not, because with it PyTorch may compute where members lie rather than read it.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

from xconvert.errors import UnreadableError, UsageError
from xconvert.formats import Choice, Format
from xconvert.formats._arrays import contents, damaged, elements, shown, strides_of
from xconvert.formats._pickle import load
from xconvert.formats._state_dict import read_state_dict
from xconvert.formats._torch import LATER_DTYPES, STORAGES, Storage, handlers, persistent_storage
from xconvert.formats._zip import ZipWriter, open_zip, sniff
from xconvert.model import Checkpoint, Tensor


def matches(data: mmap.mmap) -> bool:
    """Whether a folder of the archive holds a ``data.pkl``."""
    return any(_is_pickle(name) for name in sniff(data))


def read(path: Path, data: mmap.mmap, choice: Choice) -> Checkpoint:
    """The state dict in ``data``, its tensors views of the map; ``key`` is the dotted path to it where there are several."""
    index = open_zip(path, data, choice.limits)
    pickles = [name for name in index.names if _is_pickle(name)]
    if len(pickles) != 1:
        raise damaged(path, f"it holds {len(pickles)} pickles, not one")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in index:
        raise UnreadableError(
            f"`{path}` is a TorchScript archive, not a state dict",
            hints=["run `torch.save(torch.jit.load(path).state_dict(), new_path)`"],
        )
    order = index.view(f"{prefix}byteorder") if f"{prefix}byteorder" in index else b"little"
    root, _ = load(path, index.view(pickles[0]), handlers(path), persistent=persistent_storage, budget=index.budget)
    views: dict[str, memoryview] = {}  # a deflated storage that tensors share is inflated once

    def locate(storage: Storage) -> memoryview:
        name = f"{prefix}data/{storage.key}"
        stated = storage.total * storage.itemsize
        if name not in index or index.size(name) != stated:
            raise damaged(path, f"storage `{shown(storage.key)}` does not have its {stated} bytes")
        if name not in views:
            views[name] = index.view(name)
        return views[name]

    return read_state_dict(path, root, choice, locate, ">" if order == b"big" else "<", "torch", index.budget)


def _is_pickle(name: str) -> bool:
    return name.count("/") == 1 and name.endswith("/data.pkl")


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create ``path`` with a state dict that ``torch.load(weights_only=True)`` accepts.

    The checkpoint's metadata travel in the state dict's ``_metadata``, which PyTorch keeps through loading and saving. Raises
    ``UsageError`` for dtypes that PyTorch does not have.
    """
    described = _described(checkpoint.tensors)
    with path.open("wb") as file:
        archive = ZipWriter(file)
        for number, (name, tensor) in enumerate(checkpoint.tensors.items()):
            archive.stream(f"archive/data/{number}", tensor.nbytes, contents(name, tensor))
        archive.add("archive/data.pkl", described, _metadata(checkpoint.metadata))  # PyTorch finds members by name
        archive.add("archive/byteorder", b"little")
        archive.add("archive/version", b"3\n")
        archive.close()


_ORDERED_DICT = b"ccollections\nOrderedDict\n)R"  # GLOBAL, EMPTY_TUPLE, REDUCE
_CLASSES = {dtype: name for name, dtype in STORAGES.items() if "Untyped" not in name}
_LATER = {dtype: name for name, dtype in LATER_DTYPES.items()}


def _described(tensors: Mapping[str, Tensor]) -> bytes:
    """A protocol-2 pickle of OrderedDict(tensors), up to its attributes."""
    entries = b"".join(_text(name) + _tensor(str(number), name, tensor) for number, (name, tensor) in enumerate(tensors.items()))
    return b"\x80\x02" + _ORDERED_DICT + b"(" + entries + b"u"


def _metadata(metadata: Mapping[str, str]) -> bytes:
    """The rest: its attribute ``_metadata``, of which ``load_state_dict`` looks at ``version``, a number, alone."""
    entries = b"".join(_text(k) + _text(v) for k, v in metadata.items() if k != "version")
    versioned = b"}(" + _text("version") + _whole(1) + entries + b"u"
    return b"}" + _text("_metadata") + _ORDERED_DICT + _text("") + versioned + b"ssb."  # SETITEM twice, BUILD, STOP


def _tensor(key: str, name: str, tensor: Tensor) -> bytes:
    """A call of ``_rebuild_tensor_v2``, or v3 for a dtype without a storage class: contiguous, from the storage's start."""
    dtype = tensor.dtype
    if dtype not in _CLASSES and dtype not in _LATER:
        raise UsageError(f"PyTorch has no dtype for the `{dtype}` values of `{shown(name)}`")
    size, later = elements(tensor.shape), dtype in _LATER
    storage = b"ctorch.storage\nUntypedStorage\n" if later else f"ctorch\n{_CLASSES[dtype]}\n".encode()
    count = size * tensor.dtype.itemsize if later else size
    strides = strides_of([max(dimension, 1) for dimension in tensor.shape], 1)
    return b"".join(
        (
            b"ctorch._utils\n_rebuild_tensor_v3\n((" if later else b"ctorch._utils\n_rebuild_tensor_v2\n((",
            _text("storage") + storage + _text(key) + _text("cpu") + _whole(count) + b"tQ",  # TUPLE, BINPERSID
            _whole(0) + _wholes(tensor.shape) + _wholes(strides) + b"\x89" + _ORDERED_DICT,  # NEWFALSE: requires_grad; hooks
            b"c" + _LATER[dtype].replace(".", "\n").encode() + b"\n" if later else b"",
            b"tR",
        )
    )


def _text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<L", len(raw)) + raw


def _whole(number: int) -> bytes:
    if number < 1 << 8:
        return b"K" + struct.pack("<B", number)
    return b"J" + struct.pack("<l", number) if number < 1 << 31 else b"\x8a\x08" + struct.pack("<q", number)


def _wholes(numbers: tuple[int, ...]) -> bytes:
    return b"(" + b"".join(map(_whole, numbers)) + b"t"


FORMAT = Format("torch", "PyTorch zip, 1.6 and later", (".pth", ".pt", ".pth.tar"), matches, read, write)
