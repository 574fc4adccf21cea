"""Python with a framework that is imported already: half of the suite's time was hundreds of processes importing TensorFlow and
timm. Each run still has a process of its own: a fork of one that has imported the framework and done nothing else.

``python(framework)`` stands in the place of ``[sys.executable]``. What it names is this file as a program: it hands its
arguments, environment, folder and files to the server, which it starts where there is none, and ends as the fork ends. For
options of Python other than ``-P`` it is the real Python, and so it is where ``WARM`` is not set (``conftest.py`` does).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import zlib
from pathlib import Path

IMPORTS = {
    "torch": "import torch, xconvert.backends.worker, xconvert.backends.timm as t; t.import_timm()",
    "keras": "import tensorflow, keras, keras_hub, xconvert.backends.worker",
    "paddle": "import paddle, xconvert.backends.worker",
}
KIND = {
    **dict.fromkeys(("torch", "timm", "cadene"), "torch"),
    **dict.fromkeys(("keras", "keras.applications", "keras-hub", "tensorflow"), "keras"),
    **dict.fromkeys(("paddle", "paddleclas"), "paddle"),
}
LOOKED_AT = ("OMP_", "OPENBLAS_", "MKL_", "TF_", "KERAS", "FLAGS_", "PYTHON", "ONEDNN_")  # variables that count at import
PATIENCE = 120.0  # seconds for a framework to be imported
WARM, OWNER = "XCONVERT_WARM", "XCONVERT_WARM_OWNER"  # the folder of the servers' sockets; the process with which they end


def python(framework: str) -> list[str]:
    """What runs Python where ``framework``, or a zoo's package, is imported; the Python that a setting names is not forked."""
    from xconvert.backends import python_of

    chosen = python_of(framework)
    if chosen != sys.executable or framework not in KIND or WARM not in os.environ:
        return [chosen]
    return [sys.executable, "-I", "-S", __file__, "ask", KIND[framework]]


def looked_at(environment: dict[str, str]) -> dict[str, str]:
    """What of the environment an import depends on."""
    return {name: value for name, value in environment.items() if name.startswith(LOOKED_AT)}


def ask(kind: str, arguments: list[str]) -> None:
    """Have ``arguments`` run by a fork of the server, and end as it ends."""
    if arguments[0].startswith("-") and arguments[0] not in ("-P", "-m", "-c"):
        os.execv(sys.executable, [sys.executable, *arguments])
    environment = json.dumps(sorted(looked_at(dict(os.environ)).items()))
    place = Path(os.environ[WARM], f"{kind}-{zlib.crc32(environment.encode()):08x}")
    with socket.socket(socket.AF_UNIX) as connection:
        connected(connection, place, kind)
        told = json.dumps({"arguments": arguments, "environment": dict(os.environ), "folder": str(Path.cwd())}).encode()
        socket.send_fds(connection, [len(told).to_bytes(8, "little")], [0, 1, 2])
        connection.sendall(told)
        answer = connection.recv(8)
    if len(answer) < 8:
        sys.exit("the process that has imported the framework is gone")
    code = os.waitstatus_to_exitcode(int.from_bytes(answer, "little"))
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def connected(connection: socket.socket, place: Path, kind: str) -> None:
    """Connect to the server at ``place``, which the first who finds none starts."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return connection.connect(str(place))
        except (FileNotFoundError, ConnectionRefusedError):
            start(place, kind)
        if time.monotonic() > end:
            sys.exit(f"the process that imports {kind} does not answer")
        time.sleep(0.02)


def start(place: Path, kind: str) -> None:
    """Start the server, unless somebody does already."""
    try:
        os.close(os.open(f"{place}.started", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    with place.with_suffix(".log").open("wb") as log:
        python = [sys.executable, "-P", __file__, "serve", str(place), kind, os.environ[OWNER]]
        root = str(Path(__file__).resolve().parents[2])
        environment = {**os.environ, "PYTHONPATH": root}
        subprocess.Popen(python, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True)


def serve(place: str, kind: str, owner: int) -> None:
    """Import the framework, then fork for everyone who connects, until the process ``owner`` is gone."""
    exec(IMPORTS[kind], {})
    threads = len([*Path("/proc/self/task").glob("*")])
    assert threads < 2, f"{threads} threads: what they hold would be held for ever in a fork"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the forks are waited for by nobody
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen(16)
        server.settimeout(1)
        while there(owner):
            try:
                connection, _ = server.accept()
            except TimeoutError:
                continue
            if not os.fork():
                server.close()
                watched(connection)
            connection.close()


def there(process: int) -> bool:
    """Whether it still runs."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def watched(connection: socket.socket) -> None:
    """Run what is asked in a fork, and tell how it ended; end it with whoever asked."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    size, told = int.from_bytes(head, "little"), b""
    while len(told) < size:
        told += connection.recv(size - len(told))
    child = os.fork()
    if not child:
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        as_told(json.loads(told))
    for file in files:
        os.close(file)
    connection.settimeout(0.005)
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            connection.sendall(status.to_bytes(8, "little"))
            os._exit(0)
        try:
            if not connection.recv(1):
                os.kill(child, signal.SIGKILL)
                os._exit(0)
        except TimeoutError:
            pass


def as_told(told: dict[str, object]) -> None:
    """Be the Python that was called: ``-P -m module``, ``-m module``, ``-c code`` or a file, each with arguments."""
    import runpy
    import traceback
    import types

    arguments: list[str] = list(told["arguments"])  # type: ignore[call-overload]
    os.environ.clear()
    os.environ.update(told["environment"])  # type: ignore[call-overload]
    os.chdir(str(told["folder"]))
    sys.stdin, sys.stdout, sys.stderr = (os.fdopen(i, mode) for i, mode in enumerate(("r", "w", "w")))
    code = 1
    try:
        if safe := arguments[0] == "-P":
            arguments = arguments[1:]
        kind, *rest = arguments
        if not safe:
            sys.path.insert(0, str(Path(kind).parent) if kind not in ("-m", "-c") else "")
        if kind == "-m":
            sys.argv = rest
            sys.modules.pop(rest[0], None)  # it is run anew, not as it was imported
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        elif kind == "-c":
            sys.argv = ["-c", *rest[1:]]
            sys.modules["__main__"] = types.ModuleType("__main__")
            exec(rest[0], sys.modules["__main__"].__dict__)
        else:
            sys.argv = arguments
            runpy.run_path(kind, run_name="__main__")
        code = 0
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2], sys.argv[3], int(sys.argv[4]))
    else:
        ask(sys.argv[2], sys.argv[3:])
