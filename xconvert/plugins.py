"""Discovery: what stands in a folder of this package, and what strangers add through entry points."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any


@cache
def discover(package: str, attribute: str) -> dict[str, Any]:
    """Objects called ``attribute`` in the modules of ``package`` and in its entry points, by their ``name``.

    ``package`` is ``"architectures"``, ``"backends"`` or ``"formats"``; the entry-point group is
    ``"xconvert.<package>"``, each entry naming a module. Modules that start with an underscore are private helpers
    and are not asked.
    """
    parent = importlib.import_module(f"xconvert.{package}")
    files = [name for place in parent.__path__ for name in os.listdir(place)]  # noqa: PTH208  (pkgutil takes longer to import)
    names = sorted(name[:-3] for name in files if name.endswith(".py") and not name.startswith("_"))
    modules: list[ModuleType] = [importlib.import_module(f"xconvert.{package}.{name}") for name in names]
    modules += offered(package)
    found = [getattr(module, attribute) for module in modules if hasattr(module, attribute)]
    return {item.name: item for item in found}


def offered(group: str) -> list[Any]:
    """What the entry points in the group ``"xconvert.<group>"`` of installed packages name."""
    if not _anybody_offers():
        return []
    from importlib.metadata import entry_points  # 15 ms of import, for what hardly anybody has

    return [entry.load() for entry in entry_points(group=f"xconvert.{group}")]


@cache
def _anybody_offers() -> bool:
    """Whether any installed package has an entry point in a group of ours."""
    return any(b"[xconvert." in text for text in _entry_points())


def _entry_points() -> Iterator[bytes]:
    """What the packages that are installed say of their entry points; those that have any."""
    for place in dict.fromkeys(sys.path):
        with contextlib.suppress(OSError):  # an archive, or nothing
            for entry in os.scandir(place or "."):
                if entry.name.endswith((".dist-info", ".egg-info")):
                    name = f"{entry.path}/entry_points.txt"
                    if os.path.isfile(name):  # noqa: PTH113  (a Path of each takes 3 ms); most have none; a named pipe would be waited for
                        with open(name, "rb", buffering=0) as file:  # noqa: PTH123
                            yield file.readall()
