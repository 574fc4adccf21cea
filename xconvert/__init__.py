"""Convert Xception checkpoints between frameworks, and prove that the converted network gives the same answer."""

from __future__ import annotations

TYPE_CHECKING = False  # as in ``typing``, which the process that forks does without: see ``supervision``

__version__ = "0.1.0"

# The public names and where they live; they are imported when first used, so that `xconvert --help` is quick.
_PUBLIC = {
    "build": "xconvert.building",
    "convert": "xconvert.conversion",
    "evaluate": "xconvert.evaluation",
    "forward": "xconvert.backends",
    "load": "xconvert.loading",
    "predict": "xconvert.prediction",
    "verify": "xconvert.verification",
    "Model": "xconvert.model",
    "Report": "xconvert.report",
    "XconvertError": "xconvert.errors",
}
__all__ = ["Model", "Report", "XconvertError", "build", "convert", "evaluate", "forward", "load", "predict", "verify"]

if TYPE_CHECKING:
    from typing import Any

    from xconvert.backends import forward
    from xconvert.building import build
    from xconvert.conversion import convert
    from xconvert.errors import XconvertError
    from xconvert.evaluation import evaluate
    from xconvert.loading import load
    from xconvert.model import Model
    from xconvert.prediction import predict
    from xconvert.report import Report
    from xconvert.verification import verify


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'xconvert' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_PUBLIC[name]), name)
