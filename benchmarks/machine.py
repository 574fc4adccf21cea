"""What was measured on: ratios travel between machines, but not between processors that are nothing like each other."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.measure import ROOT, environment

PACKAGES = ("numpy", "h5py", "safetensors", "click", "torch", "timm", "tensorflow-cpu", "keras", "paddlepaddle", "onnxruntime")
BLAS = """
import json, numpy
told = numpy.show_config(mode="dicts")
print(json.dumps([told["Build Dependencies"]["blas"], told.get("SIMD Extensions", {}).get("found", [])]))
"""


def describe() -> dict[str, Any]:
    """The machine and everything on it that matters."""
    blas, simd = _blas()
    return {
        "processor": _line("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": _line("/proc/meminfo", "MemTotal"),
        "system": platform.platform(),
        "load": [round(x, 2) for x in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "blas": f"{blas.get('name', '?')} {blas.get('version', '?')}",
        "simd": simd,
        "commit": _commit(),
    }


def told(machine: dict[str, Any]) -> str:
    """The same for people."""
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    load = " ".join(map(str, machine["load"]))
    return (
        f"{machine['processor']}, {machine['usable']} of {machine['cores']} cores, {machine['memory']}, load {load}\n"
        f"{machine['system']}, Python {machine['python']}, {versions}; BLAS {machine['blas']}\n"
        f"xconvert at {machine['commit']}"
    )


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _line(file: str, key: str) -> str:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")


def _blas() -> tuple[dict[str, Any], list[str]]:
    done = subprocess.run([sys.executable, "-c", BLAS], capture_output=True, text=True, env=environment(), check=False)
    found: tuple[dict[str, Any], list[str]] = tuple(json.loads(done.stdout)) if done.returncode == 0 else ({}, [])
    return found


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "?"
