"""Taking one file of a package whose ``__init__`` cannot be imported."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from xconvert.backends._class import import_file


@pytest.fixture
def zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package that cannot be imported, with a file that imports a module of the package that cannot be either."""
    (tmp_path / "made_up_zoo" / "models").mkdir(parents=True)
    (tmp_path / "made_up_zoo" / "__init__.py").write_text("raise RuntimeError('the whole zoo')")
    (tmp_path / "made_up_zoo" / "models" / "net.py").write_text("from ..utils.download import fetch\nanswer = fetch + 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "made_up_zoo"


def test_a_file_is_imported_without_its_package(zoo: str) -> None:
    before = set(sys.modules)
    assert import_file(zoo, "models/net.py", utils__download={"fetch": 41}).answer == 42
    assert set(sys.modules) == before, "nothing is left behind"


def test_what_has_no_stand_in_is_asked_of_the_package(zoo: str) -> None:
    with pytest.raises(RuntimeError, match="the whole zoo"):
        import_file(zoo, "models/net.py")


@pytest.mark.parametrize(
    ("package", "file", "message"),
    [("no_such_zoo", "net.py", "No module named 'no_such_zoo'"), ("made_up_zoo", "x.py", "made_up_zoo has no x.py")],
)
def test_what_is_missing_is_named(zoo: str, package: str, file: str, message: str) -> None:
    with pytest.raises(ModuleNotFoundError) as caught:
        import_file(package, file)
    assert str(caught.value) == message
