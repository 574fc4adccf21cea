"""The attacks of ``tests/attacks``, tried on the frameworks' own loaders: ``python -m tests.frameworks.loaders`` writes what
becomes of each into the table of SECURITY.md.

Each loader runs in a process of its own, in an empty folder, with 8 GB of address space and 20 seconds for a file; after a crash
it is started again. MindSpore needs the Python that ``XCONVERT_PYTHON_MINDSPORE`` names.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from tests.attacks import ATTACKS, MARKER, Attack
from tests.attacks.registry import MEANT_FOR

ROOT = Path(__file__).parents[2]
SECURITY = ROOT / "SECURITY.md"
BEGIN, END = "<!-- attacks -->", "<!-- /attacks -->"
PATIENCE = 20  # seconds for a file
START = 120  # seconds for an import


class Loader(NamedTuple):
    """A loader as it is ``called``, the package whose version counts, and the variable with the Python that has it."""

    called: str
    package: str
    python: str = ""


LOADERS = {
    "torch": Loader("torch.load", "torch"),
    "torch_old": Loader("torch.load, weights_only=False", "torch"),
    "paddle": Loader("paddle.load", "paddlepaddle"),
    "safetensors": Loader("safetensors.numpy.load_file", "safetensors"),
    "numpy": Loader("numpy.load", "numpy"),
    "keras": Loader("load_weights, load_model", "keras"),
    "tensorflow": Loader("tf.train.load_checkpoint", "tensorflow_cpu"),
    "mindspore": Loader("mindspore.load_checkpoint", "mindspore", "XCONVERT_PYTHON_MINDSPORE"),
    "onnx": Loader("onnx.load", "onnx"),
}
KINDS = {
    "torch": "PyTorch, zip",
    "torch-legacy": "PyTorch, before 1.6",
    "paddle": "PaddlePaddle",
    "paddle-inference": "PaddlePaddle, for inference",
    "safetensors": "safetensors",
    "npz": "NumPy",
    "keras-weights": "Keras 3, `.weights.h5`",
    "keras-h5": "Keras, `.h5`",
    "keras-archive": "Keras 3, `.keras`",
    "tensorflow": "TensorFlow",
    "tensorflow-objects": "TensorFlow, by object",
    "tensorflow-v1": "TensorFlow, first format",
    "mindspore": "MindSpore",
    "onnx": "ONNX",
    "other": "No checkpoints",
}
OUTCOMES = ("refuses", "loads", "memory", "hangs", "crashes", "RUNS IT")
WIDEST = 90  # characters of a cell


class Process:
    """A loader at work in ``folder``; started when it is first asked, and again after its end."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.process: subprocess.Popen[str] | None = None

    def ask(self, path: Path) -> tuple[str, str]:
        """(outcome, what was said) for the file at ``path``."""
        process = self.process or self.start()
        assert process.stdin
        process.stdin.write(json.dumps(str(path)) + "\n")
        process.stdin.flush()
        answer = self.answer(PATIENCE)
        ran = (self.folder / MARKER).exists()  # by one that did not live to say so
        (self.folder / MARKER).unlink(missing_ok=True)
        if answer:
            outcome, said = json.loads(answer)
            return ("RUNS IT" if ran else outcome), said
        code = self.stop()
        if code is None:
            return "hangs", f"no answer in {PATIENCE} s"
        name = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return ("RUNS IT", name) if ran else ("crashes", name)

    def start(self) -> subprocess.Popen[str]:
        """The process, once the framework is imported."""
        python = os.environ[LOADERS[self.name].python] if LOADERS[self.name].python else sys.executable
        command = [python, "-W", "ignore", str(Path(__file__).with_name("opening.py")), self.name]
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "GLOG_v": "3", "GLOG_minloglevel": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
        environment = {**os.environ, **quiet, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": ""}
        # `torch.hub.load` of the folder in which it runs finds this.
        (self.folder / "hubconf.py").write_text(f"open({MARKER!r}, 'w').close()\ndef model():\n    return {{}}\n")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, cwd=self.folder, env=environment, text=True, **pipes)  # type: ignore[call-overload]
        if self.answer(START) != "ready":
            raise RuntimeError(f"{python} has no loader `{self.name}`: it ended with {self.stop()}")
        assert self.process
        return self.process

    def answer(self, seconds: float) -> str:
        """The next line, empty where there is none in time."""
        assert self.process and self.process.stdout
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            return self.process.stdout.readline().rstrip("\n") if waiting.select(seconds) else ""

    def stop(self) -> int | None:
        """End the process; what it ended with itself, None where it had to be ended."""
        assert self.process
        process, self.process = self.process, None
        with process:  # closes its pipes, and waits
            try:
                return process.wait(0.5)
            except subprocess.TimeoutExpired:
                process.kill()
                return None


