"""Set before NumPy and TensorFlow are imported, here and in the processes that tests start.

Narrow networks lose more to BLAS threads waiting for each other than they gain. PyTorch's OpenMP threads spin while they wait:
beside another busy process on two cores a run of timm's class took 36 and 60 s with two of them, 7 s with one. TensorFlow 2.21's
oneDNN kernels corrupt the heap when a narrow Xception is trained ("munmap_chunk(): invalid pointer" in 12 of 24 runs here, in 0
of 8 without them).
"""

import os

os.environ.pop("PYTHONUNBUFFERED", None)  # which few users have, and which hides that something was left to print
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

from collections.abc import Iterator
from typing import Any


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """What tests found out beside passing, from whichever worker they ran in: lines to tell, and the table of injected faults."""

    def recorded(key: str) -> Iterator[Any]:
        for report in (report for reports in terminalreporter.stats.values() for report in reports):
            if getattr(report, "when", "") == "call":
                yield from (value for name, value in report.user_properties if name == key)

    cells = {(name, family): tuple(cell) for name, family, *cell in recorded("mutation")}
    lines = [*recorded("told")]
    if cells:
        import tests.mutants  # noqa: F401  (enters the faults)
        from tests.mutations import table

        lines = [*table(cells), *lines]
    if pairs := [*recorded("pairs")]:
        raised, count = (sum(pair[i] for pair in pairs) for i in range(2))
        lines.append(f"false alarms: {raised} of {count} good pairs ({raised / count:.1%})")
    if lines:
        terminalreporter.section("faults and good pairs")
        terminalreporter.write("\n".join([*lines, ""]))
