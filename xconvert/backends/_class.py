"""What the model classes of every framework have in common: widths that are fixed, the module that shows an activation, and
files of packages whose ``__init__`` wants more than they do.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import takewhile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

from xconvert.backends import Job
from xconvert.backends._graph import refuse_width


def refuse_widths(job: Job, title: str, modules: Mapping[str, Any], *, inputs_first: bool = False) -> None:
    """Raise ``ValueError`` when the class called ``title``, with ``modules`` by path, has another depth or other widths.

    ``inputs_first``: whether the weight of its linear layer is (inputs, outputs).
    """
    for layer in job.layers:
        if layer.op not in ("conv", "pointwise", "linear"):
            continue
        path = job.names[layer.name]
        if path not in modules:
            raise ValueError(f"{title} has no `{path}`: its depth is fixed")
        theirs = tuple(modules[path].weight.shape[:2])
        if layer.op == "linear" and inputs_first:
            theirs = theirs[::-1]
        *_, inputs, outputs = job.weights[f"{layer.name}.weight"].shape
        refuse_width(title, layer, "filters", theirs[0], outputs)
        refuse_width(title, layer, "input channels", theirs[1], inputs)


def visible(job: Job, modules: Mapping[str, Any], activates: Callable[[Any], bool]) -> dict[str, str]:
    """Tapped layer → path of the module, one of ``modules``, whose output it is.

    A layer with weights is a module; the output of a batch norm that ``activates`` is our ReLU behind it. A residual block is
    a module too, the one that all its layers are in: its output is our addition, that of the pool in it our pool.
    """
    paths, blocks = dict(job.names), _blocks(job)
    for layer in job.layers:
        before, block = layer.inputs[0], blocks.get(layer.name.rpartition(".")[0], "")
        if layer.op == "relu" and before in job.names and activates(modules[paths[before]]):
            paths[layer.name] = paths.pop(before)
        elif layer.op == "add":
            paths[layer.name] = block
        elif layer.op == "max_pool":
            inside = [
                path for path, m in modules.items() if path.startswith(block + ".") and type(m).__name__.startswith("MaxPool")
            ]
            paths[layer.name] = inside[0]
    return {tap: paths[tap] for tap in job.taps if tap in paths}


def _blocks(job: Job) -> dict[str, str]:
    """Our name of each residual block → the path of its module.

    It is what the paths of the block's layers have in common, no deeper than in the block where they have least: one without
    a projection has all its layers in a part of the module.
    """
    common = {}
    for layer in job.layers:
        if layer.op == "add":
            block = layer.name.rpartition(".")[0]
            parts = zip(*(path.split(".") for name, path in job.names.items() if name.startswith(block + ".")), strict=False)
            common[block] = [names[0] for names in takewhile(lambda names: len(set(names)) == 1, parts)]
    depth = min(map(len, common.values()))
    return {block: ".".join(path[:depth]) for block, path in common.items()}


def import_file(package: str, file: str, **imports: Mapping[str, Any]) -> ModuleType:
    """The module in ``file`` of an installed ``package``, without importing the package.

    ``imports``: what stands in for modules of the package that the file imports, dots as double underscores, each with the names
    that it takes from it. Raises ``ModuleNotFoundError`` when the package or the file is not there.
    """
    found = find_spec(package)
    if found is None or found.origin is None:
        raise ModuleNotFoundError(f"No module named '{package}'")
    path = Path(found.origin).parent / file
    spec = spec_from_file_location(".".join([package, *Path(file).with_suffix("").parts]), path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ModuleNotFoundError(f"{package} has no {file}")
    module = module_from_spec(spec)
    stand_ins = {f"{package}.{name.replace('__', '.')}": SimpleNamespace(**known) for name, known in imports.items()}
    sys.modules.update(stand_ins)  # type: ignore[arg-type]
    try:
        spec.loader.exec_module(module)
    finally:
        for name in stand_ins:
            del sys.modules[name]
    return module
