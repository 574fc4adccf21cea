"""``evaluate`` against loops written with the zoos' own preprocessing and classes, image by image; and images against theirs."""

from __future__ import annotations

import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from tests import photos
from tests.frameworks import warm
from tests.frameworks.test_first_light import KERAS, TORCH
from tests.frameworks.test_first_light import make as make_network
from xconvert.backends import backends
from xconvert.evaluation import Evaluation, evaluate
from xconvert.images import complete, prepare
from xconvert.mappings import library

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.framework, pytest.mark.skipif(not find_spec("PIL"), reason="Pillow is not installed")]
IMAGES = 240

LOOPS = {"timm": ("timm-pth", "timm.pth", TORCH), "keras.applications": ("keras-h5", "keras.h5", KERAS)}


def make(folder: Path, zoo: str) -> Path:
    """A narrow checkpoint of 10 classes that the zoo's class saved."""
    kind, name, attributes = LOOPS[zoo]
    return make_network(folder, kind, name, attributes, divide=16, classes=10, sizes=(75,))


def apart(module: str, *arguments: object, backend: str) -> None:
    """Run a program of the tests in a process of its own, with the backend's Python."""
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    command = [*warm.python(backend), "-m", module, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return photos.write(tmp_path_factory.mktemp("photos"), IMAGES)


def ours(checkpoint: Path, folder: Path, **options: object) -> Evaluation:
    return evaluate(checkpoint, folder, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("zoo", LOOPS)
def test_evaluate_is_the_zoos_own_loop_image_by_image(zoo: str, folder: Path, tmp_path: Path) -> None:
    if not backends()[zoo].installed:
        pytest.skip(f"{zoo} is not installed")
    checkpoint = make(tmp_path, zoo)
    apart("tests.frameworks.loops", zoo, checkpoint, folder / "val_list.txt", tmp_path / "loop.npz", backend=zoo)
    theirs = np.load(tmp_path / "loop.npz")
    assert len(set(theirs["logits"].argmax(1).tolist())) >= 5  # an answer that is always the same would prove nothing
    found = ours(checkpoint, folder)
    assert [outcome.name for outcome in found.outcomes] == theirs["names"].tolist()
    assert [outcome.firsts[0] for outcome in found.outcomes] == theirs["logits"].argmax(1).tolist()
    order = np.argsort(-theirs["logits"], 1, kind="stable")
    ranks = (order == theirs["labels"][:, None]).argmax(1)
    assert [outcome.ranks[0] for outcome in found.outcomes] == ranks.tolist()
    assert (found.right(1), found.right(5)) == ((ranks < 1).sum(), (ranks < 5).sum())


@pytest.mark.parametrize("backend", ["torch", "keras"])
def test_a_frameworks_run_agrees_with_the_reference(backend: str, folder: Path, tmp_path: Path) -> None:
    if not backends()[backend].installed:
        pytest.skip(f"{backend} is not installed")
    checkpoint = make(tmp_path, "keras.applications")
    found = ours(checkpoint, folder, against=checkpoint, against_backend=backend, limit=40, batch=16, settings={"size": 96})
    assert found.agreement == 1
    assert found.widest and 0 < found.widest.gap < 1e-4 * found.widest.largest


@pytest.mark.parametrize("zoo", LOOPS)
def test_a_zoos_own_class_answers(zoo: str, folder: Path, tmp_path: Path) -> None:
    """At full width, which the classes have; each batch goes to the process that has the class loaded."""
    if not backends()[zoo].installed:
        pytest.skip(f"{zoo} is not installed")
    kind, name, attributes = LOOPS[zoo]
    checkpoint = make_network(tmp_path, kind, name, attributes, classes=10, sizes=(75,))
    found = ours(checkpoint, folder, against=checkpoint, against_backend=zoo, limit=4, batch=2, settings={"size": 96})
    assert found.agreement == 1
    assert found.widest and 0 < found.widest.gap < 1e-4 * found.widest.largest


# What becomes of images, against the zoos' own code: the README's table is what is measured here.

SIZES = [(375, 500), (500, 333), (299, 299), (640, 480), (150, 200), (333, 333), (1000, 260), (431, 777)]
ROW = re.compile(r"^\| (\S+) \| [^|]+ \| (to the bit|[\d.]+ levels?) \| ([\d.]+ %|none) \|$", re.MULTILINE)


def stated() -> dict[str, tuple[float, float]]:
    """Zoo → the largest difference that the README states, in levels of 255, and the share of numbers off by half a level."""
    rows = {}
    for zoo, largest, share in ROW.findall((ROOT / "README.md").read_text()):
        off = 0.0 if largest == "to the bit" else float(largest.split()[0])
        rows[zoo] = (off, 0.0 if share == "none" else float(share.split()[0]) / 100)
    return rows


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    from PIL import Image

    made, place = [], tmp_path_factory.mktemp("pictures")
    for i, (height, width) in enumerate(SIZES):
        image = Image.fromarray(photos.photograph(i, height, width))
        for suffix in (".jpg", ".png"):
            path = place / f"{i}{suffix}"
            image.save(path, quality=92)
            made.append(path)
    return made


@pytest.mark.parametrize("zoo", ["timm", "cadene", "keras.applications", "keras-hub", "tf-deeplab", "paddleclas", "mindcv"])
def test_images_become_what_the_zoo_makes_of_them(zoo: str, pictures: list[Path], tmp_path: Path) -> None:
    runner = {"tf-deeplab": "tensorflow", "cadene": "timm"}.get(zoo, zoo)
    if not backends()[runner].installed:
        pytest.skip(f"{zoo} is not installed")
    if zoo == "paddleclas" and not find_spec("cv2"):
        pytest.skip("OpenCV is not installed")
    if zoo == "tf-deeplab":  # its decoder makes other pixels of a JPEG
        pictures = [path for path in pictures if path.suffix == ".png"]
    apart("tests.frameworks.preprocess", zoo, tmp_path / "theirs.npz", *pictures, backend=runner)
    table = next(i.preprocessing for i in library().implementations if i.name == zoo and i.family.name != "xception_preact")
    made = complete(table if zoo != "timm" else {**table, "resize": 333}, zoo)
    theirs = list(np.load(tmp_path / "theirs.npz").values())
    levels = 255 * np.array(made["std"])
    differences = np.concatenate([np.abs((prepare(p, made) - t) * levels).ravel() for p, t in zip(pictures, theirs, strict=True)])
    largest, share = stated()[zoo]
    print(f"{zoo}: {differences.max():.4f} levels, {(differences > 0.5).mean():.3%} off by half a level")
    assert differences.max() <= largest + (1e-4 if largest else 0)
    assert (differences > 0.5).mean() <= share
