"""Full-size checkpoints, made once by the real frameworks in ``build/bench/files``: ``python -m benchmarks.files NAME…``.

Weights are those of ``tests/frameworks/calibrate.py``: kernels scaled as He did, every BatchNorm vector distinct, activations
of order 1. Each file is made in a process of its own, so that who measures stays small.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.measure import BUILD, ROOT, FailedError, environment, last_words

FOLDER = BUILD / "files"
MINDSPORE = os.environ.get("XCONVERT_PYTHON_MINDSPORE", str(ROOT / ".venv-mindspore" / "bin" / "python"))
WIDER = {728: 1120}  # the middle flow of `deep`: 64 blocks of it make 1 GB, and the largest tensor stays that of Xception


def need(*names: str) -> list[Path]:
    """The paths of ``names``, which are made where they are missing; raises ``FailedError`` where that does not work."""
    for name in names:
        if not exists(name):
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.files", name], cwd=ROOT, env=environment(), capture_output=True, text=True
            )
            if done.returncode:
                raise FailedError(f"{name} cannot be made: {last_words(done.stderr)}")
    return [FOLDER / name for name in names]


def exists(name: str) -> bool:
    """Whether it was made before; a TensorFlow checkpoint goes by its prefix."""
    return (FOLDER / name).exists() or (FOLDER / f"{name}.index").exists()


def parts(path: Path) -> list[Path]:
    """The files of one checkpoint."""
    return [path] if path.exists() else sorted(path.parent.glob(f"{path.name}.*"))


def linked(path: Path, count: int) -> Path:
    """A folder with ``count`` names of the file ``path``."""
    folder = BUILD / f"{count} x {path.name}"
    folder.mkdir(exist_ok=True)
    for i in range(count):
        (folder / f"{i}{path.suffix}").unlink(missing_ok=True)
        (folder / f"{i}{path.suffix}").hardlink_to(path)
    return folder


def size(path: Path) -> float:
    """MiB of all its files."""
    return sum(part.stat().st_size for part in parts(path)) / 2**20


def weights(family: str, entry: int, middle: int, wider: bool = False) -> Any:
    """Calibrated weights by canonical name; with ``wider`` the middle flow has more channels than was published."""
    from tests.frameworks.calibrate import calibrated, widths
    from xconvert.architectures import families
    from xconvert.model import Depth

    layers = families()[family].build(Depth(entry, middle), True, families()[family].attributes)
    width = {name: WIDER.get(n, n) if wider else n for name, n in widths(layers).items()}
    return calibrated(layers, width, classes=1000, size=96)


def stored(family: str, entry: int, middle: int) -> Path:
    """The same in a file, which every framework is handed."""
    import numpy as np

    path = FOLDER / f"{family}-{entry}-{middle}.npz"
    if not path.exists():
        np.savez(path.with_suffix(".tmp.npz"), **weights(family, entry, middle))
        path.with_suffix(".tmp.npz").replace(path)
    return path


def model(family: str, entry: int, middle: int, arrays: Any) -> Any:
    """A model of ``arrays``, as its authors published it."""
    from xconvert.architectures import families
    from xconvert.model import Attribute, Depth, Model, Tensor

    told = {name: Attribute(value, "benchmark") for name, value in families()[family].attributes.items()}
    return Model(families()[family], Depth(entry, middle), True, told, {n: Tensor.of(a) for n, a in arrays.items()})


def by_class(kind: str, network: str, family: str, entry: int, middle: int, out: Path) -> None:
    """Saved by the zoo's own class."""
    python = MINDSPORE if kind.startswith("mindcv") else sys.executable
    options = ["--weights", stored(family, entry, middle), *(["--network", network] if network else [])]
    subprocess.run([python, "-m", "tests.frameworks.make", kind, out, *options], cwd=ROOT, check=True)


def by_writer(framework: str, out: Path) -> None:
    """Xception's arrays, saved by the framework's own writer: no zoo there has the network, so the names are xconvert's."""
    import numpy as np

    from tests.narrow import checkpoint

    with np.load(stored("xception", 3, 8)) as arrays:
        named = checkpoint(model("xception", 3, 8, dict(arrays)), framework)
    temporary = out.with_suffix(".arrays.npz")
    np.savez(temporary, **{name: tensor.read() for name, tensor in named.tensors.items()})
    subprocess.run([sys.executable, "-m", "tests.frameworks.save_arrays", framework, temporary, out], cwd=ROOT, check=True)
    temporary.unlink()


