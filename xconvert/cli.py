"""The command line. What commands do is in `commands/`; the program is elsewhere.

stdout carries data, stderr everything else. Exit codes: 0 done and equal; 1 the answer is no (differs, refused); 2
could not work.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from xconvert import __version__, supervision
from xconvert.commands._printing import colour, show

if TYPE_CHECKING:
    from xconvert.errors import XconvertError

COMMANDS = {  # module of `xconvert.commands` → what it does, in a line; in the order in which one meets them
    "convert": "Convert a checkpoint (the default command).",
    "verify": "Do two checkpoints compute the same function?",
    "diff": "Which tensors of two checkpoints differ, and why?",
    "inspect": "What is in this file?",
    "check": "Is this mapping file complete and one-to-one?",
    "list": "Architectures, implementations, formats, backends.",
    "batch": "Many conversions, verified and resumable.",
    "catalog": "Released checkpoints, and where they are published.",
    "predict": "What is in these images?",
    "evaluate": "How often is it right, and do two networks agree?",
    "bench": "How fast does this checkpoint answer on each framework?",
}


class DefaultToConvert(click.Group):
    """A group whose first word, when it is no command, is the file to convert."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put ``convert`` in front of a file name, or of an option that is not the group's own."""
        if args and args[0] not in COMMANDS and args[0] not in ("--help", "-h", "--version"):
            there = os.path.lexists(args[0]) or os.path.lexists(f"{args[0]}.index")  # a TensorFlow checkpoint goes by its prefix
            if not args[0].startswith("-") and not there and not Path(args[0]).suffix and "://" not in args[0]:
                import difflib

                close = difflib.get_close_matches(args[0], COMMANDS, n=1)
                hint = f"did you mean `xconvert {close[0]}`?" if close else "`xconvert --help` lists the commands"
                called = args[0].replace("\n", "\\n")  # the hint is the second line
                raise click.UsageError(f"no command and no file is called `{called}`\n{hint}")
            args = ["convert", *args]
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The ``command`` of the module of that name; only the one that is wanted is imported."""
        if name not in COMMANDS:
            return None
        found: click.Command = import_module(f"xconvert.commands.{name}").command
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Commands and what they do, none of which is imported."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=DefaultToConvert, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, message="xconvert %(version)s")
def cli() -> None:  # \b keeps click from folding the lines below it
    """Convert Xception checkpoints between frameworks, and prove that the converted network gives the same answer.

    \b
    xconvert keras.h5 --to torch         the main job: writes and verifies keras.pth
    xconvert verify keras.h5 keras.pth   do two files compute the same function?
    xconvert inspect model.pth           what is in this file?

    A first word that is no command is a file to convert. Exit codes: 0 done and equal, 1 differs or refused, 2 could not work.
    """  # noqa: D301


def main(arguments: list[str]) -> NoReturn:
    """Run a command and exit; every error is one message and an exit code."""
    from xconvert.errors import UsageError, XconvertError

    try:
        sys.exit(cli.main(arguments, prog_name="xconvert", standalone_mode=False) or 0)
    except XconvertError as problem:
        fail(problem, arguments)
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as problem:
        message, _, hint = problem.format_message().rstrip(".").partition("\n")
        command = problem.ctx.command_path if problem.ctx else "xconvert"
        fail(UsageError(message[:1].lower() + message[1:], hints=[hint or f"`{command} --help` shows the usage"]), arguments)
    except click.ClickException as problem:
        fail(UsageError(problem.format_message()), arguments)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        told = f"`{problem.filename}` cannot be used: {reason}" if problem.filename else reason[:1].lower() + reason[1:]
        fail(UsageError(told), arguments)
    except MemoryError as problem:
        told = str(problem).split(" and data type")[0]
        fail(UsageError("there is not enough memory", facts=[told[:1].lower() + told[1:]] if told else []), arguments)
    except (click.Abort, KeyboardInterrupt):
        click.echo("error: interrupted", err=True)
        sys.exit(130)
    except supervision.Terminated:
        click.echo("error: terminated", err=True)
        raise


def fail(problem: XconvertError, arguments: Sequence[str]) -> NoReturn:
    """Tell of ``problem`` in the ways that ``arguments`` ask for, and exit with its code."""
    from xconvert import render

    with contextlib.suppress(OSError):  # a full disk is no answer, and the exit code tells
        if "github" in arguments or "--format=github" in arguments:
            from xconvert.reports import github

            click.echo(github.failure(problem), nl=False)
    with contextlib.suppress(OSError):
        if "--json" in arguments:
            told = {"message": problem.message, "facts": problem.facts, "hints": problem.hints, "exit_code": problem.exit_code}
            show({"schema": 1, "error": told})
    with contextlib.suppress(OSError):
        click.echo(render.error(problem), err=True, color=colour(sys.stderr))
    sys.exit(problem.exit_code)
