"""Whatever a small file repeats, to read it takes little more than two seconds, and no more memory than allowed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.costs import COSTS
from xconvert.formats._limits import FREE, TIMES

LONGEST = 2  # seconds of processor time, and one more for each 5 MB
SLACK = 32 << 20  # bytes: what else the process takes meanwhile, and the mapped file

OPEN = """
import json, sys, time
from pathlib import Path
from contextlib import suppress
import crc32c, h5py, ml_dtypes, numpy as np
from xconvert import formats, load
from xconvert.errors import XconvertError
from xconvert.loading import interpret
from xconvert.model import Checkpoint, Tensor

def peak():
    return int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) << 10

formats.formats()
with suppress(XconvertError):  # the graphs of all networks are made once
    interpret(Checkpoint({"block1.conv1.weight": Tensor.of(np.zeros(1))}), "warm")
path = Path(sys.argv[1])
before, start = peak(), time.process_time()
try:
    for tensor in formats.read(path).tensors.values():
        tensor.read()
    load(path)
    said = "loaded"
except XconvertError as error:
    said = error.message
    assert len(error.facts) < 100
except BaseException as error:
    said = repr(error)
print(json.dumps([time.process_time() - start, peak() - before, said]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("what", COSTS)
def test_no_repetition_takes_long_or_much_memory(what: str, tmp_path: Path) -> None:
    suffix, build = COSTS[what]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(build())
    size = path.stat().st_size
    assert size < 25_000_000
    done = subprocess.run([sys.executable, "-c", OPEN, str(path)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    seconds, memory, said = json.loads(done.stdout)
    assert said.startswith(f"`{path}` "), said
    assert seconds < LONGEST + size / 5_000_000, said
    assert memory < FREE + (TIMES + 1) * size + SLACK, said
