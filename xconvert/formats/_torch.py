"""What PyTorch's two file formats share: the tensors that their pickles describe.

Names and arguments are those of ``torch/_utils.py`` and ``torch/serialization.py`` (versions 0.4 to 2.13).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xconvert.deferred import np
from xconvert.errors import UnreadableError
from xconvert.formats._arrays import EXTENDED, Order, checked_shape, damaged, dtype_named, elements, shown, view
from xconvert.formats._pickle import Global, Handler, Leaf
from xconvert.model import Array, DType, Tensor

# PyTorch's storage class → NumPy's dtype; an untyped storage counts bytes.
STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
    "_UntypedStorage": "uint8",
}
# What `_rebuild_tensor_v3` is called for: dtypes that have no storage class of their own.
LATER_DTYPES = {f"torch.{name}": name for name in ("uint16", "uint32", "uint64", *sorted(EXTENDED - {"bfloat16"}))}
_UNSUPPORTED = {
    "_rebuild_qtensor": "a quantised tensor",
    "_rebuild_sparse_tensor": "a sparse tensor",
    "_rebuild_sparse_csr_tensor": "a sparse tensor",
    "_rebuild_nested_tensor": "a nested tensor",
    "_rebuild_meta_tensor_no_storage": "a tensor without data, of the meta device,",
    "_rebuild_wrapper_subclass": "a tensor subclass",
    "_rebuild_device_tensor_from_numpy": "a tensor of a foreign device",
    "_rebuild_device_tensor_from_cpu_tensor": "a tensor of a foreign device",
}


class Storage:
    """A run of numbers, or a part of one: ``count`` elements from ``start`` on, of ``total`` that the file has under ``key``."""

    __slots__ = ("count", "dtype", "key", "start", "total")

    def __init__(self, key: str, dtype: str, total: int, start: int, count: int) -> None:
        self.key, self.dtype, self.total, self.start, self.count = key, dtype, total, start, count

    @property
    def itemsize(self) -> int:
        """Bytes of one element."""
        return DType(self.dtype).itemsize


class TorchTensor(Leaf):
    """A tensor as the pickle describes it; offset and strides in elements of ``dtype``, shape and reach already checked."""

    __slots__ = ("conjugate", "dtype", "negative", "offset", "shape", "storage", "strides")

    def __init__(
        self, storage: Storage, dtype: str, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *signs: bool
    ) -> None:
        self.storage, self.dtype, self.offset, self.shape, self.strides = storage, dtype, offset, shape, strides
        self.conjugate, self.negative = signs


class Unsupported(Leaf):
    """A tensor that is more than its numbers: refused where it belongs to the network, left alone elsewhere."""

    __slots__ = ("what",)

    def __init__(self, what: str) -> None:
        self.what = what


def handlers(path: Path) -> dict[str, Handler]:
    """What the pickle machine calls in place of PyTorch's functions; they return ``TorchTensor`` or ``Unsupported``."""

    def rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> TorchTensor | Unsupported:
        return _rebuilt(path, storage, None, offset, shape, strides, rest[2] if len(rest) > 2 else None)

    def rebuild_v3(storage: Any, offset: Any, shape: Any, strides: Any, _: Any, __: Any, dtype: Any, *rest: Any) -> Any:
        return _rebuilt(path, storage, dtype, offset, shape, strides, rest[0] if rest else None)

    tensors: dict[str, Handler] = {
        "torch._utils._rebuild_tensor": rebuild,
        "torch._utils._rebuild_tensor_v2": rebuild,
        "torch._utils._rebuild_tensor_v3": rebuild_v3,
    }
    parameters: dict[str, Handler] = {
        "torch._utils._rebuild_parameter": lambda data, *_: data,
        "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
        "torch.Size": tuple,
    }
    refused: dict[str, Handler] = {f"torch._utils.{name}": _refusal(what) for name, what in _UNSUPPORTED.items()}

    def rebuild_subclass(function: Global, kind: Any, arguments: Any, state: Any) -> Any:
        # Never itself again: only a plain tensor can be inside.
        return {**tensors, **refused}.get(function.modern, _refusal("a tensor subclass"))(*arguments)

    return {**tensors, **parameters, **refused, "torch._tensor._rebuild_from_type_v2": rebuild_subclass}


def persistent_storage(identity: Any) -> Any:
    """The ``Storage`` that a pickle's persistent id names.

    A 5-tuple ("storage", class, key, location, elements) in zip archives; the legacy format adds the part that is meant, or None.
    """
    kind, storage_class, *rest = identity
    if kind == "module":  # the legacy format stores a class with its source code
        return storage_class
    key, _, total, *part = rest
    dtype = STORAGES.get(storage_class.name.rpartition(".")[2])
    if kind != "storage" or not isinstance(key, str) or type(total) is not int or total < 0:
        raise ValueError("no storage")
    if dtype is None:
        return Unsupported(f"a tensor of `{shown(storage_class.name)}`")
    if not part or part[0] is None:
        return Storage(key, dtype, total, 0, total)
    _, start, count = part[0]
    if not 0 <= start <= start + count <= total:
        raise ValueError("a part outside the storage")
    return Storage(key, dtype, total, start, count)


def _refusal(what: str) -> Handler:
    return lambda *arguments: Unsupported(what)


def _rebuilt(
    path: Path, storage: Any, dtype: Any, offset: Any, shape: Any, strides: Any, metadata: Any
) -> TorchTensor | Unsupported:
    if isinstance(storage, Unsupported):
        return storage
    if dtype is not None and dtype.name not in LATER_DTYPES:
        return Unsupported(f"a tensor of `{shown(dtype.name)}`")
    if not isinstance(storage, Storage) or type(offset) is not int or offset < 0:
        raise TypeError("no storage")
    name = storage.dtype if dtype is None else LATER_DTYPES[dtype.name]
    count = storage.count if dtype is None else storage.count * storage.itemsize // DType(name).itemsize
    shape = checked_shape(path, f"data/{storage.key}", shape)
    if not isinstance(strides, tuple) or len(strides) != len(shape):
        raise TypeError("no strides")
    wanted, last = elements(shape), offset
    for dimension, stride in zip(shape, strides, strict=True):
        if type(stride) is not int or stride < 0:
            raise TypeError("no strides")
        last += (dimension - 1) * stride
    if wanted > count:  # stride 0 makes a small file fill all memory
        raise UnreadableError(
            f"`{path}` expands storage `{shown(storage.key)}` from {count} numbers to {wanted}",
            hints=["save `tensor.contiguous()` instead"],
        )
    if wanted and last >= count:
        raise damaged(path, f"a tensor reaches outside its storage `{shown(storage.key)}`")
    flags = metadata if isinstance(metadata, dict) else {}
    return TorchTensor(storage, name, offset, shape, strides, bool(flags.get("conj")), bool(flags.get("neg")))


def tensor_of(value: TorchTensor, data: memoryview, order: Order) -> Tensor:
    """``value`` as a view of ``data``, all bytes of its storage."""
    dtype = dtype_named(value.dtype)

    def signed(array: Array) -> Array:
        array = np.conj(array) if value.conjugate else array
        return np.negative(array) if value.negative else array

    start = value.storage.start * value.storage.itemsize + value.offset * dtype.itemsize
    strides = tuple(s * dtype.itemsize for s in value.strides)
    then = signed if value.conjugate or value.negative else None
    return view(data, dtype, value.shape, order=order, offset=start, strides=strides, then=then)
