"""PyTorch's tensors that are not what they say, in both formats."""

from __future__ import annotations

import struct
from typing import Any

from tests.attacks.registry import Contents, attack
from tests.pickles import archive, call, legacy, legacy_tensor, numbers, tensor, zipped


def _enter(name: str, tries: str, message: str, value: Any) -> None:
    @attack("torch", ".pth", tries, message, name=name)
    def _() -> Contents:
        return archive({"a": value})


_OUTSIDE = "`{path}` is damaged: a tensor reaches outside its storage `0`"
_SENSELESS = "`{path}` is damaged: its pickle makes no sense at byte "
_enter(
    *("stride-0", "4 numbers seen as 4 TB: `expand(2^20, 2^20)`"),
    "`{path}` expands storage `0` from 4 numbers to 1099511627776",
    tensor((2**20, 2**20), (0, 0)),
)
_enter("outside-its-storage", "numbers behind the storage's", _OUTSIDE, tensor((4,), (1,), offset=1))
_enter("strides-outside", "strides that lead behind the storage", _OUTSIDE, tensor((2, 2), (2**60, 1)))
_enter("negative-stride", "numbers before the storage's, by a stride of -1", _SENSELESS + "168", tensor((2,), (-1,)))
_enter("negative-offset", "numbers before the storage's, by an offset of -8", _SENSELESS + "168", tensor((2,), (1,), offset=-8))
_enter("negative-size", "a dimension of -2", "`{path}` is damaged: the shape of `data/0` is impossible", tensor((-2,), (1,)))
_enter(
    *("forty-dimensions", "40 dimensions, more than NumPy holds"),
    "`{path}` is damaged: the shape of `data/0` is impossible",
    tensor((1,) * 40, (1,) * 40),
)
_enter(
    *("storage-size-lie", "a storage of 2^40 numbers in 16 bytes"),
    "`{path}` is damaged: storage `0` does not have its 4398046511104 bytes",
    tensor(count=2**40),
)
_enter(
    *("storage-elsewhere", "the storage `../../data/0`"),
    "`{path}` is damaged: storage `../../data/0` does not have its 16 bytes",
    tensor(key="../../data/0"),
)
_enter(
    *("quantised", "a quantised tensor, whose numbers mean others"),
    "`{path}` holds `a` as a quantised tensor",
    call("torch._utils._rebuild_qtensor", 1, 2),
)
_enter(
    *("sparse", "a sparse tensor of 2^60 numbers"),
    "`{path}` holds `a` as a sparse tensor",
    call("torch._utils._rebuild_sparse_tensor", 1, ((), (), (2**60,))),
)


@attack(
    "torch",
    ".pth",
    "a program: TorchScript under the name of a state dict",
    "`{path}` is a TorchScript archive, not a state dict",
)
def torchscript() -> Contents:
    return archive({}, **{"constants.pkl": b"\x80\x02).", "code/__torch__.py": b"op_version_set = 1"})


@attack("torch", ".pth", "two pickles, one for each reader", "`{path}` is damaged: it holds 2 pickles, not one")
def two_pickles() -> Contents:
    return zipped([("x/data.pkl", b"\x80\x02}."), ("y/data.pkl", b"\x80\x02}."), ("x/version", b"3\n")])


@attack("torch-legacy", ".pth", "a storage of -1 numbers", "`{path}` is truncated: storage `0` goes on to byte 208 of 212")
def negative_storage() -> Contents:
    return legacy({"a": legacy_tensor()}, struct.pack("<q", -1))


@attack(
    "torch-legacy",
    ".pth",
    "a storage of 2^60 numbers",
    "`{path}` is truncated: storage `0` goes on to byte 4611686018427388116 of 228",
)
def endless_storage() -> Contents:
    return legacy({"a": legacy_tensor()}, struct.pack("<q", 1 << 60) + bytes(16))


@attack(
    "torch-legacy", ".pth", "a part of a storage, larger than it", "`{path}` is damaged: its pickle makes no sense at byte 181"
)
def part_outside_its_storage() -> Contents:
    return legacy({"a": legacy_tensor(("1", 3, 2**40))}, numbers())


@attack("torch-legacy", ".pth", "one storage twice", "`{path}` is damaged: its list of storages does not fit its tensors")
def one_storage_twice() -> Contents:
    return legacy({"a": legacy_tensor()}, numbers() * 2, keys=("0", "0"))


@attack(
    *("torch-legacy", ".pth", "4 numbers seen as 4 TB, by a shape"),
    "`{path}` expands storage `0` from 4 numbers to 1099511627776",
)
def shape_larger_than_storage() -> Contents:
    return legacy({"a": legacy_tensor(shape=(2**40,))}, numbers())
