"""``python -m tests.fuzz``: a table of what became of the inputs, and exit code 1 where anything was found."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz import campaign
from tests.fuzz.campaign import Finding, Job, Tally
from tests.fuzz.targets import READERS, TARGETS, Target

KINDS = ("crash", "hang", "exception", "execution", "memory", "message")


GUIDED, AT_A_TIME = 0.2, 3.0  # the share of the time that atheris gets, and seconds below which it is not worth starting


def plan(targets: Sequence[Target], seconds: float, seed: int, workers: int, least: int) -> list[Job]:
    """The jobs: each target's share of the time; where atheris is installed it gets a part of it, in a short round for a few
    targets at a time, others with another seed. Every reader gets ``least`` inputs, however long that takes.
    """
    guided = GUIDED if importlib.util.find_spec("atheris") else 0.0
    whole = seconds * workers / sum(target.weight for target in targets)
    few = max(1, min(len(targets), int(seconds * workers * guided / AT_A_TIME)))
    chosen = [targets[(seed * few + i) % len(targets)] for i in range(few)] if guided else []
    jobs = []
    for target in targets:
        wanted = least if target in READERS or target.name == "sniffer" else 0
        jobs.append(Job(target.name, "mutate", seed, max(whole * target.weight * (1 - guided), 0.5), least=wanted))
        if target in chosen:
            share = whole * target.weight if few == len(targets) else seconds * workers / few
            jobs.append(Job(target.name, "atheris", seed, share * guided))
    return jobs


def total(jobs: Sequence[Job]) -> dict[str, Tally]:
    """The inputs by target."""
    tallies: dict[str, Tally] = {}
    for job in jobs:
        tally = tallies.setdefault(job.target, Tally())
        for name in ("inputs", "accepted", "refused", "seconds"):
            setattr(tally, name, getattr(tally, name) + getattr(job.tally, name))
        tally.engines[job.engine] = tally.engines.get(job.engine, 0) + job.tally.inputs
    return tallies


def table(tallies: dict[str, Tally], findings: Sequence[Finding]) -> str:
    """Inputs, what became of them, and findings by kind, for each target and in all."""
    lines = [
        f"{'target':<20}{'inputs':>10}{'accepted':>10}{'refused':>10}"
        + "".join(f"{kind:>10}" for kind in KINDS)
        + f"{'per s':>8}"
    ]
    counts = {(f.target, f.kind): 0 for f in findings}
    for finding in findings:
        counts[finding.target, finding.kind] += finding.count
    for name, tally in tallies.items():
        found = [counts.get((name, kind), 0) for kind in KINDS]
        lines.append(_row(name, tally, found))
    whole = Tally(*(sum(getattr(t, name) for t in tallies.values()) for name in ("inputs", "accepted", "refused", "seconds")))
    lines.append(_row("all", whole, [sum(counts.get((name, kind), 0) for name in tallies) for kind in KINDS]))
    return "\n".join(lines)


def _row(name: str, tally: Tally, found: Sequence[int]) -> str:
    head = f"{name:<20}{tally.inputs:>10,}{tally.accepted:>10,}{tally.refused:>10,}"
    return head + "".join(f"{count or '-':>10}" for count in found) + f"{tally.inputs / max(tally.seconds, 0.01):>8,.0f}"


def options() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"all, or some of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=float, default=60, help="how long, about (default 60)")
    parser.add_argument("--least", type=int, default=0, help="and until every target had so many inputs")
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same inputs (default 0)")
    parser.add_argument("--workers", type=int, default=1, help="processes at a time (default 1)")
    parser.add_argument("--json", type=Path, help="write the numbers into this file too")
    parser.add_argument("--keep", action="store_true", help=f"minimise findings and file them in {campaign.FOUND}")
    return parser.parse_args()


def main() -> int:
    """Run, print, and return the exit code."""
    chosen = options()
    if unknown := [name for name in chosen.targets if name not in TARGETS]:
        print(f"no target is called `{unknown[0]}`", file=sys.stderr)
        return 2
    targets = [TARGETS[name] for name in chosen.targets or TARGETS]
    started = time.monotonic()
    jobs = plan(targets, chosen.seconds, chosen.seed, chosen.workers, chosen.least)
    guided = [job.target for job in jobs if job.engine == "atheris"]
    told = (
        f"guided by coverage (atheris): {', '.join(guided)}"
        if guided
        else "atheris is not installed: nothing is guided by coverage"
    )
    print(f"seed {chosen.seed}; {told}", flush=True)
    campaign.run(jobs, chosen.workers)
    findings, tallies = campaign.distinct(jobs), total(jobs)
    print(table(tallies, findings))
    for finding in findings:
        if chosen.keep and finding.parts:
            campaign.filed(campaign.minimised(finding), TARGETS[finding.target].files)
        size, times = sum(map(len, finding.parts)), f"{finding.count} times"
        print(f"\n{finding.target}: {finding.kind}, {finding.what} ({times}, {size} bytes) {finding.file}")
        print(f"  {finding.detail[:3500]}")
    if chosen.json:
        told = {
            "seed": chosen.seed,
            "seconds": round(time.monotonic() - started, 1),
            "targets": {n: vars(t) for n, t in tallies.items()},
        }
        told["findings"] = [{k: v for k, v in vars(f).items() if k != "parts"} for f in findings]
        chosen.json.write_text(json.dumps(told, indent=2) + "\n")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
