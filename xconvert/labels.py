"""What classes are called: the 1000 of ImageNet-1k, or those of a file."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from xconvert.errors import UnreadableError, UsageError
from xconvert.tuples import NamedTuple

# ILSVRC-2012's classes in the order in which every zoo has them, that of their WordNet ids: a line each, id and name. The ids are
# those in timm's `imagenet_synsets.txt`; the names, the first by which WordNet 3.0 or ILSVRC knows them, those in torchvision's
# `models/_meta.py`. `tests/test_labels.py` compares both with what is installed.
FILE = Path(__file__).with_name("imagenet.txt")
BACKGROUND = "background"
_LARGEST = 1 << 24  # bytes of a file with labels


class Label(NamedTuple):
    """A class' name; ``synset``: its WordNet id, such as n01440764, or empty."""

    name: str
    synset: str = ""


@cache
def imagenet() -> tuple[Label, ...]:
    """The 1000 classes of ImageNet-1k."""
    lines = FILE.read_text("utf-8").splitlines()
    return tuple(Label(name, synset) for synset, name in (line.split(" ", 1) for line in lines))


def labels_of(classes: int, file: str | Path | None = None) -> tuple[Label, ...]:
    """What the ``classes`` of a network are called: by the lines of ``file``; else 1000 as ImageNet's, 1001 as these behind a
    background, as TensorFlow has them; else by their numbers.

    Raises ``UnreadableError`` for what is no text, ``UsageError`` for a file with another number of names.
    """
    if file is None:
        known = {1000: imagenet(), 1001: (Label(BACKGROUND), *imagenet())}
        return known.get(classes) or tuple(Label(f"class {i}") for i in range(classes))
    found = read(file)
    if len(found) == classes - 1 == 1000:
        found = (Label(BACKGROUND), *found)
    if len(found) != classes:
        raise UsageError(f"`{file}` has {len(found)} names, the network {classes} classes", hints=["give one name a line"])
    return found


def read(file: str | Path) -> tuple[Label, ...]:
    """The names in ``file``, one a line, where a WordNet id may stand before the name; empty lines at the end do not count."""
    path = Path(file)
    try:
        if path.exists() and not path.is_file():
            raise UnreadableError(f"`{file}` is no file")
        if path.stat().st_size > _LARGEST:
            raise UnreadableError(f"`{file}` is too large for a file of names")
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UnreadableError(f"`{file}` is no text in UTF-8") from None
    except (OSError, ValueError) as error:
        raise UnreadableError(f"`{file}` cannot be read: {getattr(error, 'strerror', None) or error}") from None
    found = []
    for line in text.rstrip().splitlines():
        first, _, rest = line.strip().partition(" ")
        found.append(Label(rest.strip() or first, first) if is_synset(first) else Label(line.strip()))
    return tuple(found)


def is_synset(name: str) -> bool:
    """Whether ``name`` is a WordNet id, as ImageNet's folders are called."""
    return len(name) == 9 and name[0] == "n" and name[1:].isascii() and name[1:].isdigit()


def numbers(names: Sequence[str], labels: Sequence[Label]) -> dict[str, int] | None:
    """The class of each of ``names``, where all are ids of ``labels``, or all their names; else None."""
    for known in ({label.synset: i for i, label in enumerate(labels) if label.synset}, _unique(labels)):
        if all(name in known for name in names):
            return {name: known[name] for name in names}
    return None


def _unique(labels: Sequence[Label]) -> dict[str, int]:
    """The names that only one class has."""
    counts: dict[str, list[int]] = {}
    for i, label in enumerate(labels):
        counts.setdefault(label.name, []).append(i)
    return {name: found[0] for name, found in counts.items() if len(found) == 1}
