"""Pickles, archives and checkpoints written opcode by opcode: what no honest program writes must be written by
hand."""

from __future__ import annotations

import io
import mmap
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from xconvert.formats import Choice, torch_legacy, torch_zip
from xconvert.formats._zip import ZipWriter
from xconvert.model import Checkpoint


def mapped(data: bytes) -> mmap.mmap:
    """``data`` as the formats get a file."""
    area = mmap.mmap(-1, len(data))
    area.write(data)
    return area


@dataclass(frozen=True)
class Raw:
    """Opcodes that leave one object on the stack."""

    opcodes: bytes


def opcodes(value: Any) -> bytes:
    """A pickle of ``value``, without its end."""
    match value:
        case Raw():
            return value.opcodes
        case str():
            return b"X" + struct.pack("<L", len(value.encode())) + value.encode()
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"\x8a\x08" + struct.pack("<q", value)
        case None:
            return b"N"
        case tuple():
            return b"(" + b"".join(map(opcodes, value)) + b"t"
        case list():
            return b"](" + b"".join(map(opcodes, value)) + b"e"
        case dict():
            return b"}(" + b"".join(opcodes(k) + opcodes(v) for k, v in value.items()) + b"u"
    raise TypeError(value)


def named(name: str) -> Raw:
    module, _, attribute = name.rpartition(".")
    return Raw(f"c{module}\n{attribute}\n".encode())


def call(name: str, *arguments: Any) -> Raw:
    return Raw(opcodes(named(name)) + opcodes(arguments) + b"R")


def tensor(
    shape: Any = (2,), strides: Any = (1,), *, key: str = "0", count: int = 4, offset: Any = 0, kind: str = "FloatStorage"
) -> Raw:
    storage = Raw(opcodes(("storage", named(f"torch.{kind}"), key, "cpu", count)) + b"Q")
    return call("torch._utils._rebuild_tensor_v2", storage, offset, shape, strides, False, call("collections.OrderedDict"))


def many(count: int = 4) -> dict[str, Any]:
    return {f"layer{i}.weight": tensor() for i in range(count)}


def zipped(members: list[tuple[str, bytes]]) -> bytes:
    file = io.BytesIO()
    writer = ZipWriter(file)
    for name, content in members:
        writer.add(name, content)
    writer.close()
    return file.getvalue()


def archive(root: Any, **members: bytes) -> bytes:
    """A .pth with one storage of four float32 and ``root`` in its pickle."""
    numbers = np.arange(4, dtype="<f4").tobytes()
    contents = {"data.pkl": b"\x80\x02" + opcodes(root) + b".", "version": b"3\n", "data/0": numbers, **members}
    return zipped([(f"x/{name}", content) for name, content in contents.items()])


def checkpoint(data: bytes, key: str | None = None, ema: bool | None = None) -> Checkpoint:
    """What the zip reader makes of ``data``."""
    area = mapped(data)
    assert torch_zip.FORMAT.matches(area)
    return torch_zip.FORMAT.read(Path("x.pth"), area, Choice(key, ema))


def legacy(root: Any, stored: bytes, keys: Any = ("0",), version: int = 1001, little: bool = True) -> bytes:
    parts = (Raw(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"), version, {"little_endian": little}, root, list(keys))
    return b"".join(b"\x80\x02" + opcodes(part) + b"." for part in parts) + stored


def legacy_tensor(part: Any = None, kind: str = "FloatStorage", key: str = "0", shape: Any = (2,)) -> Raw:
    storage = Raw(opcodes(("storage", named(f"torch.{kind}"), key, "cpu", 4, part)) + b"Q")
    return call("torch._utils._rebuild_tensor", storage, 0, shape, (1,))


def read_legacy(data: bytes) -> Checkpoint:
    area = mapped(data)
    assert torch_legacy.FORMAT.matches(area)
    return torch_legacy.FORMAT.read(Path("x.pth"), area, Choice())


def numbers(order: str = "<") -> bytes:
    return struct.pack("<q", 4) + np.arange(4, dtype=f"{order}f4").tobytes()


def patched(data: bytes, find: bytes, offset: int, new: bytes, *, last: bool = True) -> bytes:
    at = (data.rfind(find) if last else data.find(find)) + offset
    return data[:at] + new + data[at + len(new) :]


def deflated(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        target.writestr("x/data.pkl", content)
    return file.getvalue()
