"""Inputs made smaller while what was found with them still holds."""

from __future__ import annotations

import time
from collections.abc import Callable

Parts = tuple[bytes, ...]


def smallest(parts: Parts, holds: Callable[[Parts], bool], until: float) -> Parts:
    """``parts`` with as much removed and then set to zero as ``holds`` allows, until the clock says ``until``."""
    if not holds(parts):
        return parts
    for at in range(len(parts)):
        if parts[at] and holds(cut := (*parts[:at], b"", *parts[at + 1 :])):
            parts = cut
    for replace in (False, True):
        for at in range(len(parts)):
            parts = _smaller(parts, at, holds, until, replace)
    return parts


def _smaller(parts: Parts, at: int, holds: Callable[[Parts], bool], until: float, replace: bool) -> Parts:
    size = len(parts[at]) // 2
    while size:
        start = 0
        while start < len(parts[at]):
            if time.monotonic() > until:
                return parts
            old = parts[at][start : start + size]
            new = bytes(len(old)) if replace else b""
            changed = parts[at][:start] + new + parts[at][start + size :]
            candidate = (*parts[:at], changed, *parts[at + 1 :])
            if old != new and holds(candidate):
                parts = candidate
                start += size if replace else 0
            else:
                start += size
        size //= 2
    return parts
