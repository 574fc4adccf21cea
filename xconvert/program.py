"""The program ``xconvert``: the command line in a process of its own, which is started before anything large is imported."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys

from xconvert import TYPE_CHECKING, supervision

if TYPE_CHECKING:
    from typing import NoReturn


def main() -> NoReturn:
    """Run the command that the program was called with, and exit."""
    gc.set_threshold(100_000)  # it runs for seconds: looking for cycles among what is imported takes a tenth of its time
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # else NumPy's BLAS starts threads when it is imported; we have our own
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as `head` that has seen enough ends us quietly
    arguments = sys.argv[1:]
    problem = supervision.supervised(arguments)
    from xconvert import cli

    try:
        if problem:
            cli.fail(problem, arguments)
        cli.main(arguments)
    except SystemExit as done:
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError):  # a full disk: whoever printed was told, and what could not be printed stays there
                stream.flush()
        # To take apart all that was imported takes the interpreter 30 ms, and it would try to print what is left once more.
        os._exit(done.code if isinstance(done.code, int) else 0)
