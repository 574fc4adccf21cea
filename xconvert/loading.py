"""From a file to a Model, and from a Model to what a file holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import zip_longest
from pathlib import Path
from typing import Any

from xconvert import axes, formats
from xconvert.agreement import agree
from xconvert.attributes import in_training
from xconvert.attributes import parse as parse_attribute
from xconvert.closest import summarise
from xconvert.deferred import np
from xconvert.errors import AmbiguousError, NetworkError, UnreadableError, UsageError
from xconvert.formats._arrays import extremes, view
from xconvert.formats._limits import Limits
from xconvert.implementation import Dialect, Implementation, written_names
from xconvert.mappings import library
from xconvert.matching import AS_ASKED, Match, identify
from xconvert.model import Array, Attribute, Checkpoint, DType, Graph, Layer, Model, Origin, Tensor
from xconvert.provenance import fingerprint, read_record, record_of
from xconvert.remote import fetched
from xconvert.sealing import changed_since

MAX_CHANNELS = 256  # of images; hyperspectral ones have 224
MAX_WIDER = 8  # times as many filters as published, in any layer
TRUST = ("max_memory", "verify_checksums", "isolate")  # options of ``load`` that say how far to trust a file


def load(
    path: str | Path,
    *,
    implementation: str | None = None,
    key: str | None = None,
    ema: bool | None = None,
    settings: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    mappings: Sequence[str | Path] = (),
    max_memory: int | None = None,
    verify_checksums: bool = False,
    isolate: bool = False,
) -> Model:
    """Read the network in ``path``: its architecture, depth and widths, its attributes, and its weights under
    canonical names.

    ``implementation``: whose names the file has, where several fit. ``key``: which of several candidates in the file.
    ``ema``: whether the moving averages of the weights are meant, where the file has them beside the weights.
    ``settings``: attributes that are known better than the file does. ``ignore``: patterns of tensors to leave out.
    ``mappings``: folders of further mapping files. Weights are read when asked for. ``max_memory``: the bytes that the file may
    ask for beyond what it holds, by default 256 MiB and 4 times its size. ``verify_checksums``: also those that no other
    program looks at, of zip members and of xconvert's own record. ``isolate``: parse the file in a process of its own.
    ``path`` may be a URL, with its checksum as ``#sha256=…``; see ``xconvert.remote``.
    Raises the subclasses of ``XconvertError``, each saying what was found.
    """
    limits = Limits(max_memory, verify_checksums, isolate)
    with fetched(path) as place:
        checkpoint = formats.read(place, key, ema, limits)
    model = interpret(
        checkpoint, str(path), implementation=implementation, ema=ema, settings=settings, ignore=ignore, mappings=mappings
    )
    record = read_record(checkpoint, str(path))
    if verify_checksums and changed_since(checkpoint, record):
        raise UnreadableError(
            f"the tensors of `{path}` are not those that xconvert wrote: they do not have the digest of its record",
            facts=["it was damaged, or trained or edited since"],
            hints=["leave `--verify-checksums` away if it was trained since"],
        )
    notes = (*model.notes, *_impossible(model, every=verify_checksums))
    origin = Origin(str(path), checkpoint, record, cache(partial(fingerprint, place)), str(place))
    return model._replace(notes=notes, origin=origin)


def _impossible(model: Model, every: bool) -> Iterator[str]:
    """A clause for each parameter that no training gives, of the variances alone (they are small), or of ``every`` one: numbers
    that are not finite, and negative variances, with which a network may still compute where epsilon lifts them above zero.
    """
    for name in (f"{layer.name}.{parameter}" for layer in model.layers for parameter in layer.parameters):
        if every or name.endswith(".variance"):
            finite, least = extremes(model.weights[name])
            if not finite:
                yield f"`{name}` is not finite"
            elif name.endswith(".variance") and least < 0:
                yield f"`{name}` is negative, down to {least:.3g}: no data have such a variance"


def load_pair(a: str | Path | Model, b: str | Path | Model, **options: Any) -> tuple[Model, Model]:
    """Two networks that are to be compared; what is a ``Model`` already stays as it is. ``options`` are those of ``load`` for
    ``a``; of them ``mappings``, ``ignore`` and those of ``TRUST`` hold for ``b`` too.
    """
    first = a if isinstance(a, Model) else load(a, **options)
    shared = {name: value for name, value in options.items() if name in ("mappings", "ignore", *TRUST)}
    try:
        return first, b if isinstance(b, Model) else load(b, **shared)
    except AmbiguousError as error:  # its hint is an option, and options speak of the first
        raise AmbiguousError(error.message, facts=error.facts, hints=["name it first: options speak of the first file"]) from None


def interpret(
    checkpoint: Checkpoint,
    where: str,
    *,
    implementation: str | None = None,
    ema: bool | None = None,
    settings: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    mappings: Sequence[str | Path] = (),
) -> Model:
    """``load`` for a checkpoint already read; ``where`` is its name in messages."""
    record = read_record(checkpoint, where)
    known = library(*(Path(folder) for folder in mappings))
    for suffix in {dialect.averaged for dialect in known.dialects.values() if dialect.averaged}:
        checkpoint = average_or_not(checkpoint, suffix, ema, where)
    if ema and not checkpoint.averages:
        raise UsageError(f"`{where}` holds no averaged weights", hints=["leave `--ema` away"])
    hint = record.get("implementation")
    match, twins = identify(checkpoint, known, where, wanted=implementation, hint=hint, ignore=ignore)
    checkpoint, remarks, unchecked = agree(checkpoint, match, where, ignore)
    notes = list(checkpoint.notes)
    if match.prefix:
        notes.append(f"stripped `{match.prefix}` from every name")
    notes += [f"left out {count} tensor{'s' * (count != 1)} {told}" for told, count in match.ignored.items()]
    omitted = [pattern for pattern in ignore if f"`{pattern}`, {AS_ASKED}" in match.ignored or pattern in unchecked]
    notes += [f"`--ignore {pattern}` matches nothing" for pattern in ignore if pattern not in omitted]
    notes += remarks
    if twins and implementation is None and hint is None:
        unlike = any(m.implementation.preprocessing != match.implementation.preprocessing for m in twins)
        names = ", ".join(m.implementation.name for m in twins)
        notes.append(f"also fits {names}: the same function" + (", other preprocessing (`--from` chooses)" if unlike else ""))
    model = Model(
        family=match.implementation.family,
        depth=match.depth,
        head=match.head,
        attributes=_attributes(match.implementation, checkpoint, record, settings or {}, where),
        weights=_weights(match, checkpoint),
        preprocessing=record.get("preprocessing", {**match.implementation.preprocessing, **checkpoint.preprocessing}),
        implementation=match.implementation.name,
        metadata={name: text for name, text in checkpoint.metadata.items() if name not in ("xconvert", "format")},
        notes=(*notes, *_overruled(settings or {}, checkpoint, record)),
        omitted=tuple(f"`{pattern}`" for pattern in omitted),
    )
    _check_widths(model, where)
    _check_program(checkpoint, model, where)
    return model


def _check_widths(model: Model, where: str) -> None:
    """Raise ``NetworkError`` for a network so wide that its maps have far more numbers than its weights: a layer from one channel
    to a million and back has some megabytes of weights, and the maps between have a hundred gigabytes.
    """
    channels = model.weights[f"{model.layers[0].name}.weight"].shape[2]
    if channels > MAX_CHANNELS:
        raise NetworkError(f"`{where}` takes images of {channels} channels", facts=[f"at most {MAX_CHANNELS} are computed"])
    for layer in model.layers:
        width = model.weights[f"{layer.name}.weight"].shape[-1] if layer.width else 0
        if width > MAX_WIDER * layer.width:
            raise NetworkError(
                f"`{where}` has {width} filters in `{layer.name}`, the published network {layer.width}",
                facts=[f"at most {MAX_WIDER} times as many are computed"],
            )


def _check_program(checkpoint: Checkpoint, model: Model, where: str) -> None:
    """Raise ``NetworkError`` when the graph that a file states is not the one that its weights and attributes make.

    How it is trained is no part of what it computes, so momentum is left out.
    """
    if checkpoint.program is None:
        return
    single = {layer.epsilon: float(str(np.float32(layer.epsilon))) for layer in model.layers}  # ONNX states it in float32
    expected = tuple(layer._replace(width=0, momentum=0.0, epsilon=single[layer.epsilon]) for layer in model.layers)
    stated = tuple(layer._replace(momentum=0.0) for layer in checkpoint.program)
    for theirs, ours in zip_longest(stated, expected):
        if theirs != ours:
            unlike = [name for name in Layer._fields if getattr(theirs, name, None) != getattr(ours, name, None)]
            told = [f"{name} {getattr(theirs, name, 'missing')}, expected {getattr(ours, name, 'none')}" for name in unlike]
            raise NetworkError(
                f"`{where}` does not compute the {model.family.name} that its weights fit",
                facts=[f"at `{(theirs or ours).name}`: {'; '.join(told)}"],
                hints=["give the checkpoint that this file was made from"],
            )


def average_or_not(checkpoint: Checkpoint, suffix: str, ema: bool | None, where: str) -> Checkpoint:
    """The checkpoint with each tensor replaced by its moving average, ``<name><suffix>``, or without the averages.

    Raises ``AmbiguousError`` when the file has both and ``ema`` does not say which, ``NetworkError`` when a tensor that is
    trained has no average: the two are never mixed. The statistics of batch norms are averages already.
    """
    averages = {name.removesuffix(suffix): tensor for name, tensor in checkpoint.tensors.items() if name.endswith(suffix)}
    if not averages:
        return checkpoint
    if ema is None:
        raise AmbiguousError(
            f"`{where}` holds {len(averages)} weights twice: as trained, and their moving averages",
            hints=["pass `--ema` for the averages, which the network was probably evaluated with, or `--no-ema`"],
        )
    plain = {name: tensor for name, tensor in checkpoint.tensors.items() if not name.endswith(suffix)}
    kin = {name.rpartition("/")[2] for name in averages}
    if ema and (lacking := [name for name in plain if name not in averages and name.rpartition("/")[2] in kin]):
        facts = ["without one: " + line for line in summarise(lacking)]
        raise NetworkError(f"`{where}` lacks the moving average of some weights", facts=facts, hints=["pass `--no-ema`"])
    told = f"took {len(averages)} moving averages" if ema else f"left out {len(averages)} moving averages `*{suffix}`"
    kept = {**plain, **averages} if ema else plain
    return checkpoint._replace(tensors=kept, averages=ema, notes=(*checkpoint.notes, told))


def _overruled(settings: Mapping[str, Any], checkpoint: Checkpoint, record: Mapping[str, Any]) -> Iterator[str]:
    """What the file itself says of attributes that the user set to something else."""
    for name, value in settings.items():
        stated, source = checkpoint.evidence.get(name, (None, ""))
        stated, source = (record["attributes"][name], "record") if name in record.get("attributes", {}) else (stated, source)
        if stated is not None and stated != parse_attribute(name, value):
            yield f"`--set {name}={value}` overrules the file's {source}, which says {stated}"


def _weights(match: Match, checkpoint: Checkpoint) -> dict[str, Tensor]:
    weights = {}
    for layer in match.implementation.family.build(match.depth, match.head, match.implementation.attributes):
        for parameter, canonical in layer.parameters.items():
            theirs, pattern = match.bound[f"{layer.name}.{parameter}"]
            weights[f"{layer.name}.{parameter}"] = rearranged(checkpoint.tensors[theirs], pattern, canonical)
    return weights


def rearranged(tensor: Tensor, source: str, target: str) -> Tensor:
    """``tensor`` with its axes moved, still unread; axes of one element that ``source`` lacks are made. Where it ends up in the
    order of the file, it is ``stored`` as it was.
    """
    if source == target:
        return tensor
    absent = [axis for axis in axes.letters(target) if axis not in axes.letters(source)]
    full = " ".join([*absent, source])  # a 1x1 convolution may be stored without its spatial axes
    order, stored = tensor.in_file or (axes.letters(full), tensor.stored)

    def read() -> Array:
        array = tensor.read()
        return axes.rearrange(array.reshape((1,) * len(absent) + array.shape), full, target)

    shape = axes.reshape((1,) * len(absent) + tensor.shape, full, target)
    as_stored = stored if order == axes.letters(target) else None
    return Tensor(shape, tensor.dtype, read, stored=as_stored, in_file=(order, stored))


def _attributes(
    implementation: Implementation, checkpoint: Checkpoint, record: Mapping[str, Any], settings: Mapping[str, Any], where: str
) -> dict[str, Attribute]:
    """Each attribute with the best evidence there is: what the user set, the file itself, the mapping; in this
    order. Our own names are no zoo's, so no mapping tells: raises ``AmbiguousError`` for what nothing else does, unless it
    matters in training alone and is then as published.
    """
    names = implementation.family.attributes
    if unknown := [name for name in settings if name not in names]:
        raise UsageError(f"no attribute is called `{unknown[0]}`", facts=["attributes: " + ", ".join(names)])
    chosen = {}
    for name in names:
        if name in settings:
            chosen[name] = Attribute(parse_attribute(name, settings[name]), "--set")
        elif name in record.get("attributes", {}):
            chosen[name] = Attribute(record["attributes"][name], "the file, as xconvert wrote it")
        elif name in checkpoint.evidence:
            value, source = checkpoint.evidence[name]
            chosen[name] = Attribute(parse_attribute(name, value), f"the file's {source}")
        elif not implementation.own:
            chosen[name] = Attribute(implementation.attributes[name], f"mapping {implementation.name}")
        elif in_training(name):
            chosen[name] = Attribute(implementation.attributes[name], f"as {implementation.family.name} was published")
    if unknown := [name for name in names if name not in chosen]:
        published = [f"--set {name}={implementation.attributes[name]}" for name in unknown]
        raise AmbiguousError(
            f"`{where}` does not say its {' and '.join(f'`{name}`' for name in unknown)}",
            facts=[f"it has {implementation.family.name}'s weights under xconvert's own names, without xconvert's record"],
            hints=[f"pass `{' '.join(published)}`, or what is true of it (these are as first published)"],
        )
    return chosen


def save(model: Model, implementation: Implementation, dialect: Dialect, hashed: bool = True) -> Checkpoint:
    """What a file of ``model`` holds under the names of ``implementation``, spelled in ``dialect``.

    Tensors keep their dtype and are read when written. Our record of the attributes travels in the metadata; with the sha256 of
    the source only if that is to be ``hashed``, which means to read all of it.
    """
    names = written_names(implementation, dialect, model.depth, model.head)
    tensors = {}
    for layer in model.layers:
        for parameter, canonical in layer.parameters.items():
            spelling, pattern = dialect.spellings[layer.op][parameter][:2]
            theirs = dialect.tensor(names[layer.name], spelling)
            tensors[theirs] = rearranged(model.weights[f"{layer.name}.{parameter}"], canonical, pattern)
        for parameter, name in dialect.added.get(layer.op, {}).items():
            dtype = DType(name)  # of a zero, such as the batches that a network has seen
            tensors[dialect.tensor(names[layer.name], parameter)] = view(memoryview(bytes(dtype.itemsize)), dtype, ())
    graph = Graph(model.layers, names, model.weights)
    kept = model.metadata if implementation.name == model.implementation else {}  # such as Paddle's table of names
    metadata = {**kept, "xconvert": record_of(model, implementation, hashed)}
    return Checkpoint(tensors, metadata, dialect=dialect.family, graph=graph)
