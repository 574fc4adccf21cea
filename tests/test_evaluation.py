"""Predictions and evaluations: what is counted, what is remembered when a run is killed, what is said, and the reports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import photos
from tests.narrow import narrow
from tests.report_samples import HOSTILE
from tests.test_cli import run
from tests.test_reports_browser import BOTH, Page, page  # noqa: F401  (`page` is a fixture)
from tests.test_reports_html import Page as Parsed
from xconvert import evaluate, forward, predict
from xconvert.backends import backends
from xconvert.batch.execution import local
from xconvert.errors import RefusedError, UnreadableError, UsageError
from xconvert.evaluation import Evaluation
from xconvert.images import prepare
from xconvert.labels import Label
from xconvert.model import Model, Tensor
from xconvert.prediction import bar, guesses
from xconvert.render import UNSEEN
from xconvert.reports import evaluation as reports
from xconvert.serving import probabilities, server

FIXTURES = Path(__file__).parents[1] / "fixtures"
KERAS, PHOTOS = FIXTURES / "keras.h5", FIXTURES / "photos"
SMALL = {"size": 75}
AGAINST = (KERAS, PHOTOS, "--limit", "4", "--against", FIXTURES / "timm.pth", "--set", "size=75")
pytest.importorskip("PIL")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 arrays of 10 classes: quick to read."""
    return photos.write(tmp_path_factory.mktemp("arrays"), 30, largest=120, suffixes=(".npy",))


def small(folder: Path, model: Any = None, **options: Any) -> Evaluation:
    return evaluate(model or narrow(1), folder, settings=SMALL, **options)


# Predictions


def test_probabilities_are_a_softmax() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, 0.0]], np.float32)
    found = probabilities(logits)
    assert np.allclose(found.sum(1), 1)
    assert np.allclose(found[0], np.exp([1, 2, 3]) / np.exp([1, 2, 3]).sum())
    assert np.allclose(probabilities(logits + 7), found)


def test_guesses_are_in_order_and_equal_ones_as_they_stand() -> None:
    labels = [Label(name) for name in "abcd"]
    found = guesses(np.array([1.0, 3.0, 3.0, 2.0], np.float32), labels, 3)
    assert [(guess.number, guess.label.name) for guess in found] == [(1, "b"), (2, "c"), (3, "d")]
    assert len(guesses(np.zeros(4, np.float32), labels, 99)) == 4


def test_a_bar_is_as_long_as_its_share() -> None:
    assert bar(1.0) == "█" * 24
    assert bar(0.0).strip() == ""
    assert bar(0.5).rstrip() == "█" * 12
    assert all(len(bar(share / 1000)) == 24 for share in range(1001))


def test_predictions_are_the_forward_pass_on_prepared_images() -> None:
    model, image = narrow(1), photos.photograph(3, 120, 90)
    (found,) = predict(model, image, top=10, settings=SMALL)
    served = server(model, settings=SMALL)
    logits = forward(model, prepare(image, served.preprocessing)[None])["logits"][0]
    assert [guess.number for guess in found.guesses] == np.argsort(-logits, kind="stable").tolist()
    assert sum(guess.probability for guess in found.guesses) == pytest.approx(1)
    assert len(predict(model, [image] * 9, settings=SMALL)) == 9  # more than are computed at a time


def thousand(extra: int = 0) -> Model:
    """A network of 1000 classes, or of 1001: the same behind a background that says nothing."""
    model = narrow(1, classes=1000, divide=32)
    weights = dict(model.weights)
    for name in ("predictions.weight", "predictions.bias"):
        array = weights[name].read()
        pad = [(0, 0)] * (array.ndim - 1) + [(extra, 0)]
        weights[name] = Tensor.of(np.pad(array, pad, constant_values=0.0 if array.ndim > 1 else -99.0))
    return model._replace(weights=weights)


@pytest.mark.slow
def test_a_background_shifts_names_and_counts_as_no_class(folder: Path) -> None:
    image = photos.photograph(1, 90, 90)
    plain, shifted = (predict(model, image, settings=SMALL)[0].guesses for model in (thousand(), thousand(1)))
    assert [g.label for g in plain] == [g.label for g in shifted]
    assert [g.number + 1 for g in plain] == [g.number for g in shifted]
    assert plain[0].label.synset.startswith("n")
    found = small(folder, thousand(), against=thousand(1))
    assert found.agreement == 1 and found.widest and found.widest.gap < 1e-4
    assert "the background class of `the other model` is left out" in found.notes
    assert small(folder, thousand(1)).right(5) == found.right(5)


