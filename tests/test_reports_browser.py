"""The page, opened in Chromium on a desktop, on a phone, in the dark and on paper: what a reader sees, and that nothing else
happens.
"""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from selenium import webdriver

from tests.report_samples import FIXTURES, HOSTILE, NAMES, SAMPLES
from xconvert import convert, verify
from xconvert.report import Report
from xconvert.reports import write

pytestmark = pytest.mark.browser

DESKTOP, PHONE = (1280, 900), (360, 740)
BOTH = pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# Every element that has text of its own and can be seen: its colour and what is behind it, as they are computed.
CONTRAST = """
const context = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
const known = {};
const numbers = (colour) => {
  if (!known[colour]) {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = colour;
    context.fillRect(0, 0, 1, 1);
    known[colour] = [...context.getImageData(0, 0, 1, 1).data];
  }
  return known[colour];
};
const luminance = ([r, g, b]) => [r, g, b].map((c) => c / 255)
  .map((c) => c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
  .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
const behind = (element) => {
  for (let e = element; e; e = e.parentElement) {
    const colour = numbers(getComputedStyle(e).backgroundColor);
    if (colour[3] === 255) return colour;
  }
  return [255, 255, 255];
};
const found = {};
for (const e of document.body.querySelectorAll('*')) {
  if (![...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()) || !e.getClientRects().length) continue;
  if (e.tagName === 'SCRIPT') continue;
  const [a, b] = [luminance(numbers(getComputedStyle(e).color)), luminance(behind(e))];
  const key = `${e.tagName}.${e.className}`;
  found[key] = Math.min(found[key] ?? 99, (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05));
}
return found;
"""


