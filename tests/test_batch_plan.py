"""From a manifest to a plan: what is meant, what is wrong, and what does not depend on order."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.test_cli import run
from xconvert.batch import Entry, manifest
from xconvert.batch.plan import explicit, plan
from xconvert.errors import UnreadableError

FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of small checkpoints of several kinds, with other files among them."""
    folder = tmp_path / "zoo"
    (folder / "more").mkdir(parents=True)
    for name in ("keras.h5", "keras.pth", "timm.pth", "deeplab.ckpt.index", "deeplab.ckpt.data-00000-of-00001"):
        shutil.copy(FIXTURES / name, folder)
    shutil.copy(FIXTURES / "timm.pth", folder / "more" / "timm.pth")
    (folder / "README.md").write_text("not a checkpoint")
    (folder / ".hidden.pth").write_bytes((FIXTURES / "timm.pth").read_bytes())
    monkeypatch.chdir(tmp_path)
    return folder


def written(folder: Path, text: str) -> Path:
    path = folder / "zoo.toml"
    path.write_text(text)
    return path


def outputs(path: Path, **defaults: Any) -> list[str]:
    entries, problems = manifest.read(path, defaults)
    planned = plan(entries, "converted")
    assert not problems and not planned.problems
    return [job.output for job in planned.jobs]


def test_a_folder_means_its_checkpoints_recognised_by_content(zoo: Path) -> None:
    entries, others = manifest.of_folder(Path("zoo"), {"to": ["torch", "paddle"]})
    planned = plan(entries, "converted")
    assert others == 1
    names = ["deeplab", "keras.h5", "keras.pth", "more/timm", "timm"]
    assert [job.output for job in planned.jobs] == sorted(
        [f"paddle/{name}.pdparams" for name in names] + [f"torch/{name}.pth" for name in names]
    )
    assert not planned.problems
    assert planned.sizes["zoo/deeplab.ckpt"] == sum(file.stat().st_size for file in zoo.glob("deeplab*"))


def test_the_folder_of_outputs_is_no_source(zoo: Path) -> None:
    (zoo / "out" / "torch").mkdir(parents=True)
    shutil.copy(FIXTURES / "timm.pth", zoo / "out" / "torch" / "timm.pth")
    assert len(manifest.of_folder(Path("zoo"), {"to": ["torch"]}, {(zoo / "out").resolve()})[0]) == 5


def test_a_manifest_has_defaults_globs_names_and_options(zoo: Path) -> None:
    text = """
    [defaults]
    to = ["torch", "keras"]
    accept = "pool_padding"
    set = { bn_epsilon = 0.001 }

    [[entry]]
    source = "zoo/k*.*"
    [[entry]]
    source = "zoo/deeplab.ckpt"
    to = "timm"
    drop_background = true
    output = "aligned/{name}.safetensors"
    name = "forty-one"
    licence = "Apache-2.0"
    set = { bn_epsilon = "1e-5", exit_dilation = 1 }
    """
    entries, problems = manifest.read(written(Path(), text), {})
    jobs = plan(entries, "converted").jobs
    assert not problems
    assert [job.output for job in jobs] == [
        "aligned/forty-one.safetensors",
        *(f"keras/keras.{kind}.h5" for kind in ("h5", "pth")),
        *(f"torch/keras.{kind}.pth" for kind in ("h5", "pth")),
    ]
    assert jobs[0].options == {
        "accept": ["pool_padding"],
        "background": "drop",
        "settings": {"bn_epsilon": 1e-5, "exit_dilation": 1},
    }
    assert jobs[0].licence == "Apache-2.0" and jobs[0].source == "zoo/deeplab.ckpt"


BROKEN = """
surprise = 1
[defaults]
too = "timm"
drop_background = true
[[entry]]
source = "zoo/keras.h5"
sha256 = "abc"
[[entry]]
to = "timm"
acept = "pool_padding"
[[entry]]
source = 3
accept = "padding"
verify_with = "caffe"
max_memory = "lots"
set = { bn_epsilon = "much", colour = 1 }
"""


def test_everything_wrong_is_told_at_once_and_before_any_work(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "batch", written(Path(), BROKEN))
    assert (code, out) == (2, "")
    for told in [
        "`zoo.toml` cannot be carried out: 12 problems",
        "`surprise` is none of defaults, entry",
        "defaults: `too` is none of to, accept",
        "defaults: `drop_background` is none of",
        "entry 1: `sha256` is 'abc', expected a sha256 in hexadecimal digits",
        "entry 2: `source` is missing",
        "entry 2: `acept` is none of",
        "entry 3: `source` is 3, expected text, or a list of texts",
        "entry 3: no attribute is called `padding`",
        "entry 3: no backend is called `caffe`",
        "entry 3: `--max-memory lots` is no size",
        "entry 3: `bn_epsilon` cannot be `much`",
        "entry 3: no attribute is called `colour`",
    ]:
        assert told in err, (told, err)
    assert not Path("converted").exists()


