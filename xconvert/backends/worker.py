"""The other end of ``run_apart``: ``python -m xconvert.backends.worker FOLDER`` runs the jobs described there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from xconvert.architectures import families
from xconvert.backends import CANNOT, Job, backends, loadz, savez
from xconvert.model import Depth


def main(folder: Path) -> None:
    """Read ``job.json``, ``weights.npz``, ``images.npz`` and ``labels.npz``; write ``out_<i>.npz`` for each array of images."""
    told = json.loads((folder / "job.json").read_text())
    layers = families()[told["family"]].build(Depth(*told["depth"]), told["head"], told["attributes"])
    weights = dict(loadz(folder / "weights.npz"))
    backend = backends()[told["backend"]]
    act = backend.train if told["train"] else backend.run
    if act is None:
        raise ValueError(backend.untrained)
    path = Path(told["path"]) if told["path"] else None
    labels = list(loadz(folder / "labels.npz").values())
    for i, images in enumerate(loadz(folder / "images.npz").values()):
        options = (told["dtype"], tuple(told["taps"]), told["names"], told["published"], path, labels[i] if labels else None)
        savez(folder / f"out_{i}.npz", **act(Job(layers, weights, images, *options)))


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except ValueError as error:  # what a backend raises for a network that it cannot run; anything else is a fault of ours
        print(error, file=sys.stderr)
        sys.exit(CANNOT)
