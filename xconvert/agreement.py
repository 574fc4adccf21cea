"""Whether a model is what its weights fit: what a file says of its layers, held against the graph.

Names and shapes of weights are the same whatever a layer does with them: its strides, its activation, a rescaling before it.
Where a file carries the configuration of its layers, every one must be what the graph computes, or of no effect.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from xconvert.attributes import parse as parse_attribute
from xconvert.errors import NetworkError, UsageError
from xconvert.matching import Match
from xconvert.model import Checkpoint, Layer
from xconvert.tuples import NamedTuple

Options = Mapping[str, Any]

# The classes that compute an operation with weights, by operation.
CLASSES: Mapping[str, tuple[str, ...]] = {
    "conv": ("Conv2D",),
    "depthwise": ("SeparableConv2D", "DepthwiseConv2D"),
    "pointwise": ("SeparableConv2D", "Conv2D"),
    "batch_norm": ("BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization"),
    "linear": ("Dense",),
}
# Those without weights; SymmetricMaxPooling2D is xconvert's own, registered with Keras in `backends/keras.py`.
SYMMETRIC_POOL = "xconvert>SymmetricMaxPooling2D"
OPERATIONS = {
    **{"MaxPooling2D": "max_pool", SYMMETRIC_POOL: "max_pool", "ReLU": "relu", "Add": "add", "ZeroPadding2D": "pad"},
    "GlobalAveragePooling2D": "global_average",
}
CALLED = {"max_pool": "max-pools", "relu": "activations `relu`", "add": "layers `Add`", "global_average": "global average pools"}
CALLED |= {"pad": "layers `ZeroPadding2D`"}
# What changes nothing when a network answers.
HARMLESS = {
    *("InputLayer", "Dropout", "SpatialDropout2D", "GaussianDropout", "AlphaDropout", "GaussianNoise", "ActivityRegularization"),
    "Identity",
    *("RandomFlip", "RandomRotation", "RandomZoom", "RandomTranslation", "RandomShear", "RandomContrast", "RandomBrightness"),
}
RESHAPING = {"Flatten", "Reshape"}  # harmless too, once maps are pooled
FINAL = ("softmax", "sigmoid")  # activations of a classifier, which xconvert leaves off
LAYERS = "configuration of its layers"
FOREIGN = "is not part of it"  # said of layers that the graph has nothing for
MOST = 8  # lines of facts


class _Case(NamedTuple):
    """Everything that is compared: the graph, what is ``stated`` and not left out, and our layers by their layer; how many
    layers were ``left`` out, and by which ``patterns``; the ``evidence`` by which the graph was made.
    """

    graph: Sequence[Layer]
    stated: Mapping[str, Options]
    bound: Mapping[str, Sequence[Layer]]
    left: int
    patterns: frozenset[str]
    evidence: Mapping[str, tuple[Any, str]]

    def named(self, *kinds: str) -> dict[str, Options]:
        """Layers of these classes."""
        return {name: options for name, options in self.stated.items() if options["class"] in kinds}

    def norms(self, option: str) -> list[Options]:
        """Those of the network's batch norms of which this option is stated."""
        norms = [o for name, o in self.stated.items() if any(layer.op == "batch_norm" for layer in self.bound.get(name, ()))]
        return [options for options in norms if option in options]

    def operations(self, op: str) -> list[Layer]:
        """The graph's layers of this operation; ``pad``: those before which Keras needs a layer that pads."""
        return [layer for layer in self.graph if (_explicit(layer) if op == "pad" else layer.op == op)]