class Page:
    """One browser, and the report that it shows."""

    def __init__(self, driver: Any, folder: Path) -> None:
        self.driver, self.folder = driver, folder
        self.run = driver.execute_script
        self.cdp = driver.execute_cdp_cmd

    def show(
        self,
        report: Report,
        size: tuple[int, int],
        names: tuple[str, str] = NAMES,
        scheme: str = "light",
        media: str = "screen",
        folder: Path | None = None,
    ) -> Page:
        """Open ``report`` at ``size``, anew."""
        path = (folder or self.folder) / "report.html"
        write(report, path, names)
        return self.open(path, size, scheme, media)

    def open(self, path: Path, size: tuple[int, int], scheme: str = "light", media: str = "screen") -> Page:
        """Open the page in ``path`` at ``size``, anew."""
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.cdp("Emulation.setDeviceMetricsOverride", metrics)
        self.emulate(scheme, media)
        self.driver.get(path.as_uri())
        return self

    def emulate(self, scheme: str = "light", media: str = "screen") -> None:
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.cdp("Emulation.setEmulatedMedia", {"media": media, "features": features})

    def text(self, selector: str) -> str:
        return str(self.run("return document.querySelector(arguments[0]).innerText", selector))

    def type(self, text: str) -> None:
        field = self.driver.find_element("id", "filter")
        field.clear()
        field.send_keys(text)

    def shown(self) -> list[str]:
        """The layers of the table that can be seen."""
        told = "return [...document.getElementById('layers').tBodies].filter((b) => b.getClientRects().length)"
        return list(self.run(f"{told}.map((b) => b.rows[0].cells[0].textContent)"))

    def requests(self) -> list[str]:
        """The addresses of all that was asked for since the page was opened."""
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        return [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium and driver, "the tests in a browser need Debian's chromium and chromium-driver (`make chromium`)"
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    try:
        yield Page(browser, tmp_path_factory.mktemp("page"))
    finally:
        browser.quit()


@pytest.fixture(scope="module")
def padding(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """A real pair that fails: a file, and what became of it when another padding was accepted."""
    output = tmp_path_factory.mktemp("pair") / "timm.pth"
    convert(FIXTURES / "keras.h5", output, to="timm", accept=["pool_padding"])
    return verify(FIXTURES / "keras.h5", output)


@BOTH
def test_a_stranger_sees_which_layer_why_and_what_to_do_without_scrolling(
    page: Page, padding: Report, size: tuple[int, int]
) -> None:
    page.show(padding, size, ("keras.h5", "timm.pth"))
    assert page.text("#verdict") == "These two files do not compute the same function. They part at block3.pool."
    assert padding.diagnoses[0].kind == "padding"
    assert page.text(".reason").startswith("At block3.pool: ") and "pads" in page.text(".reason")
    assert page.text(".reason").endswith(padding.diagnoses[0].told.split("`")[-1] + ".")
    assert len(page.text(".hint")) > 40
    for selector in ("#verdict", ".reason", ".hint"):
        box = page.run("return document.querySelector(arguments[0]).getBoundingClientRect().toJSON()", selector)
        assert box["top"] >= 0 and box["bottom"] <= size[1] and box["left"] >= 0 and box["right"] <= size[0], selector
        assert box["height"] > 10


@BOTH
@pytest.mark.parametrize("kind", SAMPLES)
def test_no_page_scrolls_sideways_complains_or_asks_for_anything(page: Page, kind: str, size: tuple[int, int]) -> None:
    page.show(SAMPLES[kind](), size)
    assert page.run("return document.documentElement.scrollWidth <= innerWidth && innerWidth === arguments[0]", size[0])
    # nothing sticks out of the screen but what scrolls within its own box
    told = "return [...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll, .x') && e.getClientRects().length"
    outside = page.run(f"{told} && (e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1))")
    assert not [element.get_attribute("outerHTML")[:200] for element in outside]
    assert page.driver.get_log("browser") == []
    addresses = page.requests()
    assert addresses and all(address.startswith("data:") or address.endswith("/report.html") for address in addresses)
    assert page.run("return performance.getEntriesByType('resource').filter((e) => !e.name.startsWith('data:')).length") == 0


@BOTH
def test_pictures_are_there_and_large_enough_to_see(page: Page, size: tuple[int, int]) -> None:
    page.show(SAMPLES["different"](), size)
    told = "return [...document.images].map((i) => [i.complete, i.naturalWidth, i.naturalHeight, i.width, i.height, !!i.alt])"
    pictures = page.run(told)
    assert len(pictures) == 5
    assert all(complete and width > 0 and alt for complete, width, _, _, _, alt in pictures)
    assert all(width >= 95 and abs(width - height) <= 1 for _, _, _, width, height, _ in pictures[:3])
    plot = page.run("return document.querySelector('.area').getBoundingClientRect().toJSON()")
    assert plot["height"] > 200 and plot["width"] > 0.75 * min(size[0], 1000)
    flag = page.run("return document.querySelector('.flag').getBoundingClientRect().toJSON()")
    mark = page.run("return document.querySelector('svg .mark').getBoundingClientRect().toJSON()")
    assert abs(flag["left"] - mark["left"]) < 3 and flag["right"] <= size[0]
    labels = page.run(
        "return [...document.querySelectorAll('.x span')].filter((e) => e.getClientRects().length)"
        ".map((e) => e.getBoundingClientRect().toJSON()).sort((a, b) => a.left - b.left)"
    )
    assert len(labels) >= 3 and all(a["right"] < b["left"] for a, b in pairwise(labels))


@BOTH
def test_the_filter_and_the_checkbox_narrow_the_table(page: Page, size: tuple[int, int]) -> None:
    report = SAMPLES["at the classifier"]()
    page.show(report, size)
    names = list(dict.fromkeys(layer.name for layer in report.layers))
    assert page.shown() == names
    page.type("BLOCK3.")
    assert page.shown() == [name for name in names if "block3." in name] != []
    assert page.text("#count") == f"{len(page.shown())} of {len(names)} layers"
    page.driver.find_element("id", "only").click()
    assert page.shown() == [] and page.text("#none") == "No layer is like that."
    page.type(" ")
    assert page.shown() == ["predictions"]
    page.driver.find_element("id", "only").click()
    assert page.shown() == names


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("kind", ["different", "equal", "trained", "unverified"])
def test_all_text_stands_out_from_what_is_behind_it(page: Page, kind: str, scheme: str) -> None:
    page.show(SAMPLES[kind](), DESKTOP, scheme=scheme)
    dark = page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(22, 23, 26)"
    assert dark == (scheme == "dark")
    found = page.run(CONTRAST)
    assert found["H1."] > 7 and any(key.startswith("P.") for key in found)
    assert min(found.values()) >= 4.5, {key: round(ratio, 2) for key, ratio in found.items() if ratio < 4.5}


def test_paper_shows_everything_and_no_controls(page: Page) -> None:
    report = SAMPLES["different"]()
    page.show(report, (720, 1000), scheme="dark")
    page.type("no such layer")
    assert page.shown() == []
    page.emulate("dark", "print")
    assert page.shown() == list(dict.fromkeys(layer.name for layer in report.layers))
    told = "return [...document.querySelectorAll('#controls, #none, input')].every((e) => !e.getClientRects().length)"
    assert page.run(told)
    told = "return [...document.querySelectorAll('.scroll')].filter((e) => e.scrollHeight > e.clientHeight + 1"
    assert page.run(f"{told} || e.scrollWidth > e.clientWidth + 1).map((e) => e.ariaLabel)") == []
    assert page.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert min(page.run(CONTRAST).values()) >= 4.5
    printed = base64.b64decode(page.cdp("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})["data"])
    assert printed.startswith(b"%PDF") and printed.count(b"/Type /Page\n") > 3


def test_without_script_everything_is_there(page: Page) -> None:
    page.cdp("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.show(SAMPLES["different"](), PHONE)
        table = page.driver.find_element("id", "layers")
        assert len([body for body in table.find_elements("tag name", "tbody") if body.is_displayed()]) == 167
        assert not page.driver.find_element("id", "controls").is_displayed()
    finally:
        page.cdp("Emulation.setScriptExecutionDisabled", {"value": False})


@BOTH
def test_hostile_names_do_nothing(page: Page, size: tuple[int, int]) -> None:
    page.show(SAMPLES["hostile"](), size, (HOSTILE, HOSTILE))
    assert page.run("return [window.pwned ?? null, document.scripts.length, document.title.includes('<script>')]") == [
        None,
        1,
        True,
    ]
    assert "<script>window.pwned=1</script>" in page.text("#verdict")
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    page.type("window.pwned")
    assert len(page.shown()) == 1
    page.type("<img src=x onerror=pwned=1>")
    assert page.run("return window.pwned ?? null") is None
    assert page.driver.get_log("browser") == []


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, list[str]]]:
    """The address of a server for ``tmp_path``, and all that was asked of it."""
    asked: list[str] = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            asked.append(self.path)

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/", asked
    finally:
        server.shutdown()
        server.server_close()


def test_the_pages_own_policy_stops_what_escaping_would_have_let_through(page: Page, served: tuple[str, list[str]]) -> None:
    """As if a name had broken out: neither a script, nor a handler, an image, a form, a frame or a request gets anywhere."""
    address, asked = served
    page.show(SAMPLES["different"](), DESKTOP)
    told = page.driver.execute_async_script(
        """
        const [address, done] = arguments, found = [];
        document.addEventListener('securitypolicyviolation', (e) => found.push(e.effectiveDirective));
        const script = document.createElement('script');
        script.textContent = 'window.pwned = 1';
        document.body.append(script);
        const html = `<img src="${address}x.png"><b onclick="window.pwned = 1"></b><form action="${address}">`;
        document.body.insertAdjacentHTML('beforeend', html);
        document.body.lastElementChild.previousElementSibling.click();
        document.body.lastElementChild.submit();
        const frame = document.createElement('iframe');
        frame.src = address;
        document.body.append(frame);
        fetch(address).catch(() => 0);
        setTimeout(() => done([window.pwned ?? null, [...new Set(found)].sort()]), 1500);
        """,
        address,
    )
    assert told == [None, ["connect-src", "form-action", "frame-src", "img-src", "script-src-attr", "script-src-elem"]]
    assert asked == []


def test_over_http_nothing_but_the_page_is_asked_for(page: Page, served: tuple[str, list[str]], tmp_path: Path) -> None:
    """As CI serves its artifacts."""
    address, asked = served
    write(SAMPLES["different"](), tmp_path / "report.html", NAMES)
    page.driver.get(f"{address}report.html")
    assert page.text("#verdict").endswith("block3.pool.")
    assert asked == ["/report.html"]
