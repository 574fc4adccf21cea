"""What is fuzzed: each reader, the sniffer before them, mapping files and our own record; and all that is done with an input."""

from __future__ import annotations

import json
import mmap
import os
import random
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np

from tests.fuzz import mutate, nodes, seeds
from tests.fuzz.nodes import Node
from xconvert import formats, listing, loading, mappings, provenance, render
from xconvert.errors import AmbiguousError, NetworkError, XconvertError
from xconvert.formats import Choice
from xconvert.model import Checkpoint

Parts = tuple[bytes, ...]  # an input: the contents of the target's files, empty where one is not there


class Contradiction(Exception):
    """What was read is not what it was announced to be, or holds what no name or note may."""


@dataclass(frozen=True)
class Target:
    """One thing that is fuzzed: the names of the ``files`` that it reads, what ``run`` does with them in a folder, and the
    ``tokens`` of the format. ``run(folder, parts, thorough)`` returns what novelty is judged by.
    """

    name: str
    files: tuple[str, ...]
    run: Callable[[Target, Path, Parts, bool], str]
    tokens: Sequence[bytes] = ()
    weight: float = 1.0  # its share of the time

    def make(self, rng: random.Random, pool: Sequence[seeds.Seed]) -> seeds.Seed:
        """A new input: one of the seeds or of the ``pool`` with a few changes."""
        found = list(rng.choice(pool) if pool and rng.random() < 0.5 else seeds.pick(self.name, rng))
        for _ in range(rng.choice((1, 1, 2, 2, 3, 5))):
            at = 0 if rng.random() < 0.6 else rng.choice([i for i, node in enumerate(found) if node.content()] or [0])
            if rng.random() < 0.12:
                other = seeds.pick(self.name, rng)[at].content()
                found[at] = nodes.raw(mutate.mutated(found[at].content(), rng, self.tokens, other))
            else:
                found[at] = nodes.mutated(found[at], rng, self.tokens)
        return tuple(found)


# --- what is done with an input ----------------------------------------------------------------------------------------------


def place(target: Target, folder: Path, parts: Parts) -> Path:
    """The input as files in ``folder``; the first one's path. Old files are unlinked: they may still be mapped."""
    for name, content in zip(target.files, parts, strict=True):
        path = folder / name
        with suppress(FileNotFoundError):
            path.unlink()
        if content or name == target.files[0]:
            handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
            os.write(handle, content)
            os.close(handle)
    return folder / target.files[0]


def as_map(content: bytes) -> mmap.mmap:
    """``content`` as the formats get a file."""
    area = mmap.mmap(-1, len(content))
    area.write(content)
    return area


def read_format(target: Target, folder: Path, parts: Parts, thorough: bool) -> str:
    """What ``formats.read`` does with a file of the target's format, on the mapped bytes where one file is all there is."""
    if not parts[0]:
        return "empty"
    form, path = formats.formats()[target.name], folder / target.files[0]
    data = as_map(parts[0]) if len(parts) == 1 else formats.mapped(path)
    matched = form.matches(data)
    mark = zlib.crc32(parts[0])
    choices = [Choice()]
    if thorough or mark % 8 == 0:
        choices += [Choice(None, True), Choice(None, False), Choice("model")]
    told = []
    for number, choice in enumerate(choices):
        try:
            told.append(used(form.read(path, data, choice), path, not number and (thorough or mark % 128 == 1)))
        except XconvertError as error:
            checked(error)
            if number == len(choices) - 1 and len(choices) == 1:
                raise
            told.append(kind_of(error))
    return f"{matched} {told}"


def read_any(target: Target, folder: Path, parts: Parts, thorough: bool) -> str:
    """What ``xconvert inspect`` does with any file."""
    path = folder / target.files[0]
    found = used(formats.read(path), path, False)
    if thorough or zlib.crc32(parts[0]) % 128 == 1:
        with suppress(NetworkError, AmbiguousError):
            assert_printable(click.unstyle(listing.inspect_text(listing.inspect(path))), lines=True)
    return found


def used(checkpoint: Checkpoint, path: Path, deep: bool) -> str:
    """Everything in ``checkpoint`` looked at: names, notes, our record, every tensor; if ``deep`` its network too."""
    for name in checkpoint.tensors:
        assert_printable(name)
    for note in checkpoint.notes:
        assert_printable(note)
    for key, text in checkpoint.metadata.items():
        key.encode()
        text.encode()
    total = 0
    for tensor in checkpoint.tensors.values():
        try:
            array = tensor.read()
        except XconvertError as error:
            checked(error)
            continue
        if (array.shape, array.dtype) != (tensor.shape, tensor.dtype) or not array.dtype.isnative:
            raise Contradiction(f"{array.dtype}{array.shape} was read, {tensor.dtype}{tensor.shape} announced")
        total += int(np.count_nonzero(array))
    json.dumps([checkpoint.preprocessing, checkpoint.evidence], default=str)
    try:
        record = provenance.read_record(checkpoint, path.name)
    except XconvertError as error:
        checked(error)
        record = {}
    if deep:
        with suppress(XconvertError):
            looked_at(checkpoint, path)
    return f"{len(checkpoint.tensors)} {len(checkpoint.notes)} {len(checkpoint.metadata)} {bool(record)} {total > 0}"


