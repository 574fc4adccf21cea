"""One backend's process, kept for many batches: started once, given batches as they come, ended with its user."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from xconvert import supervision
from xconvert.backends import Backend, Job, command_of, describe_job, environment, failed, loadz, savez
from xconvert.model import Array, Model

_POLL = 0.002  # seconds between looks for an answer


@contextmanager
def streaming(backend: Backend, model: Model, job: Job) -> Iterator[Callable[[Array], dict[str, Array]]]:
    """A function from images (N, H, W, C) to what ``backend`` answers, as ``Backend.run`` says; ``job`` says all but the images.

    Batches travel through a temporary folder. Raises ``UsageError`` when the framework fails.
    """
    with supervision.temporary() as folder:
        describe_job(folder, backend, model, job)
        command = command_of("worker", backend.name, str(folder), "stream")
        errors = folder / "errors"
        with errors.open("wb") as log:
            options: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": log, "stderr": log, "env": environment(False)}
            process: Any = subprocess.Popen(command, **options)  # noqa: S603
        pipe, count = process.stdin, 0

        def run(images: Array) -> dict[str, Array]:
            nonlocal count
            given, answer, count = folder / f"images_{count}.npz", folder / f"out_{count}.npz", count + 1
            savez(given, images)
            with contextlib.suppress(BrokenPipeError):  # it has ended: below says why
                pipe.write(f"{count - 1}\n".encode())
                pipe.flush()
            while not answer.exists():
                if (code := process.poll()) is not None and not answer.exists():
                    raise failed(backend.name, code, errors.read_text("utf-8", "replace").strip().splitlines())
                time.sleep(_POLL)
            with loadz(answer) as out:
                found = dict(out)
            given.unlink()
            answer.unlink()
            return found

        try:
            yield run
        finally:
            process.kill()
            process.wait()
            pipe.close()
