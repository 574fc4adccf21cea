"""The fuzzing of ``tests/fuzz``: what it once found, a short seeded round of every target, and that the watch sees all."""

from __future__ import annotations

import base64
import random
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import campaign, fakes, hdf5, json_values, nodes
from tests.fuzz.campaign import Finding, Job
from tests.fuzz.targets import TARGETS, contents
from tests.fuzz.worker import packed, unpacked

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="memory is limited and watched as Linux does it"),
]
INPUTS = 200


@pytest.fixture(scope="module")
def round_of_all() -> tuple[list[Finding], dict[str, dict[str, Any]]]:
    """Two hundred inputs of each target, always the same: what was found, and what became of them."""
    job = Job("torch", "short", 1, 300, targets=list(TARGETS), each=INPUTS)
    campaign.run([job])
    return job.findings, {told["target"]: told for told in job.told if "accepted" in told}


@pytest.mark.parametrize("target", TARGETS)
def test_a_short_round(target: str, round_of_all: tuple[list[Finding], dict[str, dict[str, Any]]]) -> None:
    findings, told = round_of_all
    assert [(f.kind, f.what, f.detail) for f in findings if f.target == target or f.kind in ("crash", "hang")] == []
    assert told[target]["seed"] == "accepted"  # taken apart and put together again it is valid
    assert told[target]["accepted"] + told[target]["refused"] == INPUTS
    assert min(told[target]["accepted"], told[target]["refused"]) >= 5  # neither too tame nor too wild


def replayed(inputs: dict[str, list[tuple[bytes, ...]]]) -> list[dict[str, str]]:
    """What becomes of inputs by target, in their order."""
    job = Job(
        "torch",
        "replay",
        0,
        60,
        inputs={name: [base64.b64encode(packed(p)).decode() for p in all_] for name, all_ in inputs.items()},
    )
    campaign.run([job])
    assert [(f.kind, f.what, f.detail) for f in job.findings] == []
    return job.told


def test_what_was_found_is_not_found_again() -> None:
    places = sorted(path.name for path in campaign.FOUND.glob("*") if path.is_dir())
    kept = {name: campaign.kept(campaign.FOUND, name, TARGETS[name].files) for name in places}
    told = replayed({name: list(found.values()) for name, found in kept.items()})
    names = [f"{target}/{name}" for target, found in kept.items() for name in found]
    assert {n: t for n, t in zip(names, told, strict=True) if t["kind"] not in ("accepted", "refused")} == {}


def test_every_finding_is_told_of() -> None:
    lines = (campaign.FOUND / "README.md").read_text()
    for target in TARGETS:
        for name in campaign.kept(campaign.FOUND, target, TARGETS[target].files):
            assert f"`{target}/{name}`" in lines


KINDS = {
    "hangs": ("hang", "_hang"),
    "deaf": ("hang", "fakes.py:_hang"),
    "raises": ("exception", "ValueError in fakes.py:_raise"),
    "runs": ("execution", "os.system"),
    "swallows": ("execution", "os.system"),
    "writes": ("execution", "open ('/tmp/xconvert-fuzz-must-not-be-there', 'w'"),
    "opens": ("execution", "open ('/etc/hostname'"),
    "imports": ("execution", "import this"),
    "evaluates": ("execution", "compile"),
    "allocates": ("memory", "_allocate"),
    "dies": ("crash", "SIGSEGV"),
    "aborts": ("crash", "SIGABRT"),
}


@pytest.fixture(scope="module")
def deeds() -> dict[str, Job]:
    jobs = [Job(f"fake-{name}", "mutate", 1, 20, most=1) for name in KINDS]
    campaign.run(jobs, 2)
    return {job.target: job for job in jobs}


@pytest.mark.parametrize("name", KINDS)
def test_the_watch_sees(name: str, deeds: dict[str, Job]) -> None:
    job, (kind, what) = deeds[f"fake-{name}"], KINDS[name]
    assert {finding.kind for finding in job.findings} == {kind}
    for finding in job.findings:
        assert what in finding.what + finding.detail
        assert b"!" in finding.parts[0]
    assert not Path("/tmp/xconvert-fuzz-must-not-be-there").exists()


def test_every_fake_is_tried() -> None:
    assert {f"fake-{name}" for name in KINDS} == set(fakes.TARGETS)


@pytest.mark.parametrize(("name", "kind"), [("raises", "exception"), ("dies", "crash")])
def test_findings_are_made_smaller_and_kept(name: str, kind: str, deeds: dict[str, Job], tmp_path: Path) -> None:
    found = deeds[f"fake-{name}"].findings[0]
    smaller = campaign.minimised(Finding(found.target, found.kind, found.what, found.detail, found.parts), 5)
    assert smaller.parts == (b"!",)
    campaign.filed(smaller, ("x.bin",), tmp_path)
    campaign.filed(smaller, ("x.bin",), tmp_path)
    assert list(campaign.kept(tmp_path, found.target, ("x.bin",)).values()) == [(b"!",)]
    assert (tmp_path / "README.md").read_text().count(f": {kind}, {found.what}\n") == 1


def test_inputs_of_several_files_are_kept_as_folders(tmp_path: Path) -> None:
    parts = (b"index", b"", b"", b"shard")
    campaign.filed(Finding("tensorflow", "exception", "x", "", parts), TARGETS["tensorflow"].files, tmp_path)
    assert list(campaign.kept(tmp_path, "tensorflow", TARGETS["tensorflow"].files).values()) == [parts]


@pytest.mark.parametrize("target", TARGETS)
def test_one_seed_makes_one_series(target: str) -> None:
    first, second = ([contents(TARGETS[target].make(rng, ())) for _ in range(20)] for rng in (random.Random(5), random.Random(5)))
    assert first == second


def test_packing() -> None:
    for parts in ((b"",), (b"a", b"", b"c" * 300)):
        assert unpacked(packed(parts)) == parts
    assert unpacked(b"\x09\xff\xff\xff\xffab", 3) == (b"ab", b"", b"")
    assert unpacked(b"", 2) == (b"", b"")


def test_checksum_of_hdf5() -> None:
    """The examples of lookup3.c, ``driver5``."""
    assert hdf5.lookup3(b"") == 0xDEADBEEF
    assert hdf5.lookup3(b"Four score and seven years ago") == 0x17770551


def test_json_keeps_keys_that_stand_twice() -> None:
    text = b'{"a":1,"a":[2,{"b":null}],"c":"\xc3\xa4"}'
    assert json_values.written(json_values.parsed(text)) == text


def test_a_change_shares_what_it_does_not_touch() -> None:
    root = nodes.cat([nodes.raw(b"a"), nodes.cat([nodes.raw(b"b")])])
    before, rng = root.content(), random.Random(1)
    changed = [nodes.mutated(root, rng) for _ in range(50)]
    assert root.content() == before == b"ab"
    assert len({node.content() for node in changed}) > 10