def test_what_cannot_be_predicted(tmp_path: Path) -> None:
    image = photos.photograph(1, 90, 90)
    with pytest.raises(UsageError, match="has no head"):
        predict(narrow(1, head=False), image)
    with pytest.raises(UsageError, match="says neither `mean` nor `std`"):
        predict(narrow(1)._replace(preprocessing={"size": 75}), image)
    with pytest.raises(UsageError, match="`std` cannot be `0`"):
        predict(narrow(1), image, settings={"std": "0"})
    with pytest.raises(UsageError, match="no attribute is called `sise`"):
        predict(KERAS, image, settings={"sise": "75"})
    with pytest.raises(UsageError, match="asks for no class"):
        predict(narrow(1), image, top=0)
    with pytest.raises(UsageError, match="takes images of 5 channels"):
        predict(narrow(1, channels=5), image)
    with pytest.raises(UsageError, match="no backend is called `x`"):
        predict(narrow(1), image, backend="x")
    broken = narrow(1)
    broken = broken._replace(weights={**broken.weights, "predictions.bias": Tensor.of(np.full(10, np.nan, np.float32))})
    with pytest.raises(UsageError, match="not finite"):
        predict(broken, image, settings=SMALL)


@pytest.mark.framework
def test_a_class_that_computes_something_else_is_refused() -> None:
    if not backends()["timm"].installed:
        pytest.skip("timm is not installed")
    with pytest.raises(RefusedError, match="`timm` differs in `pool_padding`"):
        predict(KERAS, photos.photograph(1, 90, 90), backend="timm")


def test_what_a_file_does_not_say_of_resizing_is_told(tmp_path: Path) -> None:
    """As a file of an older xconvert, which had no words for it."""
    old = {"size": 299, "mean": [0.5] * 3, "std": [0.5] * 3, "channels": "RGB"}
    served = server(narrow(1)._replace(preprocessing=old))
    assert served.notes == ("the file does not say how images are resized: taken as `crop` none, `interpolation` bilinear",)
    assert not server(narrow(1)).notes


def test_grey_images_and_settings_of_text(tmp_path: Path) -> None:
    options = {"settings": {**SMALL, "channels": "GRAY", "mean": "0.5", "std": "0.25"}}
    (found,) = predict(narrow(1, channels=1), PHOTOS / "00.jpg", **options)
    assert len(found.guesses) == 5


# What is counted


@pytest.mark.slow
def test_an_evaluation_is_a_loop_over_images(folder: Path) -> None:
    model = narrow(1)
    found, table = small(folder, model, batch=7), server(model, settings=SMALL).preprocessing
    lines = [line.split() for line in (folder / "val_list.txt").read_text().splitlines()]
    assert [(o.name, o.label) for o in found.outcomes] == [(name, int(label)) for name, label in lines]
    for outcome in found.outcomes:
        logits = forward(model, prepare(folder / outcome.name, table)[None])["logits"][0]
        order = np.argsort(-logits, kind="stable").tolist()
        assert outcome.firsts == (order[0],) and outcome.ranks == (order.index(outcome.label),)
    assert found.right(1) == sum(o.firsts[0] == o.label for o in found.outcomes)
    assert found.right(1) <= found.right(5) <= found.right(10) == len(found.outcomes) == 30
    assert sum(images for _, images, _ in found.classes()) == 30
    assert sum(right for *_, right in found.classes()) == found.right(1)
    assert found == small(folder, model, batch=30)._replace(seconds=found.seconds)


@pytest.mark.slow
def test_two_networks_are_compared(folder: Path) -> None:
    model = narrow(1)
    same = small(folder, model, against=model)
    assert same.agreement == 1 and same.widest and same.widest.gap == 0
    other = small(folder, model, against=narrow(1, seed=1))
    assert 0 < len(other.disagreements) == round(30 * (1 - other.agreement))
    gaps = [outcome.gap for outcome in other.disagreements]
    assert gaps == sorted(gaps, reverse=True) and other.widest and other.widest.gap >= gaps[0]
    assert other.right(1, 1) == small(folder, narrow(1, seed=1)).right(1)
    with pytest.raises(UsageError, match="different classes"):
        small(folder, model, against=narrow(1, classes=7))
    with pytest.raises(UsageError, match="wants a second checkpoint"):
        small(folder, model, against_backend="torch")


