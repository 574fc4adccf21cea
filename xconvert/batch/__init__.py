"""Many conversions as one job: a manifest becomes a plan, workers carry it out, and what was done is kept and summed up.

``manifest`` reads and checks; ``plan`` says what becomes of each source; ``execution`` runs functions on local processes or on a
Dask cluster; ``worker`` is the process of one conversion; ``state`` remembers what is finished; ``run`` puts these together;
``summary`` tells the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xconvert.tuples import NamedTuple


class Entry(NamedTuple):
    """Sources that are converted alike, as a manifest says it: each of ``sources`` (a file, a URL, or a pattern of either) for
    each target in ``to``. ``options`` are those of ``conversion.convert``. ``where``: what problems with it are told of.
    """

    where: str
    sources: tuple[str, ...]
    to: tuple[str, ...]
    name: str = ""
    output: str = ""
    sha256: str = ""
    licence: str = ""
    options: Mapping[str, Any] = {}


class Job(NamedTuple):
    """One conversion: ``source``, a file or a URL, for ``to``, into ``output`` in the folder of the batch."""

    name: str
    source: str
    to: str
    output: str
    sha256: str = ""
    licence: str = ""
    options: Mapping[str, Any] = {}