WRONG = [
    ('[[entry]]\nsource = "none.pth"\nto = "torch"', "entry 1: nothing is called `none.pth`"),
    ('[[entry]]\nsource = "zoo/*.zip"\nto = "torch"', "entry 1: nothing is called `zoo/*.zip`"),
    ('[[entry]]\nsource = "zoo/keras.h5"', "entry 1: `to` is missing"),
    ('[[entry]]\nsource = "zoo/keras.h5"\nto = ["caffe"]', "no implementation or framework is called `caffe`; known: "),
    ('[[entry]]\nsource = "zoo/k*"\nto = "torch"\nname = "x"', "`name` is given, but 2 sources"),
    (f'[[entry]]\nsource = "zoo/k*"\nto = "torch"\nsha256 = "{"a" * 64}"', "`sha256` is given, but 2 sources"),
    ('[[entry]]\nsource = "zoo/k*"\nto = "torch"\noutput = "x.pth"', "`x.pth` is one output, but there are 2 sources"),
    (
        '[[entry]]\nsource = "zoo/keras.h5"\nto = ["torch", "timm"]\noutput = "x.pth"',
        "`x.pth` is one output, but there are 2 targets",
    ),
    (
        '[defaults]\nto = "torch"\n[[entry]]\nsource = "zoo/keras.h5"\nname="x"\n[[entry]]\nsource = "zoo/timm.pth"\nname="x"',
        "`torch/x.pth` would be the output of 2 conversions: of `zoo/keras.h5`, `zoo/timm.pth`",
    ),
    ('[[entry]]\nsource = "zoo/keras.h5"\nto = "torch"\noutput = "../x.pth"', "`../x.pth` is no name in the folder of outputs"),
    (
        '[[entry]]\nsource = "zoo/keras.h5"\nto = "torch"\noutput = "/tmp/x.pth"',
        "`/tmp/x.pth` is no name in the folder of outputs",
    ),
    ('[[entry]]\nsource = "zoo/keras.h5"\nto = "torch"\nname = "a/../../b"', "is no name in the folder of outputs"),
    ('[[entry]]\nsource = "zoo/keras.h5"\nto = "torch"\noutput = "s3://b/x.pth"', "is no name in the folder of outputs"),
    ('[[entry]]\nsource = "zoo/keras.h5"\nto = "torch"\noutput = "{nme}.pth"', "`{nme}.pth` is no name in the folder of outputs"),
    ('[[entry]]\nsource = "zoo/keras.h5"\nto = "torch"\noutput = "reports/x.pth"', "would lie where the batch keeps what it did"),
    ('[[entry]]\nsource = "zoo/keras.h5"\nto = "torch"\noutput = ".xconvert-batch/lock.pth"', "would lie where the batch keeps"),
    ('[[entry]]\nsource = "a\\u0000b"\nto = "torch"', "expected text, or a list of texts"),
    ('[[entry]]\nsource = "zoo/keras.h5"\nto = "torch"\nsource = "x"', "is no manifest"),
    ("entry = 3", "`entry` is 3, expected a list of 1 or more, each a table"),
    ("entry = []", "`entry` is [], expected a list"),
    ("defaults = 1\n[[entry]]\n", "`defaults` is 1, expected a table"),
    ("", "`entry` is missing"),
    ("[[" * 5000, "is no manifest"),
    ("x = " + "[" * 20000, "is no manifest"),
    ("\x00", "is no manifest"),
    ('[[entry]]\nsource = "strange://x/y"\nto = "torch"', "is no kind of URL that is known"),
]


@pytest.mark.parametrize(("text", "told"), WRONG)
def test_a_manifest_that_cannot_be_is_refused(zoo: Path, capsys: pytest.CaptureFixture[str], text: str, told: str) -> None:
    if "://" in text:
        pytest.importorskip("fsspec")
    code, out, err = run(capsys, "batch", written(Path(), text))
    assert (code, out) == (2, ""), err
    assert told in err and err.count("error:") == 1
    assert not Path("converted").exists()


