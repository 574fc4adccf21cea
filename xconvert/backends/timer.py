"""A network that stays ready, and says how long an answer takes: ``python -m xconvert.backends.timer FOLDER THREADS``.

Of the cores that it may use it takes ``THREADS``, whatever a framework thinks of environment variables.

It prints a line when the network is loaded and has answered every array of images twice, which compiles and fills what is
compiled and filled once. Then it answers a line of stdin, the number of an array, with the seconds of one run; so whoever asks
several such processes in turn measures them in the same minute. The first answer is left in ``out_0.npz``.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from xconvert.backends import backends, savez
from xconvert.backends.worker import described, given, guarded

WARM = 2  # runs before the first that counts


def main(folder: Path) -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # frameworks print to stdout what they like
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(sys.argv[2])])
    told, job = described(folder)
    jobs = list(given(folder, job))
    backend = backends()[told["backend"]]
    if backend.serve is None:
        raise ValueError("it serves nothing")
    answer = backend.serve(jobs[0])
    for i, job in enumerate(jobs):
        for _ in range(WARM):
            output = answer(job.images)
        savez(folder / f"out_{i}.npz", output=output)
    print("ready", file=answers)
    for line in sys.stdin:
        images = jobs[int(line)].images
        start = time.perf_counter()
        answer(images)
        print(time.perf_counter() - start, file=answers)
    answers.flush()
    os._exit(0)  # what frameworks do at the end of a process is nobody's concern, and takes seconds


if __name__ == "__main__":
    guarded(main)
