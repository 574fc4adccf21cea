"""What such scripts bring along: a table of names, and a line for each kind of axes.

These are what users write instead of calling xconvert, so nothing here uses it; the table is that of the tests.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROWS = json.loads((Path(__file__).parents[2] / "tests" / "frameworks" / "names.json").read_text())


def keras_layers() -> Iterator[tuple[str, list[str]]]:
    """Keras' layers with weights, in its order, and the one or two layers of timm that each of them is."""
    found: dict[str, list[str]] = {}
    for row in ROWS:
        found.setdefault(row["keras"], []).append(row["timm"])
    return iter(found.items())


def torch_state(targets: Sequence[str], arrays: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """The arrays of a Keras layer under timm's names, axes exchanged."""
    if len(arrays) == 4:
        for parameter, array in zip(("weight", "bias", "running_mean", "running_var"), arrays, strict=True):
            yield f"{targets[0]}.{parameter}", array
    elif len(targets) == 2:
        yield f"{targets[0]}.weight", arrays[0].transpose(2, 3, 0, 1)
        yield f"{targets[1]}.weight", arrays[1].transpose(3, 2, 0, 1)
    else:
        yield f"{targets[0]}.weight", arrays[0].T if arrays[0].ndim == 2 else arrays[0].transpose(3, 2, 0, 1)
        if len(arrays) == 2:
            yield f"{targets[0]}.bias", arrays[1]


def keras_weights(targets: Sequence[str], state: Any) -> list[Any]:
    """The other way round: what ``layer.set_weights`` takes."""
    if f"{targets[0]}.running_mean" in state:
        return [state[f"{targets[0]}.{parameter}"] for parameter in ("weight", "bias", "running_mean", "running_var")]
    if len(targets) == 2:
        return [state[f"{targets[0]}.weight"].transpose(2, 3, 0, 1), state[f"{targets[1]}.weight"].transpose(2, 3, 1, 0)]
    kernel = state[f"{targets[0]}.weight"]
    if kernel.ndim == 2:
        return [kernel.T, state[f"{targets[0]}.bias"]]
    return [kernel.transpose(2, 3, 1, 0)]


def save_with_timm(state: Any, out: str) -> None:
    """Load ``state`` into timm's class, which checks it, and save that."""
    import torch

    module = timm().create_model("legacy_xception")
    tensors = {name: torch.from_numpy(array.copy()) for name, array in state.items()}
    missing, unexpected = module.load_state_dict(tensors, strict=False)
    assert not unexpected, unexpected
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    torch.save(module.state_dict(), out)


def timm() -> Any:
    """The package; beside the CPU build of PyTorch, torchvision misses two operators and could not be imported."""
    import torch

    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import timm as package

    return package
