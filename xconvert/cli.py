"""The command line. It parses, calls the library and prints; the program is elsewhere.

stdout carries data, stderr everything else. Exit codes: 0 done and equal; 1 the answer is no (differs, refused); 2
could not work.
"""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xconvert import __version__, supervision
from xconvert.options import (
    Location,
    as_json,
    mapping_folders,
    publishing,
    read_card,
    read_settings,
    read_sizes,
    read_surgery,
    reading,
    reports_to,
    surgery,
)
from xconvert.progress import shown

if TYPE_CHECKING:
    from xconvert.errors import XconvertError
    from xconvert.report import Report

gc.set_threshold(100_000)  # a program that runs for seconds: looking for cycles among what is imported takes a tenth of its time
# Those that are not below are in `commands/`.
COMMANDS = ("convert", "verify", "diff", "inspect", "check", "list", "batch", "catalog", "predict", "evaluate", "bench")


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
        """The commands in the order in which one meets them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        """The command ``name``: one that is below, or ``command`` in the module of that name in ``xconvert.commands``."""
        if name not in COMMANDS or name in self.commands:
            return super().get_command(ctx, name)
        found: click.Command = import_module(f"xconvert.commands.{name}").command
        return found


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


@cli.command(short_help="Convert a checkpoint (the default command).")
@click.argument("source", type=Location())
@click.option(
    "--to",
    required=True,
    metavar="TARGET",
    help="A framework (torch, keras, paddle, …) or an implementation (timm, keras.applications, …).",
)
@click.option("-o", "--output", type=Location(), help="The file to write; its suffix chooses the format.")
@click.option("--accept", multiple=True, metavar="NAME", help="Convert although this attribute differs.")
@surgery
@publishing
@click.option("--verify-with", multiple=True, metavar="BACKEND", help="Also run the result in a framework or a zoo's own class.")
@click.option("--no-verify", is_flag=True, help="Skip re-reading and recomputing what was written.")
@click.option("--force", is_flag=True, help="Replace an existing output.")
@reports_to
@reading
@as_json
def convert(
    source: str | Path,
    to: str,
    output: str | Path | None,
    no_verify: bool,
    reports: Sequence[Path],
    as_json: bool,
    **kwargs: Any,
) -> None:
    """Convert SOURCE for TARGET, and verify that the result gives the same answer.

    A framework keeps the function exactly and changes the container; an implementation means that very class as its
    users have it installed: what weights can make up for is folded, anything else is refused unless accepted by name.
    """
    from xconvert import render
    from xconvert.conversion import convert as run

    _check_reports(reports, [source])
    with shown(sys.stderr):
        report = run(source, output, to=to, verify=not no_verify, **read_settings(read_surgery(read_card(kwargs))))
    names = (str(source), report.output)
    show({**report.to_dict(), "names": names} if as_json else render.conversion(names[0], report))
    _write_reports(report, reports, names, [source, report.output])


@cli.command(short_help="Do two checkpoints compute the same function?")
@click.argument("a", type=Location())
@click.argument("b", type=Location(), required=False)
@click.option("--backend", metavar="NAME", help="Run A in this framework, or in this zoo's own class, instead of reading B.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="Precision of the backend.  [default: float32]")
@click.option("--sizes", metavar="N,N,…", help="Sizes of the probe images in pixels.  [default: 75,96,299]")
@click.option("--drop-background", "background", flag_value="drop", help="Compare without the first class that one has more.")
@click.option("--tolerance", type=float, metavar="X", help="Largest relative L2 allowed, instead of the calibrated one.")
@click.option(
    "--layers", type=click.Choice(["blocks", "all"]), default="blocks", help="Which layers to print.", show_default=True
)
@click.option("--train", is_flag=True, help="Also compare one step of training: loss, gradients, running statistics.")
@click.option("--acceptance", is_flag=True, help="Also compare the logits of 5 seeds in batches of 1 and 2 (PaddleClas' table).")
@reports_to
@click.option("--format", "form", type=click.Choice(["text", "github"]), default="text", help="github: annotations for Actions.")
@reading
@as_json
def verify(
    a: str | Path,
    b: str | Path | None,
    sizes: str | None,
    layers: str,
    reports: Sequence[Path],
    form: str,
    as_json: bool,
    **kwargs: Any,
) -> None:
    """Compare A with B, or with a framework's run of A: names, shapes, values, activations layer by layer, logits.

    --from, --key and --set speak of A.
    """
    from xconvert import render
    from xconvert.verification import verify as run

    if sizes:
        kwargs["sizes"] = read_sizes(sizes)
    _check_reports(reports, [a, *([b] if b else [])])
    with shown(sys.stderr):
        report = run(a, b, **read_settings(kwargs))
    names = (str(a), str(b) if b else f"{a} run by {kwargs['backend']}")
    told = render.verification(names, report, every=layers == "all")
    show({**report.to_dict(), "names": names} if as_json else told + _annotations(report, names, form))
    _write_reports(report, reports, names, [a, *([b] if b else [])])
    sys.exit(0 if report.equal else 1)


def _annotations(report: Report, names: tuple[str, str], form: str) -> str:
    if form != "github":
        return ""
    from xconvert.reports import github

    return "\n" + github.annotations(report, names)


def _check_reports(paths: Sequence[Path], files: Sequence[str | Path]) -> None:
    for path in dict.fromkeys(paths):
        from xconvert.reports import check  # 20 ms of import

        check(path, files)


def _write_reports(report: Report, paths: Sequence[Path], names: tuple[str, str], files: Sequence[str | Path]) -> None:
    for path in dict.fromkeys(paths):
        from xconvert import render
        from xconvert.reports import check, write

        check(path, files)
        write(report, path, names)
        click.echo(f"wrote {render.clean(path)}", err=True)


@cli.command(short_help="Which tensors of two checkpoints differ, and why?")
@click.argument("a", type=Location())
@click.argument("b", type=Location())
@click.option("--all", "every", is_flag=True, help="List every tensor, also those that are bit-equal.")
@reading
@as_json
def diff(a: str | Path, b: str | Path, every: bool, as_json: bool, **kwargs: Any) -> None:
    """Compare A with B tensor by tensor, under the same names and axes whatever their frameworks and formats.

    It tells what folding and rounding explain from what nothing does. --from, --key and --set speak of A.
    """
    from xconvert import difference

    with shown(sys.stderr):
        told = difference.diff(a, b, **read_settings(kwargs))
    show(told if as_json else difference.diff_text(told, every))
    sys.exit(0 if told["explained"] else 1)


@cli.command(short_help="What is in this file?")
@click.argument("file", type=Location())
@reading
@as_json
def inspect(file: str | Path, as_json: bool, **kwargs: Any) -> None:
    """Show FILE's format, architecture, implementation and attributes, and where each was learned."""
    from xconvert import listing

    with shown(sys.stderr):
        told = listing.inspect(file, **read_settings(kwargs))
    show(told if as_json else listing.inspect_text(told))