def outcomes(name: str) -> dict[str, tuple[str, str]]:
    """(outcome, what was said) of the loader ``name`` for each attack that is meant for it."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        scratch, made = Path(folder, "work"), Path(folder, "made")
        scratch.mkdir()
        process = Process(name, scratch)
        for key, attack in ATTACKS.items():
            if name in attack.loaders:
                found[key] = process.ask(attack.path() if attack.kept else attack.write(made))
        if process.process:
            process.stop()
    return found


def version(loader: Loader) -> str:
    """The version of the loader's package."""
    python = os.environ[loader.python] if loader.python else sys.executable
    code = f"from importlib.metadata import version; print(version({loader.package!r}))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def table(found: dict[str, dict[str, tuple[str, str]]], versions: dict[str, str]) -> str:
    """The section of SECURITY.md: a line for each loader, then every attack, folded by format."""
    told = ", ".join(f"{name.replace('_', '-')} {number}" for name, number in versions.items())
    caption = f"""
        Of {len(ATTACKS)} attacks, xconvert refuses {len(ATTACKS)}. The loaders are those of {told}. *memory*: a loader took more
        than 1 GB for a file of some kB, or asked for more than there was. What *loads* need not do harm, but no honest program
        writes it. An attack is counted for every loader that its format is meant for.
    """
    lines = [
        *textwrap.wrap(" ".join(caption.split()), 120, break_on_hyphens=False),
        "",
        "| loader | attacks | " + " | ".join(OUTCOMES) + " |",
        "|---|--:|" + "--:|" * len(OUTCOMES),
        f"| **xconvert** | {len(ATTACKS)} | {len(ATTACKS)} |" + " 0 |" * (len(OUTCOMES) - 1),
        *(counted(name, found[name]) for name in LOADERS),
    ]
    for kind, title in KINDS.items():
        lines += ["", *_folded(kind, title, found)]
    return "\n".join(lines)


def counted(name: str, answers: dict[str, tuple[str, str]]) -> str:
    """The line that counts the outcomes of the loader ``name``."""
    counts = Counter(outcome for outcome, _ in answers.values())
    return f"| `{LOADERS[name].called}` | {len(answers)} | " + " | ".join(str(counts[outcome]) for outcome in OUTCOMES) + " |"


def _folded(kind: str, title: str, found: dict[str, dict[str, tuple[str, str]]]) -> list[str]:
    """The attacks of one format."""
    attacks = {name: attack for name, attack in ATTACKS.items() if attack.kind == kind}
    columns = [f"`{LOADERS[name].called}`" for name in MEANT_FOR[kind]] or ["the loaders for its suffix"]
    return [
        f"<details><summary>{title}: {len(attacks)} attacks</summary>",
        "",
        "| attack | xconvert | " + " | ".join(columns) + " |",
        "|---|---|" + "---|" * len(columns),
        *(row(attack, [found[loader][name] for loader in attack.loaders]) for name, attack in attacks.items()),
        "",
        "</details>",
    ]


def row(attack: Attack, answers: Sequence[tuple[str, str]]) -> str:
    """The attack's line: what it tries, what xconvert says, and what its loaders make of it."""
    cells = [_shown(*answer) for answer in answers]
    if attack.kind == "other":
        named = [f"`{LOADERS[name].called}` {cell}" for name, cell in zip(attack.loaders, cells, strict=True)]
        cells = ["; ".join(named)]
    return start_of_row(attack) + " | ".join(cells) + " |"


def start_of_row(attack: Attack) -> str:
    """What does not depend on any framework."""
    said = attack.message.removeprefix("`{path}` ").replace("{path}", "…")
    return f"| {_cell(attack.tries)} | {_cell(said)} | "


def _shown(outcome: str, said: str) -> str:
    special = {"refuses": "refuses", "crashes": f"**crashes** ({said})", "RUNS IT": "**runs it**"}
    return special.get(outcome, f"*{outcome}*")


def _cell(text: str) -> str:
    text = text if len(text) <= WIDEST else text[: WIDEST - 1].rstrip("`") + "…"
    return (text + "`" * (text.count("`") % 2)).replace("|", "\\|")


def main() -> None:
    """Try all, and write the table."""
    found = {name: outcomes(name) for name in LOADERS}
    versions = {loader.package: version(loader) for loader in LOADERS.values()}
    before, _, rest = SECURITY.read_text().partition(BEGIN)
    SECURITY.write_text(f"{before}{BEGIN}\n{table(found, versions)}\n{END}{rest.partition(END)[2]}")
    for name, answers in found.items():
        print(counted(name, answers))


if __name__ == "__main__":
    main()
