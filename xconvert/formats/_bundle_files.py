"""The files of TensorFlow's second checkpoint format, an index and its shards, and how new ones take the names of old ones."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from pathlib import Path

from xconvert.formats._maps import mapped
from xconvert.formats._protobuf import block, number
from xconvert.formats._sstable import entries, table

VERSION = 1  # of the format, in the header of an index


def shard_name(index: Path, shard: int, count: int) -> Path:
    """The file of a shard beside an index, as TensorFlow's ``DataFilename`` makes it of the prefix and the numbers."""
    return index.with_name(f"{index.name.removesuffix('.index')}.data-{shard:05}-of-{count:05}")


def files(path: Path) -> tuple[Path, ...]:
    """What is written for the prefix ``path``: the shard, then the index, by which readers find it."""
    index = path.with_name(f"{path.name}.index")
    return shard_name(index, 0, 1), index


def publish(made: Path, path: Path) -> None:
    """Give the written prefix ``made`` the name ``path``: its index appears in one step, beside its shard.

    Where a checkpoint is replaced, the shard of the new one must not take the name of the old one's while that one's index
    stands. So it gets a second name, as the first of N shards of which the others are empty; an index that says so replaces the
    old index; and then shard and index get their usual names, by which everything is the same as without an old one. At every
    moment the index has its shard. TensorFlow 2.21 reads all of these states.
    """
    (shard, index), (made_shard, made_index) = files(path), files(made)
    old = _shards_beside(index) if os.path.lexists(index) else []
    if shard not in old:
        made_shard.replace(shard)
        made_index.replace(index)
    else:
        count = next(n for n in itertools.count(2) if not os.path.lexists(shard_name(index, 0, n)))
        second = shard_name(index, 0, count)
        try:
            _second_name(made_shard, second)
            _of_shards(made_index, count).replace(index)
        except OSError:
            second.unlink(missing_ok=True)
            raise
        old.append(second)
    with contextlib.suppress(OSError):  # the new one is there, whatever becomes of the rest
        if made_shard.exists():
            made_shard.replace(shard)
            made_index.replace(index)
        for file in old:
            if file != shard:
                file.unlink()


def _shards_beside(index: Path) -> list[Path]:
    name = re.compile(re.escape(index.name.removesuffix(".index")) + r"\.data-\d{5,}-of-\d{5,}")
    return [file for file in index.parent.iterdir() if name.fullmatch(file.name)]


def _second_name(made: Path, name: Path) -> None:
    """A hard link, and where the file system has none a copy, which appears in one step too."""
    import shutil

    try:
        name.hardlink_to(made)
    except OSError:
        copy = made.with_name(name.name)
        shutil.copyfile(made, copy)
        with copy.open("rb+") as file:
            os.fsync(file.fileno())
        copy.replace(name)


def _of_shards(index: Path, count: int) -> Path:
    """A copy of the written ``index`` that says that there are ``count`` shards."""
    rows = [(bytes(name), bytes(value)) for name, value in entries(index, mapped(index))]
    copy = index.with_name(f"{index.name}-of-{count}")
    with copy.open("wb") as file:
        file.write(table([(b"", header(count)), *rows[1:]]))
        file.flush()
        os.fsync(file.fileno())
    return copy


def header(shards: int) -> bytes:
    """The BundleHeaderProto of an index with that many shards, of little-endian numbers."""
    return number(1, shards) + block(3, number(1, VERSION))