@cli.command(short_help="Is this mapping file complete and one-to-one?")
@click.argument("mapping", type=click.Path(path_type=Path))
@mapping_folders
@as_json
def check(mapping: Path, mappings: Sequence[Path], as_json: bool) -> None:
    """Check MAPPING.toml: every layer has a line, every line a layer, no name twice, every attribute stated."""
    from xconvert import listing

    told = listing.check(mapping, mappings)
    show(told if as_json else listing.check_text(told))
    sys.exit(0 if told["ok"] else 1)


@cli.command("list", short_help="Architectures, implementations, formats, backends.")
@click.option("--long", is_flag=True, help="Also the parameters and multiply-adds (at 299×299) of every published network.")
@mapping_folders
@as_json
def list_(mappings: Sequence[Path], long: bool, as_json: bool) -> None:
    """List what xconvert knows, and which backends are installed."""
    from xconvert import listing

    told = listing.everything(mappings)
    show(told if as_json else listing.everything_text(told, long))


def show(told: dict[str, Any] | str) -> None:
    """Print what a command found on stdout: text, or JSON types as JSON."""
    from xconvert import render

    click.echo(told if isinstance(told, str) else render.as_json(told), color=_colour(sys.stdout))


def _colour(stream: Any) -> bool | None:
    """Never with NO_COLOR (https://no-color.org); else click's choice: on a terminal."""
    return False if os.environ.get("NO_COLOR") else None


def main(args: Sequence[str] | None = None) -> None:
    """Entry point: run a command, as a program in a process of its own; every error is one message and an exit code."""
    from xconvert.errors import UsageError, XconvertError

    arguments = list(sys.argv[1:] if args is None else args)
    if args is None:  # the reference has threads of its own; NumPy's BLAS starts its own when it is imported
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    if args is None and hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader such as `head` that has seen enough ends us quietly
    if args is None and (problem := supervision.supervised(arguments)):
        _fail(problem, arguments)
    try:
        sys.exit(cli.main(arguments, prog_name="xconvert", standalone_mode=False) or 0)
    except XconvertError as problem:
        _fail(problem, arguments)
    except click.exceptions.NoArgsIsHelpError as help_text:
        click.echo(help_text.format_message(), err=True)
        sys.exit(2)
    except click.UsageError as problem:
        message, _, hint = problem.format_message().rstrip(".").partition("\n")
        command = problem.ctx.command_path if problem.ctx else "xconvert"
        _fail(UsageError(message[:1].lower() + message[1:], hints=[hint or f"`{command} --help` shows the usage"]), arguments)
    except click.ClickException as problem:
        _fail(UsageError(problem.format_message()), arguments)
    except OSError as problem:
        reason = problem.strerror or str(problem)
        told = f"`{problem.filename}` cannot be used: {reason}" if problem.filename else reason[:1].lower() + reason[1:]
        _fail(UsageError(told), arguments)
    except MemoryError as problem:
        told = str(problem).split(" and data type")[0]
        _fail(UsageError("there is not enough memory", facts=[told[:1].lower() + told[1:]] if told else []), arguments)
    except (click.Abort, KeyboardInterrupt):
        click.echo("error: interrupted", err=True)
        sys.exit(130)
    except supervision.Terminated:
        click.echo("error: terminated", err=True)
        raise


def _fail(problem: XconvertError, arguments: Sequence[str]) -> None:
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
        click.echo(render.error(problem), err=True, color=_colour(sys.stderr))
    sys.exit(problem.exit_code)