def agree(
    checkpoint: Checkpoint, match: Match, where: str, ignore: Sequence[str] = ()
) -> tuple[Checkpoint, list[str], frozenset[str]]:
    """The checkpoint, with the evidence that the layers of the network alone give; notes on what was left out; and the
    patterns by which it was.

    Nothing is checked where the file states nothing. ``ignore``: patterns of layers without weights to leave out of the check.
    Raises ``NetworkError`` when the file states a layer that does not compute what the graph does in its place.
    """
    case, notes = _case(checkpoint, match, ignore)
    final = _final(case)
    problems = [*_kinds(case)]
    extra: list[str] = []
    for name, options in case.stated.items():
        if name in case.bound:
            problems += [_line(options, fault) for layer in case.bound[name] for fault in _weighted(layer, options)]
        elif name != final:
            faults = list(_weightless(name, options, case))
            problems += [_line(options, fault) for fault in faults]
            extra += [options["name"] or name] * (FOREIGN in faults)
    problems += _counts(case)
    if problems:
        raise _refusal(where, match, problems, extra)
    notes += [f"left off the final `{case.stated[final]['activation']}`; answers are logits"] if final else []
    completed, remark = _completed(checkpoint, case)
    return completed, notes + remark, case.patterns


def _case(checkpoint: Checkpoint, match: Match, ignore: Sequence[str]) -> tuple[_Case, list[str]]:
    """What is to be compared, and notes on the layers that are left out of it because they were asked to be."""
    evidence = _evidence(checkpoint, match)
    told = {name: value for name, (value, _) in evidence.items()}
    graph = match.implementation.family.build(match.depth, match.head, {**match.implementation.attributes, **told})
    bound: dict[str, list[Layer]] = {}
    for layer in graph:
        for parameter in layer.parameters:
            theirs = match.bound[f"{layer.name}.{parameter}"][0].rpartition(match.dialect.separator)[0]
            if layer not in bound.setdefault(theirs, []):
                bound[theirs].append(layer)
    with_weights = {name.rpartition(match.dialect.separator)[0] for name in checkpoint.tensors}
    kept: dict[str, Options] = {}
    notes, patterns = [], set[str]()
    for name, options in checkpoint.stated.items():
        if name in with_weights:  # what is not bound was left out in matching, which has told so
            kept |= {name: options} if name in bound else {}
        elif asked := [pattern for pattern in ignore if any(fnmatchcase(n, pattern) for n in (name, options["name"]))]:
            notes.append(f"left the layer `{options['name'] or name}` ({options['class']}) out")
            patterns.update(asked)
        else:
            kept[name] = options
    return _Case(graph, kept, bound, len(checkpoint.stated) - len(kept), frozenset(patterns), evidence), notes


def _line(options: Options, fault: str) -> str:
    return f"`{options['name']}` ({options['class']}) {fault}"


def _weighted(layer: Layer, options: Options) -> Iterator[str]:
    """What is wrong with a layer whose weights are those of ``layer``."""
    if options["class"] not in CLASSES[layer.op]:
        yield f"is not a {CLASSES[layer.op][0]}"
    elif options["calls"] > 1:
        yield f"is used {options['calls']} times, expected once"
    elif layer.op == "batch_norm":
        if options.get("axis", -1) not in (-1, 3, (-1,), (3,)):
            yield f"has axis {_shown(options['axis'])}, expected the last"
    elif layer.op == "linear":
        yield from _differing(options, {"activation": ("linear", None, *FINAL)})
    elif layer.op != "pointwise" or options["class"] == "Conv2D":  # the rest of a SeparableConv2D is its depthwise half's
        yield from _differing(options, _window(layer))


def _window(layer: Layer) -> dict[str, tuple[Any, ...]]:
    """The options of a convolution and the values that are the same as what ``layer`` does, the usual one first."""
    valid = layer.kernel == 1 or layer.padding == 0 or _explicit(layer)
    same = layer.kernel == 1 or not valid  # on one pixel both are
    return {
        "kernel_size": ((layer.kernel,) * 2, layer.kernel),
        "strides": ((layer.stride,) * 2, layer.stride),
        "padding": ("same",) * same + ("valid",) * valid,
        "dilation_rate": ((layer.dilation,) * 2, layer.dilation),
        "groups": (1,),
        "activation": ("linear", None),
        "use_bias": (False,),
        "data_format": ("channels_last", None),
    }


def _explicit(layer: Layer) -> bool:
    """Whether Keras has no word for how a convolution pads: around a map that it strides over."""
    strided = layer.op in ("conv", "depthwise") and layer.kernel > 1 and layer.stride > 1
    return strided and isinstance(layer.padding, int) and layer.padding > 0