def test_each_is_given_images_as_it_wants_them(folder: Path) -> None:
    model = narrow(1)
    other = model._replace(preprocessing={**model.preprocessing, "std": [0.4, 0.4, 0.4]})
    assert small(folder, model, against=other).widest.gap > 0  # type: ignore[union-attr]


def test_images_that_cannot_be_read_are_named(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    photos.write(bad, 4, largest=100, suffixes=(".npy",))
    (bad / "001/00001.npy").write_bytes(b"nothing")
    with pytest.raises(
        UnreadableError, match=r"00001.npy` is truncated or damaged|00001.npy` is damaged|no NumPy header"
    ) as caught:
        small(bad)
    assert caught.value.hints[-1].startswith("`--keep-going`")
    found = small(bad, keep_going=True)
    assert len(found.outcomes) == 3 and [unread.name for unread in found.unread] == ["001/00001.npy"]
    for path in bad.rglob("*.npy"):
        path.write_bytes(b"nothing")
    with pytest.raises(UnreadableError, match="no image of"):
        small(bad, keep_going=True)


# Shared out

KERAS = Path(__file__).parents[1] / "fixtures" / "keras.h5"


@pytest.mark.slow
def test_workers_find_what_one_process_finds(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = small(folder, KERAS, against=KERAS)
    state = tmp_path / "state.json"
    first = small(folder, KERAS, against=KERAS, resume=state, pool=local(2), batch=8, limit=20)
    shared = small(folder, KERAS, against=KERAS, resume=state, pool=local(2), batch=8)
    assert shared.outcomes == whole.outcomes and shared.resumed == len(first.outcomes) == 20
    monkeypatch.chdir(folder)
    assert small(Path(), KERAS, pool=local(2)).outcomes == tuple(o._replace(gap=0.0) for o in small(folder, KERAS).outcomes)


@pytest.mark.slow
def test_what_a_worker_cannot_do_is_told_as_here(folder: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    photos.write(bad, 4, largest=100, suffixes=(".npy",))
    (bad / "001/00001.npy").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"00001.npy`") as caught:
        small(bad, KERAS, pool=local(2), batch=1)
    assert caught.value.hints[-1].startswith("`--keep-going`")
    found = small(bad, KERAS, pool=local(2), batch=1, keep_going=True)
    assert [unread.name for unread in found.unread] == ["001/00001.npy"] and len(found.outcomes) == 3
    with pytest.raises(UsageError, match="other processes evaluate files"):
        small(folder, narrow(1), pool=local(2))


# What is remembered


def test_a_state_is_of_one_network_prepared_and_run_in_one_way(folder: Path, tmp_path: Path) -> None:
    model, state = narrow(1), tmp_path / "state.json"
    first = small(folder, model, limit=10, resume=state)
    assert first.resumed == 0 and len(json.loads(state.read_text())["images"]) == 10
    again = small(folder, model, resume=state)
    assert again.resumed == 10
    assert again.outcomes == small(folder, model).outcomes
    others = [{"settings": {"size": 96}}, {"settings": SMALL, "against": model}]
    for options in others:
        with pytest.raises(UsageError, match="remembers another evaluation"):
            evaluate(model, folder, resume=state, **options)
    with pytest.raises(UsageError, match="remembers another evaluation"):
        small(folder, narrow(1, seed=1), resume=state)


def test_an_image_that_changed_is_computed_again(tmp_path: Path) -> None:
    place = photos.write(tmp_path / "photos", 4, largest=100, suffixes=(".npy",))
    small(place, resume=tmp_path / "state.json")
    np.save(place / "002/00002.npy", photos.photograph(77, 130, 140))
    again = small(place, resume=tmp_path / "state.json")
    assert again.resumed == 3 and again.outcomes == small(place).outcomes


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        '{"xconvert": "evaluate", "schema": 1, "key": 7, "images": {}}',
        '{"xconvert": "evaluate", "schema": 1, "key": "KEY", "images": {"a": [1, 2]}}',
        '{"xconvert": "evaluate", "schema": 1, "key": "KEY", "images": {"a": [1, 2, [0, 0, 0], [0, 0, 0], 0.0, 1.0]}}',
        '{"xconvert": "evaluate", "schema": 1, "key": "KEY", "images": {"a": [1, 2, [0], [0], 1e999, 1.0]}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_state(content: str, folder: Path, tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    state.write_text(content)
    with pytest.raises(UnreadableError, match="is no state of an evaluation"):
        small(folder, resume=state)
    assert state.read_text() == content
    with pytest.raises(UsageError, match="cannot be written"):
        small(folder, resume=tmp_path / "nowhere" / "state.json")


@pytest.mark.slow
def test_a_killed_run_goes_on_and_counts_nothing_twice(tmp_path: Path) -> None:
    """kill -9, again and again at what is remembered then, until all is done: the answer is that of one run."""
    place = photos.write(tmp_path / "photos", 40, largest=120, suffixes=(".npy",))
    state, kills, seen = tmp_path / "state.json", 0, [0]
    command = [sys.executable, "-m", "xconvert", "evaluate", KERAS, place, "--resume", state, "--batch", "2", "--set", "size=299"]
    while kills < 4:
        group = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, start_new_session=True)
        while group.poll() is None and _remembered(state) < seen[-1] + 4:
            time.sleep(0.005)
        assert group.poll() is None, "it ended before it was killed"
        os.killpg(group.pid, signal.SIGKILL)
        group.wait()
        kills += 1
        seen.append(_remembered(state))
    assert seen == sorted(seen) and 16 <= seen[-1] < 40
    found = evaluate(KERAS, place, resume=state, batch=2, settings={"size": "299"})
    assert found.resumed == seen[-1]
    assert found.outcomes == evaluate(KERAS, place, settings={"size": 299}).outcomes
    assert len({outcome.name for outcome in found.outcomes}) == len(found.outcomes) == 40
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".xconvert-")] == []


