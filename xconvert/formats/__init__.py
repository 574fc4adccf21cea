"""File formats: which one a file is (by content, never by suffix alone), reading and writing.

One module per format, each offering a ``FORMAT``. To add one, add a module; nothing else changes.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path

from xconvert.errors import AmbiguousError, UnreadableError, UsageError
from xconvert.formats._limits import USUAL, Limits, check_count
from xconvert.formats._maps import let_go, mapped
from xconvert.model import Checkpoint
from xconvert.plugins import discover
from xconvert.tuples import NamedTuple


class Choice(NamedTuple):
    """Which of several networks in one file is meant: by the ``key`` it stands under, or the one whose weights are moving
    averages (``ema``: True) or are not (False). None: whichever there is, if there is but one. ``limits``: how far the file is
    trusted.
    """

    key: str | None = None
    ema: bool | None = None
    limits: Limits = USUAL


def itself(path: Path) -> tuple[Path, ...]:
    """The files of a format that has but one."""
    return (path,)


class Format(NamedTuple):
    """What one format module offers.

    ``matches(data)`` looks at the mapped file and must be quick and never raise. ``read(path, data, choice)`` returns
    the checkpoint, its tensors as lazily as the format allows; ``path`` is that of the mapped file.
    It raises ``UnreadableError`` for a damaged or hostile file and ``AmbiguousError`` when a choice is needed.
    ``write(path, checkpoint)`` creates ``files(path)``, with the same bytes for the same input; None where the format is
    only read. It takes each tensor's bytes from ``_arrays.contents``, and looks at the metadata after that: the record in them
    has the digest of what was taken. ``files``: what is written for a path, the one by which readers find the others last.
    ``publish(made, path)`` gives what was written for ``made``, in a folder beside it, the name ``path``, in one step: whoever
    looks before sees the checkpoint that was there, afterwards the new one.
    ``card``: the file in the folder that tells people of the model, which whoever verified it writes; empty where there is none.
    ``inside``: how the file to map is called in a folder that holds one checkpoint, as patterns of ``Path.glob``.
    ``suffixes``: file endings for which it is the one written. ``dialects``: for a dialect family
    (``"keras"``) the dialect that its names must be in; a format that has any entries holds no other families; empty:
    any name fits.
    """

    name: str
    describes: str
    suffixes: tuple[str, ...]
    matches: Callable[[mmap.mmap], bool]
    read: Callable[[Path, mmap.mmap, Choice], Checkpoint]
    write: Callable[[Path, Checkpoint], None] | None = None
    dialects: Mapping[str, str] = {}
    files: Callable[[Path], tuple[Path, ...]] = itself
    publish: Callable[[Path, Path], None] = os.replace
    inside: tuple[str, ...] = ()
    card: str = ""


def formats() -> dict[str, Format]:
    """Every format by name."""
    return discover("formats", "FORMAT")


def read(path: Path, key: str | None = None, ema: bool | None = None, limits: Limits = USUAL) -> Checkpoint:
    """Read the checkpoint in ``path``, whatever its suffix says: a file, the prefix that several files share, or a folder
    that holds one.

    Raises ``UnreadableError`` when the file is missing, empty, damaged, hostile or no checkpoint at all, ``AmbiguousError``
    when it holds more than one and neither ``key`` nor ``ema`` says which.
    """
    choice = Choice(key, ema, limits)
    if limits.isolate:
        from xconvert.isolation import read_apart

        return read_apart(path, choice)
    found = locate(path)
    data = mapped(found)
    for candidate in formats().values():
        if candidate.matches(data):
            checkpoint = candidate.read(found, data, choice)
            check_count(path, len(checkpoint.tensors))
            let_go()  # whoever looks for headers touches pages all over the file
            return checkpoint
    readable = [f.name for f in formats().values() if f.suffixes or not f.write]
    raise UnreadableError(
        f"`{path}` is not a checkpoint that xconvert can read",
        facts=[_looks_like(found, data), "readable: " + ", ".join(readable)],
    )


def locate(path: Path) -> Path:
    """The file to map for ``path``, which may also be a folder with one checkpoint in it, or the prefix of a TensorFlow
    checkpoint. Raises ``UnreadableError`` for a folder without one, ``AmbiguousError`` for one with several.
    """
    if not path.is_dir():
        prefixed = path.with_name(f"{path.name}.index")
        if path.name and path.is_file() and prefixed.is_file():
            hint = f"name `{prefixed}`, or move one of them elsewhere"
            raise AmbiguousError(f"`{path}` is a file and the name of a TensorFlow checkpoint", hints=[hint])
        return prefixed if path.name and not path.exists() and prefixed.is_file() else path
    if (latest := _latest(path)).is_file():
        return latest
    patterns = [pattern for candidate in formats().values() for pattern in candidate.inside]
    for pattern in sorted(patterns, key=lambda pattern: "*" in pattern):  # a file by its own name before any of a kind
        match sorted(path.glob(pattern)):
            case [only]:
                return only
            case [first, *_] as several:
                raise AmbiguousError(
                    f"`{path}` is a folder with {len(several)} checkpoints",
                    facts=[str(p.relative_to(path)) for p in several[:8]],
                    hints=[f"name one of them: `{first}`"],
                )
    raise UnreadableError(f"`{path}` is a folder without a checkpoint", hints=["name the checkpoint file inside it"])


def _latest(folder: Path) -> Path:
    """The newest checkpoint of a folder in which TensorFlow trains, by its file ``checkpoint``, of which a base name counts."""
    told = folder / "checkpoint"
    text = ""
    if told.is_file():
        with told.open("rb") as file:
            text = file.read(4096).decode("utf-8", "replace")
    match = re.search(r'^model_checkpoint_path: "([^"\n]+)"', text, re.MULTILINE)
    return folder / f"{Path(match[1]).name}.index" if match else told / "none"


def no_choice(path: Path, choice: Choice) -> None:
    """Raise ``UnreadableError`` when a choice was made among what a format can hold only one of."""
    if choice.key is not None:
        raise UnreadableError(f"`{path}` holds no state dict under `{choice.key}`", hints=["leave `--key` away"])


def format_for_writing(path: Path, family: str) -> Format:
    """The format that ``path``'s suffix asks for, for names of the dialect ``family``; raises ``UsageError`` where there is
    none that can be written.
    """
    name = path.name.lower()
    fitting = [(len(s), f) for f in formats().values() for s in f.suffixes if name.endswith(s)]
    if not fitting:
        known = ", ".join(dict.fromkeys(s for f in formats().values() if f.write for s in f.suffixes))
        raise UsageError(f"no format is written under the name `{path.name}`", hints=[f"end the name in one of {known}"])
    longest = max(length for length, _ in fitting)  # `.weights.h5` rather than `.h5`
    kin = [f for length, f in fitting if length == longest]  # `.ckpt` is TensorFlow's and MindSpore's
    chosen = next((f for f in kin if family in f.dialects), kin[0])
    if chosen.write is None:
        raise UsageError(f"`{chosen.name}` files are read, not written", hints=["name a file of another format"])
    return chosen


def of_layout(name: str) -> Format:
    """The format called ``name`` of those that no suffix chooses; raises ``UsageError`` when there is none."""
    layouts = {f.name: f for f in formats().values() if f.write and not f.suffixes}
    if name not in layouts:
        raise UsageError(f"no layout is called `{name}`", facts=["layouts: " + ", ".join(layouts)])
    return layouts[name]


# Content that users hand over by mistake: (how it starts, what it is).
_FAMILIAR = (
    (b"version https://git-lfs", "it is a Git-LFS pointer of a few lines, not the file itself; run `git lfs pull`"),
    (b"\x1f\x8b", "it is gzip-compressed; unpack it first"),
    (b"\xfd7zXZ", "it is xz-compressed; unpack it first"),
    (b"\x28\xb5\x2f\xfd", "it is zstd-compressed; unpack it first"),
    (b"model_checkpoint_path:", "it only says which TensorFlow checkpoint is the latest; name that one's prefix"),
    (b"<!doctype html", "it is an HTML page, probably a download that failed"),
    (b"<html", "it is an HTML page, probably a download that failed"),
)


def _looks_like(path: Path, data: mmap.mmap) -> str:
    if match := re.fullmatch(r"(.+)\.(?:data-\d{5,}-of-\d{5,}|meta)", path.name):
        return f"by its name it is one file of a TensorFlow checkpoint; name its prefix, `{path.with_name(match[1])}`"
    if path.suffix == ".index":
        return "by its name it is the index of a TensorFlow checkpoint, but it does not end like one: it is truncated or damaged"
    start = data[:64].lstrip().lower()
    for magic, meaning in _FAMILIAR:
        if start.startswith(magic.lower()):
            return meaning
    if data[257:262] == b"ustar":
        return "it is a tar archive (PyTorch's format of 2016, or a packed folder); unpack it, or save it again with torch"
    return f"it starts with {data[:16].hex(' ')} and matches no known format"
