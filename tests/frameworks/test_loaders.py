"""What SECURITY.md says of the frameworks' own loaders is still so, for those that are quickly tried."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attacks import ATTACKS, MARKER
from tests.frameworks.loaders import LOADERS, ROOT, SECURITY, counted, outcomes, row, version

pytestmark = pytest.mark.framework


@pytest.mark.parametrize("name", ["safetensors", "numpy", "onnx", "mindspore"])
def test_the_table_says_what_the_loader_does(name: str) -> None:
    told = SECURITY.read_text()
    found = outcomes(name)
    release = f"{LOADERS[name].package} {version(LOADERS[name])}"
    assert release in " ".join(told.split()), "the table is of another version: run `make loaders`"
    assert f"\n{counted(name, found)}\n" in told
    for key, answer in found.items():
        assert f"\n{row(ATTACKS[key], [answer])}\n" in told
    assert not (ROOT / MARKER).exists()
    assert not Path(MARKER).exists()
