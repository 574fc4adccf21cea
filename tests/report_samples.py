"""Reports of every kind, for the tests of what is made of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np

from tests.narrow import TORCH, changed, narrow
from xconvert import verify
from xconvert.model import Attribute, Model
from xconvert.reconcile import reconcile
from xconvert.report import Activations, Agreement, Check, Diagnosis, LayerError, Report, Step, Trial
from xconvert.reports import write

FIXTURES = Path(__file__).parents[1] / "fixtures"

SIZES = (75, 96)
NAMES = ("models/xception-keras.h5", "converted/xception-torch.pth")
HOSTILE = "<script>window.pwned=1</script>\"'`|]]>&\u202e\u2066\x1b[31m\x00\n\ud800<img src=x onerror=pwned=1>"
WHY = Diagnosis(
    "padding",
    "block3.pool",
    "`xception-torch.pth` pads the pool `block3.pool` evenly on both sides (`symmetric`), `xception-keras.h5` more at the end"
    " (`same_upper`)",
    "convert again without `--accept pool_padding`, or build the network with `pool_padding = same_upper`",
    last=True,
)
PROVENANCE = {
    "xconvert": "0.1.0",
    "python": "3.11.7",
    "versions": {"numpy": "2.4.6", "torch": "2.13.0"},
    "source": {"file": NAMES[0], "sha256": "5e" * 32, "bytes": 91_884_032},
    "target": {
        "file": NAMES[1],
        "sha256": "c0" * 32,
        "bytes": 91_676_912,
        "record": {
            "version": "0.1.0",
            "implementation": "timm",
            "attributes": {"bn_epsilon": 0.001},
            "preprocessing": {
                "size": 299,
                "resize": 333,
                "crop": "centre",
                "interpolation": "bicubic",
                "mean": [0.5, 0.5, 0.5],
                "std": [0.5, 0.5, 0.5],
                "channels": "RGB",
                "fraction": 0.875,
                "antialias": True,
                "rounding": "per axis",
                "grid": "centres",
                "longer_side": "down",
                "offset": "nearest",
                "exif": False,
            },
            "published": "xception",
            "mapping": {"name": "timm", "sha256": "ab" * 32},
            "source": {"sha256": "5e" * 32, "format": "keras-h5", "implementation": "keras.applications"},
            "changes": [{"attribute": "bn_epsilon", "source": 0.001, "target": 1e-05, "action": "folded"}],
            "omitted": ["aux.*"],
            "content": "cd" * 32,
        },
    },
    "probe": {"sizes": [75, 96], "images": [2, 2], "seed": 0, "values": "float32 in [-1, 1]"},
}


def with_padding(model: Model, value: str) -> Model:
    return model._replace(attributes={**model.attributes, "pool_padding": Attribute(value, "the mapping file")})


@cache
def equal() -> Report:
    return verify(narrow(), narrow(), sizes=SIZES)._replace(agreement=(Agreement(75, 2, 2, 2),), provenance=PROVENANCE)


@cache
def different() -> Report:
    """Two narrow networks whose pools pad on other sides, with everything that a report can say."""
    a, b = narrow(), with_padding(narrow(), "symmetric")
    report = verify(a, b, sizes=SIZES)
    answers = (Agreement(75, 2, 1, 0), Agreement(96, 2, 2, 1))
    assert report.activations and report.activations.layer == WHY.layer
    return report._replace(diagnoses=(WHY,), agreement=answers, provenance=PROVENANCE)


@cache
def at_the_classifier() -> Report:
    """The classes shifted by one: the layers agree up to the last, which has no map but a vector."""
    model = narrow()
    shifted = changed(model, predictions__weight=np.roll(model.weights["predictions.weight"].read(), 1, 1))
    report = verify(model, shifted, sizes=SIZES)
    why = Diagnosis("classes", "predictions", "the classes of `b` are shifted by one", "drop its background class")
    assert report.activations and report.activations.channel == -1
    return report._replace(diagnoses=(why,))


@cache
def failed() -> Report:
    return verify(narrow(8), narrow(16), sizes=SIZES)


def error(name: str, relative: float, size: int = 0, allowed: float = 1e-6) -> LayerError:
    return LayerError(name, size, relative, relative * 2, 3.0, allowed, relative / 2, 1.0, allowed / 8)


@cache
def trained() -> Report:
    names = [name for name in narrow().weights if not name.endswith((".mean", ".variance"))]
    gradients = tuple(error(name, 3e-7 if i % 7 else 2e-5) for i, name in enumerate(names))
    statistics = (error("block1.conv1.bn.mean", 0.0), error("block1.conv1.bn.variance", math.nan))
    step = Step(
        error("loss", 1e-8), (2.302585, 2.302586), gradients, statistics, ("the momentum of `torch` counts the new value",)
    )
    return equal()._replace(training=step)


@cache
def tried() -> Report:
    rows = [Trial(seed, batch, 1e-6 * (seed + batch), 1.8e-5, batch - seed // 4) for seed in range(5) for batch in (1, 16)]
    return equal()._replace(trials=tuple(rows))


def hostile() -> Report:
    """Every text that can come from a file is made to break out of wherever it is put."""
    layers = tuple(layer._replace(name=HOSTILE if layer.name == "block3.pool" else layer.name) for layer in different().layers)
    side = {**different().source, "implementation": HOSTILE, "attributes": {HOSTILE: {"value": HOSTILE, "source": HOSTILE}}}
    picture = different().activations
    assert picture
    step = trained().training
    assert step
    step = step._replace(gradients=(error(HOSTILE, 1.0),), reasons=(HOSTILE,))
    change = {"attribute": HOSTILE, "source": HOSTILE, "target": HOSTILE, "action": HOSTILE, "count": 3, "where": HOSTILE}
    return different()._replace(
        source=side,
        target=side,
        layers=layers,
        checks=(Check(HOSTILE, False, HOSTILE),),
        notes=(HOSTILE,),
        omitted=(HOSTILE,),
        changes=(change,),
        diagnoses=(Diagnosis("padding", HOSTILE, HOSTILE, HOSTILE),),
        activations=picture._replace(layer=HOSTILE),
        training=step,
        trials=tried().trials,
        provenance={
            "xconvert": HOSTILE,
            HOSTILE: HOSTILE,
            "source": {"file": HOSTILE, "record": {"changes": [{HOSTILE: HOSTILE}]}},
        },
    )


def not_finite() -> Report:
    """What neither a scale nor a colour has a place for."""
    layers = [error(f"block{i}.conv", e, 75) for i, e in enumerate((0.0, 1e-9, math.inf, math.nan, 1.0), 1)]
    a = np.array([[1.0, math.nan], [math.inf, 2.0]])
    picture = Activations("block3.conv", 75, 0, a, a[::-1])
    return Report(equal().source, {"backend": "timm", "describes": "timm"}, layers=tuple(layers), activations=picture)


def large() -> Report:
    """A network of 146 batch norms at three sizes, as deep as they come, that parts early."""
    parts = [f"sepconv{i}.{part}" for i in (1, 2, 3) for part in ("act", "depthwise", "pointwise", "bn")]
    names = [f"{flow}.block{b}.{part}" for flow in ("entry", "middle") for b in range(1, 25) for part in parts]
    assert sum(name.endswith(".bn") for name in names) == 144
    rng = np.random.default_rng(0)
    top = [-7 if i < 41 else -1 for i in range(len(names))]
    layers = [error(n, float(10 ** rng.uniform(-8, t)), s) for n, t in zip(names, top, strict=True) for s in (75, 96, 299)]
    noise = rng.standard_normal((2, 149, 149))
    weights = [f"{n}.{p}" for n in names for p in (("gamma", "beta") if n.endswith(".bn") else ("weight",)) if "act" not in n]
    statistics = [f"{n}.{p}" for n in names if n.endswith(".bn") for p in ("mean", "variance")]
    found = [tuple(error(n, 1e-7) for n in some) for some in (weights, statistics)]
    step = Step(error("loss", 1e-8), (1.5, 1.5), *found)
    picture = Activations(names[41], 299, 3, *noise)
    return different()._replace(layers=tuple(layers), activations=picture, training=step, trials=tried().trials)


def unverified() -> Report:
    """A conversion with `--no-verify`."""
    target = {"implementation": "timm", "format": "torch", "describes": "PyTorch", "attributes": {"bn_epsilon": 1e-5}}
    return Report(equal().source, target, omitted=("aux.*",), notes=("the names are timm's",), output="b.pth")


def folded() -> Report:
    """What `verify --backend timm` tells: what it had to fold and accept to hand the network to the class."""
    _, changes = reconcile(narrow(), TORCH, ("pool_padding",))
    assert {change.action for change in changes} == {"folded", "accepted", "training"}
    told = {"count": 40, "where": "40 batch norms"}
    target = {"backend": "timm", "describes": "timm's own class"}
    return equal()._replace(target=target, changes=(*(change._asdict() for change in changes), {**changes[0]._asdict(), **told}))


SAMPLES: dict[str, Callable[[], Report]] = {
    "equal": equal,
    "different": different,
    "at the classifier": at_the_classifier,
    "failed": failed,
    "trained": trained,
    "tried": tried,
    "hostile": hostile,
    "not finite": not_finite,
    "large": large,
    "unverified": unverified,
    "folded": folded,
}


def written(report: Report, folder: Path, suffix: str, names: tuple[str, str] = NAMES) -> str:
    path = folder / f"report{suffix}"
    write(report, path, names)
    return path.read_text("utf-8")
