"""The folder of a model on the Hugging Face Hub as timm opens it: ``config.json``, ``model.safetensors`` and a model card.

Read by what it holds: the weights are a safetensors file like any other, beside which that reader finds the configuration.
"""

from __future__ import annotations

import mmap
from functools import partial
from pathlib import Path

from xconvert.formats import Format, safetensors
from xconvert.formats._folders import CARD, meant_for, publish
from xconvert.formats._timm_config import CONFIG, WEIGHTS, configuration
from xconvert.model import Checkpoint


def matches(data: mmap.mmap) -> bool:
    """Never: a folder has no bytes, and the file in it is a safetensors file."""
    return False


def files(path: Path) -> tuple[Path, ...]:
    """The files of the folder ``path``; others may lie beside them."""
    return path / CONFIG, path / CARD, path / WEIGHTS


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create the folder ``path``, which ``timm.create_model("local-dir:<path>", pretrained=True)`` opens.

    Raises ``UsageError`` for names other than those of a network that timm publishes.
    """
    graph, record = meant_for("timm", checkpoint, "a folder for the Hub holds one of timm's own networks")
    text = configuration(graph, record["published"], record["preprocessing"])
    path.mkdir(exist_ok=True)
    (path / CONFIG).write_text(text, encoding="utf-8")
    safetensors.write(path / WEIGHTS, checkpoint)


FORMAT = Format(
    "hub",
    "folder that timm opens",
    (),
    matches,
    safetensors.read,
    write,
    dialects={"torch": "torch"},
    files=files,
    publish=partial(publish, files=files),
    inside=(WEIGHTS,),
    card=CARD,
)
