"""Images on their way into a network: laws of resizing and cropping, Pillow's own bits, and hostile files."""

from __future__ import annotations

import os
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xconvert.errors import UnreadableError, UsageError
from xconvert.images import MAX_PIXELS, complete, fit, geometry, prepare, read
from xconvert.mappings import library
from xconvert.preprocessing import PREPROCESSING, parse_setting, preprocessing_problems
from xconvert.resampling import FILTERS, Manner, Span, resize

Image = pytest.importorskip("PIL.Image")

HALF = {"size": 64, "mean": [0.5], "std": [0.5]}
ZOO = {i.name: i.preprocessing for i in library().implementations if not i.own}


def table(**settings: Any) -> dict[str, Any]:
    return complete({**HALF, **settings}, "test")


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Laws


SIDES = st.integers(1, 120)
CROPS = st.sampled_from(["none", "square", "centre", "central fraction"])


@given(SIDES, SIDES, st.integers(0, 255), CROPS, st.sampled_from(["nearest", *FILTERS]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_a_constant_stays_constant(height: int, width: int, value: int, crop: str, how: str, antialias: bool) -> None:
    image = np.full((height, width, 3), value, np.uint8)
    for rounding in ("per axis", "once", "none"):
        made = table(size=16, resize=20, crop=crop, interpolation=how, antialias=antialias, rounding=rounding)
        found = fit(image, made)
        assert found.shape == (16, 16, 3)
        assert np.abs(found.astype(np.float64) - value).max() <= 1e-4


@given(st.integers(64, 400), st.integers(64, 400), st.integers(64, 100), st.sampled_from(["down", "nearest"]))
@settings(deadline=None)
def test_a_crop_is_centred(height: int, width: int, resized: int, offset: str) -> None:
    found = geometry(height, width, table(crop="centre", resize=resized, offset=offset))
    for span in (found.rows, found.columns):
        after = span.size - span.start - span.wanted
        assert span.wanted == 64
        assert abs(after - span.start) <= 1
    assert min(found.rows.size, found.columns.size) == resized
    square = geometry(height, width, table(crop="square"))
    assert square.height == square.width == min(height, width)
    assert abs((height - square.height - square.top) - square.top) <= 1


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "lanczos"])
def test_turning_an_image_turns_the_result(how: str) -> None:
    """Filters are symmetric; where both axes shrink alike, Pillow's order of axes alone tells them apart."""
    image = noise(90, 90)
    made = fit(image, table(interpolation=how, rounding="none"))
    turned = fit(image[::-1, ::-1].transpose(1, 0, 2), table(interpolation=how, rounding="none"))
    assert np.abs(made[::-1, ::-1].transpose(1, 0, 2) - turned).max() < 1e-4


def test_pixels_become_what_the_table_says() -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    image[..., 0] = 255
    made = prepare(image, table(mean=[0.5, 0.25, 0.0], std=[0.5, 0.5, 2.0]))
    assert made.dtype == np.float32
    assert made[0, 0].tolist() == [1.0, -0.5, 0.0]
    assert prepare(image, table(channels="BGR"))[0, 0].tolist() == [-1.0, -1.0, 1.0]


# Pillow's own bits


MODES = {"nearest": 0, "box": 4, "bilinear": 2, "bicubic": 3, "lanczos": 1}


@given(SIDES, SIDES, SIDES, SIDES, st.sampled_from(sorted(MODES)), st.integers(0, 9))
@settings(max_examples=150, deadline=None)
def test_resized_as_pillow_does_to_the_bit(height: int, width: int, rows: int, columns: int, how: str, seed: int) -> None:
    image = noise(height, width, seed)
    theirs = np.asarray(Image.fromarray(image).resize((columns, rows), MODES[how]))
    assert (resize(image, Span(rows, 0, rows), Span(columns, 0, columns), Manner(how)) == theirs).all()
    top, left = rows // 3, columns // 2
    part = resize(image, Span(rows, top, rows - top), Span(columns, left, columns - left), Manner(how))
    assert (part == theirs[top:, left:]).all()