def _differing(options: Options, expected: Mapping[str, tuple[Any, ...]]) -> Iterator[str]:
    for option, values in expected.items():
        if option in options and options[option] not in values:
            yield f"has {option} {_shown(options[option])}, expected {_shown(values[0])}"


def _shown(value: Any) -> str:
    if isinstance(value, tuple) and len(set(map(repr, value))) == 1:
        value = value[0]
    text = str(value)
    return "".join(c if c.isprintable() else "?" for c in text[:60]) + "…" * (len(text) > 60)


def _weightless(name: str, options: Options, case: _Case) -> Iterator[str]:
    """What is wrong with a layer that holds no weights of the network."""
    kind, op = options["class"], OPERATIONS.get(options["class"])
    pooled = list(case.named("GlobalAveragePooling2D"))[:1]
    order = list(case.stated)
    if kind == "Activation":
        if options.get("activation") not in ("relu", "linear"):
            yield f"has activation {_shown(options.get('activation'))}, expected relu"
    elif kind == "ReLU":
        yield from _differing(options, {"max_value": (None,), "negative_slope": (0, None), "threshold": (0, None)})
    elif op == "max_pool" and case.operations(op):
        pools, at = case.operations(op), [*case.named("MaxPooling2D", SYMMETRIC_POOL)].index(name)
        window = _window(pools[min(at, len(pools) - 1)])  # one too many is told when they are counted
        padding: tuple[Any, ...] = (1,) if kind == SYMMETRIC_POOL else ("same",)
        shared = {option: window[option] for option in ("strides", "data_format")}
        yield from _differing(options, {"pool_size": window["kernel_size"], **shared, "padding": padding})
    elif kind == "GlobalMaxPooling2D":
        yield "is not a GlobalAveragePooling2D"
    elif op == "global_average":
        yield from _differing(options, {"data_format": ("channels_last", None)})
    elif op == "pad":
        yield from _differing(options, {"padding": _around(case)})
    elif kind == "Rescaling" and name == _before_classifier(case.stated, case.bound):
        yield from _differing(options, {"scale": (case.operations("linear")[0].scale,), "offset": (0,)})
    elif kind in RESHAPING and pooled and order.index(pooled[0]) < order.index(name):
        return
    elif op is None and kind not in HARMLESS:
        yield FOREIGN


def _around(case: _Case) -> tuple[Any, ...]:
    """What a layer that pads may put around a map."""
    return tuple(((layer.padding,) * 2,) * 2 for layer in case.operations("pad")) or ("none",)


def _final(case: _Case) -> str | None:
    """The layer whose activation turns logits into probabilities."""
    last = next((name for name in reversed(list(case.stated)) if case.stated[name]["class"] not in HARMLESS | RESHAPING), None)
    options = case.stated[last] if last else {}
    dense = any(layer.op == "linear" for layer in case.bound.get(last or "", ()))
    fused = options.get("activation") in FINAL and (dense or options.get("class") == "Activation")
    return last if fused else None


def _counts(case: _Case) -> Iterator[str]:
    """Operations that the model has more or less often than the graph."""
    found: Counter[str] = Counter()
    for options in case.stated.values():
        kind = "ReLU" if (options["class"], options.get("activation")) == ("Activation", "relu") else options["class"]
        found[OPERATIONS.get(kind, "")] += options["calls"]
    for op, called in CALLED.items():
        expected = len(case.operations(op))
        most = 1 if op == "global_average" else expected  # a headless network may be pooled
        # What was left out, and what models of other classes build themselves, is not counted.
        least = expected - case.left if case.bound.keys() <= case.stated.keys() else 0
        if op == "global_average" and case.named("GlobalMaxPooling2D"):
            continue  # told already
        if case.stated and not least <= found[op] <= most:
            yield f"it has {found[op]} {called}, expected {expected}"


