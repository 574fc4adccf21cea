"""``xconvert bench``: its figures, its table, and what it says of what is missing or fails."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.narrow import TORCH, checkpoint, narrow
from xconvert import timing
from xconvert.backends import Backend, Job, backends
from xconvert.cli import main
from xconvert.commands.bench import machine, text
from xconvert.errors import UsageError
from xconvert.formats import safetensors
from xconvert.probe import images
from xconvert.timing import bench


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench") / "a.safetensors"
    safetensors.write(path, checkpoint(narrow(depth=0, divide=32, **TORCH), "timm"))
    return path


def never(job: Job) -> Any:
    raise AssertionError


ABSENT = Backend("absent", "", ("no_such_module",), "graph", never, serve=never)


def test_the_figures(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        timing, "backends", lambda: {"absent": ABSENT, "numpy": backends()["numpy"], "torch": backends()["torch"]}
    )
    monkeypatch.setenv("XCONVERT_PYTHON_TORCH", "/no/such/python")
    said: list[str] = []
    told = bench(source, batches=[1, 2], size=75, threads=1, repeat=3, progress=said.append)
    absent, one, two, broken = told["rows"]
    assert absent == {"backend": "absent", "status": "not installed", "why": "needs no_such_module"}
    assert broken == {"backend": "torch", "status": "failed", "why": "/no/such/python: No such file or directory"}
    for row, batch in ((one, 1), (two, 2)):
        assert (row["backend"], row["status"], row["batch"], row["off"]) == ("numpy", "measured", batch, 0.0)
        seconds = row["seconds"]
        assert len(seconds["rounds"]) == 3
        assert 0 < min(seconds["rounds"]) <= seconds["low"] <= seconds["median"] <= seconds["high"] <= max(seconds["rounds"])
        assert seconds["median"] == np.median(seconds["rounds"])
        assert row["images_per_second"] == batch / seconds["median"]
    assert (told["size"], told["repeat"], told["machine"]["threads"]) == (75, 3, 1)
    assert told["provenance"]["source"]["file"] == str(source)
    assert said[:2] == ["numpy: loading and warming up", "torch: loading and warming up"]
    assert [line.partition(",")[0] for line in said[2:]] == [f"round {i} of 3" for i in (1, 2, 3)]
    assert json.loads(json.dumps(told)) == told


def test_a_process_that_fails_is_a_row_that_says_why(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: it is broken' >&2\nexit 7\n")
    python.chmod(0o755)
    monkeypatch.setenv("XCONVERT_PYTHON_NUMPY", str(python))
    told = bench(source, backend=["numpy"], batches=[1], size=75, repeat=1)
    assert told["rows"] == [{"backend": "numpy", "status": "failed", "why": "backend `numpy` failed: ImportError: it is broken"}]


def test_one_that_answers_something_else_is_told() -> None:
    row = {"backend": "torch", "status": "measured", "how": "x", "batch": 1, "images_per_second": 2.0, "off": 0.02}
    row |= {"seconds": {"median": 0.5, "low": 0.25, "high": 1.25, "rounds": []}}
    network = {"implementation": "timm", "published": "legacy_xception", "classes": 10, "parameters": 5, "dtypes": ["float32"]}
    computer = {
        "processor": "P",
        "memory": 2**33,
        "system": "Linux x86_64",
        "python": "3.11",
        "load": 9.0,
        "cores": 2,
        "threads": 1,
    }
    rows = [row, {"backend": "onnx", "status": "not installed", "why": "needs onnxruntime"}]
    told = {"file": "a.pth", "network": network, "machine": computer, "repeat": 4, "size": 299, "rows": rows}
    assert text(told) == (
        "\x1b[1ma.pth\x1b[0m\n"
        "  timm legacy_xception, 10 classes, 5 params, float32\n"
        "  P, 1 of 2 cores, 8 GiB, Linux x86_64, Python 3.11\n"
        "  median of 4 rounds, images of 299×299, float32\n"
        "\n"
        "  \x1b[2mbackend  batch  ms   middle half  images/s\x1b[0m\n"
        "  torch    1      500  250 – 1250   2.00      x\n"
        "  onnx     –                                  not installed: needs onnxruntime\n"
        "\x1b[36m\x1b[1mnote:\x1b[0m the machine is busy: 9 processes want its 2 cores\n"
        "\x1b[36m\x1b[1mnote:\x1b[0m `torch` answers something else: relative L2 2.0e-02 from the reference"
    )
    assert machine({**computer, "memory": None}) == "P, 1 of 2 cores, Linux x86_64, Python 3.11"


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, arguments)))
    out, err = capsys.readouterr()
    return int(ended.value.code or 0), out, err


@pytest.mark.slow
def test_the_command_line(source: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ("--backend", "numpy", "--batch", 2, "--size", 75, "--repeat", 2, "--threads", 1)
    code, out, err = run(capsys, "bench", source, *options)
    assert code == 0
    assert out.splitlines()[3] == "  median of 2 rounds, images of 75×75, float32"
    assert out.splitlines()[6].startswith("  numpy    2      ")
    assert err.splitlines()[0] == "numpy: loading and warming up"
    code, out, _ = run(capsys, "bench", source, *options, "--json")
    assert [row["batch"] for row in json.loads(out)["rows"]] == [2]


REFUSED = [
    (["--backend", "timm"], "`timm` is a class that is only compared"),
    (["--backend", "caffe"], "no backend is called `caffe`"),
    (["--batch", "0"], "a batch has 1 to 1024 images"),
    (["--threads", "9999"], "9999 threads cannot run at once here"),
    (["--repeat", "0"], "0 rounds cannot be measured"),
    (["--size", "0"], "images of 0 pixels are too small for xception"),
    (["--size", "5000"], "images of 5000 pixels are too large to be measured"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED)
def test_what_makes_no_sense_is_refused(
    source: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, "bench", source, *options)
    assert (code, out, err.splitlines()[0]) == (2, "", f"error: {message}")


def test_every_graph_can_be_served() -> None:
    for backend in backends().values():
        assert (backend.serve is not None) == (backend.kind == "graph") == bool(backend.serves), backend.name


@pytest.mark.parametrize("head", [True, False])
def test_the_reference_serves_what_it_runs(head: bool) -> None:
    model = narrow(depth=0, divide=32, head=head)
    job = Job(model.layers, {name: tensor.read() for name, tensor in model.weights.items()}, images(75, 2))
    numpy = backends()["numpy"]
    assert numpy.serve
    assert np.array_equal(numpy.serve(job)(job.images), numpy.run(job)[job.layers[-1].name])


@pytest.mark.framework
@pytest.mark.parametrize("name", [backend.name for backend in backends().values() if backend.kind == "graph"])
@pytest.mark.parametrize("head", [True, False])
def test_frameworks_serve_what_the_reference_computes(name: str, head: bool, tmp_path: Path) -> None:
    if not backends()[name].installed:
        pytest.skip(f"{name} is not installed")
    path = tmp_path / "a.safetensors"
    safetensors.write(path, checkpoint(narrow(depth=0, divide=32, head=head, **TORCH), "timm"))
    told = bench(path, backend=[name], batches=[1, 3], size=75, threads=1, repeat=2)
    assert [row["status"] for row in told["rows"]] == ["measured"] * 2, told["rows"]
    assert all(row["off"] < 1e-5 for row in told["rows"])


def test_what_a_framework_prints_is_no_answer(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """stdout belongs to the figures, whatever is written there meanwhile."""
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, sys\nsys.stdout.write('')\n"
        "import xconvert.backends.numpy as n\nold = n.run\n"
        "def run(job):\n    print('hello from a framework', flush=True)\n    return old(job)\nn.run = run\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{Path(timing.__file__).parents[1]}")
    monkeypatch.setenv("XCONVERT_PYTHON_NUMPY", sys.executable)
    told = bench(source, backend=["numpy"], batches=[1], size=75, repeat=1)
    assert told["rows"][0]["status"] == "measured"


def test_a_class_cannot_be_asked() -> None:
    with pytest.raises(UsageError) as refusal:
        timing.find_or_say("timm")
    assert refusal.value.facts == ("measured are keras, mindspore, numpy, onnx, paddle, tensorflow, torch",)
