"""HDF5 files that lead elsewhere or hold no numbers: as Keras' ``.weights.h5``, some in its older layout.

They are made by h5py, whose bytes may differ by version.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from tests.attacks.registry import MARKER, Contents, attack

Spoil = Callable[[Any], None]


def image(fill: Spoil, version: str = "latest") -> bytes:
    """The bytes of a new file that ``fill`` was called with; those of the ``earliest`` version have no checksums."""
    file = io.BytesIO()
    with h5py.File(file, "w", libver=version) as root:
        fill(root)
    return file.getvalue()


def dense(root: Any) -> None:
    """A store of Keras 3 with one layer: a kernel of two by two and a bias."""
    root.create_group("vars")
    for index, shape in enumerate(((2, 2), (2,))):
        root.create_dataset(f"layers/dense/vars/{index}", data=np.zeros(shape, "<f4"))


def legacy(root: Any) -> None:
    """The same in the older layout."""
    root.attrs["layer_names"], root.attrs["backend"], root.attrs["keras_version"] = [b"dense"], "tensorflow", "3.0.0"
    root.create_group("dense").attrs["weight_names"] = [b"dense/kernel", b"dense/bias"]
    for name, shape in (("kernel", (2, 2)), ("bias", (2,))):
        root.create_dataset(f"dense/dense/{name}", data=np.zeros(shape, "<f4"))


def spoiled(tries: str, message: str, start: Spoil = dense, version: str = "latest") -> Callable[[Spoil], Spoil]:
    """Enter the file that ``start`` makes, spoiled by the decorated function."""

    def enter(spoil: Spoil) -> Spoil:
        kind, suffix = ("keras-weights", ".weights.h5") if start is dense else ("keras-h5", ".h5")

        @attack(kind, suffix, tries, message, name=spoil.__name__.strip("_").replace("_", "-"))
        def _() -> Contents:
            return image(lambda root: (start(root), spoil(root), None)[-1], version)

        return spoil

    return enter


_ELSEWHERE = "`{path}` is refused: `/layers/dense/vars/0` keeps its numbers in other places or files"
_NO_NUMBERS = "`{path}` is refused: `/layers/dense/vars/0` does not hold plain numbers"
KERNEL = "layers/dense/vars/0"


@spoiled("numbers in another file, by an external link", "`{path}` is refused: `0` is an external link")
def external_link(root: Any) -> None:
    del root[KERNEL]
    root[KERNEL] = h5py.ExternalLink("/etc/passwd", "x")


@spoiled("a layer in another file, by an external link", "`{path}` is refused: `dense` is an external link")
def external_link_on_the_way(root: Any) -> None:
    del root["layers/dense"]
    root["layers/dense"] = h5py.ExternalLink("external-link.weights.h5", "layers/dense")


@spoiled("another dataset's numbers, by a soft link", "`{path}` is refused: `1` is a soft link")
def soft_link(root: Any) -> None:
    del root["layers/dense/vars/1"]
    root["layers/dense/vars/1"] = h5py.SoftLink("/layers/dense/vars/0")


@spoiled("a soft link to itself", "`{path}` is refused: `0` is a soft link")
def soft_link_to_itself(root: Any) -> None:
    del root[KERNEL]
    root[KERNEL] = h5py.SoftLink(f"/{KERNEL}")


@spoiled("the bytes of `/etc/passwd` as numbers, by external storage", _ELSEWHERE)
def external_storage(root: Any) -> None:
    del root[KERNEL]
    root.create_dataset(KERNEL, (2, 2), "<f4", external=[("/etc/passwd", 0, 16)])


@spoiled("numbers of another file, by a virtual dataset", _ELSEWHERE)
def virtual_dataset(root: Any) -> None:
    del root[KERNEL]
    layout = h5py.VirtualLayout((2, 2), "<f4")
    layout[:] = h5py.VirtualSource("other.h5", "x", (2, 2))
    root.create_virtual_dataset(KERNEL, layout)


def _holds(name: str, tries: str, fill: Callable[[Any], None]) -> None:
    def spoil(root: Any) -> None:
        del root[KERNEL]
        fill(root)

    spoil.__name__ = name
    spoiled(tries, _NO_NUMBERS)(spoil)


def _odd(root: Any) -> None:
    kind = h5py.h5t.IEEE_F32LE.copy()
    kind.set_fields(31, 24, 7, 0, 24)  # four bytes that mean something else
    h5py.h5d.create(root["layers/dense/vars"].id, b"0", kind, h5py.h5s.create_simple((2, 2)))


_holds("texts", "texts in the place of numbers", lambda root: root.__setitem__(KERNEL, ["a", "b"]))
_holds("references", "references to other objects", lambda root: root.create_dataset(KERNEL, (2, 2), h5py.ref_dtype))
_holds("complex_numbers", "complex numbers", lambda root: root.create_dataset(KERNEL, (2, 2), "c8"))
_holds("opaque", "three bytes for each number", lambda root: root.create_dataset(KERNEL, (2, 2), "V3"))
_holds("floats_of_another_kind", "32-bit floats with another exponent", _odd)


@spoiled("a group that holds itself", "`{path}` is refused: `again` leads to what has another name already")
def group_in_itself(root: Any) -> None:
    root["layers/dense/again"] = root["layers"]


@spoiled("one dataset under two names", "`{path}` is refused: `1` leads to what has another name already")
def one_dataset_under_two_names(root: Any) -> None:
    del root["layers/dense/vars/1"]
    root["layers/dense/vars/1"] = root[KERNEL]


@spoiled("a terminal's escape code in a name", r"`{path}` is damaged: `dense\x1b[2J` is not a name")
def name_with_escape_code(root: Any) -> None:
    root.move("layers/dense", "layers/dense\x1b[2J")


@spoiled("a layer called `..`", "`{path}` is damaged: `..` is not a name", legacy)
def layer_called_dots(root: Any) -> None:
    root.attrs["layer_names"] = [b"dense", b".."]


@spoiled("a weight outside its layer: `dense/../dense/kernel`", "`{path}` is damaged: `..` is not a name", legacy)
def weight_outside_its_layer(root: Any) -> None:
    root["dense"].attrs["weight_names"] = [b"dense/../dense/kernel", b"dense/bias"]


@spoiled("one layer twice", "`{path}` is refused: `dense` leads to what has another name already", legacy)
def one_layer_twice(root: Any) -> None:
    root.attrs["layer_names"] = [b"dense", b"dense"]


@spoiled("numbers in the place of names", "`{path}` is damaged: the attribute `weight_names` is not a list of names", legacy)
def names_that_are_numbers(root: Any) -> None:
    root["dense"].attrs["weight_names"] = np.zeros(2)


@spoiled("a layer in another file", "`{path}` is refused: `dense` is an external link", legacy)
def layer_in_another_file(root: Any) -> None:
    del root["dense"]
    root["dense"] = h5py.ExternalLink(f"../../{MARKER}.h5", "dense")


@spoiled("another program's file", "`{path}` is an HDF5 file, but not one of Keras", legacy)
def no_layers(root: Any) -> None:
    del root.attrs["layer_names"]
