"""Small files of Keras that ask for much work; entered among ``tests.costs.COSTS``."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

Fill = Callable[[Any], object]


def _hdf5(fill: Fill, libver: str = "earliest") -> bytes:
    file = io.BytesIO()
    with h5py.File(file, "w", libver=libver) as root:
        fill(root)
    return file.getvalue()


def _weights(fill: Fill) -> Fill:
    return lambda root: (root.create_group("vars"), root.create_group("layers/a/vars"), fill(root))


def attributes_of_text(count: int) -> bytes:
    def fill(root: Any) -> None:
        for i in range(count):
            root.attrs.create(f"a{i}", "x", dtype=h5py.string_dtype())

    return _hdf5(_weights(fill))


def one_large_collection() -> bytes:
    """800 texts, each said to lie among the same 60 000."""
    content = bytearray(attributes_of_text(800))
    place = len(content)
    texts = b"".join(struct.pack("<H6xQ", i % 65_535 + 1, 1) + b"x".ljust(8, b"\0") for i in range(60_000))
    at = 0
    while (at := content.find(struct.pack("<L", 1), at) + 1) > 0:
        there = int.from_bytes(content[at + 3 : at + 11], "little")
        if content[there : there + 4] == b"GCOL":
            content[at + 3 : at + 15] = struct.pack("<QL", place, 5)
    content += b"GCOL\1\0\0\0" + struct.pack("<Q", 32 + len(texts)) + texts + bytes(16)
    return bytes(content).replace(struct.pack("<Q", place), struct.pack("<Q", len(content)), 1)  # the end of the file


def groups() -> bytes:
    return _hdf5(_weights(lambda root: [root.create_group(f"layers/g{i}") for i in range(20_000)]), "latest")


def names_of_one_layer() -> bytes:
    def fill(root: Any) -> None:
        root.attrs.create("layer_names", np.asarray([b"x"] * 40_000))
        root.create_group("x").attrs["weight_names"] = np.asarray([], float)

    return _hdf5(fill, "latest")


def chunks_beyond_the_shape() -> bytes:
    def fill(root: Any) -> None:
        options = {"chunks": (1 << 20, 1), "maxshape": (None, None), "compression": "gzip"}
        dataset = root.create_dataset("layers/a/vars/0", (1, 800), "<f4", **options)
        chunk = zlib.compress(bytes(4 << 20), 9)
        for i in range(800):
            dataset.id.write_direct_chunk((0, i), chunk)

    return _hdf5(_weights(fill))


def layers_of_one_name() -> bytes:
    layers = [{"class_name": "C", "config": {"name": "a"}}] * 20_000

    def fill(root: Any) -> None:
        root.attrs["model_config"] = np.bytes_(json.dumps({"config": {"layers": layers}}).encode())
        root.create_group("model_weights").attrs["layer_names"] = np.asarray([b"x"])
        root.create_group("model_weights/x").attrs["weight_names"] = np.asarray([], float)

    return _hdf5(fill, "latest")
