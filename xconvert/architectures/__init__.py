"""One module per network family; each offers a ``FAMILY``."""

from __future__ import annotations

from xconvert.model import Family
from xconvert.plugins import discover


def families() -> dict[str, Family]:
    """Every family by name."""
    return discover("architectures", "FAMILY")
