"""The PyTorch kinds of ``make.py``: timm's and Cadene's Xceptions, saved the ways people save them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.frameworks.make import Answer, Array, names, parts
from xconvert.backends.cadene import import_xception
from xconvert.backends.timm import import_timm

ATTRIBUTES = {"gamma": "weight", "beta": "bias", "mean": "running_mean", "variance": "running_var"}


def make(kind: str, out: Path, weights: Mapping[str, Array], divide: int, network: str = "") -> Answer:
    """Write ``out``; returns what gives the real class' answers."""
    if kind == "timm-float16":
        weights = {name: array.astype(np.float16).astype(np.float32) for name, array in weights.items()}
    head = weights.get("predictions.weight")
    classes, channels = (0 if head is None else head.shape[1]), next(iter(weights.values())).shape[2]
    zoo = kind.partition("-")[0]
    if network:
        module = _narrow_aligned(network, classes, channels, divide)
    else:
        module = _cadene(classes, divide) if zoo == "cadene" else _narrow_timm(classes, channels, divide)
    _fill(module, weights, names("timm", network) | ({"predictions": "last_linear"} if zoo == "cadene" else {}))
    module.eval()
    _save(kind, module, out)
    features = module.forward_features if zoo == "timm" else lambda image: module.relu(module.features(image))

    def answer(x: Array, dtype: str) -> Array:
        module.to(getattr(torch, dtype))
        with torch.inference_mode():
            image = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2), dtype))
            y = module(image) if classes else features(image).permute(0, 2, 3, 1)
        return np.ascontiguousarray(y.numpy())

    return answer


def _save(kind: str, module: Any, out: Path) -> None:
    state = module.state_dict()
    if kind.endswith("-safetensors"):
        from safetensors.torch import save_file

        save_file(state, str(out), {"format": "pt"})
    elif kind == "timm-parallel":
        torch.save(nn.DataParallel(module).state_dict(), out)
    elif kind == "timm-float16":
        torch.save({k: v.half() if v.is_floating_point() else v for k, v in state.items()}, out)
    elif kind == "timm-wrapped":
        torch.save({"epoch": 7, "arch": "legacy_xception", "state_dict": state, "optimizer": _optimizer_state(module)}, out)
    elif kind == "timm-legacy":
        torch.save(state, out, _use_new_zipfile_serialization=False)
    else:
        torch.save(state, out)


def _optimizer_state(module: Any) -> Any:
    """Momentum buffers of a real step; in evaluation mode and with rate 0, so nothing in ``module`` changes."""
    channels = next(module.parameters()).shape[1]
    optimizer = torch.optim.SGD(module.parameters(), lr=0.0, momentum=0.9)
    module(torch.zeros(1, channels, 75, 75)).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


def _fill(module: Any, weights: Mapping[str, Array], theirs: Mapping[str, str]) -> None:
    """Set every tensor of ``module`` but the counters from canonical axes."""
    state = {}
    for layer, arrays in parts(weights).items():
        for parameter, array in arrays.items():
            if parameter == "weight":
                if layer.endswith(".depthwise"):
                    array = array.transpose(2, 0, 1)[:, None]  # H W C → C 1 H W
                elif array.ndim == 4:
                    array = array.transpose(3, 2, 0, 1)  # H W I O → O I H W
                else:
                    array = array.T if layer == "predictions" else array.T[:, :, None, None]
            state[f"{theirs[layer]}.{ATTRIBUTES.get(parameter, parameter)}"] = torch.from_numpy(np.array(array))
    counters = {name: tensor for name, tensor in module.state_dict().items() if name.endswith("num_batches_tracked")}
    module.load_state_dict({**state, **counters}, strict=True)


def _cadene(classes: int, divide: int) -> Any:
    source = import_xception()
    source.nn = _narrow(divide)
    module = source.xception(num_classes=max(classes, 1), pretrained=None)
    if not classes:
        del module.last_linear
    return module


def _narrow_timm(classes: int, channels: int, divide: int) -> Any:
    """timm's class, its layers made ``divide`` times narrower by what it takes for ``torch.nn``."""
    import_timm()
    xception: Any = import_module("timm.models.xception")  # `timm.models` has a function of that name
    make_head = xception.create_classifier
    xception.nn = _narrow(divide)
    xception.create_classifier = lambda features, *rest, **how: make_head(features // divide, *rest, **how)
    return xception.legacy_xception(num_classes=classes, in_chans=channels)


def _narrow_aligned(network: str, classes: int, channels: int, divide: int) -> Any:
    """timm's class, told that its blocks are ``divide`` times narrower; its stem keeps the widths published."""
    import_timm()
    aligned: Any = import_module("timm.models.xception_aligned")
    build = aligned.build_model_with_cfg

    def narrower(*rest: Any, block_cfg: Any, **how: Any) -> Any:
        blocks = [{**block, "in_chs": _divided(block["in_chs"], divide)} for block in block_cfg]
        blocks = [{**block, "out_chs": _divided(block["out_chs"], divide)} for block in blocks]
        return build(*rest, block_cfg=[blocks[0] | {"in_chs": 64}, *blocks[1:]], **how)

    aligned.build_model_with_cfg = narrower
    return getattr(aligned, network)(num_classes=classes, in_chans=channels)


def _divided(widths: Any, divide: int) -> Any:
    return widths // divide if isinstance(widths, int) else tuple(width // divide for width in widths)


def _narrow(divide: int) -> SimpleNamespace:
    """``torch.nn`` whose convolutions, normalisations and inputs of linear layers are narrower from 32 channels
    on."""

    def width(n: int) -> int:
        return n // divide if n >= 32 else n

    class Conv2d(nn.Conv2d):
        def __init__(self, inputs: int, outputs: int, *rest: Any, groups: int = 1, **how: Any) -> None:
            # positional after the widths: kernel, stride, padding, dilation, groups
            groups = rest[4] if len(rest) > 4 else groups
            super().__init__(width(inputs), width(outputs), *rest[:4], groups=width(groups), **how)

    class BatchNorm2d(nn.BatchNorm2d):
        def __init__(self, channels: int, **how: Any) -> None:
            super().__init__(width(channels), **how)

    class Linear(nn.Linear):
        def __init__(self, inputs: int, outputs: int, **how: Any) -> None:
            super().__init__(width(inputs), outputs, **how)

    return SimpleNamespace(**{**vars(nn), "Conv2d": Conv2d, "BatchNorm2d": BatchNorm2d, "Linear": Linear})
