"""What classes are called, and which class a folder or a line of a list means."""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from xconvert.datasets import dataset, spread
from xconvert.errors import UnreadableError, UsageError
from xconvert.labels import BACKGROUND, imagenet, is_synset, labels_of, numbers, read

TEN = labels_of(10)


def test_imagenet_has_a_thousand_names_in_the_order_of_their_ids() -> None:
    names = imagenet()
    assert len(names) == len({label.name for label in names}) == 1000
    ids = [label.synset for label in names]
    assert ids == sorted(set(ids))
    assert all(map(is_synset, ids))
    known = {0: "tench", 1: "goldfish", 281: "tabby", 388: "giant panda", 463: "bucket", 817: "sports car", 999: "toilet tissue"}
    assert {i: names[i].name for i in known} == known


def _installed(package: str, file: str) -> str:
    found = find_spec(package)
    if found is None or found.origin is None:
        pytest.skip(f"{package} is not installed")
    return (Path(found.origin).parent / file).read_text("utf-8")


@pytest.mark.framework
def test_the_names_are_those_that_the_zoos_ship() -> None:
    ids = _installed("timm", "data/_info/imagenet_synsets.txt").split()
    assert [label.synset for label in imagenet()] == ids
    text = re.search(r"_IMAGENET_CATEGORIES = (\[.*?\])", _installed("torchvision", "models/_meta.py"), re.DOTALL)
    assert text and [label.name for label in imagenet()] == ast.literal_eval(text[1])
    rows = _installed("timm", "data/_info/imagenet_synset_to_lemma.txt").splitlines()
    lemmas = {synset: told.replace(",", " ").split() for synset, told in (row.split("\t") for row in rows)}
    for label in imagenet():  # a name shifted by one would share no word with its id's lemmas
        assert set(label.name.split()) & set(lemmas[label.synset]), label


def test_classes_are_named_by_their_count(tmp_path: Path) -> None:
    assert labels_of(1000)[0].name == "tench"
    assert [label.name for label in labels_of(1001)[:2]] == [BACKGROUND, "tench"]
    assert [label.name for label in TEN][:2] == ["class 0", "class 1"]
    file = tmp_path / "names.txt"
    file.write_text("n01440764 tench\nsports car\n\n", "utf-8")
    assert labels_of(2, file) == (("tench", "n01440764"), ("sports car", ""))
    file.write_text("".join(f"name {i}\n" for i in range(1000)))
    assert [label.name for label in labels_of(1001, file)[:2]] == [BACKGROUND, "name 0"]
    with pytest.raises(UsageError, match="has 1000 names, the network 10 classes"):
        labels_of(10, file)


@pytest.mark.parametrize("content", [b"\xff\xfe\0", None])
def test_what_is_no_file_of_names(content: bytes | None, tmp_path: Path) -> None:
    if content:
        (tmp_path / "names").write_bytes(content)
    with pytest.raises(UnreadableError, match="is no file"):
        read(tmp_path)
    with pytest.raises(UnreadableError, match=r"names` (is no text in UTF-8|cannot be read: No such file)"):
        read(tmp_path / "names")


def test_names_are_numbers_when_all_are_known() -> None:
    assert numbers(["n01443537", "n01440764"], imagenet()) == {"n01443537": 1, "n01440764": 0}
    assert numbers(["tench", "goldfish"], imagenet()) == {"tench": 0, "goldfish": 1}
    assert numbers(["tench", "n01443537"], imagenet()) is None


# Folders and lists


def folders(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).mkdir(parents=True)
        np.save(root / name / "b.npy", np.zeros((4, 4, 3), np.uint8))
        (root / name / "a.JPEG").write_bytes(b"x")
        (root / name / "notes.txt").write_text("no image")
    return root


def labelled(root: Path, classes: int = 10) -> dict[str, int]:
    return {sample.name: sample.label for sample in dataset(root, labels_of(classes)).samples}


def test_folders_are_classes(tmp_path: Path) -> None:
    sorted_ = folders(tmp_path / "sorted", *"jihgfedcba")
    assert labelled(sorted_) == {f"{name}/{file}": i for i, name in enumerate("abcdefghij") for file in ("a.JPEG", "b.npy")}
    assert dataset(sorted_, TEN).notes == ("folders are classes in sorted order",)
    numbered = folders(tmp_path / "numbers", "2", "9", "007")
    assert set(labelled(numbered).values()) == {2, 9, 7}
    synsets = folders(tmp_path / "synsets", "n01443537", "n01440764")
    assert labelled(synsets, 1000)["n01443537/a.JPEG"] == 1
    assert labelled(synsets, 1001)["n01443537/a.JPEG"] == 2  # behind the background
    assert labelled(folders(tmp_path / "n", "1"), 1001)["1/a.JPEG"] == 2


def test_a_root_with_train_and_val_is_its_val(tmp_path: Path) -> None:
    folders(tmp_path / "val", "3")
    folders(tmp_path / "train", "4", "5")
    assert set(labelled(tmp_path).values()) == {3}


def test_lists_as_paddleclas_has_them(tmp_path: Path) -> None:
    folders(tmp_path / "val", "x")
    (tmp_path / "val_list.txt").write_text("val/x/a.JPEG 3\nx/b.npy 4\n\n", "utf-8")  # with and without the part before it
    found = dataset(tmp_path, TEN)
    assert [(sample.name, sample.label, sample.path.exists()) for sample in found.samples] == [
        ("val/x/a.JPEG", 3, True),
        ("x/b.npy", 4, True),
    ]
    moved = tmp_path / "val" / "other.txt"  # the list stands in the folder that it names
    moved.write_text("val/x/a.JPEG 3\nx/with blank.png 5")
    (tmp_path / "val/x/with blank.png").write_bytes(b"x")
    assert [sample.path.exists() for sample in dataset(moved, TEN).samples] == [True, True]
    assert dataset(moved, labels_of(1001)).samples[0].label == 4


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a.png 3\nb.png\n", "is no list of labelled images"),
        ("a.png three\n", "is no list of labelled images"),
        ("a.png -1\n", "is no list of labelled images"),
        ("a.png 10\n", "has classes that the network has not"),
        ("a.png 1\na.png 1\n", "lists `a.png` twice"),
        ("\n", "lists no image"),
    ],
)
def test_lists_that_cannot_be(text: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "val_list.txt").write_text(text)
    with pytest.raises((UnreadableError, UsageError), match=told):
        dataset(tmp_path, TEN)


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="does not exist"):
        dataset(tmp_path / "none", TEN)
    with pytest.raises(UnreadableError, match="has no labelled images"):
        dataset(tmp_path, TEN)
    (tmp_path / "1").mkdir()
    with pytest.raises(UnreadableError, match="has folders without images"):
        dataset(tmp_path, TEN)
    with pytest.raises(UsageError, match="are not the network's classes") as caught:
        dataset(folders(tmp_path / "three", *"abc"), TEN)
    assert caught.value.facts[0] == "3 folders, 10 classes"
    (tmp_path / "val_list.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(UnreadableError, match="is no text"):
        dataset(tmp_path, TEN)


def test_a_limit_is_spread_over_the_classes(tmp_path: Path) -> None:
    samples = dataset(folders(tmp_path, *"abcdefghij"), TEN).samples
    assert len(samples) == 20
    some = spread(samples, 10)
    assert [sample.label for sample in some] == list(range(10))
    assert some == spread(samples, 10)
    assert spread(samples, 99) == spread(samples, None) == samples
    with pytest.raises(UsageError, match="leaves no image"):
        spread(samples, 0)
