"""The process in which inputs are tried: ``python -m tests.fuzz.worker JOB``, JOB a file of JSON. Whoever watches it sees how far
it is, and the input that it is at, in a file that both have mapped: what is left when this process dies.
"""

from __future__ import annotations

import base64
import faulthandler
import json
import mmap
import os
import random
import signal
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

_HEAD = struct.Struct("<QQQQdQ")  # inputs begun, done, accepted, refused, when the last was begun, its size
_AREA = 8 << 20


class Progress:
    """What is shared with the watcher."""

    def __init__(self, path: Path) -> None:
        if not path.exists() or path.stat().st_size != _AREA:
            path.write_bytes(bytes(_AREA))
        with path.open("r+b") as file:
            self._area = mmap.mmap(file.fileno(), _AREA)
        self.begun = self.done = self.accepted = self.refused = 0

    def begin(self, parts: tuple[bytes, ...]) -> None:
        """An input is about to be tried."""
        content = packed(parts)[: _AREA - _HEAD.size]
        self._area[_HEAD.size : _HEAD.size + len(content)] = content
        self.begun += 1
        self._write(len(content))

    def end(self, kind: str) -> None:
        """It was."""
        self.done += 1
        self.accepted += kind == "accepted"
        self.refused += kind == "refused"
        self._write(0)

    def _write(self, size: int) -> None:
        _HEAD.pack_into(self._area, 0, self.begun, self.done, self.accepted, self.refused, time.monotonic(), size)

    def read(self) -> tuple[int, int, int, int, float, int]:
        """As the watcher sees it."""
        found: tuple[int, int, int, int, float, int] = _HEAD.unpack_from(self._area, 0)
        return found

    def current(self) -> tuple[bytes, ...]:
        """The input that was begun last."""
        return unpacked(self._area[_HEAD.size : _HEAD.size + self.read()[5]])


def packed(parts: tuple[bytes, ...]) -> bytes:
    """An input as one string of bytes."""
    return bytes([len(parts)]) + b"".join(struct.pack("<L", len(part)) + part for part in parts)


def unpacked(content: bytes, count: int | None = None) -> tuple[bytes, ...]:
    """An input from one string of bytes, whatever they are; of ``count`` files if given."""
    parts, at = list[bytes](), 1
    for _ in range(count or content[0] if content else count or 0):
        size = int.from_bytes(content[at : at + 4], "little")
        parts.append(content[at + 4 : at + 4 + size])
        at += 4 + size
    return tuple(parts)


class Work:
    """One job: a target, an engine, a seed, and until when."""

    def __init__(self, job: dict[str, Any]) -> None:
        from tests.fuzz import law

        self.job = job
        self.progress = Progress(Path(job["progress"]))
        self.folder = Path(job["folder"])
        self.law = law.Law(self.folder)
        self.turn(job["target"])
        self.known = set[tuple[str, str]]()
        self.findings = Path(job["findings"]).open("a", encoding="utf-8", buffering=1)  # noqa: SIM115
        self.until = time.monotonic() + job["seconds"]

    def turn(self, name: str) -> None:
        """Go on with the target ``name``."""
        from tests.fuzz import fakes, law, targets

        self.target = {**targets.TARGETS, **fakes.TARGETS}[name]
        law.warm(self.law, self.target)
        self.law.ready()

    def over(self) -> bool:
        """Whether the time, or the number of inputs, is reached."""
        begun = self.progress.begun
        return (time.monotonic() >= self.until and begun >= self.job["least"]) or begun >= self.job["most"]

    def one(self, parts: tuple[bytes, ...]) -> str:
        """Try an input; what novelty is judged by."""
        self.progress.begin(parts)
        outcome = self.law.judge(self.target, parts)
        if outcome.is_finding and (outcome.kind, outcome.what) not in self.known:
            self.known.add((outcome.kind, outcome.what))
            told = {"target": self.target.name, "kind": outcome.kind, "what": outcome.what, "detail": outcome.detail}
            self.findings.write(json.dumps({**told, "input": base64.b64encode(packed(parts)).decode()}) + "\n")
        self.progress.end(outcome.kind)
        return f"{outcome.kind} {outcome.what}"


def mutate(work: Work) -> None:
    """Seeds, and inputs that led to something new, with changes; now and then what hypothesis makes up."""
    from tests.fuzz import generated
    from tests.fuzz.targets import contents

    rng = random.Random(f"{work.job['seed']} {work.target.name}")
    pool, seen = list[Any](), set[str]()
    made_up = work.target.name in generated.STRATEGIES
    while not work.over():
        if made_up and rng.random() < 1 / 2000:
            generated.some(work.target.name, str(rng.random()), work.one, work.over)
        seed = work.target.make(rng, pool)
        told = work.one(contents(seed))
        if told not in seen and len(seen) < 5000 and sum(len(node.content()) for node in seed) < 50_000:
            seen.add(told)
            pool.append(seed)


