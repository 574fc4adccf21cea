"""Reading a stranger's file in a process of its own: ``python -m xconvert.isolation`` is its other end.

The process has limits on memory, time, and what it may write, and may crash: HDF5's library is C code. It hands the tensors back
as a safetensors file with everything else in the metadata, and that is read as distrustfully as any file.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from xconvert import errors, formats, supervision
from xconvert.errors import UnreadableError, XconvertError
from xconvert.formats import Choice, safetensors
from xconvert.formats._arrays import shown
from xconvert.formats._limits import FREE, Limits, told
from xconvert.formats._maps import mapped
from xconvert.model import Checkpoint, Layer
from xconvert.preprocessing import preprocessing_problems

COMMAND = [sys.executable, "-P", "-m", "xconvert.isolation"]  # -P: not from the current folder
_SECONDS = 30  # of processor time, and one more for each 10 MB
_SLACK = 128 << 20  # bytes of memory that the interpreter and its libraries may still take
_PLAIN = ("metadata", "evidence", "stated", "preprocessing", "averages", "notes", "format")
_ERRORS = {kind.__name__: kind for kind in (UnreadableError, errors.AmbiguousError, errors.UsageError, errors.NetworkError)}


def read_apart(path: Path, choice: Choice) -> Checkpoint:
    """``formats.read`` in a process of its own. Raises what that raises, and ``UnreadableError`` where the process crashes, takes
    too long, or answers what makes no sense.
    """
    size = _size(formats.locate(path))
    allowed = choice.limits.budget(path, size).allowed
    seconds = _SECONDS + size // 10_000_000
    with supervision.temporary() as folder:
        answer, problem = folder / "answer.safetensors", folder / "problem.json"
        asked: dict[str, Any] = {
            "path": str(path),
            "answer": str(answer),
            "problem": str(problem),
            "key": choice.key,
            "ema": choice.ema,
        }
        asked |= {"memory": allowed, "size": size, "checksums": choice.limits.checksums, "seconds": seconds}
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
        # nothing that it prints is read: there would be no end to it
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        try:
            command = [*COMMAND, json.dumps(asked)]
            done = subprocess.run(command, env=environment, timeout=4 * seconds, check=False, **pipes)  # type: ignore[call-overload]  # noqa: S603
        except subprocess.TimeoutExpired:
            raise _stopped(path, f"it took more than {4 * seconds} s") from None
        if done.returncode < 0:
            raise _crashed(path, -done.returncode, seconds)
        return _answer(path, answer, problem, max(allowed, FREE))


def _size(path: Path) -> int:
    """The bytes of ``path`` and of what lies beside it under the same prefix, such as TensorFlow's shards."""
    beside = path.parent.glob(f"{path.stem.replace('[', '[[]').replace('*', '[*]').replace('?', '[?]')}.*")
    with suppress(OSError):
        return sum(file.stat().st_size for file in {path, *beside} if file.is_file())
    return 0


def _crashed(path: Path, number: int, seconds: int) -> UnreadableError:
    name = next((known.name for known in signal.Signals if known == number), f"signal {number}")
    if name in ("SIGXCPU", "SIGKILL"):
        return _stopped(path, f"it took more than {seconds} s of processor time" if name == "SIGXCPU" else "it was killed")
    return _stopped(path, f"it crashed ({name}); HDF5's library is C code, and the file makes no sense to it")


def _stopped(path: Path, why: str) -> UnreadableError:
    return UnreadableError(f"`{path}` could not be read in a process of its own: {why}", hints=["fetch or save it again"])


def _answer(path: Path, answer: Path, problem: Path, memory: int) -> Checkpoint:
    """What the process answered; it may be anybody's."""
    try:
        if answer.is_file():
            return _checkpoint(answer, memory)
        with problem.open("rb") as file:
            said = json.loads(file.read(100_000))
        facts, hints = ([shown(text) for text in said[name][:20]] for name in ("facts", "hints"))
        kind, message = _ERRORS.get(said["kind"], UnreadableError), shown(said["message"], 2000)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _stopped(path, "it gave no answer") from None
    raise kind(message, facts=facts, hints=hints)


