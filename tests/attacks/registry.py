"""What an attack is, and the list of all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from xconvert.formats import read
from xconvert.formats._limits import Limits
from xconvert.loading import load

FOLDER = Path(__file__).parents[2] / "fixtures" / "hostile" / "attacks"
MARKER = "xconvert-was-here"  # the file that an attack creates where it runs
Contents = bytes | dict[str, bytes]  # of one file, or of several by what follows the attack's name

# Which loaders an attack of a format is meant for: keys of `LOADERS` in tests/frameworks/loaders.py.
MEANT_FOR = {
    "torch": ("torch", "torch_old"),
    "torch-legacy": ("torch", "torch_old"),
    "paddle": ("paddle",),
    "paddle-inference": ("paddle",),
    "safetensors": ("safetensors",),
    "npz": ("numpy",),
    "keras-h5": ("keras",),
    "keras-weights": ("keras",),
    "keras-archive": ("keras",),
    "tensorflow": ("tensorflow",),
    "tensorflow-objects": ("tensorflow",),
    "tensorflow-v1": ("tensorflow",),
    "mindspore": ("mindspore",),
    "onnx": ("onnx",),
    "other": (),
}


@dataclass(frozen=True)
class Attack:
    """A file that no honest program writes: what it ``tries``, and the ``message`` that xconvert answers with, ``{path}`` in
    the place of its name. ``kept``: whether it is small enough to be in the repository.
    """

    kind: str
    name: str
    suffix: str
    tries: str
    message: str
    build: Callable[[], Contents]
    limits: Limits
    kept: bool
    loaders: tuple[str, ...]

    @property
    def same_bytes(self) -> bool:
        """Whether every version of every library makes the same file."""
        return not self.kind.startswith("keras")

    def path(self, root: Path = FOLDER) -> Path:
        """What is opened: a file, the prefix of several, or a folder."""
        return root / self.kind / f"{self.name}{self.suffix}"

    def files(self) -> dict[str, bytes]:
        """The contents of each file, by its path below the root."""
        built = self.build()
        parts = {self.suffix: built} if isinstance(built, bytes) else built
        return {f"{self.kind}/{self.name}{rest}": content for rest, content in parts.items()}

    def write(self, root: Path) -> Path:
        """Create the files below ``root``; returns what to open."""
        for name, content in self.files().items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
        return self.path(root)

    def said(self, path: Path) -> str:
        """The message for the attack at ``path``."""
        return self.message.replace("{path}", str(path))

    def answer(self, path: Path) -> None:
        """Read all that is in the file at ``path``, and take it for a network; raises what xconvert has against that."""
        for tensor in read(path, limits=self.limits).tensors.values():
            tensor.read()
        load(path)


ATTACKS: dict[str, Attack] = {}  # by `kind/name`, in the order of the table


def attack(
    kind: str,
    suffix: str,
    tries: str,
    message: str,
    *,
    name: str = "",
    checksums: bool = False,
    kept: bool = True,
    loaders: tuple[str, ...] | None = None,
) -> Callable[[Callable[[], Contents]], Callable[[], Contents]]:
    """Enter the decorated function, which makes the file. It is called like the function, unless by ``name``."""

    def enter(build: Callable[[], Contents]) -> Callable[[], Contents]:
        called = name or build.__name__.strip("_").replace("_", "-")
        wanted = MEANT_FOR[kind] if loaders is None else loaders
        key = f"{kind}/{called}"
        assert key not in ATTACKS, f"{key} twice"
        ATTACKS[key] = Attack(kind, called, suffix, tries, message, build, Limits(checksums=checksums), kept, wanted)
        return build

    return enter