def by_objects(out: Path) -> None:
    """A Keras model's TensorFlow checkpoint."""
    (h5,) = need("keras.h5")
    code = (
        "import sys, keras, tensorflow as tf\n"
        "tf.train.Checkpoint(model=keras.saving.load_model(sys.argv[1], compile=False)).write(sys.argv[2])"
    )
    subprocess.run([sys.executable, "-c", code, h5, out], cwd=ROOT, check=True)


def by_export(out: Path) -> None:
    """What PyTorch exports of timm's class."""
    (pth,) = need("timm.pth")
    subprocess.run([sys.executable, "-m", "benchmarks.engines", "export", pth, "--out", out], cwd=ROOT, check=True)


def deep(out: Path) -> None:
    """1 GB in 64 middle blocks, under timm's names."""
    import numpy as np
    from safetensors.numpy import save_file

    from tests.narrow import checkpoint

    named = checkpoint(model("xception", 3, 64, weights("xception", 3, 64, wider=True)), "timm")
    save_file({name: np.ascontiguousarray(tensor.read()) for name, tensor in named.tensors.items()}, str(out))


def places(source: str, to: str, out: Path, **settings: Any) -> None:
    """For ``scripts/bare.py``: where in ``source`` each of the tensors lies that are written for ``to``, as JSON lists of
    position, dtype, shape and strides in bytes.
    """
    import json
    from mmap import mmap

    import numpy as np

    from xconvert.conversion import resolve
    from xconvert.loading import load, save
    from xconvert.mappings import library

    (path,) = need(source)
    model = load(path, settings=settings)
    target = resolve(to, model, library(), path, None)
    found = []
    for tensor in save(model, target.implementation, target.dialect, hashed=False).tensors.values():
        array = base = tensor.read()
        while isinstance(base, (np.ndarray, memoryview)):
            base = base.base if isinstance(base, np.ndarray) else base.obj
        if isinstance(base, mmap):  # else it is made: a counter of training steps
            start = array.__array_interface__["data"][0] - np.frombuffer(base, np.uint8).__array_interface__["data"][0]
            found.append([start, array.dtype.str, array.shape, array.strides])
    out.write_text(json.dumps(found))


XCEPTION = ("xception", 3, 8)
OWN = {"bn_epsilon": 0.001, "pool_padding": "same_upper"}  # what `own.pdparams` does not say of itself
ALIGNED_65, ALIGNED_71 = ("xception_aligned", 3, 16), ("xception_aligned", 5, 16)
MAKERS: dict[str, Callable[[Path], None]] = {
    "keras.h5": partial(by_class, "keras-h5", "", *XCEPTION),
    "keras.weights.h5": partial(by_class, "keras-weights", "", *XCEPTION),
    "timm.pth": partial(by_class, "timm-pth", "", *XCEPTION),
    "timm.safetensors": partial(by_class, "timm-safetensors", "", *XCEPTION),
    "mindcv.ckpt": partial(by_class, "mindcv-ckpt", "", *XCEPTION),
    "own.pdparams": partial(by_writer, "paddle"),
    "keras.ckpt": by_objects,
    "timm.onnx": by_export,
    "timm-xception65.pth": partial(by_class, "timm-pth", "xception65", *ALIGNED_65),
    "timm-xception71.safetensors": partial(by_class, "timm-safetensors", "xception71", *ALIGNED_71),
    "paddleclas-Xception65_deeplab.pdparams": partial(by_class, "paddleclas-2", "Xception65_deeplab", *ALIGNED_65),
    "paddleclas-Xception41.pdparams": partial(by_class, "paddleclas-2", "Xception41", "xception_paddleclas", 3, 8),
    "deep.safetensors": deep,
    **{
        f"{source} to {to}.json": partial(places, source, to)
        for source, to in (
            ("keras.h5", "torch"),
            ("keras.h5", "paddle"),
            ("keras.ckpt", "torch"),
            ("timm.pth", "keras"),
            ("timm.pth", "mindspore"),
            ("mindcv.ckpt", "torch"),
        )
    },
    "own.pdparams to torch.json": partial(places, "own.pdparams", "torch", **OWN),
}


def make(name: str) -> None:
    """In a folder beside, then moved: half a file is never taken for one."""
    half = FOLDER / "half"
    half.mkdir(parents=True, exist_ok=True)
    MAKERS[name](half / name)
    for part in parts(half / name):
        part.replace(FOLDER / part.name)


if __name__ == "__main__":
    for name in sys.argv[1:] or MAKERS:
        make(name)
