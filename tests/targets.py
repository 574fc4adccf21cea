"""One conversion into each format that is written, of two small networks: what tests of faults convert, over and over."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from tests.narrow import TORCH, checkpoint, narrow
from xconvert import conversion, formats, sealing
from xconvert.formats import safetensors


@dataclass(frozen=True)
class Target:
    """The arguments of ``convert`` for a format, and how its output is called. ``aligned``: whether its zoo has none but aligned
    networks, which lie beside the others.
    """

    to: str
    output: str
    layout: str | None = None
    accept: tuple[str, ...] = ()
    aligned: bool = False

    def source(self, source: Path) -> Path:
        """The network that is converted for ``source``, one of ``sources``."""
        return source.with_name(f"aligned-{source.name}") if self.aligned else source

    def convert(self, source: Path, output: Path, verify: bool = False) -> None:
        """The conversion itself, over whatever is there."""
        told = {"to": self.to, "layout": self.layout, "accept": self.accept}
        conversion.convert(self.source(source), output, force=True, verify=verify, **told)

    @property
    def options(self) -> list[str]:
        """The same for the command line."""
        accepted = [option for name in self.accept for option in ("--accept", name)]
        return ["--to", self.to, *(["--layout", self.layout] if self.layout else []), *accepted]


TARGETS = {
    "hub": Target("timm", "hub", "hub"),
    "keras-archive": Target("keras", "out.keras"),
    "keras-h5": Target("keras", "out.h5"),
    "keras-hub": Target("keras-hub", "preset", "keras-hub", ("pool_padding",)),
    "keras-weights": Target("keras", "out.weights.h5"),
    "mindspore": Target("mindspore", "out.ckpt"),
    "npz": Target("torch", "out.npz"),
    "onnx": Target("onnx", "out.onnx"),
    "paddle": Target("paddle", "out.pdparams"),
    "paddleclas": Target("paddleclas", "pair", "paddleclas", ("exit_dilation",), aligned=True),
    "safetensors": Target("torch", "out.safetensors"),
    "tensorflow": Target("tensorflow", "out.ckpt"),
    "tensorflow-objects": Target("keras", "out.ckpt"),
    "torch": Target("torch", "out.pth"),
}


def sources(folder: Path) -> tuple[Path, Path]:
    """Two files of different networks of timm; they have different classes too, so that a Hub folder's configuration differs."""
    paths = folder / "one.safetensors", folder / "two.safetensors"
    for seed, path in enumerate(paths):
        sizes = {"divide": 32, "seed": seed, "classes": 10 + seed}
        safetensors.write(path, checkpoint(narrow(**sizes, **TORCH), "timm"))
        aligned = checkpoint(narrow(family="xception_aligned", **sizes), "timm")
        safetensors.write(path.with_name(f"aligned-{path.name}"), aligned)
    return paths


def state(path: Path) -> str:
    """What stands under the name ``path``: a digest of the bytes of a file, of the tensors of a TensorFlow checkpoint, of all
    files in a folder; raises where it cannot be read, and is empty where there is nothing.
    """
    index = path.with_name(f"{path.name}.index")
    if index.exists():
        assert not path.exists()
        return sealing.content(formats.read(path).tensors)
    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path] if path.exists() else []
    return " ".join(f"{file.name}:{hashlib.sha256(file.read_bytes()).hexdigest()[:16]}" for file in files)