def _remembered(state: Path) -> int:
    return len(json.loads(state.read_bytes())["images"]) if state.exists() else 0


# What is said


def test_the_commands(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code, out, err = run(capsys, "predict", KERAS, PHOTOS / "00.jpg", PHOTOS / "01.jpg", "--top", 2)
    assert (code, err) == (0, "")
    assert [line.strip() for line in out.splitlines() if line.startswith("/")] == [str(PHOTOS / f"0{i}.jpg") for i in (0, 1)]
    assert len(re.findall(r"\d+\.\d\d%  █", out)) >= 2
    code, out, _ = run(capsys, "predict", KERAS, PHOTOS / "00.jpg", "--json", "--set", "size=96")
    told = json.loads(out)
    assert code == 0 and told["preprocessing"]["size"] == 96 and len(told["predictions"][0]["classes"]) == 5
    code, out, err = run(capsys, "evaluate", KERAS, PHOTOS, "--json", "--set", "size=96", "--limit", 5)
    told = json.loads(out)
    assert code == 0 and told["images"] == 5 and told["top1"]["share"] == told["top1"]["right"] / 5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (["predict", KERAS], 2, "missing argument"),
        (["predict", KERAS, PHOTOS], 2, "is a folder, no image"),
        (["predict", KERAS, KERAS], 2, "is no image"),
        (["predict", KERAS, PHOTOS / "00.jpg", "--set", "size=big"], 2, "`size` cannot be `big`"),
        (["predict", KERAS, PHOTOS / "00.jpg", "--labels", FIXTURES / "README.md"], 2, "names, the network 10 classes"),
        (["predict", FIXTURES / "none.h5", PHOTOS / "00.jpg"], 2, "does not exist"),
        (["evaluate", KERAS, FIXTURES / "none"], 2, "does not exist"),
        (["evaluate", KERAS, PHOTOS, "--report", "x.pdf"], 2, "has no suffix of a report"),
        (["evaluate", KERAS, PHOTOS, "--min-agreement", "99"], 2, "agreement is between two networks"),
        (["evaluate", KERAS, PHOTOS, "--batch", "0"], 2, "a batch of 0 images is none"),
        (["evaluate", KERAS, PHOTOS, "--limit", "2", "--min-top1", "100", "--set", "size=75"], 1, ""),
        (["evaluate", *AGAINST], 1, ""),
        (
            [
                "evaluate",
                KERAS,
                PHOTOS,
                "--limit",
                "4",
                "--against",
                FIXTURES / "timm.pth",
                "--set",
                "size=75",
                "--min-agreement",
                "0",
            ],
            0,
            "",
        ),
    ],
)
def test_exit_codes(args: list[object], code: int, told: str, capsys: pytest.CaptureFixture[str]) -> None:
    found, _, err = run(capsys, *args)
    assert found == code
    assert told in err
    assert (err.count("error:") == 1) == (code == 2)


