"""Batches beyond one machine: on a real Dask cluster of which a worker dies, and from and to a real object store."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests import photos
from tests.servers import free_port, process
from tests.test_batch import files, start, wait_for
from tests.test_cli import run
from tests.test_remote import bucket, own_cache, store  # noqa: F401  (fixtures)
from tests.zoo import make
from xconvert import evaluate
from xconvert.batch.execution import Lost, cluster, local, map_entries
from xconvert.errors import UsageError

pytestmark = pytest.mark.framework


class Cluster:
    """A scheduler and ``workers``, each a process of its own, with one thread each."""

    def __init__(self, stack: ExitStack, folder: Path, workers: int) -> None:
        port = free_port()
        scheduler = ("-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", port, "--no-dashboard")
        stack.enter_context(process(*scheduler, port=port, folder=folder))
        self.address = f"dask://127.0.0.1:{port}"
        self.workers = []
        for _ in range(workers):
            own = free_port()
            command = (
                "-m",
                "distributed.cli.dask_worker",
                f"tcp://127.0.0.1:{port}",
                "--nthreads",
                1,
                "--no-nanny",
                "--no-dashboard",
            )
            self.workers.append(stack.enter_context(process(*command, "--worker-port", own, port=own, folder=folder)))
        with cluster(self.address) as pool:
            end = time.monotonic() + 60
            while pool.width() < workers and time.monotonic() < end:
                time.sleep(0.1)


@pytest.fixture
def dask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    with ExitStack() as stack:
        yield Cluster(stack, tmp_path, 2)


def test_a_worker_is_killed_midway_and_nothing_is_lost_or_done_twice(dask: Cluster, tmp_path: Path) -> None:
    make(tmp_path / "zoo", 12)
    here = start("zoo", "--to", "torch", "-o", "here")
    whole = here.communicate(timeout=200)[0]
    there = start("zoo", "--to", "torch", "-o", "there", "--cluster", dask.address, "--report", "there.json")
    wait_for(there, tmp_path / "there", 4)
    os.kill(dask.workers[0].pid, signal.SIGKILL)
    out, err = there.communicate(timeout=200)
    assert there.returncode == 0, err
    assert out == whole
    assert files(tmp_path / "there") == files(tmp_path / "here")
    told = json.loads((tmp_path / "there.json").read_text())
    assert told["counts"]["verified"] == len({entry["output"] for entry in told["entries"]}) == len(told["entries"]) == 12
    assert err.count("  verified  (") == 12
    again = start("zoo", "--to", "torch", "-o", "there", "--cluster", dask.address, "--resume")
    out, err = again.communicate(timeout=200)
    assert again.returncode == 0 and out == whole and err.startswith("12 of 12 are finished already")


def test_an_evaluation_whose_worker_is_killed_counts_every_image_once(dask: Cluster, tmp_path: Path) -> None:
    photos.write(tmp_path / "photos", 240, largest=120)
    keras = Path(__file__).parents[1] / "fixtures" / "keras.h5"
    told = {}

    def shared_out(done: int, _before: int, _total: int, _right: int) -> None:
        if done and not told:
            told["killed"] = os.kill(dask.workers[0].pid, signal.SIGKILL)

    here = evaluate(keras, tmp_path / "photos", settings={"size": 75})
    options = {"settings": {"size": 75}, "progress": shared_out, "batch": 8, "resume": tmp_path / "state.json"}
    there = evaluate(keras, tmp_path / "photos", pool=cluster(dask.address), **options)
    assert told and there.outcomes == here.outcomes and len(there.outcomes) == 240
    assert len(json.loads((tmp_path / "state.json").read_text())["images"]) == 240


def test_the_same_function_is_mapped_here_and_there(dask: Cluster) -> None:
    for pool in (local(2), cluster(dask.address)):
        with pool as entered:
            assert dict(map_entries(entered, abs, [-1, 2, -3])) == {0: 1, 1: 2, 2: 3}
            (lost,) = (result for _, result in map_entries(entered, int, ["x"]))
            assert isinstance(lost, Lost) and "ValueError" in str(lost)


def test_a_cluster_that_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "zoo", 1)
    for address, told in {
        "dask://nowhere": "`--cluster dask://nowhere` is no address",
        "tcp://localhost:1": "is no address",
    }.items():
        code, _, err = run(capsys, "batch", "zoo", "--to", "torch", "--cluster", address)
        assert code == 2 and told in err
    monkeypatch.setitem(sys.modules, "distributed", None)
    code, _, err = run(capsys, "batch", "zoo", "--to", "torch", "--cluster", "dask://localhost:1")
    assert code == 2 and "hint: pip install 'xconvert[dask]'" in err


def test_nobody_answers(tmp_path: Path) -> None:
    pytest.importorskip("distributed")
    with pytest.raises(UsageError, match="no Dask scheduler answers at"), cluster(f"dask://127.0.0.1:{free_port()}", wait=1):
        pass


def test_a_zoo_in_an_object_store_goes_to_another_bucket(bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:  # noqa: F811
    for path in make(tmp_path / "zoo", 3):
        bucket.put_file(str(path), f"zoo/in/{path.name}")
    manifest = tmp_path / "zoo.toml"
    manifest.write_text('[[entry]]\nsource = "s3://zoo/in/*"\nto = ["torch", "paddle"]\n')
    code, out, err = run(capsys, "batch", manifest, "--dry-run")
    assert code == 0 and "6 to convert, from 3 sources of " in out, err
    code, first, err = run(capsys, "batch", manifest, "-o", "s3://zoo/out", "--report", tmp_path / "index.html")
    assert code == 0 and first.endswith("all 6 verified: same answer\n"), err
    assert len(bucket.find("zoo/out")) == 6
    assert "s3://zoo/in/00-xception.h5" in (tmp_path / "index.html").read_text()
    code, _, err = run(capsys, "batch", manifest, "-o", "s3://zoo/out")
    assert code == 2 and "6 of 6 outputs cannot be written" in err
    bucket.rm("zoo/out/torch/00-xception.pth")
    code, again, err = run(capsys, "batch", manifest, "-o", "s3://zoo/out", "--resume")
    assert (code, again) == (0, first) and "5 of 6 are finished already" in err and err.count("  verified  (") == 1
    manifest.write_text('[[entry]]\nsource = "s3://zoo/in/none.pth"\nto = "torch"\n')
    code, _, err = run(capsys, "batch", manifest)
    assert code == 2 and "`s3://zoo/in/none.pth` does not exist" in err


def test_offline_the_catalogue_says_so_and_what_it_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """There is no network here; where there is, a proxy that nobody serves stands for none."""
    pytest.importorskip("fsspec")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XCONVERT_CACHE", str(tmp_path / "cache"))
    for name in ("https_proxy", "HTTPS_PROXY", "http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    code, out, err = run(capsys, "batch", "--catalog", "keras,timm,cadene", "--to", "torch")
    assert (code, out) == (2, "")
    assert err.startswith("error: the network cannot be reached: none of the sources answers\n")
    assert all(name in err for name in ("tf_kernels_notop.h5", "tf_xception_71-8eec7df1.pth", "xception-43020ad28.pth"))
    assert not (tmp_path / "converted").exists()


def test_the_width_of_a_pool_bounds_what_is_in_flight() -> None:
    running, most, lock = [0], [0], threading.Lock()

    def slow(item: int) -> int:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        time.sleep(0.01)
        with lock:
            running[0] -= 1
        return item

    taken: list[int] = []
    with local(3) as pool:
        for _, result in map_entries(pool, slow, (taken.append(i) or i for i in range(20)), lambda: len(taken) < 10):
            assert isinstance(result, int)
    assert most[0] <= 3 and taken == list(range(10))