@pytest.mark.parametrize("size", [(375, 500), (500, 333), (1200, 250), (299, 299)])
def test_a_photograph_as_torchvision_resizes_and_crops_it(size: tuple[int, int]) -> None:
    """What timm's transform does with a shorter side of 333, written out: Resize and CenterCrop of torchvision."""
    image = noise(*size)
    height, width = size
    short, long = sorted(size)
    longer = int(333 * long / short)
    target = (333, longer) if width <= height else (longer, 333)
    theirs = Image.fromarray(image).resize(target, 3)
    left, top = round((target[0] - 299) / 2.0), round((target[1] - 299) / 2.0)
    expected = np.asarray(theirs.crop((left, top, left + 299, top + 299)))
    assert (fit(image, complete(ZOO["timm"] | {"resize": 333}, "timm")) == expected).all()


# What a file may be


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    packed = [struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks]
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def header(width: int, height: int) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)


def saved(path: Path, image: np.ndarray | None = None, **options: Any) -> Path:
    Image.fromarray(noise(40, 50) if image is None else image).save(path, **options)
    return path


def hostile(name: str, path: Path) -> str:
    """Write a file, and return what is said of it."""
    whole = saved(path.with_name("whole.jpg")).read_bytes()
    zeros = zlib.compress(bytes(1 << 20), 9)
    content, told = {
        "text": (b"no image at all", "is no image"),
        "empty": (b"", "is no image"),
        "cut": (whole[: len(whole) // 2], "is damaged: "),
        "bomb": (png(header(40_000, 40_000), (b"IDAT", zeros)), "has too many pixels"),
        "large": (png(header(12_000, 12_000), (b"IDAT", zeros)), "has 12000 × 12000 pixels"),
        "strip": (png(header(60_000, 1), (b"IDAT", zlib.compress(bytes(180_001))), (b"IEND", b"")), "too long a strip"),
        "hollow": (png(header(50, 40), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")), "is damaged: "),
        "broken": (png(header(50, 40), (b"IDAT", b"\xff" * 40), (b"IEND", b"")), "is damaged: "),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "is no image"),
        "pickle": (b"\x80\x04cposix\nsystem\n(S'true'\ntR.", "is no image"),
    }[name]
    path.write_bytes(content)
    return told


HOSTILE = ("text", "empty", "cut", "bomb", "large", "strip", "hollow", "broken", "postscript", "pickle")


@pytest.mark.parametrize("name", HOSTILE)
def test_a_bad_file_gets_one_message(name: str, tmp_path: Path) -> None:
    path = tmp_path / "image.png"
    told = hostile(name, path)
    with pytest.raises(UnreadableError, match=told.replace("(", r"\(")) as caught:
        prepare(path, table())
    assert "\n" not in caught.value.message


def test_what_is_no_file(tmp_path: Path) -> None:
    for path, told in ((tmp_path, "is a folder"), (tmp_path / "none.jpg", "does not exist"), ("a\0b.jpg", "does not exist")):
        with pytest.raises(UnreadableError, match=told):
            prepare(path, table())
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.jpg")  # reading it would wait for ever
        with pytest.raises(UnreadableError, match="is no file"):
            prepare(tmp_path / "pipe.jpg", table())


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_any_kind_of_pixels_becomes_rgb(mode: str, tmp_path: Path) -> None:
    made = Image.fromarray(noise(40, 50))
    made = Image.fromarray(noise(40, 50)[..., 0].astype(np.uint16) * 256) if mode == "I;16" else made.convert(mode)
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    made.save(path)
    with Image.open(path) as again:
        assert (read(path, table()) == np.asarray(again.convert("RGB"))).all()
    assert read(path, table(channels="GRAY")).shape == (40, 50, 1)


def test_the_cameras_orientation_is_followed_where_the_zoo_does(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the top is on the right
    path = saved(tmp_path / "turned.png", exif=exif)
    assert read(path, table()).shape == (40, 50, 3)
    assert read(path, table(exif=True)).shape == (50, 40, 3)
    assert {name for name, told in ZOO.items() if told.get("exif")} == {"paddleclas", "paddleclas-inference"}


def test_arrays_need_no_pillow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = noise(40, 50)
    np.save(tmp_path / "x.npy", image)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(image))
    saved(tmp_path / "x.png", image)
    assert (read(tmp_path / "x.png", table()) == image).all()
    monkeypatch.setitem(sys.modules, "PIL", None)
    for name in ("x.npy", "fortran.npy"):
        assert (read(tmp_path / name, table()) == image).all()
    with pytest.raises(UsageError, match="Pillow, which is not installed") as caught:
        read(tmp_path / "x.png", table())
    assert "`pip install 'xconvert[images]'`" in caught.value.hints


@pytest.mark.parametrize(
    ("array", "told"),
    [
        (np.zeros((4, 4, 3), np.float32), "holds `<f4`, no 8-bit numbers"),
        (np.zeros((4, 4), np.uint8), r"is no image: uint8 of shape \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), "is no image"),
        (np.zeros((4, 4, 4), np.uint8), "does not fit the network"),
        (np.zeros((1, 4000, 3), np.uint8), "too long a strip"),
    ],
)
def test_arrays_that_are_no_images(array: np.ndarray, told: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UnreadableError, match=told):
        prepare(tmp_path / "x.npy", table(crop="none"))


def test_an_array_that_lies_about_its_size(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", noise(8, 8))
    content = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(content.replace(b"(8, 8, 3)", b"(8, 9, 3)"))
    with pytest.raises(UnreadableError, match="does not have the size of its shape"):
        read(tmp_path / "x.npy", table())
    (tmp_path / "x.npy").write_bytes(b"\x93NUMPY\x01\0\x10\0{'descr': exit()}")
    with pytest.raises(UnreadableError, match="has no NumPy header"):
        read(tmp_path / "x.npy", table())
    with (tmp_path / "x.npy").open("wb") as file:
        file.truncate(5 * MAX_PIXELS)
    with pytest.raises(UnreadableError, match="too large"):
        read(tmp_path / "x.npy", table())


# What a table may be


@pytest.mark.parametrize("name", ZOO)
def test_every_zoo_says_how_its_images_are_prepared(name: str) -> None:
    made = complete(ZOO[name], name)
    assert {"size", "crop", "interpolation", "mean", "std", "channels"} <= ZOO[name].keys()
    assert prepare(noise(310, 420), made).shape == (made["size"], made["size"], 3)


def test_what_no_file_says_is_asked_for() -> None:
    with pytest.raises(UsageError, match=r"`x\.pth` says neither `mean` nor `std` of its images") as caught:
        complete({"size": 299}, "x.pth")
    assert "--set mean=0.5 --set std=0.5" in caught.value.hints[0]
    with pytest.raises(UsageError, match="smaller than their crop"):
        complete({**HALF, "resize": 32}, "x.pth")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("size", "224", 224),
        ("mean", "0.485,0.456,0.406", [0.485, 0.456, 0.406]),
        ("std", "1", [1]),
        ("std", "5e-1", [0.5]),
        ("antialias", "false", False),
        ("crop", "central fraction", "central fraction"),
        ("fraction", "0.875", 0.875),
        ("channels", "BGR", "BGR"),
    ],
)
def test_settings_of_the_command_line(name: str, text: str, value: Any) -> None:
    assert parse_setting(name, text) == value
    assert not preprocessing_problems({name: value})


@pytest.mark.parametrize(
    ("name", "text"), [("size", "0"), ("size", "1,2"), ("mean", "a"), ("std", "0"), ("exif", "1"), ("crop", "x"), ("std", "nan")]
)
def test_settings_that_cannot_be(name: str, text: str) -> None:
    with pytest.raises(UsageError, match=f"`{name}` cannot be `{text}`"):
        parse_setting(name, text)


def test_every_word_has_a_default_or_is_asked_for() -> None:
    assert complete({**HALF}, "x").keys() >= PREPROCESSING.keys() - {"resize", "fraction"}
