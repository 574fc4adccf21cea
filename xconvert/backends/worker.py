"""The other end of ``run_apart``: ``python -m xconvert.backends.worker FOLDER`` runs the jobs described there; and of
``streaming``: with ``stream`` behind it, one for each number that comes on stdin.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from xconvert.architectures import families
from xconvert.backends import CANNOT, Job, backends, loadz, savez
from xconvert.model import Array, Depth


def main(folder: Path, stream: bool = False) -> None:
    """Read ``job.json``, ``weights.npz``, ``images.npz`` and ``labels.npz``; write ``out_<i>.npz`` for each array of images.

    ``stream``: instead of these images those in ``images_<i>.npz`` for each i on stdin.
    """
    told = json.loads((folder / "job.json").read_text())
    layers = families()[told["family"]].build(Depth(*told["depth"]), told["head"], told["attributes"])
    weights = dict(loadz(folder / "weights.npz"))
    backend = backends()[told["backend"]]
    act = backend.train if told["train"] else backend.run
    if act is None:
        raise ValueError(backend.untrained)
    path = Path(told["path"]) if told["path"] else None
    for i, images, labels in _asked(folder) if stream else _given(folder):
        options = (told["dtype"], tuple(told["taps"]), told["names"], told["published"], path, labels)
        made = folder / f"made_{i}.npz"
        savez(made, **act(Job(layers, weights, images, *options)))
        made.rename(folder / f"out_{i}.npz")  # whoever waits for it finds it whole


def _given(folder: Path) -> Iterator[tuple[int, Array, Array | None]]:
    labels = list(loadz(folder / "labels.npz").values())
    for i, images in enumerate(loadz(folder / "images.npz").values()):
        yield i, images, labels[i] if labels else None


def _asked(folder: Path) -> Iterator[tuple[int, Array, None]]:
    for line in sys.stdin:
        with loadz(folder / f"images_{int(line)}.npz") as images:
            yield int(line), images["arr_0"], None


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2:] == ["stream"])
    except ValueError as error:  # what a backend raises for a network that it cannot run; anything else is a fault of ours
        print(error, file=sys.stderr)
        sys.exit(CANNOT)
