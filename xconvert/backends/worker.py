"""The other end of ``run_apart``: ``python -m xconvert.backends.worker FOLDER`` runs the jobs described there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xconvert.architectures import families
from xconvert.backends import CANNOT, Job, backends, loadz, savez
from xconvert.model import Depth


def read(folder: Path) -> tuple[dict[str, Any], list[Job]]:
    """What ``describe_jobs`` wrote: ``job.json`` as it is, and its jobs, with the arrays in the ``.npz`` files beside it."""
    told: dict[str, Any] = json.loads((folder / "job.json").read_text())
    layers = families()[told["family"]].build(Depth(*told["depth"]), told["head"], told["attributes"])
    weights = dict(loadz(folder / "weights.npz"))
    path = Path(told["path"]) if told["path"] else None
    labels = list(loadz(folder / "labels.npz").values())
    options = (told["dtype"], tuple(told["taps"]), told["names"], told["published"], path)
    images = list(loadz(folder / "images.npz").values())
    return told, [Job(layers, weights, x, *options, labels[i] if labels else None) for i, x in enumerate(images)]


def main(folder: Path) -> None:
    """Run the jobs in ``folder``; write ``out_<i>.npz`` for each array of images."""
    told, jobs = read(folder)
    backend = backends()[told["backend"]]
    act = backend.train if told["train"] else backend.run
    if act is None:
        raise ValueError(backend.untrained)
    for i, job in enumerate(jobs):
        savez(folder / f"out_{i}.npz", **act(job))


def guarded(act: Callable[[Path], None]) -> None:
    """``act`` on the folder that the command line names, with the exit code that tells a refusal from a fault of ours."""
    try:
        act(Path(sys.argv[1]))
    except ValueError as error:  # what a backend raises for a network that it cannot run
        print(error, file=sys.stderr)
        sys.exit(CANNOT)


if __name__ == "__main__":
    guarded(main)
