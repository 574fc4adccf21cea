"""The index of a batch, opened in Chromium: what it shows, where it leads, and that nothing else happens."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.report_samples import HOSTILE
from tests.test_reports_browser import BOTH, CONTRAST, DESKTOP, PHONE, Page, page  # noqa: F401  (a fixture)
from xconvert.batch.page import document

pytestmark = pytest.mark.browser
FIXTURES = Path(__file__).parents[1] / "fixtures"


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The index of a real batch, of which some conversions were refused and one failed."""
    folder = tmp_path_factory.mktemp("batch")
    (folder / "a zoo").mkdir()
    for name in ("keras.h5", "timm.pth", "deeplab.pdparams"):
        shutil.copy(FIXTURES / name, folder / "a zoo")
    (folder / "zoo.toml").write_text(
        f'[defaults]\nto = ["torch", "timm"]\n[[entry]]\nsource = "a zoo/*"\n[[entry]]\nsource = "a zoo/timm.pth"\n'
        f'name = "wrong #1?"\nto = "torch"\nsha256 = "{"0" * 64}"\n'
    )
    with pytest.raises(SystemExit), pytest.MonkeyPatch.context() as patch:
        from xconvert.cli import main

        patch.chdir(folder)
        main(["batch", "zoo.toml", "-o", "the outputs", "--keep-going", "--report", "index.html"])
    return folder / "index.html"


def shown(page: Page) -> list[str]:  # noqa: F811
    told = "return [...document.getElementById('layers').tBodies].filter((b) => b.getClientRects().length)"
    return list(page.run(f"{told}.map((b) => b.rows[0].cells[0].textContent + ' ' + b.rows[0].cells[1].textContent)"))


ALL = ["deeplab timm", "keras timm", "timm timm", "deeplab torch", "keras torch", "timm torch", "wrong #1? torch"]


@BOTH
def test_the_index_shows_every_conversion_and_what_went_wrong(page: Page, index: Path, size: tuple[int, int]) -> None:  # noqa: F811
    page.open(index, size)
    assert page.text("#verdict") == "4 of 7 conversions are verified; 3 were refused or failed."
    assert shown(page) == ALL
    results = page.run("return [...document.querySelectorAll('#layers td:nth-child(3)')].map((e) => e.innerText)")
    assert results == ["✗ refused", "✗ refused", *["✓ verified"] * 4, "✗ failed"]
    assert page.run("return document.querySelectorAll('.advice li').length") == 3
    told = page.text(".advice")
    assert "wrong #1? → torch" in told and "has another sha256 than the manifest says" in told and "--accept pool_padding" in told
    assert page.run("return document.documentElement.scrollWidth <= innerWidth && innerWidth === arguments[0]", size[0])
    told = "return [...document.querySelectorAll('main *')].filter((e) => !e.closest('.scroll') && e.getClientRects().length"
    assert not page.run(f"{told} && (e.getBoundingClientRect().right > innerWidth + 1 || e.getBoundingClientRect().left < -1))")
    assert page.driver.get_log("browser") == []
    assert all(address.startswith("data:") or address.endswith("/index.html") for address in page.requests())


def test_the_filter_and_the_checkbox_narrow_it(page: Page, index: Path) -> None:  # noqa: F811
    page.open(index, DESKTOP)
    page.type("KERAS")
    assert shown(page) == ["keras timm", "keras torch"] and page.text("#count") == "2 of 7 conversions"
    page.driver.find_element("id", "only").click()
    assert shown(page) == ["keras timm"]
    page.type("none")
    assert shown(page) == [] and page.text("#none") == "No conversion is like that."


def test_every_link_leads_to_the_report_of_its_conversion(page: Page, index: Path) -> None:  # noqa: F811
    page.open(index, DESKTOP)
    links = page.run("return [...document.querySelectorAll('#layers a')].map((a) => [a.innerText, a.href])")
    assert [name for name, _ in links] == ["timm", "deeplab", "keras", "timm"]
    for name, address in links:
        page.driver.get(address)
        assert page.text("#verdict").startswith("The source and the converted file compute the same function")
        assert f"{name}." in page.text(".sides")
    assert page.driver.get_log("browser") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_stands_out(page: Page, index: Path, scheme: str) -> None:  # noqa: F811
    page.open(index, DESKTOP, scheme)
    found = page.run(CONTRAST)
    assert any(key.startswith("A.") or key.startswith("BDI") for key in found)
    assert min(found.values()) >= 4.5, {key: round(ratio, 2) for key, ratio in found.items() if ratio < 4.5}


def test_on_paper_everything_fits(page: Page, index: Path) -> None:  # noqa: F811
    page.open(index, (720, 1000), "dark", "print")
    assert shown(page) == ALL
    told = "return [...document.querySelectorAll('.scroll')].filter((e) => e.scrollHeight > e.clientHeight + 1"
    assert page.run(f"{told} || e.scrollWidth > e.clientWidth + 1).map((e) => e.ariaLabel)") == []


def test_hostile_names_do_nothing(page: Page, tmp_path: Path) -> None:  # noqa: F811
    error = {"message": HOSTILE, "facts": [HOSTILE], "hints": [HOSTILE], "exit_code": 2}
    row: dict[str, Any] = {"name": HOSTILE, "source": HOSTILE, "to": HOSTILE, "output": HOSTILE, "licence": HOSTILE}
    good = {
        "status": "verified",
        "network": HOSTILE,
        "sha256": HOSTILE,
        "parameters": 1,
        "multiply_adds": 1,
        "parity": 0.0,
        "allowed": 1.0,
    }
    rows = [
        {**row, "status": "failed", "error": error},
        {**row, **good, "folds": [HOSTILE], "report": str(tmp_path / 'x/y">.html')},
    ]
    where = tmp_path / "index.html"
    where.write_text(document(rows, where), "utf-8", "backslashreplace")
    page.open(where, PHONE)
    assert page.run("return [window.pwned ?? null, document.scripts.length, document.images.length]") == [None, 1, 0]
    assert "<script>window.pwned=1</script>" in page.text("#layers")
    assert page.run("return document.documentElement.scrollWidth <= innerWidth")
    assert page.driver.get_log("browser") == []
