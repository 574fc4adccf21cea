"""Reports as files: every format of every kind of report, with hostile names, and never half-written."""

from __future__ import annotations

import json
import re
import resource
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report_samples import (
    FIXTURES,
    HOSTILE,
    NAMES,
    SAMPLES,
    different,
    equal,
    failed,
    folded,
    hostile,
    tried,
    unverified,
    written,
)
from xconvert import convert, load, provenance
from xconvert.cli import main
from xconvert.errors import UsageError
from xconvert.report import SCHEMA, Check, Report
from xconvert.reports import SCHEMA_FILE, _text, check, write
from xconvert.reports.github import annotations
from xconvert.reports.junit import document as junit
from xconvert.reports.markdown import code

ALL = pytest.mark.parametrize("kind", SAMPLES)
SUFFIX = pytest.mark.parametrize("suffix", [".json", ".xml", ".md", ".html"])


# Where


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("report.txt", "`{}/report.txt` has no suffix of a report"),
        ("report", "`{}/report` has no suffix of a report"),
        ("nowhere/report.md", "there is no folder `{}/nowhere`"),
        ("folder.html", "`{}/folder.html` is a folder"),
        ("nul\0.html", "`{}/nul\0.html` cannot be written: embedded null byte"),
    ],
)
def test_where_no_report_can_be_is_told_before_any_work(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "folder.html").mkdir()
    with pytest.raises(UsageError) as caught:
        check(tmp_path / name)
    assert caught.value.message == told.format(tmp_path)
    if "suffix" in told:
        assert [fact[:7].strip("` f") for fact in caught.value.facts] == [".json", ".xml", ".md", ".html"]


def test_a_report_is_replaced_and_has_the_rights_of_any_other_file(tmp_path: Path) -> None:
    path, other = tmp_path / "REPORT.JSON", tmp_path / "other"
    path.write_text("an old one")
    (tmp_path / "kept").hardlink_to(path)
    other.touch()
    check(path)
    write(equal(), path, NAMES)
    assert json.loads(path.read_text())["equal"] is True
    assert path.stat().st_mode == other.stat().st_mode
    assert (tmp_path / "kept").read_text() == "an old one"  # not written over, but replaced in one step
    assert {p.name for p in tmp_path.iterdir()} == {"REPORT.JSON", "kept", "other"}