# Reports


@pytest.fixture(scope="module")
def disagreeing(tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    """Two networks that disagree, about images and classes with names that mean harm."""
    place = tmp_path_factory.mktemp("hostile")
    names = "".join(f"{i} {HOSTILE.replace(chr(10), ' ').replace(chr(0), '')}\n" for i in range(10))
    (place / "names").write_bytes(names.encode("utf-8", "replace"))
    photos.write(place, 12, largest=120, suffixes=(".npy", ".jpg"))
    lines = (place / "val_list.txt").read_text().splitlines()
    evil = "000/<img src=x onerror=pwned=1>`|\x1b[31m\u202e.npy"
    (place / "000/00010.npy").rename(place / evil)
    (place / "val_list.txt").write_text("\n".join([*lines[:10], f"{evil} 0", lines[11]]), "utf-8")
    found = small(place, narrow(1), against=narrow(1, seed=1), labels=place / "names")
    assert evil in {outcome.name for outcome in found.disagreements}
    return found


def test_the_page_is_harmless(disagreeing: Evaluation, tmp_path: Path) -> None:
    reports.write(disagreeing, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    parsed = Parsed(text)
    assert not parsed.open
    known = "html head meta link title style body main header p span h1 h2 dl div dt dd section figure figcaption img bdi br b"
    known += " table thead tbody tr th td code footer ul li script"
    assert {tag for tag, _ in parsed.tags} <= set(known.split())
    assert not [name for _, attributes in parsed.tags for name in attributes if name.startswith("on")]
    assert not re.search(UNSEEN, text.replace("\n", ""))
    pictures = [attributes["src"] for tag, attributes in parsed.tags if tag == "img"]
    assert len(pictures) == len(disagreeing.disagreements)
    assert all(str(source).startswith("data:image/png;base64,") for source in pictures)
    assert "default-src 'none'" in text and text.count("<script>") == 1


def test_the_same_evaluation_gives_the_same_bytes(disagreeing: Evaluation, tmp_path: Path) -> None:
    for suffix in reports.SUFFIXES:
        for name in ("a", "b"):
            reports.write(disagreeing._replace(seconds=float(len(name))), tmp_path / f"{name}{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    told = json.loads((tmp_path / "a.json").read_text("utf-8"))
    assert told["against"]["same_top1"] + len(told["against"]["disagreements"]) == told["images"] == 12
    assert "\x1b" not in (tmp_path / "a.md").read_text("utf-8")


def test_at_most_64_pictures_are_shown(disagreeing: Evaluation, tmp_path: Path) -> None:
    many = tuple(outcome._replace(gap=float(i)) for i in range(8) for outcome in disagreeing.outcomes)
    reports.write(disagreeing._replace(outcomes=many), tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text("utf-8")
    assert text.count("data:image/png") == reports.THUMBNAILS
    assert len(text) < 4_000_000


@pytest.mark.browser
@BOTH
def test_the_page_in_a_browser(page: Page, disagreeing: Evaluation, size: tuple[int, int], tmp_path: Path) -> None:  # noqa: F811
    reports.write(disagreeing, tmp_path / "report.html")
    page.open(tmp_path / "report.html", size)
    assert page.text("#verdict") == reports.verdict(disagreeing).replace("`", "")
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    pictures = page.run("return [...document.images].map((i) => [i.complete, i.naturalWidth, i.width, !!i.alt])")
    assert pictures and all(complete and natural == width == 96 and alt for complete, natural, width, alt in pictures)
    assert page.run("return window.pwned") is None
    assert page.driver.get_log("browser") == []
    asked = [address for address in page.requests() if not address.startswith(("data:", "chrome:"))]  # its own first page
    assert asked and all(address.endswith("/report.html") for address in asked)


def test_progress_is_lines_where_there_is_no_terminal_and_a_bar_where_there_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xconvert.commands.evaluate._EVERY", 0.0)
    args = ("evaluate", KERAS, PHOTOS, "--set", "size=75", "--batch", 4)
    _, out, err = run(capsys, *args)
    lines = err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["4 of 12 images", "8 of 12 images"]
    assert all(re.search(r"top 1 \d+\.\d%, \d+ s left$", line) for line in lines)
    assert "images" in out and "left" not in out
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    _, _, err = run(capsys, *args)
    assert err.count("\r\x1b[K") == 4 and "█" in err and err.endswith("\r\x1b[K")