def _kinds(case: _Case) -> Iterator[str]:
    """Batch norms that do not all have one epsilon, and max-pools of two kinds: no attribute holds for all of them."""
    norms: dict[str, list[str]] = {}
    for options in case.norms("epsilon"):
        norms.setdefault(f"epsilon {_shown(options['epsilon'])}", []).append(options["name"])
    pools: dict[str, list[str]] = {}
    for options in case.named("MaxPooling2D", SYMMETRIC_POOL).values():
        pools.setdefault(f"class {options['class']}", []).append(options["name"])
    for what, groups in (("batch norms have", norms), ("max-pools have", pools)):
        if len(groups) > 1:
            yield f"{what} {len(groups)} kinds of {next(iter(groups)).partition(' ')[0]}, expected one"
            for value, names in groups.items():
                yield f"  {value} in {len(names)}: " + ", ".join([f"`{name}`" for name in names[:1]] + ["…"] * (len(names) > 1))


def _refusal(where: str, match: Match, problems: list[str], extra: list[str]) -> NetworkError:
    more = len(problems) - MOST
    name = match.implementation.family.name.capitalize()
    return NetworkError(
        f"`{where}` is not the {name} that its weights fit",
        facts=problems[:MOST] + ([f"… and {more} more"] if more > 0 else []),
        hints=[f"`--ignore {extra[0]}` leaves a layer out of this check"] if extra else [],
    )


def _completed(checkpoint: Checkpoint, case: _Case) -> tuple[Checkpoint, list[str]]:
    """The checkpoint with what the network's own layers alone tell: epsilon and momentum of its batch norms, where others
    around it had another; and a note where they have several momentums.

    These are no reason to refuse, as no answer depends on them: the one that most have is taken, of equally many the first.
    """
    epsilon = next((options["epsilon"] for options in case.norms("epsilon")), None)
    found = {"bn_epsilon": (epsilon, LAYERS)} if epsilon is not None else {}
    momentums = [options["momentum"] for options in case.norms("momentum")]
    count = Counter(value for value in momentums if isinstance(value, float) and _possible("bn_momentum", value))
    notes = []
    if count:
        value, times = count.most_common(1)[0]
        found["bn_momentum"] = (value, LAYERS)
        if times < len(momentums):
            notes.append(f"took `bn_momentum` {value} of {times} batch norms for all {len(momentums)}; no answer depends on it")
    elif momentums:
        notes.append(f"left out the batch norms' momentum {_shown(momentums[0])}, which is not between 0 and 1")
    return checkpoint._replace(evidence={**found, **case.evidence, **checkpoint.evidence}), notes


def _evidence(checkpoint: Checkpoint, match: Match) -> dict[str, tuple[Any, str]]:
    """The dilation of the last block and the scale of the head, where the family has them and the file states its layers."""
    names = {theirs.rpartition(match.dialect.separator)[0]: ours for ours, (theirs, _) in match.bound.items()}
    found: dict[str, tuple[Any, str]] = {"head_scale": (1.0, LAYERS)} if checkpoint.stated else {}
    scaler = checkpoint.stated.get(_before_classifier(checkpoint.stated, names), {})
    if scaler.get("class") == "Rescaling":
        found["head_scale"] = (scaler.get("scale"), LAYERS)
    for name, options in checkpoint.stated.items():
        rate = options.get("dilation_rate")
        if names.get(name, "").startswith("exit.block2.") and options["class"] == "DepthwiseConv2D" and isinstance(rate, tuple):
            found["exit_dilation"] = (rate[0], LAYERS)
    return {n: told for n, told in found.items() if n in match.implementation.family.attributes and _possible(n, told[0])}


def _before_classifier(stated: Mapping[str, Options], ours: Mapping[str, object]) -> str:
    """The layer whose output the classifier takes, which may scale it: the last before it that does anything; ``ours`` are
    the network's own layers with weights. Empty where there is none.
    """
    before = ""
    for name, options in stated.items():
        if name in ours and options["class"] == "Dense":
            return before
        before = before if options["class"] in HARMLESS else name
    return ""


def _possible(name: str, value: Any) -> bool:
    try:
        parse_attribute(name, value)
    except UsageError:
        return False
    return True