@SUFFIX
def test_a_disk_that_is_full_leaves_the_old_report_whole(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"report{suffix}"
    write(equal(), path, NAMES)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UsageError, match="cannot be written: File too large"):
            write(different(), path, NAMES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
@ALL
@SUFFIX
def test_same_report_same_bytes_and_the_same_figures_whatever_the_format(kind: str, suffix: str, tmp_path: Path) -> None:
    report = SAMPLES[kind]()
    text = written(report, tmp_path, suffix)
    again = Report(**{name: getattr(report, name) for name in report._fields})
    assert written(again, tmp_path, suffix) == text
    if report.first_divergence and kind != "hostile" and suffix != ".json":
        assert report.first_divergence.name in text.replace("<wbr>", "")
        assert _text.figure(report.first_divergence.allowed) in text
    assert "nan" not in re.sub(r"base64,[^\"]*|[\w.]*nan[a-z]+", "", text).lower().replace("∞ nan", "")


# JSON


SCHEMA_TOLD: dict[str, Any] = json.loads(SCHEMA_FILE.read_text("utf-8"))


def validate(told: Any) -> None:
    jsonschema.Draft202012Validator(SCHEMA_TOLD).validate(told)


@ALL
def test_every_report_is_as_the_schema_says(kind: str, tmp_path: Path) -> None:
    told = json.loads(written(SAMPLES[kind](), tmp_path, ".json"))
    if kind != "hostile":  # its provenance is nothing that xconvert would tell
        validate(told)
    assert told["names"] == list(NAMES)
    assert {**told, "names": None} == {**json.loads(json.dumps(SAMPLES[kind]().to_dict(), default=str)), "names": None}


@pytest.mark.slow
def test_a_conversion_its_comparison_and_their_provenance_are_as_the_schema_says(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What the command line prints with ``--json``, too."""
    source, output = FIXTURES / "keras.h5", tmp_path / "timm.pth"
    validate(convert(source, output, to="timm", accept=["pool_padding"]).to_dict())
    with pytest.raises(SystemExit):
        main(["verify", str(source), str(output), "--sizes", "75", "--json"])
    told = json.loads(capsys.readouterr().out)
    validate(told)
    assert told["first_divergence"]["name"] == "block3.pool"
    probe = {"sizes": [75], "images": [2], "seed": 0, "values": "float32"}
    found = provenance.describe(load(source), load(output), probe=probe)
    assert "record" in found["target"]
    validate({**told, "provenance": found})


def properties(schema: Any, told: Any, path: str = "") -> Iterator[tuple[str, bool]]:
    """Every property of the schema by its path, and whether ``told`` has it."""
    while "$ref" in schema:
        schema = SCHEMA_TOLD["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    for part in (*schema.get("allOf", ()), *schema.get("anyOf", ())):
        yield from properties(part, told, path)
    for name, inner in schema.get("properties", {}).items():
        has = isinstance(told, dict) and name in told
        yield f"{path}.{name}", has
        yield from properties(inner, told[name] if has else None, f"{path}.{name}")
    if isinstance(schema.get("additionalProperties"), dict):
        for value in told.values() if isinstance(told, dict) else [None]:
            yield from properties(schema["additionalProperties"], value, f"{path}.*")
    if "items" in schema:
        for value in told if isinstance(told, list) else [None]:
            yield from properties(schema["items"], value, f"{path}[]")


@pytest.mark.slow
def test_the_schema_describes_every_field_and_has_none_that_no_report_has(tmp_path: Path) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA_TOLD)
    assert SCHEMA_TOLD["$id"] == f"urn:xconvert:report:{SCHEMA}"
    assert SCHEMA_TOLD["properties"]["schema"]["const"] == SCHEMA
    seen: dict[str, bool] = {}
    for kind in SAMPLES.keys() - {"hostile"}:
        for path, has in properties(SCHEMA_TOLD, json.loads(written(SAMPLES[kind](), tmp_path, ".json"))):
            seen[path] = seen.get(path, False) or has
    # a side is described by one schema, whichever it is; a file that xconvert made is the second one here; of a step of
    # training, the layers' own figures tell whether they are within tolerance
    geometry = "resize|crop|interpolation|fraction|antialias|rounding|grid|longer_side|offset|exif"
    optional = rf"\.source\.(backend|format|describes)|\.(source|target)\.preprocessing\.({geometry})"
    optional += r"|\.provenance\.source\.record.*|\.training\..*\.(moved|ok)"
    assert not [path for path, has in seen.items() if not has and not re.fullmatch(optional, path)]
    stack: list[Any] = [SCHEMA_TOLD]
    while stack:
        schema = stack.pop()
        if schema.get("type") == "object":
            assert schema.get("additionalProperties") is not None
        for name, inner in schema.get("properties", {}).items():
            assert inner.get("description", "").strip().endswith("."), name
        parts = (*schema.get("properties", {}).values(), *schema.get("$defs", {}).values())
        stack += [*parts, *schema.get("anyOf", ()), *schema.get("allOf", ()), *([schema["items"]] if "items" in schema else [])]


# JUnit


@ALL
def test_junit_parses_and_its_counts_are_true(kind: str, tmp_path: Path) -> None:
    report = SAMPLES[kind]()
    root = ElementTree.fromstring(written(report, tmp_path, ".xml").encode())
    assert root.tag == "testsuites"
    wrong = [layer.name for layer in report.layers if not layer.ok]
    step = (*(report.training.gradients), *(report.training.statistics), report.training.loss) if report.training else ()
    failures = {
        "checks": sum(not c.ok for c in report.checks),
        "layers": len(set(wrong)),
        "training": sum(not e.ok for e in step),
        "trials": sum(not t.ok for t in report.trials),
    }
    for suite in root:
        cases = suite.findall("testcase")
        assert int(suite.get("tests", "")) == len(cases) == len({case.get("name") for case in cases})
        assert int(suite.get("failures", "")) == len(suite.findall("testcase/failure"))
        if report.verified:
            assert failures.pop(suite.get("name", "").removeprefix("xconvert.")) == int(suite.get("failures", ""))
    assert not any(failures.values())
    for count in ("tests", "failures", "errors", "skipped"):
        assert int(root.get(count, "")) == sum(int(suite.get(count, "")) for suite in root)
    assert report.verified or root.find("testsuite/testcase/skipped") is not None


def test_junit_names_the_failing_sizes_and_the_diagnosis_at_the_layer_that_parts(tmp_path: Path) -> None:
    root = ElementTree.fromstring(written(different(), tmp_path, ".xml"))
    (case,) = root.findall("testsuite[@name='xconvert.layers']/testcase[@name='block3.pool']")
    failure = case.find("failure")
    assert failure is not None
    assert re.fullmatch(r"the first layer that parts: 75×75: relative L2 \S+, allowed 1.0e-09", failure.get("message", ""))
    told = (failure.text or "").splitlines()
    assert told[0].startswith("75×75: over: ") and told[1].startswith("96×96: ok: relative L2 0, ")
    assert "(`same_upper`). Convert again without `--accept pool_padding`" in told[2]
    (later,) = root.findall("testsuite/testcase[@name='block4.pool']/failure")
    assert "75×75: " in later.get("message", "") and "96×96: " in later.get("message", "")
    assert "Convert" not in (later.text or "")


@given(st.text(alphabet=st.characters(exclude_categories=[])), st.text())
def test_any_name_becomes_text_that_xml_has(name: str, detail: str) -> None:
    report = Report({}, {}, checks=(Check(name, False, detail),))
    root = ElementTree.fromstring("".join(junit(report, (name, detail))).encode())
    case = root.find("testsuite/testcase")
    assert case is not None and case.get("name") == _text.visible(name)
    assert _text.visible(_text.visible(name)) == _text.visible(name)


# Markdown


@ALL
def test_markdown_tables_are_whole_whatever_the_names(kind: str, tmp_path: Path) -> None:
    lines = written(SAMPLES[kind](), tmp_path, ".md").split("\n")
    rows = [(i, len(re.findall(r"(?<!\\)\|", line))) for i, line in enumerate(lines) if line.startswith("|")]
    assert rows
    for (i, bars), (j, after) in pairwise(rows):
        assert j != i + 1 or bars == after, lines[j]
    assert all(
        "<" not in re.sub(r"\\.|(`+).*?(?<!`)\1(?!`)", "", line)
        for line in lines
        if "<details>" not in line and line != "</details>"
    )


def test_markdown_says_the_verdict_then_what_to_do(tmp_path: Path) -> None:
    lines = written(different(), tmp_path, ".md").split("\n")
    assert lines[0] == "## ❌ Different"
    assert lines[2] == "**These two files do not compute the same function. They part at `block3.pool`.**"
    assert lines[6].startswith("- **Why**: `xception-torch.pth` pads the pool `block3.pool` evenly")
    assert lines[7].startswith("  **What to do**: Convert again without `--accept pool_padding`")
    assert len([line for line in lines if "parts here" in line]) == 1
    assert "| `block4.add` |" in "\n".join(lines) and "| `block4.sepconv1.bn` |" not in "\n".join(lines)


def test_markdown_has_the_acceptance_table(tmp_path: Path) -> None:
    text = written(tried(), tmp_path, ".md")
    assert (
        "| seed | batch | max_abs_diff | top-1 agreement |  |\n|---|---|---|---|---|\n| 0 | 1 | 1.0e-06 | 1/1 (100%) | ✅ |"
        in text
    )
    assert "| 4 | 16 | 2.0e-05 | 15/16 (94%) | ❌ |\n\n**Verdict: FAIL**, max over all 2.0e-05, allowed 1.8e-05\n" in text
    good = tried()._replace(trials=tried().trials[:4])
    assert "**Verdict: PASS**, max over all 1.7e-05, allowed 1.8e-05" in written(good, tmp_path, ".md")


def test_markdown_literals_close_themselves() -> None:
    assert code("a|b") == "`a\\|b`"
    assert code("a`b``c") == "```a`b``c```"
    assert code("`") == "`` ` ``"
    assert code("x\n# y") == "`x\\x0a# y`"


# GitHub


def test_annotations_for_what_differs() -> None:
    lines = annotations(different()._replace(notes=("50 % of\nit",)), ("a,b.h5", "c:d,e%.pth")).splitlines()
    head = "::error file=c%3Ad%2Ce%25.pth,title=xconvert%3A different::These two files do not compute the same function."
    assert lines[0].startswith(head)
    assert "Convert again without `--accept pool_padding`" in lines[0]
    assert lines[1] == "::warning file=c%3Ad%2Ce%25.pth,title=xconvert%3A note::50 %25 of%0Ait"
    assert len(lines) == 2


def test_annotations_for_what_is_equal_failed_or_hostile() -> None:
    assert annotations(equal(), NAMES).startswith(f"::notice file={NAMES[1]},title=xconvert%3A equal::These two files compute")
    assert annotations(folded(), ("a.h5", "a.h5 run by timm")).startswith("::notice file=a.h5,")
    lines = annotations(failed(), NAMES).splitlines()
    assert [line.split("::")[1].split(" ")[0] for line in lines] == ["error", "error", "error"]
    assert "title=xconvert%3A names::" in lines[1]
    for line in annotations(hostile(), (HOSTILE, HOSTILE)).splitlines():
        assert re.match(r"::(error|warning) file=[^,:]*,title=[^,:]*::", line)
    assert annotations(tried(), NAMES).count("::error") == 3
    assert annotations(unverified(), NAMES).startswith("::warning ")
