"""One conversion, or one shard of an evaluation, in a process of its own: ``python -m xconvert.batch.worker`` is the process,
``perform`` starts it.

What ends the process, be it a crash in a library of C or a kernel without memory, is one entry that failed. The process ends with
the one that started it: its standard input is a pipe to that, on which it gets one line, what to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from xconvert import __version__, supervision
from xconvert.errors import UnreadableError, XconvertError
from xconvert.progress import heard

_running: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()


def perform(asked: str) -> str:
    """Do what ``asked``, the JSON of a task, says, and return the JSON of the answer: see ``answer``."""
    task = json.loads(asked)
    environment = {**os.environ, **task.get("environment", {})}
    command = [sys.executable, "-P", "-m", "xconvert.batch.worker"]
    with tempfile.TemporaryFile() as told, tempfile.TemporaryFile() as errors:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": told, "stderr": errors}
        # a session of its own: Ctrl-C on a terminal is for the process that counts what is done
        process = subprocess.Popen(command, bufsize=0, env=environment, start_new_session=True, **pipes)  # noqa: S603
        assert process.stdin  # noqa: S101  (it is a pipe)
        with process, _counted(process):
            with contextlib.suppress(BrokenPipeError):  # it is dead already, and how it ended tells why
                process.stdin.write(asked.encode() + b"\n")
            code = process.wait()
        told.seek(0)
        errors.seek(0)
        text = told.read().decode()
        return text if code == 0 and text else json.dumps(failure(_ended(code, errors.read(), task["source"])))


@contextlib.contextmanager
def _counted(process: subprocess.Popen[bytes]) -> Iterator[None]:
    with _lock:
        _running.add(process)
    try:
        yield
    finally:
        with _lock:
            _running.discard(process)


def interrupt() -> None:
    """End every process that ``perform`` has started in this one."""
    with _lock:
        for process in _running:
            process.terminate()


def _ended(code: int, errors: bytes, source: str) -> XconvertError:
    if code < 0:
        error = supervision.told_of(-code, [source])
        if -code == 9:
            error.hints = ("fewer at a time: `--workers 1`", *error.hints)
        return error
    lines = errors.decode(errors="replace").strip().splitlines()
    return XconvertError("the process that did the work failed, which is a fault of xconvert", facts=lines[-3:])


def failure(error: XconvertError) -> dict[str, Any]:
    """The answer that says why there is no other."""
    status = "refused" if error.exit_code == 1 else "failed"
    told = {"message": error.message, "facts": list(error.facts), "hints": list(error.hints), "exit_code": error.exit_code}
    return {"version": __version__, "status": status, "error": told}


def answer(task: Mapping[str, Any]) -> dict[str, Any]:
    """Do what ``task`` says, a conversion or, where it has ``samples``, a shard of an evaluation, or tell why that cannot be: see
    ``failure``.
    """
    from xconvert import evaluation

    try:
        return evaluation.shard(task) if "samples" in task else _converted(task)
    except XconvertError as error:
        return failure(error)
    except OSError as error:
        told = f"`{error.filename}` cannot be used: {error.strerror}" if error.filename else str(error)
        return failure(UnreadableError(told))
    except MemoryError:
        return failure(XconvertError("there is not enough memory", hints=["fewer at a time: `--workers 1`"]))


def _converted(task: Mapping[str, Any]) -> dict[str, Any]:
    """Convert ``source`` for ``to`` into ``output``, with ``options``, after checking that it has the ``sha256`` that it should.

    ``status`` is ``verified``; also ``report``, the ``page`` of it in HTML, what source and output are, and the size of the
    network. An output that is there is replaced: whoever asks has looked.
    """
    from xconvert.conversion import convert
    from xconvert.loading import load
    from xconvert.remote import fetched

    options = dict(task["options"])
    reading = {
        name: options[name] for name in ("implementation", "key", "ema", "settings", "ignore", "max_memory") if name in options
    }
    reading["mappings"] = options.get("mappings", ())
    with fetched(_with_checksum(task["source"], task["sha256"])) as place:
        _check(place, task)
        model = load(place, **reading)
        options["accept"] = [name for name in options.get("accept", ()) if name in model.values]  # those of other networks
        if "://" not in task["output"]:
            Path(task["output"]).parent.mkdir(parents=True, exist_ok=True)
        report = convert(place, task["output"], to=task["to"], force=True, **options)
        return _success(task, report, model)


def _with_checksum(source: str, sha256: str) -> str:
    return f"{source}#sha256={sha256}" if sha256 and "://" in source and "#" not in source else source


def _check(place: Path, task: Mapping[str, Any]) -> None:
    from xconvert.provenance import fingerprint

    if task["sha256"] and (found := fingerprint(place)) != task["sha256"]:
        facts = [f"expected {task['sha256']}", f"found    {found}"]
        raise UnreadableError(f"`{task['source']}` has another sha256 than the manifest says", facts=facts)


def _success(task: Mapping[str, Any], report: Any, model: Any) -> dict[str, Any]:
    from xconvert.counting import count
    from xconvert.reconcile import classes
    from xconvert.reports.html import document

    shown = task.get("shown", task["source"])
    provenance = dict(report.provenance)
    origin = {**provenance["source"], "file": shown}
    report = report._replace(provenance={**provenance, "source": origin})
    wide = [_wide(layer, model.weights) for layer in model.layers]
    channels = model.weights[f"{model.layers[0].name}.weight"].shape[2]
    names = (shown, report.output)
    return {
        "version": __version__,
        "status": "verified",
        "source": {name: origin[name] for name in ("sha256", "bytes")},
        "output": {name: report.provenance["target"][name] for name in ("sha256", "bytes")},
        "multiply_adds": count(wide, classes(model), channels=channels).multiply_adds,
        "report": {**report.to_dict(), "names": list(names)},
        "page": document(report, names),
    }


def _wide(layer: Any, weights: Mapping[str, Any]) -> Any:
    """``layer`` as wide as it is here, rather than as published."""
    return layer._replace(width=weights[f"{layer.name}.weight"].shape[-1]) if layer.width else layer


def _write(file: Path, what: str, share: float) -> None:
    with contextlib.suppress(OSError):  # on another machine there may be no such folder
        file.write_text(f"{share:.3f} {what}", "utf-8")


def main() -> None:
    """Read one line, do what it says, and print the answer."""
    task = json.loads(sys.stdin.readline())
    if os.name == "posix":
        supervision.attended(sys.stdin.fileno())
    with heard(partial(_write, Path(task["progress"]))) if "progress" in task else contextlib.nullcontext():
        told = answer(task)
    text = json.dumps(told, ensure_ascii=False, allow_nan=False, default=str)
    sys.stdout.write(text)
    sys.stdout.flush()


if __name__ == "__main__":
    main()
