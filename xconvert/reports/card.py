"""The model card in a folder that is published: what the network is, how it is used, and that it was verified.

https://huggingface.co/docs/hub/model-cards says what the YAML at its start may hold. There is no date in it, and no name of a
file: the same input gives the same card.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from xconvert import __version__
from xconvert.errors import UsageError
from xconvert.report import Report
from xconvert.reports import _text
from xconvert.reports.markdown import blocks, code, prose, table, text
from xconvert.tuples import NamedTuple

STATED = ("license", "base_model")  # what no checkpoint says of itself
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,95}")


class Layout(NamedTuple):
    """What a card says of a layout: the ``library`` that opens it, and ``use``: how, with ``{name}`` for the network's."""

    library: str
    use: str
    headless: str


LAYOUTS: Mapping[str, Layout] = {
    "hub": Layout(
        "timm",
        """import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # on the Hub: "hf-hub:USER/NAME"
logits = model(images)  # (N, {channels}, {size}, {size}), normalised""",
        """import timm

model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # on the Hub: "hf-hub:USER/NAME"
features = model.forward_features(images)  # (N, {channels}, {size}, {size}), normalised""",
    ),
    "keras-hub": Layout(
        "keras-hub",
        """import keras_hub

model = keras_hub.models.XceptionImageClassifier.from_preset("FOLDER")  # on the Hub: "hf://USER/NAME"
logits = model(images)  # (N, {size}, {size}, {channels}), normalised; model.predict takes bytes and normalises""",
        """import keras_hub

model = keras_hub.models.XceptionBackbone.from_preset("FOLDER")  # on the Hub: "hf://USER/NAME"
features = model(images)  # (N, {size}, {size}, {channels}), normalised""",
    ),
    "paddleclas": Layout(
        "PaddleClas",
        """from ppcls.arch.backbone import {name}
from ppcls.utils.save_load import load_dygraph_pretrain

model = {name}(class_num={classes})
load_dygraph_pretrain(model, "FOLDER/{name}_pretrained")
model.eval()
logits = model(images)  # (N, {channels}, {size}, {size}), normalised""",
        """from ppcls.arch.backbone import {name}
from ppcls.utils.save_load import load_dygraph_pretrain

model = {name}()  # its classifier stays as it starts
load_dygraph_pretrain(model, "FOLDER/{name}_pretrained")""",
    ),
}


def check(stated: Mapping[str, str]) -> None:
    """Raise ``UsageError`` for what a card cannot state."""
    for name, value in stated.items():
        if name not in STATED:
            raise UsageError(f"a model card states no `{name}`", facts=["it can state: " + ", ".join(STATED)])
        if not _WORD.fullmatch(value):
            what = (
                "an identifier such as `apache-2.0`"
                if name == "license"
                else "a repository such as `timm/legacy_xception.tf_in1k`"
            )
            raise UsageError(f"`{value}` is no {name.replace('_', ' ')}", facts=[f"expected {what}"])


def document(
    report: Report, layout: str, record: Mapping[str, Any], network: Mapping[str, Any], stated: Mapping[str, str]
) -> str:
    """The card of the folder that ``report`` is about, written in ``layout``. ``record``: xconvert's own in its weights;
    ``network``: what they are, as ``naming.describe`` says, with its input ``channels``; ``stated``: what the user knows of it,
    as ``check`` allows it.
    """
    told = LAYOUTS.get(layout, Layout(layout, "", ""))
    name, head = str(record.get("published") or network["architecture"]), bool(network["classes"])
    lines = [*_front(told.library, stated, head), f"# {text(name)}", ""]
    lines += [f"{prose(_what(report, record, network))}", ""]
    images = {"size": network["preprocessing"].get("size", 299), "channels": network["channels"]}
    use = (told.use if head else told.headless).format(name=name, classes=network["classes"], **images)
    lines += ["## Use", "", "```python", use, "```", ""] if use else []
    lines += _images(network["preprocessing"])
    lines += ["## Parity", "", *_parity(report)]
    lines += ["## Made from", "", *table(("", ""), _origin(report, record))]
    notes = [f"- {prose(_text.sentence(note))}" for note in report.notes]
    return "\n".join([*lines, *notes]).rstrip("\n") + "\n"


def _front(library: str, stated: Mapping[str, str], head: bool) -> list[str]:
    """The YAML: every value in it is a plain word."""
    told = {"library_name": library, "pipeline_tag": "image-classification" if head else "image-feature-extraction", **stated}
    tags = ["image-classification" if head else "image-feature-extraction", "xception", "xconvert"]
    return ["---", *(f"{name}: {value}" for name, value in told.items()), "tags:", *(f"- {tag}" for tag in tags), "---", ""]


def _what(report: Report, record: Mapping[str, Any], network: Mapping[str, Any]) -> str:
    head = f"{network['classes']} classes" if network["classes"] else "no head"
    told = f"{network['architecture'].replace('_', ' ')}, {head}, {network['parameters']:,} parameters"
    done = "Converted and verified" if report.verified else "Converted, but not verified,"
    return f"{told}, under the names of {record['implementation']}. {done} by xconvert {__version__}."


def _images(preprocessing: Mapping[str, Any]) -> list[str]:
    if not preprocessing:
        return ["How images are normalised is not known.", ""]
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in preprocessing.items())
    return [f"Images: {text(told)}.", ""]


def _parity(report: Report) -> list[str]:
    """What was compared, how far apart it was, and what is allowed; or that nothing was."""
    if not report.verified:
        return ["Nothing was compared.", ""]
    accepted = [change["attribute"] for change in report.changes if change["action"] == "accepted"]
    told = "The source network and the weights in this folder, read again, were computed by the same reference in float64"
    told += f", both with the target's {', '.join(f'`{name}`' for name in accepted)}." if accepted else "."
    agreed = {agreement.size: agreement for agreement in report.agreement}
    rows = [
        (
            f"{o.size}×{o.size}",
            f"{o.relative:.1e}",
            f"{o.allowed:.1e}",
            f"{o.maximum:.1e}",
            f"{agreed[o.size].top1} of {agreed[o.size].images}" if o.size in agreed else "–",
        )
        for o in report.outputs
    ]
    head = (report.answers, "relative L2", "allowed", "max absolute", "same first class")
    runs = [(text(c.name), prose(c.detail)) for c in report.checks if c.name == "values" or c.name.startswith("run by ")]
    return [prose(told), "", *table(head, rows), *blocks(report), *table(("check", "found"), runs)]


def _origin(report: Report, record: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The file that was converted, and what was done to it."""
    source = record.get("source", {})
    rows = [(name, code(source[key])) for name, key in (("sha256", "sha256"), ("format", "format")) if key in source]
    rows += [("names of", code(source["implementation"]))] if "implementation" in source else []
    for change in report.changes:
        where = f" in {change['where']}" if change.get("count") else ""
        rows.append((text(change["action"]), prose(f"`{change['attribute']}` {change['source']} → {change['target']}{where}")))
    rows += [("left out", text(name)) for name in report.omitted]
    return rows + ([("tensors", f"sha256 {code(record['content'])}")] if "content" in record else [])
