"""Publishing, disturbed at each of its steps: a step is a call that changes the file system, as Python's audit hooks see it.

A program of its own, because it forks: ``python -m tests.steps FORMAT…`` prints for each format and each way of disturbing how
many steps there were, and fails where anything but the old output or the new one was found afterwards.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.targets import TARGETS, sources, state
from xconvert.errors import UsageError
from xconvert.formats import formats
from xconvert.outputs import published

STEPS = {"os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.chown", "ctypes.dlsym", "shutil.rmtree", "open"}
READERS = 6


class Publication:
    """Two outputs of one format, and a place where one replaces the other without the work of a conversion."""

    def __init__(self, name: str, folder: Path) -> None:
        self.form, target = formats()[name], TARGETS[name]
        self.made = [folder / str(i) / target.output for i in range(2)]
        for source, made in zip(sources(folder), self.made, strict=True):
            made.parent.mkdir()
            target.convert(source, made)
        self.output = folder / "there" / target.output
        self.states = [state(made) for made in self.made]

    def old(self) -> None:
        """Put the first output there, and nothing else."""
        shutil.rmtree(self.output.parent, ignore_errors=True)
        shutil.copytree(self.made[0].parent, self.output.parent)

    def publish(self, which: int) -> None:
        """What ``convert`` does when it has a file to write."""
        with published(self.output, self.form) as path:
            path.parent.joinpath(path.name).mkdir() if self.form.name == "hub" else None
            for made, copy in zip(self.form.files(self.made[which]), self.form.files(path), strict=True):
                shutil.copyfile(made, copy)

    def left(self) -> list[str]:
        """Temporary folders."""
        return [path.name for path in self.output.parent.iterdir() if path.name.startswith(".xconvert-")]


def forked(job: Callable[[], None]) -> int:
    """The process that does ``job``; it exits with 0, with 130 where it was interrupted, with 2 for a ``UsageError``."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        job()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except UsageError as error:
        print(error.message, *error.facts, file=sys.stderr)
        code = 2
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """The exit code of a process, the negative signal where one ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def disturbed(publication: Publication, step: int, number: int) -> int:
    """Publish the second output over the first, and send ``number`` before ``step``; the exit code."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in STEPS and not (event == "open" and str(arguments[0]).endswith(".py")):
            count += 1
            if count == step:
                os.kill(os.getpid(), number)

    def job() -> None:
        sys.addaudithook(hook)
        publication.publish(1)

    publication.old()
    return ended(forked(job))


def every_step(publication: Publication, number: int) -> int:
    """Send the signal before each step in turn; how many steps there are. Once the new output is there, it stays."""
    step, new = 1, False
    while (code := disturbed(publication, step, number)) != 0:
        assert code == (-number if number == signal.SIGKILL else 130), (step, code)
        found = publication.states.index(state(publication.output))
        assert not new or found == 1, step
        new = found == 1
        if number != signal.SIGKILL:
            assert not publication.left(), step
            files = publication.form.files(publication.output)
            assert sum(1 for file in publication.output.parent.rglob("*") if file.is_file()) == len(files), step
        publication.publish(0)  # whatever the killed one left
        assert state(publication.output) == publication.states[0], step
        assert tree(publication.output.parent) == tree(publication.made[0].parent), step
        step += 1
    assert new
    return step - 1


def tree(folder: Path) -> dict[str, bytes]:
    """All files of a folder, by their paths in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def together(publication: Publication) -> int:
    """Several processes publish at the same time: each time one of the results is there, whole, and nothing else."""
    rounds = 8
    for _ in range(rounds):
        publication.old()
        children = [forked(lambda which=which: publication.publish(which % 2)) for which in range(READERS)]
        assert [ended(child) for child in children] == [0] * READERS
        found = publication.states.index(state(publication.output))
        assert tree(publication.output.parent) == tree(publication.made[found].parent)
    return rounds


def main() -> None:
    """Everything, for the formats named."""
    for name in sys.argv[1:]:
        with tempfile.TemporaryDirectory(prefix="steps-") as folder:
            publication = Publication(name, Path(folder))
            counts = [every_step(publication, number) for number in (signal.SIGKILL, signal.SIGINT)]
            print(name, *counts, together(publication), flush=True)


if __name__ == "__main__":
    main()