def atheris(work: Work) -> None:
    """Guided by which lines of our own code an input reaches; changes are ours and libFuzzer's in turn. Does not return."""
    import atheris as fuzzer

    from tests.fuzz import seeds
    from tests.fuzz.targets import contents

    count = len(work.target.files)
    corpus = work.folder.parent / f"{work.folder.name}-corpus"
    corpus.mkdir(exist_ok=True)
    rng = random.Random(f"{work.job['seed']} {work.target.name}")
    started = seeds.seeds(work.target.name) if hasattr(seeds, work.target.name.replace("-", "_")) else [work.target.make(rng, ())]
    for number, seed in enumerate(started):
        (corpus / str(number)).write_bytes(packed(contents(seed)))

    def once(data: bytes) -> None:
        if work.over():
            os._exit(0)
        work.one(unpacked(data, count))

    def changed(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        if rng.random() < 0.4:
            return packed(contents(work.target.make(rng, ())))[:most]
        parts = list(unpacked(data, count))
        at = rng.choice([i for i, part in enumerate(parts) if part] or [0])
        from tests.fuzz.mutate import mutated

        native = rng.random() < 0.4 and parts[at]
        parts[at] = fuzzer.Mutate(parts[at], len(parts[at]) + 64) if native else mutated(parts[at], rng, work.target.tokens)
        return packed(tuple(parts))[:most]

    off = [f"-handle_{name}=0" for name in ("segv", "bus", "abrt", "ill", "fpe", "int", "term", "xfsz", "usr1", "usr2")]
    number = int(work.job["seed"]) % 2**31 + 1
    options = [f"-seed={number}", "-timeout=0", "-verbosity=0", "-rss_limit_mb=0", "-max_len=65536", "-print_final_stats=0", *off]
    fuzzer.Setup(["fuzz", *options, str(corpus)], once, custom_mutator=changed)
    fuzzer.Fuzz()


def short(work: Work) -> None:
    """A seed and a few inputs of every one of the job's targets; tells what became of them."""
    from tests.fuzz import seeds
    from tests.fuzz.targets import contents

    for name in work.job["targets"]:
        work.turn(name)
        known = name if hasattr(seeds, name.replace("-", "_")) else "npz"
        kind = work.one(contents(seeds.seeds(known)[0])[: len(work.target.files)]).split()[0]
        rng, pool = random.Random(f"{work.job['seed']} {name}"), list[Any]()
        before = work.progress.accepted, work.progress.refused
        for _ in range(work.job["each"]):
            seed = work.target.make(rng, pool)
            if work.one(contents(seed)).startswith("accepted") and len(pool) < 30:
                pool.append(seed)
        told = {"accepted": work.progress.accepted - before[0], "refused": work.progress.refused - before[1]}
        work.findings.write(json.dumps({"target": name, "seed": kind, **told}) + "\n")


def replay(work: Work) -> None:
    """The inputs of the job by target, one after the other, thoroughly."""
    for name, inputs in work.job["inputs"].items():
        work.turn(name)
        for text in inputs:
            parts = unpacked(base64.b64decode(text))
            work.progress.begin(parts)
            outcome = work.law.judge(work.target, parts, thorough=True)
            told = {"target": name, "kind": outcome.kind, "what": outcome.what, "detail": outcome.detail}
            work.findings.write(json.dumps(told) + "\n")
            work.progress.end(outcome.kind)


def minimise(work: Work) -> None:
    """The input of the job made smaller, as long as the same is found; each try in a process of its own, for it may die."""
    from tests.fuzz.smaller import smallest

    parts = unpacked(base64.b64decode(work.job["inputs"][0]))
    same = work.job["kind"], work.job["what"]

    def holds(candidate: tuple[bytes, ...]) -> bool:
        child = os.fork()
        if child == 0:
            outcome = work.law.judge(work.target, candidate)
            os._exit(7 if (outcome.kind, outcome.what) == same else 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        deadline = time.monotonic() + 3 * (1 + (same[0] == "hang"))
        while True:
            done, status = os.waitpid(child, os.WNOHANG)
            if done:
                died = os.WIFSIGNALED(status) and same[0] == "crash"
                return died or (os.WIFEXITED(status) and os.WEXITSTATUS(status) == 7)
            if time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return same[0] == "hang"
            time.sleep(0.0005)

    found = smallest(parts, holds, work.until)
    work.findings.write(json.dumps({"input": base64.b64encode(packed(found)).decode()}) + "\n")


ENGINES: dict[str, Callable[[Work], None]] = {engine.__name__: engine for engine in (mutate, atheris, short, replay, minimise)}


def main() -> None:
    """Do the job that the argument names."""
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)
    job = json.loads(Path(sys.argv[1]).read_text())
    if job["engine"] == "atheris":
        import atheris as fuzzer

        with fuzzer.instrument_imports(include=["xconvert"]):
            from xconvert.formats import formats

            formats()
    ENGINES[job["engine"]](Work(job))
    sys.stdout.flush()
    os._exit(0)  # files that h5py still has open over a buffer crash the interpreter's end


if __name__ == "__main__":
    main()
