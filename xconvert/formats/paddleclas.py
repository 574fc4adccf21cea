"""The pair in which PaddleClas publishes a network: ``<name>_pretrained.pdparams``, and the ``<name>.yaml`` that uses it.

``load_dygraph_pretrain`` (ppcls/utils/save_load.py) takes the first without its suffix, and ``tools/eval.py`` and
``tools/infer.py`` the second, with ``-o Global.pretrained_model=…`` for another place. The configuration is what
ppcls/configs/ImageNet/Xception/*.yaml have for evaluation and inference, with the checkpoint's own classes and preprocessing.
"""

from __future__ import annotations

import contextlib
import mmap
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from xconvert.formats import Format, paddle
from xconvert.formats._folders import CARD, meant_for, publish
from xconvert.model import Checkpoint, Graph

_END = "_pretrained.pdparams"
_OURS = r"Xception\w*(?:\.yaml|_pretrained\.pdparams)"


def matches(data: mmap.mmap) -> bool:
    """Never: a folder has no bytes, and the file in it is one of Paddle's."""
    return False


def files(path: Path) -> tuple[Path, ...]:
    """The files of the folder ``path``, which holds one network: its card, and the pair that is there, weights last."""
    found: list[str] = []
    with contextlib.suppress(OSError, ValueError):  # no folder, or a name that cannot be
        found = sorted(file.name for file in path.iterdir() if re.fullmatch(_OURS, file.name))
    return path / CARD, *(path / name for name in sorted(found, key=lambda name: name.endswith(_END)))


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create the folder ``path``. Raises ``UsageError`` for names other than those of a network that PaddleClas publishes."""
    graph, record = meant_for("paddleclas", checkpoint, "a folder for PaddleClas holds one of its own networks")
    published = record["published"]
    text = configuration(graph, published, record["preprocessing"])
    path.mkdir(exist_ok=True)
    (path / f"{published}.yaml").write_text(text, encoding="utf-8")
    paddle.write(path / f"{published}{_END}", checkpoint)


def configuration(graph: Graph, published: str, preprocessing: Mapping[str, Any]) -> str:
    """The YAML for PaddleClas' network ``published``, with the classes that the checkpoint has; 1000 where it has no head."""
    last = graph.layers[-1]
    classes = graph.weights[f"{last.name}.weight"].shape[1] if last.op == "linear" else 1000
    size = preprocessing.get("size", 299)
    told = {"published": published, "classes": classes, "size": size, "steps": _steps(preprocessing, size)}
    return _TEMPLATE.format(**{**told, "indented": told["steps"].replace("\n", "\n    ")})


def _steps(preprocessing: Mapping[str, Any], size: int) -> str:
    """The operators that make an image the network's input, as a YAML list for ``Infer.transforms``."""
    lines = ["- DecodeImage: {to_rgb: %s, channel_first: False}" % (preprocessing.get("channels", "RGB") == "RGB")]
    if "resize" in preprocessing:
        lines.append(f"- ResizeImage: {{resize_short: {preprocessing['resize']}}}")
    lines.append(f"- CropImage: {{size: {size}}}")
    if {"mean", "std"} <= preprocessing.keys():
        numbers = f"mean: {preprocessing['mean']}, std: {preprocessing['std']}"
        lines.append(f"- NormalizeImage: {{scale: 1.0/255.0, {numbers}, order: ''}}")
    return "\n    ".join(lines)


_TEMPLATE = """\
Global:
  checkpoints: null
  pretrained_model: ./{published}_pretrained
  output_dir: ./output/
  device: cpu
  eval_mode: classification
  image_shape: [3, {size}, {size}]
  save_inference_dir: ./inference

Arch:
  name: {published}
  class_num: {classes}

Loss:
  Eval:
    - CELoss: {{weight: 1.0}}

DataLoader:
  Eval:
    dataset:
      name: ImageNetDataset
      image_root: ./dataset/ILSVRC2012/
      cls_label_path: ./dataset/ILSVRC2012/val_list.txt
      transform_ops:
        {indented}
    sampler: {{name: DistributedBatchSampler, batch_size: 64, drop_last: False, shuffle: False}}
    loader: {{num_workers: 4, use_shared_memory: True}}

Infer:
  infer_imgs: ./images
  batch_size: 10
  transforms:
    {steps}
    - ToCHWImage:
  PostProcess:
    name: Topk
    topk: 5
    class_id_map_file: ppcls/utils/imagenet1k_label_list.txt

Metric:
  Eval:
    - TopkAcc: {{topk: [1, 5]}}
"""

FORMAT = Format(
    "paddleclas",
    "PaddleClas' pair",
    (),
    matches,
    paddle.read,
    write,
    dialects={"paddle": "paddle"},
    files=files,
    publish=partial(publish, files=files),
    inside=(f"*{_END}",),
    card=CARD,
)
