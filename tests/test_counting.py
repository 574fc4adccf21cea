"""Parameters and multiply-adds of every published network come out of the graph, and published figures out of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.oracle import inventory
from xconvert.counting import Size, count
from xconvert.mappings import library

# (family, zoo, published name): trained parameters, with the statistics of batch norms, multiply-adds at 299x299. Measured on the
# real classes, convolutions and classifier counted (fixtures/oracles, and the table of the founders' facts).
SIZES = {
    ("xception", "timm", "legacy_xception"): (22_855_952, 22_910_480, 8_357_403_496),
    ("xception", "cadene", "xception"): (22_855_952, 22_910_480, 8_357_403_496),
    ("xception", "lornatang", "xception"): (22_855_952, 22_910_480, 8_357_403_496),
    ("xception", "keras.applications", "Xception"): (22_855_952, 22_910_480, 8_357_403_496),
    ("xception", "keras-hub", "xception_41_imagenet"): (22_855_952, 22_910_480, 8_357_403_496),
    ("xception", "mindcv", "xception"): (22_855_952, 22_910_480, 8_357_403_496),
    ("xception_aligned", "timm", "xception41"): (26_969_560, 27_084_872, 9_204_134_312),
    ("xception_aligned", "timm", "xception65"): (39_916_312, 40_101_512, 13_852_682_216),
    ("xception_aligned", "timm", "xception71"): (42_338_736, 42_537_712, 17_946_553_928),
    ("xception_preact", "timm", "xception41p"): (26_907_752, 26_961_256, 9_204_134_312),
    ("xception_preact", "timm", "xception65p"): (39_819_560, 39_908_008, 13_852_682_216),
    ("xception_aligned", "tf-deeplab", "xception_41"): (26_971_609, 27_086_921, 9_204_134_312 + 2048),
    ("xception_aligned", "tf-deeplab", "xception_65"): (39_918_361, 40_103_561, 13_852_682_216 + 2048),
    ("xception_aligned", "tf-deeplab", "xception_71"): (42_340_785, 42_539_761, 17_946_553_928 + 2048),
    ("xception_aligned", "paddleclas", "Xception41_deeplab"): (26_969_560, 27_084_872, 9_204_134_312),
    ("xception_aligned", "paddleclas", "Xception65_deeplab"): (39_916_312, 40_101_512, 13_852_682_216),
    ("xception_paddleclas", "paddleclas", "Xception41"): (22_919_600, 23_019_920, 8_498_210_072),
    ("xception_paddleclas", "paddleclas", "Xception65"): (35_866_352, 36_036_560, 13_146_757_976),
    ("xception_paddleclas", "paddleclas", "Xception71"): (37_678_496, 37_856_576, 16_084_271_704),
}


def sizes() -> dict[tuple[str, str, str], Size]:
    return {
        (i.family.name, i.name, p.name): count(i.family.build(p.depth, True, i.at(p.depth).attributes), p.classes)
        for i in library().implementations
        for p in i.published
    }


def test_every_published_network_has_its_size() -> None:
    assert {key: (s.trained, s.parameters, s.multiply_adds) for key, s in sizes().items()} == SIZES


@pytest.mark.parametrize(("zoo", "name", "told"), [(z, n, f"{z}.{n}") for _, z, n in SIZES if z in ("paddleclas", "timm")])
def test_sizes_are_those_of_the_real_checkpoints(zoo: str, name: str, told: str) -> None:
    size = next(s for (_, z, n), s in sizes().items() if (z, n) == (zoo, name))
    assert inventory(told)["params_total_with_bn_stats"] == size.parameters


# What zoos publish, in millions of parameters and thousands of millions of operations, and how it comes out of ours.
PADDLECLAS = {
    "Xception41": (8.57, 23.02),
    "Xception41_deeplab": (9.28, 27.08),
    "Xception65": (13.25, 36.04),
    "Xception65_deeplab": (13.96, 40.10),
    "Xception71": (16.21, 37.86),
}


@pytest.mark.parametrize("name", PADDLECLAS)
def test_paddleclas_counts_statistics_and_twice_each_normalised_element(name: str) -> None:
    size = next(s for (_, zoo, n), s in sizes().items() if (zoo, n) == ("paddleclas", name))
    operations, parameters = PADDLECLAS[name]
    assert round(size.parameters / 1e6, 2) == parameters
    assert abs((size.multiply_adds + 2 * size.normalised) / 1e9 - operations) < 0.006


def test_keras_counts_statistics_as_parameters() -> None:
    assert round(sizes()["xception", "keras.applications", "Xception"].parameters / 1e6, 1) == 22.9


VASTAI = {"legacy_xception": 22.856, "xception41": 26.965, "xception65": 39.912, "xception71": 42.332}
VASTAI |= {"xception41p": 26.854, "xception65p": 39.731}
# The batch norms that timm builds as BatchNormAct2d, a class which Vastai's counter does not know, by family.
FUSED = {"xception": "nothing", "xception_aligned": r"entry\.conv\d\.bn|.*\.shortcut\.bn", "xception_preact": r".*\.bn"}


@pytest.mark.parametrize("name", VASTAI)
def test_vastai_leaves_out_the_batch_norms_that_timm_builds_with_their_activation(name: str) -> None:
    found = ((i, p) for i in library().implementations for p in i.published if (i.name, p.name) == ("timm", name))
    implementation, published = next(found)
    family, depth = implementation.family, published.depth
    width = {"image": 3}
    left_out = 0
    for layer in family.build(depth, True, implementation.attributes):
        width[layer.name] = layer.width or width[layer.inputs[0]]
        left_out += 2 * width[layer.name] * bool(re.fullmatch(FUSED[family.name], layer.name))
    size = count(family.build(depth, True, implementation.attributes), 1000)
    assert round((size.trained - left_out) / 1e6, 3) == VASTAI[name]


# Rows of the README's table: (zoo, published name) of a network that has the size told there.
COUNTED = {
    "Chollet's Xception": ("keras.applications", "Xception"),
    "aligned 41": ("timm", "xception41"),
    "aligned 65": ("timm", "xception65"),
    "aligned 71": ("timm", "xception71"),
    "pre-activation 41p": ("timm", "xception41p"),
    "pre-activation 65p": ("timm", "xception65p"),
    "PaddleClas' Xception41": ("paddleclas", "Xception41"),
    "PaddleClas' Xception65": ("paddleclas", "Xception65"),
    "PaddleClas' Xception71": ("paddleclas", "Xception71"),
}


def test_the_readme_counts_as_the_graph_does() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in readme.splitlines() if line.startswith("| ")]
    told = {row[0]: row[1:4] for row in rows if row[0] in COUNTED}
    known = {(zoo, name): size for (_, zoo, name), size in sizes().items()}
    expected = {row: known[key] for row, key in COUNTED.items()}
    assert told == {row: [f"{n:,}" for n in (s.trained, s.parameters, s.multiply_adds)] for row, s in expected.items()}
