"""What the folders that are written for a zoo have in common: how they get their names, and the card that tells people."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from xconvert.errors import UsageError
from xconvert.model import Checkpoint, Graph

CARD = "README.md"


def meant_for(zoo: str, checkpoint: Checkpoint, holds: str, *, published: bool = True) -> tuple[Graph, dict[str, Any]]:
    """The graph of ``checkpoint``, and xconvert's own record, which is there in whatever it writes.

    Raises ``UsageError`` for names other than those of ``zoo``, and where it is to be ``published`` for a network that the zoo
    does not publish. ``holds``: what the folder holds, a clause.
    """
    record: dict[str, Any] = json.loads(checkpoint.metadata.get("xconvert", "{}"))
    name = record.get("published")
    if checkpoint.graph is None or record.get("implementation") != zoo or (published and not isinstance(name, str)):
        raise UsageError(
            f"{holds}, and this is none",
            facts=[f"names of {record.get('implementation', 'a stranger')}, network {name or 'unpublished'}"],
            hints=[f"`--to {zoo}` writes its names"],
        )
    return checkpoint.graph, record


def publish(made: Path, path: Path, *, files: Callable[[Path], tuple[Path, ...]]) -> None:
    """Give the written folder ``made`` the name ``path``, or put its ``files`` into the folder that is there.

    Where that one has such a file and more than one changes, a new folder with everything that lies in the old one takes its
    place. Raises ``UsageError``, and changes nothing, where that cannot be: it holds other folders, or the system cannot exchange
    two.
    """
    if not os.path.lexists(path):
        made.rename(path)
        return
    names = list(dict.fromkeys(file.name for file in (*files(path), *files(made))))
    changed = [name for name in names if not _same(made / name, path / name)]
    if len(changed) > 1 and any(os.path.lexists(path / name) for name in names):
        _exchange(made, path, names)
        return
    for name in changed:
        if (made / name).exists():
            (made / name).replace(path / name)
        else:
            (path / name).unlink()


def _same(new: Path, old: Path) -> bool:
    import filecmp

    if not new.exists():
        return not os.path.lexists(old)
    return old.is_file() and not old.is_symlink() and filecmp.cmp(new, old, shallow=False)


def _exchange(made: Path, path: Path, names: Sequence[str]) -> None:
    import shlex
    import shutil

    others = [entry for entry in os.scandir(path) if entry.name not in names]
    folders = [entry.name for entry in others if entry.is_dir(follow_symlinks=False)]
    there = [str(path / name) for name in names if os.path.lexists(path / name)]
    hints = [f"`rm {shlex.join(there)}` first, or name another folder with `-o`"]
    told = f"`{path}` cannot be replaced in one step"
    if folders:
        raise UsageError(told, facts=["it also holds " + ", ".join(f"`{name}/`" for name in sorted(folders)[:8])], hints=hints)
    if path.samefile("."):
        raise UsageError(told, facts=["it is the folder that you are in"], hints=hints)
    try:
        owner = path.stat()
        if (owner.st_uid, owner.st_gid) != (made.stat().st_uid, made.stat().st_gid):
            os.chown(made, owner.st_uid, owner.st_gid)
        shutil.copystat(path, made)
        for entry in others:
            os.link(entry.path, made / entry.name, follow_symlinks=False)
        exchange(made, path)
    except OSError as error:
        raise UsageError(told, facts=[str(error.strerror or error)], hints=hints) from None
    for entry in os.scandir(made):  # what came into the old folder since it was listed
        if entry.name not in names and not os.path.lexists(path / entry.name):
            Path(entry.path).replace(path / entry.name)


def exchange(a: Path, b: Path) -> None:
    """Let ``a`` and ``b`` change names in one step; raises ``OSError``, also where the system has no ``renameat2`` (Linux)."""
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, "this system cannot exchange two folders")
    if rename(-100, os.fsencode(a), -100, os.fsencode(b), 2):  # AT_FDCWD, RENAME_EXCHANGE
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
