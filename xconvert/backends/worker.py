"""The other end of ``run_apart``: ``python -m xconvert.backends.worker FOLDER`` runs the job described there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from xconvert.architectures import families
from xconvert.backends import Job, backends


def main(folder: Path) -> None:
    """Read ``job.json``, ``weights.npz`` and ``images.npz``; write ``out.npz``."""
    told = json.loads((folder / "job.json").read_text())
    layers = families()[told["family"]].build(told["depth"], told["head"], told["attributes"])
    weights = dict(np.load(folder / "weights.npz"))
    images = np.load(folder / "images.npz")["images"]
    path = Path(told["path"]) if told["path"] else None
    job = Job(layers, weights, images, told["dtype"], tuple(told["taps"]), told["names"], path)
    np.savez(folder / "out.npz", allow_pickle=False, **backends()[told["backend"]].run(job))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