def _checkpoint(answer: Path, memory: int) -> Checkpoint:
    """The checkpoint in the file ``answer``; raises the usual exceptions for what is none."""
    try:
        held = safetensors.read(answer, mapped(answer), Choice(limits=Limits(memory=memory)))
    except UnreadableError as error:
        raise ValueError(error.message) from None  # of a file that nobody asked for
    said = json.loads(held.metadata["checkpoint"])
    plain = {name: said[name] for name in _PLAIN}
    plain |= {"evidence": _tuples(plain["evidence"]), "stated": _tuples(plain["stated"])}
    plain["notes"] = tuple(shown(note, 2000) for note in plain["notes"])
    if not _fits(plain):
        raise ValueError("no checkpoint")
    program = tuple(Layer(**{**layer, "inputs": tuple(layer["inputs"])}) for layer in said["program"] or ())
    return Checkpoint(held.tensors, program=program if said["program"] is not None else None, **plain)


def _fits(plain: dict[str, Any]) -> bool:
    """Whether everything is of the kind that readers give it, as far as that does not depend on the file."""

    def all_of(*kinds: type, values: Any) -> bool:
        return all(isinstance(value, kinds) for value in values)

    return (
        all_of(dict, values=(plain["metadata"], plain["evidence"], plain["stated"]))
        and all_of(str, values=plain["metadata"].values())
        and all(isinstance(told, tuple) and len(told) == 2 and isinstance(told[1], str) for told in plain["evidence"].values())
        and all_of(dict, values=plain["stated"].values())
        and all_of(str, values=(options[name] for options in plain["stated"].values() for name in ("class", "name")))
        and all_of(int, values=(options["calls"] for options in plain["stated"].values()))
        and not preprocessing_problems(plain["preprocessing"])
        and isinstance(plain["averages"], bool)
        and plain["format"] in formats.formats()
    )


def _tuples(value: Any) -> Any:
    """``value`` with tuples for the lists that JSON makes of them."""
    if isinstance(value, dict):
        return {name: _tuples(inner) for name, inner in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def main(asked: dict[str, Any]) -> None:
    """Read ``asked["path"]`` under limits and write it to ``asked["answer"]``, or what is wrong to ``asked["problem"]``."""
    import numpy  # noqa: F401  (which takes 43 MiB, and is no part of what reading may)

    memory, path = asked["memory"], asked["path"]
    _limit(memory, asked["size"], asked["seconds"])
    try:
        found = formats.read(Path(path), asked["key"], asked["ema"], Limits(memory, asked["checksums"]))
        said = {
            **{name: getattr(found, name) for name in _PLAIN},
            "program": found.program and [layer._asdict() for layer in found.program],
        }
        safetensors.write(Path(asked["answer"]), found._replace(metadata={"checkpoint": json.dumps(said)}))
        return
    except XconvertError as error:
        problem = error
    except MemoryError:
        problem = UnreadableError(f"`{path}` would take more memory than it may", facts=[f"allowed are {told(memory)}"])
    except OSError as error:  # it expands to more than an answer may have
        problem = UnreadableError(f"`{path}` cannot be read: {error.strerror or error}")
    Path(asked["answer"]).unlink(missing_ok=True)
    said = {"kind": type(problem).__name__, "message": problem.message, "facts": problem.facts, "hints": problem.hints}
    Path(asked["problem"]).write_text(json.dumps(said))


def _limit(memory: int, size: int, seconds: int) -> None:
    """Take from this process what reading does not need: memory, time, large files, other processes."""
    try:
        import resource
    except ImportError:  # on Windows
        return
    with suppress(OSError):  # what an anonymous map takes counts, the mapped file does not
        data = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmData"))
        _set(resource.RLIMIT_DATA, int(data.split()[1]) * 1024 + memory + _SLACK)
    _set(resource.RLIMIT_CPU, seconds)
    _set(resource.RLIMIT_FSIZE, size + memory + _SLACK)
    _set(resource.RLIMIT_CORE, 0)
    with suppress(AttributeError):  # not everywhere
        _set(resource.RLIMIT_NPROC, 0)


def _set(which: int, most: int) -> None:
    import resource

    _, hard = resource.getrlimit(which)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (most, most))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
