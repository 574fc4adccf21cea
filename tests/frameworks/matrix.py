"""Print the README's table of what becomes what, measured on full-size checkpoints of real Keras and timm (``make matrix``)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.frameworks.test_first_light import KERAS, TORCH, make
from xconvert import convert
from xconvert.errors import RefusedError
from xconvert.report import Report

# (source file, target, output, what runs the result)
PAIRS = [
    ("keras.h5", "torch", "a.pth", "torch"),
    ("keras.h5", "keras-hub", "a.h5", "keras-hub"),
    ("keras.h5", "mindcv", "mindcv.safetensors", None),
    ("keras.h5", "timm", "b.safetensors", "timm"),
    ("keras.h5", "cadene", "c.pth", "cadene"),
    ("timm.pth", "keras", "d.h5", "keras"),
    ("timm.pth", "cadene", "e.pth", "cadene"),
    ("timm.pth", "lornatang", "f.pth", "timm"),
    ("timm.pth", "keras.applications", "g.h5", "keras.applications"),
    ("mindcv.safetensors", "keras.applications", "h.h5", "keras.applications"),
]


def row(folder: Path, source: str, to: str, output: str, backend: str | None) -> str:
    """One line of the table; a refused conversion is measured as accepted, and says what it costs."""
    cost = "–"
    options = {"to": to, "verify_with": [backend] if backend else []}
    try:
        report = convert(folder / source, folder / output, **options)
    except RefusedError:
        report = convert(folder / source, folder / output, accept=["pool_padding"], **options)
        told = next(note for note in report.notes if note.startswith("accepted"))
        cost = "refused: the logits move by " + told.partition("move by ")[2].partition(" ")[0]
    folded = next((f"{c['source']} → {c['target']}" for c in report.changes if c["action"] == "folded"), "–")
    names = {"keras.h5": "keras.applications", "timm.pth": "timm", "mindcv.safetensors": "MindCV"}
    return f"| {names[source]} | `{to}` | {folded} | {cost} | {measured(report, backend)} |"


def measured(report: Report, backend: str | None) -> str:
    if backend is None:
        worst = max(report.outputs, key=lambda o: o.relative)
        return f"NumPy reference, float64: {worst.relative:.0e} of {worst.allowed:.0e}"
    check = next(check for check in report.checks if check.name == f"run by {backend}")
    error, _, rest = check.detail.removeprefix("relative L2 ").partition(" at ")
    allowed = rest.partition("allowed ")[2].partition(" ")[0]
    whose = "xconvert's network in " + backend if backend in ("torch", "keras") else f"{backend}'s own class"
    return f"{whose}: {float(error):.0e} of {float(allowed):.0e}"


def main() -> None:
    """Make the two checkpoints, convert each pair, print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, "keras-h5", "keras.h5", KERAS, sizes=(75,))
        make(folder, "timm-pth", "timm.pth", TORCH, seed=1, sizes=(75,))
        print("| from | `--to` | epsilon folded | pool padding | logits at 299×299 against the source, of what is allowed |")
        print("|---|---|---|---|---|")
        for pair in PAIRS:
            print(row(folder, *pair), flush=True)


if __name__ == "__main__":
    main()
