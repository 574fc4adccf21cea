"""``scale``: time and memory against the size of a checkpoint and against the number of files."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks import files
from benchmarks.convert import CP, OURS, copy
from benchmarks.figures import Case, Figure, Target
from benchmarks.measure import ROOT, FailedError, Rival
from benchmarks.session import Session, xconvert

NARROW = ROOT / "fixtures" / "timm.pth"
SIZES = {  # by size; the last has 11 times the bytes of Xception and the same largest tensor
    "narrow": "",
    "xception": "timm.safetensors",
    "xception71": "timm-xception71.safetensors",
    "deep, 1 GB": "deep.safetensors",
}
OUTPUTS = {"pth": ("torch", "x.pth"), "h5": ("keras", "x.h5")}
MEMORY = Target(70)
COUNT = 10


def run(session: Session) -> Iterator[Figure]:
    """Sizes, then numbers of files."""
    for output in OUTPUTS:
        if session.wants(case := f"size, to {output}"):
            yield from sizes(session, case, output)
    if session.wants(case := f"{COUNT} files"):
        yield from numbers(session, case)


def sizes(session: Session, case: str, output: str) -> Iterator[Figure]:
    """All sizes take turns, so that they can be compared with each other."""
    to, name = OUTPUTS[output]
    try:
        paths = {size: files.need(file)[0] if file else NARROW for size, file in SIZES.items()}
    except FailedError as problem:
        yield Figure("scale", case, "sizes", "cpu", "×", problem=str(problem))
        return
    rivals = [Rival(f"{CP} {size}", [*copy(), path, "{out}"]) for size, path in paths.items()]
    rivals += [
        Rival(f"{OURS} {size}", xconvert(path, "--to", to, "-o", f"{{out}}/{name}", "--no-verify"))
        for size, path in paths.items()
    ]
    runs, problems = session.alternate(rivals)
    session.keep("scale", case, runs)
    told = Case("scale", case, runs, problems)
    for size, path in paths.items():
        bytes_over = files.size(path) / files.size(paths["xception"])
        yield told.ratio(f"{size}: {OURS} / cp", f"{OURS} {size}", f"{CP} {size}", "cpu")
        if size != "xception":
            yield from told.times(f"{size} / xception, at {bytes_over:.3g} × bytes", f"{OURS} {size}", f"{OURS} xception")
        yield told.memory(f"{size}: peak memory", f"{OURS} {size}", MEMORY if path.name == "deep.safetensors" else None)


def numbers(session: Session, case: str) -> Iterator[Figure]:
    """Many files against one. ``many`` has a line for each way to convert many."""
    try:
        (path,) = files.need("keras.h5")
    except FailedError as problem:
        yield Figure("scale", case, "files", "cpu", "×", problem=str(problem))
        return
    one = Rival("one file", xconvert(path, "--to", "torch", "-o", "{out}/x.pth", "--no-verify"))
    convert = " ".join(f"'{part}'" for part in xconvert(path, "--to", "torch", "--no-verify"))
    loop = f'for i in $(seq {COUNT}); do {convert} -o "$0/$i.pth" || exit; done'
    many = [Rival("a process for each", ["sh", "-c", loop, "{out}"])]
    verified = Rival("one file, verified", xconvert(path, "--to", "torch", "-o", "{out}/x.pth"))
    batch = Rival("batch", xconvert("batch", files.linked(path, COUNT), "--to", "torch", "-o", "{out}/batch"))
    runs, problems = session.alternate([one, *many, verified, batch])
    session.keep("scale", case, runs)
    told = Case("scale", case, runs, problems)
    for rival in many:
        yield from told.times(f"{COUNT} files, {rival.name} / one file", rival.name, one.name)
        yield told.memory(f"peak memory, {rival.name}", rival.name)
    yield from told.times(f"{COUNT} files, {batch.name} / {verified.name}", batch.name, verified.name)
    yield told.memory(f"peak memory, {batch.name}", batch.name)
