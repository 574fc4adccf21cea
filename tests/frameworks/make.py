"""Make a checkpoint with a framework's own model class, and the answers of that class: ``python -m
tests.frameworks.make KIND OUT --weights W.npz``.

``W.npz`` holds weights under canonical names, as ``calibrate.py`` writes them; a file without ``predictions`` gives a
headless network, and the classes are those of the file. Nothing here uses xconvert's mappings, readers or writers: the
names come from tables of their own, so what is tested does not make its own evidence. Those of ``names_deep.json`` were
written down as the layers of the real classes ran, one after the other. Runs in a process and a Python that has the framework.

``--answers A.npz`` stores ``float64_<size>`` and ``float32_<size>``: what the real class answers to
``xconvert.probe.images(size, batch)`` in either precision that it has, logits (N, classes) or a map (N, H, W, C).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xconvert.probe import images

Array = NDArray[Any]
Answer = Callable[[Array, str], Array]  # images (N, H, W, channels) and a dtype → what the real class answers

KINDS = {
    "timm-pth": "torch",  # torch.save(model.state_dict())
    "timm-safetensors": "torch",
    "timm-parallel": "torch",  # of torch.nn.DataParallel: names start with `module.`
    "timm-float16": "torch",  # halved, counters kept; the answers are those of the rounded weights in full precision
    "timm-wrapped": "torch",  # {epoch, arch, state_dict, optimizer}
    "timm-legacy": "torch",  # before PyTorch 1.6: no zip
    "cadene-pth": "torch",
    "cadene-safetensors": "torch",
    "keras-h5": "keras",  # model.save: the old layout with the model's configuration
    "keras-weights": "keras",  # model.save_weights, .weights.h5
    "keras-archive": "keras",  # model.save, .keras
    "keras-second": "keras",  # .h5 of the second model in a process: conv2d_4 …
    "keras-nested": "keras",  # .h5 of a new head on a headless Xception as one layer, all trainable
    "keras-frozen": "keras",  # the same, the Xception not trainable
    "keras-trained": "keras",  # .h5 with softmax and Adam's slots; its answers are probabilities
    "keras-float16": "keras",  # .h5 built under the policy float16; answers as for timm-float16
    "hub-weights": "keras",  # .weights.h5 of the classifier, which nests its backbone
    "hub-backbone": "keras",  # .weights.h5 of the backbone: model.weights.h5 of a preset
    "paddleclas-2": "paddle",  # paddle.save(model.state_dict(), protocol=2)
    "paddleclas-4": "paddle",
    "mindcv-ckpt": "mindspore",  # mindspore.save_checkpoint
    "mindcv-safetensors": "mindspore",
}

NETWORKS = {  # what the zoos call them → the table of their names: family, blocks of the entry and middle flow
    "xception41": "xception_aligned 3,8",
    "xception65": "xception_aligned 3,16",
    "xception71": "xception_aligned 5,16",
    "Xception41_deeplab": "xception_aligned 3,8",
    "Xception65_deeplab": "xception_aligned 3,16",
    "xception41p": "xception_preact 3,8",
    "xception65p": "xception_preact 3,16",
    "Xception41": "xception_paddleclas 3,8",
    "Xception65": "xception_paddleclas 3,16",
    "Xception71": "xception_paddleclas 5,16",
}


def names(zoo: str, network: str = "") -> dict[str, str]:
    """Canonical layer name → the name in ``zoo``: ``timm``, ``keras``, ``hub`` or ``mindcv``; for one of ``NETWORKS``
    ``timm``, ``paddleclas`` or ``tf``.
    """
    if not network:
        rows = json.loads(Path(__file__).with_name("names.json").read_text())
        return {row["layer"]: row[zoo] for row in rows}
    columns, *table = json.loads(Path(__file__).with_name("names_deep.json").read_text())[NETWORKS[network]]
    return {row[0]: row[columns.index(zoo)] for row in table}


def parts(weights: Mapping[str, Array]) -> dict[str, dict[str, Array]]:
    """Layer → parameter → array, in the order of the file."""
    found: dict[str, dict[str, Array]] = {}
    for name, array in weights.items():
        layer, _, parameter = name.rpartition(".")
        found.setdefault(layer, {})[parameter] = array
    return found


def main() -> None:
    """Make the file, then the answers: a second model in a process gets other names in Keras."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--network", choices=NETWORKS, default="", help="one of the deeper Xceptions, not the first")
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--divide", type=int, default=1, help="by what the widths in the weights are narrower than published")
    parser.add_argument("--answers", type=Path)
    parser.add_argument("--sizes", type=int, nargs="*", default=[75, 96])
    parser.add_argument("--batch", type=int, default=2)
    asked = parser.parse_args()
    with np.load(asked.weights) as stored:
        weights = dict(stored)
    make = import_module(f"tests.frameworks.make_{KINDS[asked.kind]}").make
    options = {"network": asked.network} if asked.network else {}
    answer: Answer = make(asked.kind, asked.out, weights, asked.divide, **options)
    if asked.answers:
        channels = next(iter(weights.values())).shape[2]
        probes = {size: images(size, asked.batch, channels) for size in asked.sizes}
        dtypes = (
            ("float32",) if KINDS[asked.kind] == "mindspore" else ("float32", "float64")
        )  # its CPU convolves in float32 alone
        np.savez(asked.answers, **{f"{t}_{size}": answer(x, t) for size, x in probes.items() for t in dtypes})


if __name__ == "__main__":
    main()
