"""Annotations for GitHub Actions: workflow commands, one a line, which its runner picks out of a step's output.

https://docs.github.com/en/actions/reference/workflow-commands-for-github-actions
"""

from xconvert.errors import XconvertError
from xconvert.report import Report
from xconvert.reports import _text

SHOWN = 9  # GitHub shows ten errors of a step; the verdict is one of them


def annotations(report: Report, names: tuple[str, str]) -> str:
    """An error for the verdict and for each check and further cause that failed, a warning for each note, a notice where
    both sides are equal; each a line, the last one ended too.
    """
    file = names[0] if "backend" in report.target else names[1]
    first, *others = _text.advice(report) or [_text.Advice("", "", "")]
    said = [_text.verdict(report), first.why, first.what, _text.effect(report)]
    level = {"equal": "notice", "different": "error"}.get(_text.state(report), "warning")
    lines = [_command(level, file, f"xconvert: {_text.state(report)}", " ".join(part for part in said if part))]
    errors = [(f"xconvert: {cause.layer or 'cause'}", f"{cause.why} {cause.what}".strip()) for cause in others]
    errors += [(f"xconvert: {check.name}", check.detail or "failed") for check in report.checks if not check.ok]
    if report.training and not report.training.ok:
        losses = " and ".join(_text.figure(loss) for loss in report.training.losses)
        errors.append(("xconvert: training", f"one step of training differs; the losses are {losses}"))
    for trial in report.trials:
        if not trial.ok:
            told = f"the logits differ by {_text.figure(trial.maximum)}, allowed {_text.figure(trial.allowed)}"
            errors.append((f"xconvert: seed {trial.seed}, batch {trial.batch}", told))
    lines += [_command("error", file, title, told) for title, told in errors[:SHOWN]]
    lines += [_command("warning", file, "xconvert: note", note) for note in report.notes]
    return "".join(line + "\n" for line in lines)


def failure(problem: XconvertError) -> str:
    """The error for what could not be compared at all; a line, ended."""
    told = ". ".join([problem.message, *(fact for fact in problem.facts if fact), *problem.hints])
    return f"::error title=xconvert::{_data(_text.visible(told))}\n"


def _command(level: str, file: str, title: str, message: str) -> str:
    shown = "\n".join(_text.visible(line) for line in message.split("\n"))
    return f"::{level} file={_property(file)},title={_property(title)}::{_data(shown)}"


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    """A value among the properties. A file keeps its very name, but for what is no UTF-8 and could not be printed."""
    return _data(text.encode("utf-8", "backslashreplace").decode()).replace(":", "%3A").replace(",", "%2C")
