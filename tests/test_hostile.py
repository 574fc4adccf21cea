"""Files made to harm who opens them: each is refused with its message, runs nothing, takes neither long nor much memory."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.attacks import ATTACKS, FOLDER, MARKER
from tests.attacks.registry import MEANT_FOR
from tests.frameworks.loaders import SECURITY, start_of_row
from xconvert.cli import main

KEPT = [attack for attack in ATTACKS.values() if attack.kept]
ROOT = Path(__file__).parents[1]
SLACK = 16 << 20  # bytes: what else the process takes meanwhile
LONGEST = 2  # seconds

# Every attack in turn, in a process that gets the memory that xconvert allows a file, and no more: less would be another error.
OPEN = """
import json, os, resource, sys, time
from pathlib import Path
from tests.attacks import ATTACKS, FOLDER
from xconvert.errors import XconvertError
from xconvert.formats._limits import FREE, TIMES

def answered(attack, path):
    start = time.process_time()
    try:
        attack.answer(path)
        told = ["loaded", 0, []]
    except XconvertError as error:
        told = [error.message, error.exit_code, [*error.facts, *error.hints]]
    except BaseException as error:
        told = [repr(error), 0, []]
    return *told, time.process_time() - start

folder, slack = Path(sys.argv[1]), int(sys.argv[2])
os.chdir(folder)
paths = {name: attack.path() if attack.kept else attack.write(folder) for name, attack in ATTACKS.items()}
for attack in {attack.kind: attack for attack in ATTACKS.values() if attack.kept}.values():
    answered(attack, attack.path())  # imports what reading takes
found = {}
for name, attack in ATTACKS.items():
    used = int(Path("/proc/self/status").read_text().partition("VmData:")[2].split()[0]) << 10
    size = sum(file.stat().st_size for file in paths[name].parent.glob(paths[name].name + "*"))
    resource.setrlimit(resource.RLIMIT_DATA, (used + FREE + TIMES * size + slack, resource.RLIM_INFINITY))
    found[name] = str(paths[name]), *answered(attack, paths[name])
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """(path, message, exit code, facts and hints, seconds) of each attack."""
    folder = tmp_path_factory.mktemp("opened")
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}){OPEN}", str(folder), str(SLACK)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not (folder / MARKER).exists()
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("kind", MEANT_FOR)
def test_each_is_refused_with_its_message(kind: str, opened: dict[str, Any]) -> None:
    attacks = {name: attack for name, attack in ATTACKS.items() if attack.kind == kind}
    expected = {name: (attack.said(Path(opened[name][0])), 2) for name, attack in attacks.items()}
    assert {name: tuple(opened[name][1:3]) for name in attacks} == expected


def test_messages_are_printable_in_one_line(opened: dict[str, Any]) -> None:
    for name, (_, message, _, more, _) in opened.items():
        assert all(line.isprintable() for line in (message, *more)), name


def test_none_takes_long(opened: dict[str, Any]) -> None:
    assert {name: told[4] for name, told in opened.items() if told[4] > LONGEST} == {}


def test_files_are_what_their_builders_make() -> None:
    for attack in KEPT:
        for name, content in attack.files().items():
            assert not attack.same_bytes or (FOLDER / name).read_bytes() == content, f"{name}: run `make hostile`"
            assert len(content) < 20_000, name
    there = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*") if path.is_file()}
    assert there == {name for attack in KEPT for name in attack.files()}
    assert sum((FOLDER / name).stat().st_size for name in there) < 600_000


def test_the_table_has_every_attack() -> None:
    """Whether its loaders still answer as it says is tested where they are, in tests/frameworks/test_loaders.py."""
    told = SECURITY.read_text()
    for name, attack in ATTACKS.items():
        assert f"\n{start_of_row(attack)}" in told, f"{name}: run `make loaders`"
    assert told.count("</summary>") == len(MEANT_FOR)
    assert sum(int(count) for count in re.findall(r": (\d+) attacks</summary>", told)) == len(ATTACKS)


def test_there_are_attacks_on_every_reader() -> None:
    assert len(ATTACKS) >= 75
    assert {attack.kind for attack in ATTACKS.values()} == MEANT_FOR.keys()
    assert len({(attack.kind, attack.tries) for attack in ATTACKS.values()}) == len(ATTACKS)


@pytest.mark.parametrize("kind", ["torch", "safetensors", "tensorflow", "keras-weights"])
def test_the_command_line_says_so_too(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    attack = next(attack for attack in ATTACKS.values() if attack.kind == kind)
    with pytest.raises(SystemExit) as ended:
        main(["convert", str(attack.path()), "--to", "torch", "-o", str(tmp_path / "out.pth")])
    assert (ended.value.code, list(tmp_path.iterdir())) == (2, [])
    assert attack.said(attack.path()) in capsys.readouterr().err
