"""``python -m benchmarks [GROUP…]``."""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks import figures, machine
from benchmarks.figures import Figure
from benchmarks.session import Session

GROUPS = ("start", "convert", "steps", "forward", "scale")
SCHEMA = 1


def main() -> int:
    """Measure, print while measuring, store; 2 where something did not run, 1 with --strict where a target is missed."""
    asked = _arguments()
    session = Session(asked.repeat, asked.only, asked.wait)
    on = machine.describe()
    print(machine.told(on), end="\n\n", flush=True)
    print(figures.line(figures.HEADER), flush=True)
    found: list[Figure] = []
    started = time.time()
    try:
        for group in asked.groups or GROUPS:
            print(f"— {group}", flush=True)
            for figure in import_module(f"benchmarks.{group}").run(session):
                found.append(figure)
                print(figures.line(figure.row()), flush=True)
    except KeyboardInterrupt:
        print("interrupted: what follows is what there is", file=sys.stderr)
    print("", *figures.summary(found), sep="\n")
    print(f"\n{_disturbed(found)}")
    if asked.json:
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(_told(on, session, found, started), indent=1, ensure_ascii=False) + "\n")
    verdicts = {figure.verdict for figure in found}
    return 2 if "FAILED" in verdicts or not found else 1 if asked.strict and "MISSED" in verdicts else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Ratios within one run; see benchmarks/README.md.")
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=f"of {', '.join(GROUPS)}; all by default")
    parser.add_argument("--repeat", type=int, default=5, metavar="N", help="rounds in which rivals take turns (default: 5)")
    parser.add_argument("--only", default="", metavar="PATTERN", help="cases whose names begin like this: `h5 to`, `*to pth`")
    parser.add_argument("--wait", type=float, default=0.0, metavar="S", help="before a sample, up to so long for a quiet machine")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all figures and samples")
    parser.add_argument("--strict", action="store_true", help="exit with 1 where a target is missed")
    asked = parser.parse_args()
    if unknown := [group for group in asked.groups if group not in GROUPS]:
        parser.error(f"no group is called {unknown[0]}")
    if asked.repeat < 1:
        parser.error("--repeat takes a number from 1")
    return asked


def _disturbed(found: list[Figure]) -> str:
    busy = sorted(figure.others for figure in found if figure.rounds)
    if not busy:
        return "nothing was measured"
    told = f"others took {busy[len(busy) // 2]:.2f} processors in the median figure, {busy[-1]:.2f} in the worst"
    return f"{told}; above {figures.QUIET} it is the processors' time that is held to a target, not the clock"


def _told(on: dict[str, Any], session: Session, found: list[Figure], started: float) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(started)),
        "seconds": round(time.time() - started, 1),
        "machine": on,
        "rounds": session.rounds,
        "figures": [figure.to_dict() for figure in found],
        "samples": session.samples,
    }


if __name__ == "__main__":
    sys.exit(main())
