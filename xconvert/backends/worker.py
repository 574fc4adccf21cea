"""The other end of ``run_apart``: ``python -m xconvert.backends.worker FOLDER`` runs the jobs described there; and of
``streaming``: with ``stream`` behind it, one for each number that comes on stdin.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from xconvert.architectures import families
from xconvert.backends import CANNOT, Job, Serve, backends, loadz, savez
from xconvert.model import Array, Depth

_NONE = np.empty((0, 0, 0, 0))


def described(folder: Path) -> tuple[dict[str, Any], Job]:
    """What ``describe_job`` wrote: ``job.json`` as it is, and its job, with the weights beside it and no images yet."""
    told: dict[str, Any] = json.loads((folder / "job.json").read_text())
    layers = families()[told["family"]].build(Depth(*told["depth"]), told["head"], told["attributes"])
    weights = dict(loadz(folder / "weights.npz"))
    path = Path(told["path"]) if told["path"] else None
    return told, Job(layers, weights, _NONE, told["dtype"], tuple(told["taps"]), told["names"], told["published"], path)


def given(folder: Path, job: Job) -> Iterator[Job]:
    """``job`` with each array of images, and its labels, that ``save_images`` wrote."""
    labels = list(loadz(folder / "labels.npz").values())
    for i, images in enumerate(loadz(folder / "images.npz").values()):
        yield job._replace(images=images, labels=labels[i] if labels else None)


def _asked(folder: Path) -> Iterator[tuple[int, Array]]:
    for line in sys.stdin:
        with loadz(folder / f"images_{int(line)}.npz") as images:
            yield int(line), images["arr_0"]


def _served(answer: Serve, last: str) -> Callable[[Job], dict[str, Array]]:
    """A network that is built once, and not for every batch anew, in the place of ``Backend.run``."""
    return lambda job: {last: answer(job.images)}


def main(folder: Path) -> None:
    """Write ``out_<i>.npz`` for each array of images: those in ``images.npz``, or, to be streamed, those in ``images_<i>.npz``
    for each i on stdin.
    """
    told, job = described(folder)
    backend = backends()[told["backend"]]
    act = backend.train if told["train"] else backend.run
    if act is None:
        raise ValueError(backend.untrained)
    if sys.argv[2:] == ["stream"]:
        act = _served(backend.serve(job), job.layers[-1].name) if backend.serve and not job.taps else act
        jobs: Iterator[tuple[int, Job]] = ((i, job._replace(images=images)) for i, images in _asked(folder))
    else:
        jobs = enumerate(given(folder, job))
    for i, each in jobs:
        made = folder / f"made_{i}.npz"
        savez(made, **act(each))
        made.rename(folder / f"out_{i}.npz")  # whoever waits for it finds it whole


def guarded(act: Callable[[Path], None]) -> None:
    """``act`` on the folder that the command line names, with the exit code that tells a refusal from a fault of ours."""
    try:
        act(Path(sys.argv[1]))
    except ValueError as error:  # what a backend raises for a network that it cannot run
        print(error, file=sys.stderr)
        sys.exit(CANNOT)


if __name__ == "__main__":
    guarded(main)
