"""One framework's own loader, tried on files whose paths it is told line by line: ``python opening.py <loader>``.

It answers each path with a line ``[outcome, what it said]``. It imports nothing of xconvert or its tests: MindSpore has a Python
of its own. A crash ends it, and whoever started it sees that.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARKER = Path("xconvert-was-here")
ADDRESSES = 8 << 30  # bytes of address space beyond what the framework has once it is imported
MUCH = 1 << 30  # bytes of memory that no file of some kB should take
NO_MEMORY = re.compile(r"memory|alloc|bad_alloc|too large|ResourceExhausted|OOM", re.IGNORECASE)


def torch(weights_only: bool) -> Callable[[str], Any]:
    import torch

    return lambda path: torch.load(path, weights_only=weights_only, map_location="cpu")


def paddle() -> Callable[[str], Any]:
    import paddle

    return paddle.load  # type: ignore[no-any-return]


def keras() -> Callable[[str], Any]:
    import keras

    def open_(path: str) -> Any:
        content = Path(path).read_bytes()
        if path.endswith(".keras") or b"model_config" in content:
            return keras.saving.load_model(path)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, name="dense")])
        model.load_weights(path)
        return model

    return open_


def tensorflow() -> Callable[[str], Any]:
    import tensorflow as tf

    def open_(path: str) -> Any:
        reader = tf.train.load_checkpoint(path)
        return [reader.get_tensor(name) for name in reader.get_variable_to_shape_map()]

    return open_


def mindspore() -> Callable[[str], Any]:
    import mindspore

    return mindspore.load_checkpoint  # type: ignore[no-any-return]


def safetensors() -> Callable[[str], Any]:
    import safetensors.numpy

    return safetensors.numpy.load_file


def numpy() -> Callable[[str], Any]:
    import numpy as np

    def open_(path: str) -> Any:
        found = np.load(path, allow_pickle=False)
        return [found[name] for name in found] if hasattr(found, "files") else found

    return open_


def onnx() -> Callable[[str], Any]:
    import onnx
    import onnx.numpy_helper

    return lambda path: [onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer]


OPENERS: dict[str, Callable[[], Callable[[str], Any]]] = {
    "torch": lambda: torch(True),
    "torch_old": lambda: torch(False),
    "paddle": paddle,
    "keras": keras,
    "tensorflow": tensorflow,
    "mindspore": mindspore,
    "safetensors": safetensors,
    "numpy": numpy,
    "onnx": onnx,
}


def memory(key: str) -> int:
    """Bytes that this process has, by the name that the kernel has for them."""
    return int(Path("/proc/self/status").read_text().partition(f"{key}:")[2].split()[0]) << 10


def outcome(open_: Callable[[str], Any], path: str) -> tuple[str, str]:
    """What becomes of the file at ``path``, and the first line of what is said."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak of memory starts again
    before, said, result = memory("VmRSS"), "", "loads"
    try:
        said = type(open_(path)).__name__
    except MemoryError as error:
        result, said = "memory", str(error)
    except BaseException as error:
        result, said = "refuses", f"{type(error).__name__}: {error}"
    if memory("VmHWM") - before > MUCH or (result == "refuses" and NO_MEMORY.search(said) and re.search(r"allocat|OOM", said)):
        result = "memory"
    if MARKER.exists():
        MARKER.unlink()
        result = "RUNS IT"
    return result, said.partition("\n")[0][:200]


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a framework prints is no answer
    open_ = OPENERS[sys.argv[1]]()
    limit = memory("VmSize") + ADDRESSES
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers.write("ready\n")
    answers.flush()
    for line in sys.stdin:
        with contextlib.redirect_stdout(sys.stderr):
            found = outcome(open_, json.loads(line))
        answers.write(json.dumps(found) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
