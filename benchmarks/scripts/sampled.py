"""The program ``xconvert``, and what its main thread does, by the clock: ``sampled.py FOLDER ARGUMENTS…``.

Each of its two processes writes ``FOLDER/<number>.json``: step → seconds. A timer asks every half millisecond; as Python hears of
it between two calls of C, the time since it last did is counted to the step that is under way.
"""

import json
import os
import signal
import sys
import time
from types import FrameType

EVERY = 0.0005  # seconds
REST = "everything else"
IMPORTS = "import xconvert, and what of Python it needs"
LIBRARIES = {"/site-packages/numpy/": "import NumPy", "/site-packages/click/": "import click"}
STEPS = {  # (end of the file's name, function): the innermost that is on the stack decides
    ("xconvert/supervision.py", "supervised"): "start a process of its own",
    ("xconvert/plugins.py", "discover"): "load the formats, look for plugins",
    ("formats/__init__.py", "read"): "recognise the format, read the header",
    ("xconvert/mappings.py", "library"): "read the mapping files",
    ("xconvert/matching.py", "identify"): "recognise the network",
    ("xconvert/loading.py", "load"): "check names, shapes and statistics",
    ("xconvert/conversion.py", "_planned"): "reconcile attributes, fold",
    ("xconvert/conversion.py", "_report"): "reconcile attributes, fold",
    ("xconvert/conversion.py", "_write"): "move the tensors, write record and container",
    ("xconvert/sealing.py", "wait"): "wait for the sha256",
    ("xconvert/outputs.py", "_beside"): "make and publish the file",
    ("xconvert/outputs.py", "_publish"): "make and publish the file",
}
found: dict[str, float] = {}
last = time.perf_counter()


def step(frame: FrameType | None) -> str:
    """What the stack is for."""
    importing = False
    while frame:
        name, function = frame.f_code.co_filename, frame.f_code.co_name
        if function == "<module>" and (library := next((told for place, told in LIBRARIES.items() if place in name), "")):
            return library
        importing = importing or "importlib" in name
        for (file, called), told in STEPS.items():
            if called == function and name.endswith(file) and (function == "discover" or not importing):
                return told
        frame = frame.f_back
    return IMPORTS if importing else REST


def note(_number: int, frame: FrameType | None) -> None:
    """Count the time since the last note."""
    global last
    now, told = time.perf_counter(), step(frame)
    found[told], last = found.get(told, 0.0) + now - last, now


def begin() -> None:
    """In the process that does the work."""
    global last
    found.clear()
    last = time.perf_counter()
    signal.setitimer(signal.ITIMER_REAL, EVERY, EVERY)


def end() -> None:
    """In the one that waits for it."""
    signal.setitimer(signal.ITIMER_REAL, 0)


def leave(code: int) -> None:
    """Tell, and exit."""
    end()
    with open(os.path.join(folder, f"{os.getpid()}.json"), "w") as file:  # noqa: PTH118, PTH123  (nothing more is imported)
        json.dump(found, file)
    exit_at_once(code)


folder, exit_at_once = sys.argv.pop(1), os._exit
os._exit = leave  # type: ignore[assignment]
signal.signal(signal.SIGALRM, note)
os.register_at_fork(after_in_parent=end, after_in_child=begin)
begin()
from xconvert.program import main  # noqa: E402  (this is measured)

main()