def test_an_output_that_is_a_source_is_refused(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(
        Path(),
        '[[entry]]\nsource = "zoo/timm.pth"\nto = "torch"\noutput="keras.pth"\n[[entry]]\nsource="zoo/keras.pth"\nto = "keras"',
    )
    code, _, err = run(capsys, "batch", path, "-o", "zoo")
    assert code == 2 and "`zoo/keras.pth` is a source" in err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        ([], "a batch is a manifest, a folder, or a part of the catalogue"),
        (["zoo"], "missing option '--to'"),
        (["none.toml"], "`none.toml` does not exist"),
        (["zoo/keras.h5"], "`zoo/keras.h5` is no manifest"),
        (["zoo", "--to", "caffe"], "no implementation or framework is called `caffe`"),
        (["zoo", "--to", "torch", "--accept", "padding"], "no attribute is called `padding`"),
        (["zoo/more/..", "--to", "torch", "--workers", "2", "--cluster", "dask://x:1"], "a cluster has its own workers"),
        (["zoo", "--to", "torch", "--report", "x.pdf"], "`x.pdf` has no suffix of a report"),
        (["empty", "--to", "torch"], "`empty` holds no checkpoint that xconvert can read"),
        (["--catalog", "nobody", "--to", "torch"], "the catalogue has no `nobody`"),
        (["--catalog", "lornatang", "--to", "torch"], "`lornatang-xception` lies in Google Drive"),
        (["--catalog", "tf-deeplab", "--to", "torch"], "is an archive: unpack it"),
    ],
)
def test_a_mistake_is_one_message(zoo: Path, capsys: pytest.CaptureFixture[str], args: list[str], told: str) -> None:
    Path("empty").mkdir()
    code, out, err = run(capsys, "batch", *args)
    assert (code, out) == (2, "")
    assert told in err and err.count("error:") == 1, err


def test_a_dry_run_shows_the_plan_and_sizes_and_does_nothing(zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "batch", "zoo", "--to", "torch,keras", "--dry-run")
    assert code == 0
    assert "zoo/deeplab.ckpt  508 KiB  torch  converted/torch/deeplab.pth" in " ".join(out.split("\n")).replace("   ", "  ")
    assert "10 to convert, from 5 sources of " in out
    told = json.loads(run(capsys, "batch", "zoo", "--to", "torch,keras", "--dry-run", "--json")[1])
    assert len(told["jobs"]) == 10 and told["bytes"] == sum(job["bytes"] for job in told["jobs"]) // 2
    assert not Path("converted").exists()


NAMES = st.sampled_from(
    ["keras.h5", "keras.pth", "timm.pth", "deeplab.ckpt", "deeplab.pdparams", "keras.weights.h5", "timm.float16.pth"]
)


@pytest.mark.slow
@given(
    st.lists(
        st.tuples(
            st.lists(NAMES, min_size=1, max_size=3), st.lists(st.sampled_from(["torch", "timm", "keras"]), min_size=1, max_size=3)
        )
    ),
    st.randoms(use_true_random=False),
)
def test_the_order_of_entries_means_nothing_and_a_plan_plans_itself(made: list[Any], chance: random.Random) -> None:
    entries = [
        Entry(f"entry {i}", tuple(str(FIXTURES / name) for name in names), tuple(to)) for i, (names, to) in enumerate(made)
    ]
    planned = plan(entries, "converted")
    shuffled = entries[:]
    chance.shuffle(shuffled)
    again = plan(shuffled, "converted")
    assert planned.jobs == again.jobs and set(planned.problems) == set(again.problems)
    assert len({job.output for job in planned.jobs}) == len(planned.jobs)
    assert plan(explicit(planned.jobs), "converted").jobs == planned.jobs


def test_a_manifest_too_large_to_be_one(tmp_path: Path) -> None:
    with (tmp_path / "large.toml").open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(UnreadableError, match="16 MiB"):
        manifest.read(tmp_path / "large.toml", {})


def test_the_catalogue_lists_what_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run(capsys, "catalog", "--json")[1])["files"]
    assert len({file["name"] for file in told}) == len(told) >= 23
    assert all(file["licence"] and (file.get("url") or file["by_hand"]) for file in told)
    keras = [file for file in told if file["zoo"] == "keras"]
    assert [file["md5"] for file in keras] == ["0a58e3b7378bc2990ea3b43d5981f1f6", "b0042744bf5b25fce3cb969f33bebb97"]
    code, out, _ = run(capsys, "catalog", "timm")
    assert code == 0 and "tf_xception_41-e6439c97.pth" in out and "sha256 e6439c97…" in out and "keras" not in out
