"""What a forward pass on one thread goes into: ``operations.py FILE TIMES`` prints, for each pass, milliseconds by operation."""

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from xconvert import forward, load
from xconvert.backends import _pass, numpy
from xconvert.probe import images

spent: dict[str, float] = defaultdict(float)


def timed(name: str, operation: Callable[..., Any]) -> Callable[..., Any]:
    """``operation``, with its time counted to ``name``."""

    def run(*inputs: Any, **options: Any) -> Any:
        start = time.perf_counter()
        out = operation(*inputs, **options)
        spent[name] += time.perf_counter() - start
        return out

    return run


_pass.OPERATIONS = {name: timed(name, operation) for name, operation in numpy.OPERATIONS.items()}  # type: ignore[attr-defined]
model, image = load(sys.argv[1]), images(299, 1)
passes = []
for _ in range(int(sys.argv[2]) + 1):
    spent.clear()
    start = time.perf_counter()
    forward(model, image)
    spent["everything else"] = time.perf_counter() - start - sum(spent.values())
    passes.append({name: 1000 * seconds for name, seconds in spent.items()})
print(json.dumps(passes[1:]))
