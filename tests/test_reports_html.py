"""The page that a report is for people: whole, harmless and the same each time; its plots and pictures."""

from __future__ import annotations

import hashlib
import math
import re
import struct
import zlib
from base64 import b64decode, b64encode
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.report_samples import (
    HOSTILE,
    SAMPLES,
    different,
    equal,
    error,
    hostile,
    written,
)
from xconvert.render import UNSEEN
from xconvert.reports import _plot, _png

ALL = pytest.mark.parametrize("kind", SAMPLES)


# HTML


class Page(HTMLParser):
    """Every tag with its attributes; what is open must be closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.inside: dict[str, str] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        assert len(dict(attrs)) == len(attrs)
        if tag not in ("meta", "link", "img", "input", "wbr", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.inside[self.open[-1]] = self.inside.get(self.open[-1], "") + data


@pytest.mark.slow
@ALL
def test_the_page_is_whole_and_asks_for_nothing(kind: str, tmp_path: Path) -> None:
    text = written(SAMPLES[kind](), tmp_path, ".html")
    page = Page(text)
    assert not page.open
    for tag, attributes in page.tags:
        assert tag not in ("iframe", "object", "embed", "form", "base", "a")
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "background"):
            assert (attributes.get(name) or "data:").startswith("data:")
    assert ("link", {"rel": "icon", "href": "data:,"}) in page.tags  # else a browser asks a server for one
    assert "url(" not in text and "@import" not in text
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert [tag for tag, _ in page.tags].count("script") == 1
    (policy,) = [a["content"] for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy"]
    digest = b64encode(hashlib.sha256(page.inside["script"].encode()).digest()).decode()
    assert f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in (policy or "")
    assert len(text.encode()) < 1_000_000


@pytest.mark.slow
def test_hostile_names_add_no_tag_and_no_invisible_character(tmp_path: Path) -> None:
    text = written(hostile(), tmp_path, ".html", (HOSTILE, HOSTILE))
    known = {tag for kind in SAMPLES.keys() - {"hostile"} for tag, _ in Page(written(SAMPLES[kind](), tmp_path, ".html")).tags}
    assert {tag for tag, _ in Page(text).tags} <= known
    assert not re.search(UNSEEN, text.replace("\n", ""))
    assert text.count("&lt;script&gt;") > 20
    assert HOSTILE[31:33] not in text and text.count("&quot;&#x27;") > 20


def test_the_page_tells_everything(tmp_path: Path) -> None:
    text = written(different(), tmp_path, ".html")
    plain = re.sub(r"<[^>]+>", "", text)
    assert "These two files do not compute the same function. They part at block3.pool." in plain
    for told in (
        "pads the pool block3.pool evenly",
        "Convert again without --accept pool_padding",
        "c0" * 32,
        "91,884,032",
        "2.13.0",
    ):
        assert told in plain
    assert "bn_epsilon 0.001 → 1e-05 (folded)" in plain
    assert "pool_padding ≠ differs" in plain
    assert len(re.findall(r'src="data:image/png', text)) == 5
    for name in {layer.name for layer in different().layers}:
        assert f"<bdi>{name.replace('.', '.<wbr>')}</bdi>" in text


# Pictures


def decoded(uri: str) -> tuple[np.ndarray, np.ndarray]:
    """The palette's indices of a PNG, and its palette, with every checksum checked."""
    data = b64decode(uri.removeprefix("data:image/png;base64,"))
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        chunks[kind] = data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + chunks[kind])
        at += 12 + length
    width, height, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert rest == [8, 3, 0, 0, 0]
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:], np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)


def test_a_picture_has_its_darkest_at_the_least_value_and_grey_for_what_is_not_finite() -> None:
    values = np.array([[-1.0, 0.0, 1.0], [math.nan, math.inf, 5.0]])
    found, palette = decoded(_png.picture(values, -1.0, 1.0))
    assert found.tolist() == [[0, 127, 254], [255, 255, 254]]
    assert palette.shape == (256, 3) and palette[255].tolist() == [150, 150, 150]
    brightness = palette[:255].astype(int) @ [2126, 7152, 722]
    assert (np.diff(brightness[::8]) > 0).all()
    assert decoded(_png.picture(np.full((2, 2), 3.0), 3.0, 3.0))[0].tolist() == [[0, 0], [0, 0]]
    image, step = _png.thinned(np.zeros((500, 10)))
    assert (image.shape, step) == ((125, 3), 4)


@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_the_scale_orders_errors_as_they_are(relatives: list[float]) -> None:
    errors = [error(f"l{i}", value) for i, value in enumerate(relatives)]
    scale = _plot.scale_for(errors)
    places = [scale.y(value) for value in sorted(relatives)]
    assert places == sorted(places, reverse=True) and all(0 <= y <= _plot.UNITS for y in places)
    assert scale.y(0.0) == _plot.UNITS and scale.y(math.nan) == scale.y(math.inf) == 0
    assert all(scale.y(value) < _plot.UNITS for value in relatives if value > 0) or not scale.zero
    assert 0 < scale.y(1e-6) < _plot.UNITS  # the tolerance, with room on both sides
    assert len(scale.ticks) <= 9


def test_the_pictures_are_of_both_sides_on_one_scale_and_of_their_difference(tmp_path: Path) -> None:
    shown = different().activations
    assert shown
    a, b = shown.reference, shown.other
    text = written(different(), tmp_path, ".html")
    found = [decoded(uri)[0] for uri in re.findall(r'src="(data:image/png[^"]*)"', text)]
    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    for picture, values in zip(found[:2], (a, b), strict=True):
        assert (np.abs(picture - (values - low) / (high - low) * 254) <= 0.5 + 1e-9).all()
    gap = np.abs(b - a)
    assert (np.abs(found[2] - gap / gap.max() * 254) <= 0.5 + 1e-9).all()
    assert [picture.tolist() for picture in found[3:]] == [[list(range(255))]] * 2


def test_the_plot_draws_every_size_the_floor_the_tolerance_and_what_parts() -> None:
    report = different()._replace(layers=tuple(layer._replace(allowed=1e-6, rounding=1.3e-7) for layer in different().layers))
    drawn = _plot.layers(report)
    for kind in ('"line s0"', '"line s1"', '"tolerance"', '"rounding"', '"over"', '"mark"', '"wrong dots"'):
        assert kind in drawn
    assert "over tolerance ↑" in drawn and "rounding ↓" in drawn and "parts at <b><bdi>block3.pool</bdi></b>" in drawn
    assert 'aria-label="Error per layer on a logarithmic scale, 167 layers' in drawn
    without = _plot.layers(equal())
    assert '"mark"' not in without and '"wrong dots"' not in without and '"rounding"' not in without
    assert '<span class="y" style="top:100%">0</span>' in without


def test_thinning_keeps_the_highest_and_the_lowest() -> None:
    points = [(i, 500) for i in range(5000)]
    points[1234], points[4321] = (1234, 0), (4321, 1000)
    kept = _plot._thinned(points)
    assert len(kept) <= 2 * _plot.POINTS and {points[1234], points[4321]} <= {*kept} and kept == sorted(kept)
