"""The folder of a model on the Hugging Face Hub as timm opens it: ``config.json`` and ``model.safetensors``.

Read by what it holds: the weights are a safetensors file like any other, beside which that reader finds the configuration.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
from pathlib import Path
from typing import Any

from xconvert.errors import UsageError
from xconvert.formats import Format, safetensors
from xconvert.formats._timm_config import CONFIG, WEIGHTS, configuration
from xconvert.model import Checkpoint


def matches(data: mmap.mmap) -> bool:
    """Never: a folder has no bytes, and the file in it is a safetensors file."""
    return False


def files(path: Path) -> tuple[Path, ...]:
    """The two files of the folder ``path``; others may lie beside them."""
    return path / CONFIG, path / WEIGHTS


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Create the folder ``path``, which ``timm.create_model("local-dir:<path>", pretrained=True)`` opens.

    Raises ``UsageError`` for names other than those of a network that timm publishes.
    """
    record = _record(checkpoint)
    published = record.get("published")
    if checkpoint.graph is None or record.get("implementation") != "timm" or not isinstance(published, str):
        raise UsageError(
            "a folder for the Hub holds one of timm's own networks, and this is none",
            facts=[f"names of {record.get('implementation', 'a stranger')}, network {published or 'unpublished'}"],
            hints=["`--to timm` writes its names"],
        )
    text = configuration(checkpoint.graph, published, record["preprocessing"])
    config, weights = files(path)
    path.mkdir(exist_ok=True)
    config.write_text(text, encoding="utf-8")
    safetensors.write(weights, checkpoint)


def publish(made: Path, path: Path) -> None:
    """Give the written folder ``made`` the name ``path``, or put its files into the folder that is there.

    Where that one has such a file and both change, a new folder with everything that lies in the old one takes its place.
    Raises ``UsageError``, and changes nothing, where that cannot be: it holds other folders, or the system cannot exchange two.
    """
    if not os.path.lexists(path):
        made.rename(path)
        return
    pairs = [(new, old) for new, old in zip(files(made), files(path), strict=True) if not _same(new, old)]
    if len(pairs) > 1 and any(os.path.lexists(old) for old in files(path)):
        _exchange(made, path)
        return
    for new, old in pairs:
        new.replace(old)


def _same(new: Path, old: Path) -> bool:
    import filecmp

    return old.is_file() and not old.is_symlink() and filecmp.cmp(new, old, shallow=False)


def _exchange(made: Path, path: Path) -> None:
    import shlex
    import shutil

    others = [entry for entry in os.scandir(path) if entry.name not in (CONFIG, WEIGHTS)]
    folders = [entry.name for entry in others if entry.is_dir(follow_symlinks=False)]
    there = [str(file) for file in files(path) if os.path.lexists(file)]
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
        if not os.path.lexists(path / entry.name):
            Path(entry.path).replace(path / entry.name)


def exchange(a: Path, b: Path) -> None:
    """Let ``a`` and ``b`` change names in one step; raises ``OSError``, also where the system has no ``renameat2`` (Linux)."""
    import ctypes

    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        raise OSError(errno.ENOSYS, "this system cannot exchange two folders")
    if rename(-100, os.fsencode(a), -100, os.fsencode(b), 2):  # AT_FDCWD, RENAME_EXCHANGE
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _record(checkpoint: Checkpoint) -> dict[str, Any]:
    """xconvert's own record, which is there in whatever it writes."""
    record: dict[str, Any] = json.loads(checkpoint.metadata.get("xconvert", "{}"))
    return record


FORMAT = Format(
    "hub",
    "folder that timm opens",
    (),
    matches,
    safetensors.read,
    write,
    dialects={"torch": "torch"},
    files=files,
    publish=publish,
    inside=(WEIGHTS,),
)
