"""What is no checkpoint, under the name of one."""

from __future__ import annotations

import gzip
import io
import tarfile

from tests.attacks.pickles_that_run import OPEN, TOUCH
from tests.attacks.registry import Contents, attack
from tests.headers import entry, packed
from tests.pickles import archive, call, legacy, opcodes
from tests.tables import ONE, tabled

UNKNOWN = "`{path}` is not a checkpoint that xconvert can read"
_LOADERS = {
    ".pth": ("torch", "torch_old"),
    ".pdparams": ("paddle",),
    ".safetensors": ("safetensors",),
    ".npz": ("numpy",),
    ".h5": ("keras",),
    ".keras": ("keras",),
    ".ckpt": ("mindspore",),
    ".onnx": ("onnx",),
}


def _enter(name: str, suffix: str, tries: str, content: bytes, message: str = UNKNOWN) -> None:
    @attack("other", suffix, tries, message, name=name, loaders=_LOADERS[suffix])
    def _() -> Contents:
        return content


_RUNS = b"\x80\x02" + opcodes(call("posix.system", TOUCH)) + b"."


def _tar() -> bytes:
    """PyTorch's format of 2016, whose pickle runs."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as target:
        for name, content in (("storages", _RUNS), ("tensors", b"N."), ("pickle", b"N.")):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            target.addfile(info, io.BytesIO(content))
    return file.getvalue().rstrip(b"\0") + bytes(1024)


_ASKS = "`{path}` asks to run `posix.system`; nothing was run"
_enter("html", ".pth", "a page of HTML", b"<!DOCTYPE html>\n<html><title>404 Not Found</title></html>\n")
_enter(
    "lfs-pointer",
    ".safetensors",
    "a pointer of Git LFS",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 91642240\n",
)
_enter("gzip", ".pdparams", "a packed file", gzip.compress(_RUNS, mtime=0))
_enter("tar", ".pth", "a tar archive: PyTorch's format of 2016, which runs", _tar())
_enter("pickle-as-npz", ".npz", "a pickle that runs, called `.npz`", _RUNS, _ASKS)
_enter("pickle-as-safetensors", ".safetensors", "a pickle that runs, called `.safetensors`", _RUNS, _ASKS)
_enter("pickle-as-h5", ".h5", "a pickle that runs, called `.h5`", _RUNS, _ASKS)
_enter("pickle-as-ckpt", ".ckpt", "a pickle that runs, called `.ckpt`", _RUNS, _ASKS)
_enter(
    "archive-as-ckpt", ".ckpt", "PyTorch's archive that runs, called `.ckpt`", archive({"a": call("posix.system", TOUCH)}), _ASKS
)
_enter(
    "stream-as-pdparams",
    ".pdparams",
    "PyTorch's old stream that runs, called `.pdparams`",
    legacy(call("posix.system", TOUCH), b"", ()),
    _ASKS,
)
_enter("python", ".pth", "a program of Python", f"import os\n{OPEN}\n".encode())
_enter(
    *("safetensors-as-keras", ".keras", "a safetensors file that lies, called `.keras`", packed({"a": entry(0, 8, (3,))})),
    "`{path}` is damaged: `a` does not have the size of its shape",
)
_enter(
    *("index-as-h5", ".h5", "TensorFlow's index, called `.h5`", tabled(ONE)),
    "`{path}` is the index of a TensorFlow checkpoint under another name",
)
_enter("zeros", ".onnx", "4 096 zeros", bytes(4096))
_enter("empty", ".safetensors", "nothing", b"", "`{path}` is empty")
