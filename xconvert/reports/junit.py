"""JUnit XML, as Jenkins, GitLab and GitHub's test reporters read it: a suite for the checks, one for the layers, and where
asked for one for training and one for the acceptance table.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from xml.sax.saxutils import escape

from xconvert.report import LayerError, Report, Step
from xconvert.reports import _text
from xconvert.tuples import NamedTuple


class Case(NamedTuple):
    """One test: ``message`` is empty where it passed."""

    name: str
    message: str = ""
    text: str = ""


def document(report: Report, names: tuple[str, str]) -> str:
    """The whole file. No times: same report, same bytes."""
    suites = [
        ("checks", [Case(check.name, "" if check.ok else check.detail or "failed") for check in report.checks]),
        ("layers", list(_layers(report))),
        ("training", list(_training(report.training)) if report.training else []),
        ("trials", list(_trials(report))),
    ]
    kept = [(name, cases) for name, cases in suites if cases]
    tests = sum(len(cases) for _, cases in kept)
    failures = sum(bool(case.message) for _, cases in kept for case in cases)
    lines = ['<?xml version="1.0" encoding="UTF-8"?>']
    lines.append(f"<testsuites{_attributes(name='xconvert', **_counts(tests or 1, failures, not kept))}>")
    lines += [line for name, cases in kept for line in _suite(name, cases, report, names)]
    if not kept:
        lines.append(f"  <testsuite{_attributes(name='xconvert.checks', **_counts(1, 0, True))}>")
        lines.append('    <testcase classname="xconvert.checks" name="verification" time="0">')
        lines += [f"      <skipped{_attributes(message=_text.verdict(report))}/>", "    </testcase>", "  </testsuite>"]
    return "\n".join([*lines, "</testsuites>"]) + "\n"


def cases(told: Sequence[tuple[str, str, str, str]]) -> str:
    """A file of one suite with a case for each (name, status, why, source): ``refused`` is a failure, ``failed`` an error,
    anything else but ``verified`` was skipped.
    """
    kinds = {"verified": "", "refused": "failure", "failed": "error"}
    marks = [kinds.get(status, "skipped") for _, status, _, _ in told]
    sums: dict[str, object] = {"tests": len(told), "failures": marks.count("failure"), "errors": marks.count("error")}
    sums |= {"skipped": marks.count("skipped"), "time": 0}
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', f"<testsuites{_attributes(name='xconvert', **sums)}>"]
    lines.append(f"  <testsuite{_attributes(name='xconvert.batch', **sums)}>")
    for (name, status, why, source), mark in zip(told, marks, strict=True):
        head = f"    <testcase{_attributes(classname='xconvert.batch', name=name, file=source, time=0)}"
        told_why = f"<{mark}{_attributes(message=why.partition(chr(10))[0] or status)}>{_content(why)}</{mark}>" if mark else ""
        lines.append(f"{head}>{told_why}</testcase>" if mark else f"{head}/>")
    return "\n".join([*lines, "  </testsuite>", "</testsuites>"]) + "\n"


def _counts(tests: int, failures: int, skipped: bool = False) -> dict[str, object]:
    return {"tests": tests, "failures": failures, "errors": 0, "skipped": int(skipped), "time": 0}


def _suite(name: str, cases: list[Case], report: Report, names: tuple[str, str]) -> Iterable[str]:
    failures = sum(bool(case.message) for case in cases)
    yield f"  <testsuite{_attributes(name=f'xconvert.{name}', **_counts(len(cases), failures))}>"
    yield "    <properties>"
    for key, value in (("source", names[0]), ("target", names[1]), ("verdict", _text.verdict(report))):
        yield f"      <property{_attributes(name=key, value=value)}/>"
    yield "    </properties>"
    for case in cases:
        head = f"    <testcase{_attributes(classname=f'xconvert.{name}', name=case.name, time=0)}"
        if not case.message:
            yield f"{head}/>"
            continue
        yield f"{head}>"
        yield f"      <failure{_attributes(message=case.message, type=f'xconvert.{name}')}>{_content(case.text)}</failure>"
        yield "    </testcase>"
    told = (
        report.training.reasons if name == "training" and report.training else report.notes if cases and name == "checks" else ()
    )
    if told:
        yield f"    <system-out>{_content(chr(10).join(told))}</system-out>"
    yield "  </testsuite>"


def _attributes(**values: object) -> str:
    return "".join(f' {name}="{escape(_text.visible(value), {chr(34): "&quot;"})}"' for name, value in values.items())


def _content(text: str) -> str:
    return "\n".join(escape(_text.visible(line)) for line in text.split("\n"))


def _layers(report: Report) -> Iterable[Case]:
    grouped: dict[str, list[LayerError]] = {}
    for error in report.layers:
        grouped.setdefault(error.name, []).append(error)
    first = report.first_divergence
    for name, errors in grouped.items():
        wrong = [error for error in errors if not error.ok]
        message = "; ".join(f"{_text.size(e.size)}: {_over(e)}" for e in wrong)
        told = [_figures(error) for error in errors]
        if first and name == first.name:
            message = f"the first layer that parts: {message}"
            told += [f"{cause.why} {cause.what}".strip() for cause in _text.advice(report)]
        yield Case(name, message, "\n".join(told))


def _over(error: LayerError) -> str:
    return f"relative L2 {_text.figure(error.relative)}, allowed {_text.figure(error.allowed)}"


def _figures(error: LayerError) -> str:
    at = f"{_text.size(error.size)}: " if error.size else ""
    told = [f"largest difference {_text.figure(error.maximum)} of {_text.figure(error.scale)}", f"RMS {_text.figure(error.rms)}"]
    told += [f"cosine {error.cosine:.6f}", f"rounding {_text.figure(error.rounding)}"]
    return f"{at}{'ok' if error.ok else 'over'}: {_over(error)}; {', '.join(told)}"


def _training(step: Step) -> Iterable[Case]:
    losses = " and ".join(f"{loss:.9g}" for loss in step.losses)
    named = [("loss", step.loss), *((f"gradient {e.name}", e) for e in step.gradients)]
    for name, error in [*named, *((f"statistics {e.name}", e) for e in step.statistics)]:
        text = _figures(error) + (f"\nlosses {losses}" if error is step.loss else "")
        yield Case(name, "" if error.ok else _over(error), text)


def _trials(report: Report) -> Iterable[Case]:
    for trial in report.trials:
        told = f"max_abs_diff {_text.figure(trial.maximum)}, allowed {_text.figure(trial.allowed)}"
        agreement = f"top-1 agreement {trial.same}"
        yield Case(f"seed {trial.seed}, batch {trial.batch}", "" if trial.ok else told, agreement)
