"""One engine in a process: ``python -m benchmarks.engines NAME FILE --batch N --dtype T --threads N``.

It loads its weights, computes once, and writes its answer to the first image as JSON; then it computes once for every line that
it reads, and answers with what that took. ``python -m benchmarks.engines export FILE.pth --out FILE.onnx`` makes the model for
ONNX Runtime. Each loader returns what computes one batch and returns logits (N, classes). All are kept to as many processors as
there are threads and told their number, but for xconvert: how it uses the processors it may use is its own affair.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SIZE = 299
Compute = Callable[[], Any]


def numpy(file: Path, asked: argparse.Namespace) -> Compute:
    """The product's reference, as it answers those who predict and evaluate."""
    import xconvert  # before NumPy: how that is set up is part of what is measured
    from xconvert.serving import reference

    answer, image = reference(xconvert.load(file), asked.dtype), _image(asked)
    return lambda: answer(image)


def gemm(file: Path, asked: argparse.Namespace) -> Compute:
    """The machine's floor: nothing but the network's matrix products, see ``floor.py``."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # our own threads split the rows, which is the fastest way known
    from benchmarks.floor import products

    return products(file, asked.batch, asked.dtype, asked.threads)


def _image(asked: argparse.Namespace) -> Any:
    from xconvert.probe import images

    return images(SIZE, asked.batch).astype(asked.dtype)


def torch(file: Path, asked: argparse.Namespace, channels_last: bool = False) -> Compute:
    """Eager PyTorch; timm's class, or where no zoo has one what ``xconvert.build`` makes."""
    import torch

    torch.set_num_threads(asked.threads)
    torch.set_num_interop_threads(1)
    module = _module(file).to(getattr(torch, asked.dtype)).eval()
    image = torch.from_numpy(_image(asked).transpose(0, 3, 1, 2)).contiguous()
    if channels_last:
        module, image = module.to(memory_format=torch.channels_last), image.contiguous(memory_format=torch.channels_last)

    def compute() -> Any:
        with torch.inference_mode():
            return module(image).numpy()

    return compute


def torch_channels_last(file: Path, asked: argparse.Namespace) -> Compute:
    """The same with the layout that its convolutions like best."""
    return torch(file, asked, channels_last=True)


def _module(file: Path) -> Any:
    import torch

    if not file.name.startswith("timm"):
        import xconvert

        return xconvert.build(file, "torch")
    from xconvert.backends.timm import import_timm

    published = file.stem.partition("-")[2] or "legacy_xception"
    module = import_timm().create_model(published)
    module.load_state_dict(torch.load(file, weights_only=True))
    return module


def onnxruntime(file: Path, asked: argparse.Namespace) -> Compute:
    """All optimisations of its graph, as by default."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = asked.threads, 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    image = np.ascontiguousarray(_image(asked).transpose(0, 3, 1, 2))
    return lambda: session.run(None, {"image": image})[0]


def _keras(file: Path, asked: argparse.Namespace) -> Any:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(asked.threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    import keras

    return keras.applications.Xception(weights=str(file), classifier_activation=None)


def tensorflow(file: Path, asked: argparse.Namespace) -> Compute:
    """Keras' class as a ``tf.function``."""
    import tensorflow as tf

    model, image = _keras(file, asked), tf.constant(_image(asked))
    function = tf.function(lambda x: model(x, training=False))
    return lambda: function(image).numpy()


def keras(file: Path, asked: argparse.Namespace) -> Compute:
    """``predict`` of Keras' class."""
    model, image = _keras(file, asked), _image(asked)
    return lambda: model.predict(image, batch_size=len(image), verbose=0)


def paddle(file: Path, asked: argparse.Namespace) -> Compute:
    """PaddleClas' class, eagerly."""
    import numpy as np
    import paddle

    from xconvert.backends.paddleclas import FILES, import_zoo

    paddle.base.core.set_num_threads(asked.threads)
    network = file.stem.partition("-")[2]
    zoo: Any = next(module for module in map(import_zoo, FILES) if network in module.__all__)
    layer = getattr(zoo, network)(class_num=1000)
    layer.set_state_dict(paddle.load(str(file)))
    layer.eval()
    image = paddle.to_tensor(np.ascontiguousarray(_image(asked).transpose(0, 3, 1, 2)))

    def compute() -> Any:
        with paddle.no_grad():
            return layer(image).numpy()

    return compute


def export(file: Path, out: Path) -> None:
    """timm's class as PyTorch's exporter writes it."""
    import torch

    image = torch.zeros(1, 3, SIZE, SIZE)
    axes = {"image": {0: "n"}, "logits": {0: "n"}}
    names = {"input_names": ["image"], "output_names": ["logits"], "dynamic_axes": axes}
    torch.onnx.export(_module(file).eval(), (image,), str(out), dynamo=False, **names)


ENGINES = {f.__name__: f for f in (numpy, gemm, torch, torch_channels_last, onnxruntime, tensorflow, keras, paddle)}


def respond(compute: Compute, pipe: Any) -> None:
    """Answer every line that comes in."""
    unit = 1 if sys.platform == "darwin" else 1024
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        compute()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20
        print(json.dumps({"wall": wall, "cpu": cpu, "rss": rss}), file=pipe, flush=True)


def main() -> None:
    """Keep what libraries print out of the pipe, and to as many processors as there are threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=[*ENGINES, "export"])
    parser.add_argument("file", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if asked.engine == "export":
        export(asked.file, asked.out)
        return
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-asked.threads :])
    compute = ENGINES[asked.engine](asked.file, asked)
    answer = compute()
    print(json.dumps(None if answer is None else [float(x) for x in answer[0]]), file=pipe, flush=True)
    respond(compute, pipe)


if __name__ == "__main__":
    main()
