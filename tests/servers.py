"""Real servers for tests of remote files, each a process of its own: HTTP of Python's library, and an object store."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def process(*command: object, port: int, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that listens on ``port``, until the end."""
    log = (folder / f"server-{port}.log").open("wb")
    started = subprocess.Popen([sys.executable, *map(str, command)], stdout=log, stderr=log)
    try:
        end = time.monotonic() + 60
        while True:
            with socket.socket() as caller:
                if caller.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert started.poll() is None and time.monotonic() < end, Path(log.name).read_text()[-2000:]
            time.sleep(0.1)
        yield started
    finally:
        started.kill()
        started.wait()
        log.close()


@contextmanager
def http(folder: Path, logs: Path) -> Iterator[str]:
    """The address under which ``folder`` is served."""
    port = free_port()
    with process("-m", "http.server", port, "--bind", "127.0.0.1", "--directory", folder, port=port, folder=logs):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def s3(logs: Path) -> Iterator[str]:
    """The address of an empty object store that speaks S3."""
    port = free_port()
    assert shutil.which("moto_server") or (Path(sys.executable).parent / "moto_server").exists()
    with process(Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1", "-p", port, port=port, folder=logs):
        yield f"http://127.0.0.1:{port}"
