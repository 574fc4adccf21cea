"""``convert``: whole conversions of the 91 MB Xception between every two formats, over ``cp`` and over the scripts of today."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import permutations
from pathlib import Path
from typing import Any

from benchmarks import files
from benchmarks.figures import Case, Figure, Target
from benchmarks.measure import FailedError, Rival
from benchmarks.session import Session, python, script, xconvert

CP, IMPORTS, OURS, VERIFIED, TODAY, LEAN = "cp", "imports", "xconvert --no-verify", "xconvert", "script of today", "lean script"
BARE = "bare script"  # what no converter with xconvert's promises can do without


@dataclass(frozen=True)
class Format:
    """One of the formats: the file that is converted, the arguments that write one, and what reading it must be told."""

    source: str
    to: str
    output: str
    told: tuple[str, ...] = ()


def settings(attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """``--set`` for each of them."""
    return tuple(word for name, value in attributes.items() for word in ("--set", f"{name}={value}"))


FORMATS = {
    "h5": Format("keras.h5", "keras", "x.h5"),
    "weights.h5": Format("keras.weights.h5", "keras", "x.weights.h5"),
    "pth": Format("timm.pth", "torch", "x.pth"),
    "safetensors": Format("timm.safetensors", "torch", "x.safetensors"),
    # no zoo of Paddle has this network: its names are xconvert's, and say nothing of attributes
    "pdparams": Format("own.pdparams", "paddle", "x.pdparams", settings(files.OWN)),
    "tf": Format("keras.ckpt", "tensorflow", "x.ckpt"),
    "mindspore": Format("mindcv.ckpt", "mindspore", "x.ckpt"),
}
SCRIPTS = {  # pairs for which people write a script, with the frameworks
    ("h5", "pth"): "today_h5_pth.py",
    ("pth", "h5"): "today_pth_h5.py",
    ("tf", "pth"): "today_tf_pth.py",
    ("pdparams", "pth"): "today_pdparams_pth.py",
    ("h5", "pdparams"): "today_h5_pdparams.py",
    ("mindspore", "pth"): "today_mindspore_pth.py",
    ("pth", "mindspore"): "today_pth_mindspore.py",
}
LEAN_SCRIPTS = {("h5", "pth"): "lean_h5_pth.py", ("h5", "safetensors"): "lean_h5_safetensors.py"}
OVER_CP = {
    ("h5", "safetensors"): 7,
    ("h5", "pth"): 7.5,
    **dict.fromkeys([("pth", "h5"), ("h5", "pdparams"), ("tf", "pth"), ("pdparams", "safetensors")], 8),
    **dict.fromkeys([("mindspore", "pth"), ("pth", "mindspore")], 8),
}
HELD = {*OVER_CP, *SCRIPTS}  # pairs with a target, in which the bare script takes part
FASTER, LEAN_CPU, VERIFIED_FASTER = Target(20, least=True), Target(5, least=True), Target(6, least=True)
COSTLIER, MEMORY = Target(4), Target(70)


def run(session: Session) -> Iterator[Figure]:
    """Every ordered pair."""
    for source, target in permutations(FORMATS, 2):
        if session.wants(case := f"{source} to {target}"):
            try:
                (path,) = files.need(FORMATS[source].source)
            except FailedError as problem:
                yield Figure("convert", case, "conversion", "cpu", "×", problem=str(problem))
                continue
            runs, problems = session.alternate(rivals(source, target, path))
            session.keep("convert", case, runs)
            yield from figures(source, target, Case("convert", case, runs, problems), files.size(path))


def rivals(source: str, target: str, path: Path) -> list[Rival]:
    """All that take turns for a pair."""
    told = [*FORMATS[source].told, "--to", FORMATS[target].to, "-o", f"{{out}}/{FORMATS[target].output}"]
    found = [
        Rival(CP, [*copy(), *files.parts(path), "{out}"]),
        Rival(IMPORTS, python("import numpy, h5py")),
        Rival(OURS, xconvert(path, *told, "--no-verify")),
        Rival(VERIFIED, xconvert(path, *told)),
    ]
    if (source, target) in HELD:
        found.append(Rival(BARE, bare(source, target, path)))
    for name, scripts in ((TODAY, SCRIPTS), (LEAN, LEAN_SCRIPTS)):
        if file := scripts.get((source, target)):
            theirs = "mindspore" in (source, target)  # its Python is another, and is told where PyTorch is
            arguments = [path, f"{{out}}/{FORMATS[target].output}", *([packages()] if theirs else [])]
            found.append(Rival(name, script(file, *arguments, interpreter=files.MINDSPORE if theirs else sys.executable)))
    return found


def bare(source: str, target: str, path: Path) -> Sequence[str | Path]:
    """``scripts/bare.py`` for a pair: told where the tensors lie, and which checksums the two formats ask for."""
    (places,) = files.need(f"{FORMATS[source].source} to {FORMATS[target].to}.json")
    checks = [*(["crc32c"] if source == "tf" else []), *(["crc32"] if target == "pth" else [])]
    return script("bare.py", files.parts(path)[0], f"{{out}}/{FORMATS[target].output}", places, *checks)


def figures(source: str, target: str, case: Case, size: float) -> Iterator[Figure]:
    """What is told of a pair."""
    limit = OVER_CP.get((source, target))
    yield case.ratio(f"{OURS} / cp", OURS, CP, "cpu", Target(limit) if limit else None)
    if (source, target) in HELD:
        yield case.ratio(f"{BARE} / cp", BARE, CP, "cpu")
        yield case.ratio(f"{OURS} / {BARE}", OURS, BARE, "cpu")
    yield case.ratio(f"{OURS} / cp", OURS, CP, "wall")
    yield case.ratio(f"{OURS} / (cp + import numpy, h5py)", OURS, [CP, IMPORTS], "cpu")
    yield case.memory("peak memory, --no-verify", OURS, MEMORY)
    yield case.memory("peak memory, --no-verify / file", OURS, over=size)
    yield from case.times("verified / --no-verify", VERIFIED, OURS, COSTLIER)
    yield case.memory("peak memory, verified / file", VERIFIED, over=size)
    if (source, target) in SCRIPTS:
        yield from case.times("script of today / --no-verify", TODAY, OURS, FASTER)
        yield from case.times("script of today / verified", TODAY, VERIFIED, VERIFIED_FASTER)
        yield case.ratio(f"script of today / {BARE}", TODAY, BARE, "wall")
        yield case.memory("peak memory, script of today / file", TODAY, over=size)
    if (source, target) in LEAN_SCRIPTS:
        # held to the target is the script with h5py and PyTorch; the one without any framework is told beside it
        yield case.ratio("lean script / --no-verify", LEAN, OURS, "cpu", LEAN_CPU if target == "pth" else None)
        yield case.memory("peak memory, lean script / file", LEAN, over=size)


@cache
def copy() -> list[str]:
    """``cp`` that copies: on some file systems it would otherwise only note that two files are the same."""
    told = subprocess.run(["cp", "--help"], capture_output=True, text=True, check=False).stdout
    return ["cp", "--reflink=never"] if "--reflink" in told else ["cp"]


def packages() -> Path:
    """Where this Python's packages are."""
    import sysconfig

    return Path(sysconfig.get_path("platlib"))
