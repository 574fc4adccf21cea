"""Labelled images: folders of classes, as ImageNet comes, or a list of files with their classes, as PaddleClas has it.

- A folder with a folder for each class. Folders called by WordNet ids or by names are the classes that ``labels`` calls so; those
  called 0, 1, … are these numbers; any others are numbered in their sorted order, as torchvision and Keras do.
- A folder with ``val_list.txt``, or such a list itself: on each line a file, relative to the list, and the number of its class. A
  ``train/`` or ``val/`` before a file's name may be missing in the list, or on the disk.
- A folder whose ``val`` is one of these two.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from xconvert.errors import UnreadableError, UsageError
from xconvert.images import SUFFIXES
from xconvert.labels import Label, numbers
from xconvert.tuples import NamedTuple

LIST = "val_list.txt"
PARTS = ("train", "val")
_LARGEST = 1 << 28  # bytes of a list; ImageNet's for training has 60 MB


class Sample(NamedTuple):
    """One image: where it is, what the folder or list calls it, and the number of its class in the network."""

    path: Path
    name: str
    label: int


class Dataset(NamedTuple):
    """Labelled images, each name once, in the order of the folder; ``notes``: how labels were understood."""

    samples: tuple[Sample, ...]
    notes: tuple[str, ...] = ()


def dataset(folder: str | Path, labels: Sequence[Label]) -> Dataset:
    """The images in ``folder``, labelled for a network whose classes are called ``labels``.

    Raises ``UnreadableError`` for a folder without any, ``UsageError`` where folders are not as many as classes, and for lists
    that say what cannot be.
    """
    path = Path(folder)
    if not path.exists():
        raise UnreadableError(f"`{path}` does not exist")
    if path.is_file():
        return Dataset(_checked(path, tuple(_listed(path, labels))))
    if (path / LIST).is_file():
        return Dataset(_checked(path / LIST, tuple(_listed(path / LIST, labels))), (f"labels are those of `{LIST}`",))
    folders = sorted(entry.name for entry in os.scandir(path) if entry.is_dir() and not entry.name.startswith("."))
    if "val" in folders and set(folders) <= {*PARTS, "test"}:
        return dataset(path / "val", labels)
    if not folders:
        facts = [f"expected a folder for each class, or `{LIST}`"]
        raise UnreadableError(f"`{path}` has no labelled images", facts=facts)
    known, told = _numbered(path, folders, labels)
    found = tuple(sample for name in folders for sample in _inside(path, name, known[name]))
    if not found:
        raise UnreadableError(f"`{path}` has folders without images", facts=["looked for " + ", ".join(SUFFIXES)])
    return Dataset(found, (told,))


def spread(samples: Sequence[Sample], limit: int | None) -> tuple[Sample, ...]:
    """At most ``limit`` of ``samples``, evenly spread, so that every class has its share; the same ones each time."""
    if limit is None or limit >= len(samples):
        return tuple(samples)
    if limit < 1:
        raise UsageError(f"`--limit {limit}` leaves no image", hints=["give 1 or more"])
    return tuple(samples[i * len(samples) // limit] for i in range(limit))


def _numbered(path: Path, folders: Sequence[str], labels: Sequence[Label]) -> tuple[dict[str, int], str]:
    """The class of each folder, and how it was found, in a clause."""
    if found := numbers(folders, labels):
        return found, "folders are classes by their names"
    shift = int(len(labels) == 1001)
    if all(name.isascii() and name.isdigit() and int(name) + shift < len(labels) for name in folders):
        return {name: int(name) + shift for name in folders}, "folders are classes by their numbers"
    if len(folders) != len(labels) - shift:
        facts = [f"{len(folders)} folders, {len(labels) - shift} classes", f"the first folder is `{folders[0]}`"]
        hints = ["name the classes in their order, as the folders are called: `--labels FILE`"]
        raise UsageError(f"the folders of `{path}` are not the network's classes", facts=facts, hints=hints)
    return {name: i + shift for i, name in enumerate(folders)}, "folders are classes in sorted order"


def _inside(path: Path, folder: str, label: int) -> Iterator[Sample]:
    for entry in sorted(os.scandir(path / folder), key=lambda entry: entry.name):
        if entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith("."):
            yield Sample(Path(entry.path), f"{folder}/{entry.name}", label)


def _listed(file: Path, labels: Sequence[Label]) -> Iterator[Sample]:
    """The samples of a list; a file's name may have blanks, so the last word of a line is the class."""
    shift = int(len(labels) == 1001)
    try:
        if file.stat().st_size > _LARGEST:
            raise UnreadableError(f"`{file}` is too large for a list of images")
        lines = file.read_bytes().decode("utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UnreadableError(f"`{file}` is no text in UTF-8") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isascii() or not label.isdigit() or len(label) > 9:
            facts = [f"line {number} is `{line.strip()[:80]}`", "expected a file and the number of its class"]
            raise UnreadableError(f"`{file}` is no list of labelled images", facts=facts)
        if int(label) + shift >= len(labels):
            facts = [f"line {number} says class {label}, the network has {len(labels) - shift}"]
            raise UsageError(f"`{file}` has classes that the network has not", facts=facts)
        yield Sample(_placed(file.parent, name.strip()), name.strip(), int(label) + shift)


def _placed(folder: Path, name: str) -> Path:
    """Where a listed file is: as listed, or with or without the part before it."""
    listed, (first, *rest) = folder / name, PurePosixPath(name).parts or ("",)
    others = [folder.joinpath(*rest)] if first in PARTS and rest else [folder / part / name for part in reversed(PARTS)]
    return next((path for path in (listed, *others) if os.path.lexists(path)), listed)


def _checked(file: Path, samples: tuple[Sample, ...]) -> tuple[Sample, ...]:
    if not samples:
        raise UnreadableError(f"`{file}` lists no image")
    seen: set[str] = set()
    for sample in samples:
        if sample.name in seen:
            raise UsageError(f"`{file}` lists `{sample.name}` twice", hints=["an image counts once: leave one out"])
        seen.add(sample.name)
    return samples