def looked_at(checkpoint: Checkpoint, path: Path) -> None:
    """The network in ``checkpoint``, as ``load`` finds it and ``inspect`` tells of it."""
    try:
        model = loading.interpret(checkpoint, path.name)
    except XconvertError as error:
        checked(error)
        raise
    for note in model.notes:
        assert_printable(note)
    for weight in model.weights.values():
        weight.read()


def checked(error: XconvertError) -> None:
    """The error rendered; raises ``Contradiction`` where a part of it is not one printable line."""
    for text in (error.message, *error.facts, *error.hints):
        if not isinstance(text, str) or not text.isprintable() or len(text) > 20_000:
            raise Contradiction(f"a message is not one printable line: {text[:300]!r}") from error
    render.error(error)


def assert_printable(text: str, lines: bool = False) -> None:
    """Raise ``Contradiction`` for a text that a terminal would act on."""
    if not (text.replace("\n", "") if lines else text).isprintable():
        raise Contradiction(f"a name or note is not one printable line: {text[:300]!r}")


def words(text: str) -> str:
    """``text`` without what is quoted and without numbers."""
    return "".join(c for c in "".join(text.split("`")[::2]) if not c.isdigit())


def kind_of(error: XconvertError) -> str:
    """What novelty is judged by in an error: its words without what is quoted and without numbers."""
    return type(error).__name__ + words(error.message)


def read_mapping(target: Target, folder: Path, parts: Parts, thorough: bool) -> str:
    """What ``xconvert check`` does with a mapping file."""
    implementation, problems = mappings.examine(folder / target.files[0], mappings.dialects())
    for problem in problems:
        assert_printable(problem)
    return f"{implementation is not None} {words(' '.join(problems[:1]))}"


def read_dialects(target: Target, folder: Path, parts: Parts, thorough: bool) -> str:
    """What ``--mappings`` does with a folder's ``dialects.toml``."""
    return str(len(getattr(mappings.dialects, "__wrapped__", mappings.dialects)(folder)))


def read_record(target: Target, folder: Path, parts: Parts, thorough: bool) -> str:
    """Our own record in a file of a whole network."""
    given = seeds.network_file("xception", "timm")
    checkpoint = Checkpoint(given.tensors, {"xconvert": parts[0].decode("utf-8", "replace")})
    record = provenance.read_record(checkpoint, "x")
    if thorough or zlib.crc32(parts[0]) % 128 == 1:
        with suppress(XconvertError):
            looked_at(checkpoint, Path("x"))
    return f"{sorted(record)}"


_INDEX = ("x.index", "x.data-00000-of-00001", "x.data-00000-of-00002", "x.data-00001-of-00002")
_PADDLE = ("x.pdiparams", "x.json", "x.pdmodel", "x.pdiparams.info")
_PICKLES = (*mutate.PICKLE, *mutate.ZIP[:3])

READERS = (
    Target("torch", ("x.pth",), read_format, _PICKLES),
    Target("torch-legacy", ("x.pth",), read_format, mutate.PICKLE),
    Target("paddle", ("x.pdparams",), read_format, mutate.PICKLE),
    Target("paddle-inference", _PADDLE, read_format, (*mutate.JSON, b'"#"', b'"p"', b'"TT"', b"structured_name")),
    Target("safetensors", ("model.safetensors", "config.json"), read_format, mutate.JSON),
    Target("npz", ("x.npz",), read_format, (*mutate.NUMPY, *mutate.ZIP)),
    Target("keras-h5", ("x.h5",), read_format, mutate.HDF5, 3),
    Target("keras-weights", ("x.weights.h5",), read_format, mutate.HDF5, 3),
    Target("keras-archive", ("x.keras",), read_format, (*mutate.ZIP, *mutate.JSON), 2),
    Target("tensorflow", _INDEX, read_format),
    Target("tensorflow-objects", _INDEX, read_format, (b"VARIABLE_VALUE", b"optimizer", b"layer_with_weights-0")),
    Target("tensorflow-v1", ("x.ckpt",), read_format),
    Target("mindspore", ("x.ckpt",), read_format, (b"crc_num", b"Float32", b"str", b"ema.", b"BFloat16")),
    Target("onnx", ("x.onnx",), read_format, (b"Conv", b"image", b"auto_pad", b"Cast", b"pads")),
)


class Sniffer(Target):
    """Any file at all: inputs of every reader, as they are made for it, or joined and under a name that lies."""

    def make(self, rng: random.Random, pool: Sequence[seeds.Seed]) -> seeds.Seed:
        made = rng.choice(READERS).make(rng, ())[0]
        if rng.random() < 0.3:
            other = rng.choice(READERS)
            made = nodes.raw(mutate.mutated(made.content(), rng, other.tokens, seeds.pick(other.name, rng)[0].content()))
        return (made,)


OTHERS = (
    Sniffer("sniffer", ("file.bin",), read_any),
    Target("mappings", ("x.toml",), read_mapping, mutate.TOML),
    Target("dialects", ("dialects.toml",), read_dialects, mutate.TOML, 0.5),
    Target("record", ("record.json",), read_record, mutate.JSON),
)
TARGETS = {target.name: target for target in (*READERS, *OTHERS)}


def contents(seed: Sequence[Node]) -> Parts:
    """The bytes of an input."""
    return tuple(node.content() for node in seed)
