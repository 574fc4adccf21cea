"""Discovery: what stands in a folder of this package, and what strangers add through entry points."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
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
    names = [m.name for m in pkgutil.iter_modules(parent.__path__) if not m.name.startswith("_")]
    modules: list[ModuleType] = [importlib.import_module(f"xconvert.{package}.{name}") for name in names]
    modules += [entry.load() for entry in entry_points(group=f"xconvert.{package}")]
    found = [getattr(module, attribute) for module in modules if hasattr(module, attribute)]
    return {item.name: item for item in found}
