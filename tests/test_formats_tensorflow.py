"""TensorFlow's checkpoints without TensorFlow: round trips, bytes that never change, and what no honest program writes."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import crc32c
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.pickles import mapped
from tests.tables import (
    DATA,
    FULL,
    HALF,
    HALVES,
    HEADER,
    ONE,
    V1,
    WHOLE,
    children,
    entry,
    footer,
    graph,
    listed,
    raw,
    row,
    rows,
    saved,
    sliced,
    tabled,
    variable,
)
from tests.test_formats_flat import arrays, metadata, names
from xconvert.errors import AmbiguousError, UnreadableError, UsageError
from xconvert.formats import format_for_writing, read, tensorflow, tensorflow_objects
from xconvert.formats._arrays import elements
from xconvert.formats._bundle import DTYPES, write_bundle
from xconvert.formats._crc32c import checksum
from xconvert.formats._protobuf import block, encoded, fixed32, number
from xconvert.formats._slices import key, whole_tensor, within
from xconvert.formats._sstable import GRAPH, MAGIC, entries, kind, table, unsnapped
from xconvert.model import Array, Checkpoint, Tensor


def placed(folder: Path, items: dict[bytes, bytes], header: bytes = HEADER, data: bytes | None = DATA) -> Path:
    """A bundle of one shard; returns its prefix."""
    (folder / "m.index").write_bytes(table(sorted({b"": header, **items}.items())))
    if data is not None:
        (folder / "m.data-00000-of-00001").write_bytes(data)
    return folder / "m"


def refused(path: Path) -> str:
    with pytest.raises(UnreadableError) as caught:
        for tensor in read(path).tensors.values():
            tensor.read()
    return caught.value.message.replace(str(path.parent), "")


# --- what is written -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@given(st.dictionaries(names, arrays().filter(lambda a: a.dtype.name in DTYPES.values()), min_size=1, max_size=6), metadata)
@settings(max_examples=40, deadline=None)
def test_what_is_written_is_read(tensors: dict[str, Array], notes: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder, "a"), Path(folder, "b")
        tensorflow.write(path, Checkpoint({k: Tensor.of(v) for k, v in tensors.items()}, notes))
        found = read(path)
        tensorflow.write(again, found)
        assert [p.read_bytes() for p in tensorflow.files(path)] == [p.read_bytes() for p in tensorflow.files(again)]
        assert (found.format, found.metadata, found.notes) == ("tensorflow", notes, ())
        assert list(found.tensors) == sorted(tensors, key=str.encode)
        for name, tensor in found.tensors.items():
            array, expected = tensor.read(), tensors[name]
            assert (array.shape, array.dtype, tensor.shape, tensor.dtype) == (expected.shape, expected.dtype) * 2
            assert array.tobytes() == expected.tobytes()


def sample() -> Checkpoint:
    values = {
        "conv/kernel": np.arange(6, dtype=np.float32).reshape(1, 2, 3),
        "conv/bias": np.asarray([1, -2], ml_dtypes.bfloat16),
        "a.b/gamma": np.asarray(7),
    }
    return Checkpoint({name: Tensor.of(array) for name, array in values.items()}, {"xconvert": "{}", "ö": "ä"})


@pytest.mark.parametrize(
    ("form", "digest"), [(tensorflow, "b2b5592976ad85f6"), (tensorflow_objects, "d85568f2f96a42fd")], ids=["names", "objects"]
)
def test_bytes_never_change(tmp_path: Path, form: object, digest: str) -> None:
    form.write(tmp_path / "a.ckpt", sample())  # type: ignore[attr-defined]
    assert sorted(tmp_path.iterdir()) == sorted(tensorflow.files(tmp_path / "a.ckpt"))
    written = b"".join(path.read_bytes() for path in tensorflow.files(tmp_path / "a.ckpt"))
    assert hashlib.sha256(written).hexdigest()[:16] == digest


def test_objects_are_read_under_their_names(tmp_path: Path) -> None:
    tensorflow_objects.write(tmp_path / "a.ckpt", sample())
    found = read(tmp_path / "a.ckpt")
    assert (found.format, found.metadata, found.notes) == ("tensorflow-objects", sample().metadata, ())
    assert list(found.tensors) == list(sample().tensors)
    for name, tensor in sample().tensors.items():
        np.testing.assert_array_equal(found.tensors[name].read(), tensor.read(), strict=True)
    assert read(tmp_path / "a.ckpt", "model").tensors.keys() == found.tensors.keys()


def test_the_dialect_chooses_the_layout() -> None:
    chosen = {family: format_for_writing(Path("a.ckpt"), family).name for family in ("tensorflow", "keras")}
    assert chosen == {"tensorflow": "tensorflow", "keras": "tensorflow-objects"}


def test_what_cannot_be_written(tmp_path: Path) -> None:
    one = Tensor.of(np.zeros(1))
    for tensors, message in (
        ({"word": Tensor.of(np.asarray(["text"]))}, "cannot hold `word` of dtype `str"),
        ({"xconvert": one}, "a tensor in a TensorFlow checkpoint cannot be called `xconvert`"),
        ({GRAPH: one}, "cannot be called `_CHECKPOINTABLE"),
    ):
        with pytest.raises(UsageError, match=message):
            tensorflow.write(tmp_path / "a", Checkpoint(tensors, {"xconvert": "{}"}))
    for name in ("kernel", "a/b/kernel", "a/", "/a"):
        with pytest.raises(UsageError, match=f"called `<layer>/<weight>`, not `{name}`"):
            tensorflow_objects.write(tmp_path / "a", Checkpoint({name: one}))
    assert list(tmp_path.iterdir()) == []


# --- where it is found ---------------------------------------------------------------------------------------------------


def test_it_is_found_by_prefix_index_and_folder(tmp_path: Path) -> None:
    saved = tmp_path / "saved" / "variables" / "variables"
    saved.parent.mkdir(parents=True)
    tensorflow_objects.write(saved, sample())
    tensorflow.write(tmp_path / "model.ckpt", sample())
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "model.ckpt"\n')
    for path in (tmp_path, tmp_path / "model.ckpt", tmp_path / "model.ckpt.index"):
        assert read(path).format == "tensorflow"
    for path in (tmp_path / "saved", saved, saved.with_name("variables.index")):
        assert read(path).format == "tensorflow-objects"


def test_other_files_of_a_checkpoint_are_named(tmp_path: Path) -> None:
    tensorflow.write(tmp_path / "model.ckpt", sample())
    (tmp_path / "model.ckpt.meta").write_bytes(b"\n\x05graph")
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "/elsewhere/model.ckpt"\n')
    for name in ("model.ckpt.data-00000-of-00001", "model.ckpt.meta"):
        with pytest.raises(UnreadableError) as caught:
            read(tmp_path / name)
        told = f"by its name it is one file of a TensorFlow checkpoint; name its prefix, `{tmp_path / 'model.ckpt'}`"
        assert caught.value.facts[0] == told
    with pytest.raises(UnreadableError) as caught:
        read(tmp_path / "checkpoint")
    assert caught.value.facts[0] == "it only says which TensorFlow checkpoint is the latest; name that one's prefix"
    (tmp_path / "model.ckpt.index").rename(tmp_path / "model")
    assert refused(tmp_path / "model") == "`/model` is the index of a TensorFlow checkpoint under another name"


def test_kinds() -> None:
    graph = {GRAPH.encode(): b"x", b"": HEADER, b"a": b""}
    first = {b"": block(1, b"")}
    for items, found in ((graph, "objects"), ({b"": HEADER}, "v2"), (first, "v1"), ({}, "v2")):
        assert kind(mapped(table(sorted(items.items())))) == found
    for data in (b"\0", MAGIC[1:], bytes(60)):
        assert kind(mapped(data)) == ""
    assert kind(mapped(MAGIC)) == "v2"  # whose reader says what is wrong


# --- the table -----------------------------------------------------------------------------------------------------------


@given(st.dictionaries(st.binary(max_size=12), st.binary(max_size=20), max_size=60), st.binary(max_size=2))
@settings(deadline=None)
def test_tables(items: dict[bytes, bytes], start: bytes) -> None:
    written = table(sorted(items.items()))
    found = {k: bytes(v) for k, v in entries(Path(), memoryview(written), start)}
    assert found == {k: v for k, v in items.items() if k >= start}
    assert list(found) == sorted(found)


def test_tables_of_several_blocks() -> None:
    items = {f"{i // 100:04}/{i:04}".encode() + b"\xff" * (i % 3): bytes(3000) for i in range(400)}
    written = memoryview(table(sorted(items.items())))
    assert {k: bytes(v) for k, v in entries(Path(), written)} == items
    assert [k for k, _ in entries(Path(), written, b"0003")] == sorted(k for k in items if k >= b"0003")


REPEATED = b"".join(row(i.to_bytes(2, "big"), b"", shared=4000) for i in range(4000))  # 16 MB of names
HOSTILE_TABLES = {
    "does not have its checksum": ONE[:-1] + bytes([ONE[-1] ^ 1]),
    "is compressed in the way 7, which is unknown": raw(rows((b"", HEADER)), 7),
    "are not in order": raw(rows((b"", HEADER), (b"b", entry()), (b"a", entry()))),
    "the keys of its table are not in order": raw(rows((b"", HEADER), (b"a", entry()), (b"a", entry()))),  # one twice
    "a block of its table is shorter than it says": raw(b"\0\0\0\0\xff\xff\xff\xff"),
    "an entry of its table goes on past the end": raw(b"\0\x7f\0a" + bytes(4) + b"\x01\0\0\0"),
    "a number goes on past its end": raw(b"\xff" * 40 + bytes(4) + b"\x01\0\0\0"),
    "repeat each other too often": raw(rows((b"", HEADER), (b"k" * 4000, b""), then=REPEATED)),
    "says that it is larger than it can be": raw(encoded(2**40) + b"\0a", 1),
    "refers to what is not in it": raw(encoded(9) + b"\x01\x05", 1),
    "does not have the size that it says": raw(encoded(9) + b"\0a", 1),
}


@pytest.mark.parametrize("message", HOSTILE_TABLES)
def test_hostile_tables(tmp_path: Path, message: str) -> None:
    (tmp_path / "m.data-00000-of-00001").write_bytes(DATA)
    (tmp_path / "m.index").write_bytes(tabled(HOSTILE_TABLES[message]))
    told = refused(tmp_path / "m")
    assert told.startswith("`/m.index` is damaged: ")
    assert told.endswith(message)


@pytest.mark.parametrize(
    ("handles", "message"),
    [
        (((b"a", 0, len(ONE) - 5), (b"b", 0, len(ONE) - 5)), "the blocks of its table overlap"),
        (((b"a", 0, 2**40),), f"the block of its table at byte 0 goes on to byte {2**40 + 5} of {len(ONE)}"),
        (((b"a", 2**63, 5),), f"the block of its table at byte {2**63} goes on to byte {2**63 + 10} of {len(ONE)}"),
    ],
)
def test_hostile_handles(tmp_path: Path, handles: tuple[tuple[bytes, int, int], ...], message: str) -> None:
    (tmp_path / "m.index").write_bytes(tabled(ONE, handles=handles))
    (tmp_path / "m.data-00000-of-00001").write_bytes(DATA)
    assert refused(tmp_path / "m") == f"`/m.index` is damaged: {message}"


def test_an_index_that_is_its_own_block(tmp_path: Path) -> None:
    for offset, size in ((0, 48), (0, 43), (2**60, 2**60)):
        (tmp_path / "m.index").write_bytes(bytes(48) + footer(offset, size))
        assert "is damaged: the block of its table at byte" in refused(tmp_path / "m")
    (tmp_path / "m.index").write_bytes(MAGIC)
    assert refused(tmp_path / "m") == "`/m.index` is damaged: its end is no table's"


@given(st.binary(max_size=60))
def test_unsnapping_anything_ends(data: bytes) -> None:
    with suppress(ValueError):
        assert len(unsnapped(memoryview(data))) <= 22 * len(data)


def test_a_copy_that_is_cut_short_is_none() -> None:
    """Its last byte would be a zero, which what is not there must not be taken for."""
    whole = b"\x05\x00a" + b"\x0e\x01\0"
    assert unsnapped(memoryview(whole)) == b"aaaaa"
    for size in range(2, len(whole)):
        with pytest.raises(ValueError, match=r"does not have the size|refers to what is not"):
            unsnapped(memoryview(whole[:size]))


def test_snappy(tmp_path: Path) -> None:
    """A literal, a long literal, and copies of each kind, one of which repeats what it makes."""
    long = bytes(range(200))
    packed = b"\x0cabcd" + b"\xf0\xc7" + long + b"\x01\xc8" + b"\x2e\x01\0" + b"\x07\x03\0\0\0"
    text = b"abcd" + long
    text += text[-200:-196]
    text += text[-1:] * 12
    text += text[-3:-1]
    assert unsnapped(memoryview(encoded(len(text)) + packed)) == text
    plain = rows((b"", HEADER), (b"a", entry()))
    literal = encoded(len(plain)) + b"\xf0" + bytes([len(plain) - 1]) + plain
    (tmp_path / "m.index").write_bytes(tabled(raw(literal, 1)))
    (tmp_path / "m.data-00000-of-00001").write_bytes(DATA)
    assert read(tmp_path / "m").tensors["a"].read().tobytes() == DATA


def test_the_checksum() -> None:
    assert crc32c.crc32c(b"123456789") == 0xE3069283
    assert checksum([b"1234", memoryview(b"56789")]) == (((0xE3069283 >> 15 | 0xE3069283 << 17) + 0xA282EAD8) & 0xFFFFFFFF)


# --- bundles -------------------------------------------------------------------------------------------------------------

HOSTILE = {
    "`a` does not have its checksum": {b"a": entry(data=bytes(24))},
    "`a` does not have the size of its shape": {b"a": entry(dims=(2, 2))},
    "the shape of `a` is impossible": {b"a": entry(dims=(2**62, 2**62))},
    "the shape of `a` is impossible ": {b"a": entry(dims=(-1, 3))},
    "a tensor of it lies in shard 2 of 1": {b"a": entry(shard=1)},
    "two of its tensors overlap in `m.data-00000-of-00001`": {b"a": entry(), b"b": entry(12, 12, (3,))},
    "a name in it is not UTF-8": {b"\xff": entry()},
    "field 5 is no whole number": {b"a": block(5, b"")},
    "field 2 is a whole number": {b"a": number(2, 1)},
    "a field of 9 bytes goes on past the end": {b"a": b"\x0a\x09"},
    "a number goes on past its end": {b"a": b"\xff" * 12},
    "the parts of `a` do not make a whole": {b"a": sliced(HALVES[0]), **HALF},
    "the parts of `a` overlap": {b"a": sliced(HALVES[0], HALVES[0]), **HALF},
    "a part of `a` is missing or of another shape": {b"a": sliced(*HALVES), key("a", HALVES[0]): entry(12, 0, (1, 3))},
    "a part of `a` is missing or of another shape ": {b"a": sliced(*HALVES), **dict.fromkeys(HALF, entry(12, 0, (3, 1)))},
    "a part of `a` lies outside of it": {b"a": sliced(((0, 3), (0, 3)))},
    "a part of `a` lies outside of it ": {b"a": sliced(((2**63, 1), (0, 3)))},
    "a part of `a` has 1 dimensions instead of 2": {b"a": sliced(((0, 2),))},
    "`xconvert` does not have the length that it says": {b"xconvert": entry(24, 0, (), dtype=7)},
}


@pytest.mark.parametrize("message", HOSTILE)
def test_hostile_bundles(tmp_path: Path, message: str) -> None:
    items = dict(HOSTILE[message])
    if message.endswith("of another shape "):
        items = {k: entry(12, 12 * i, (3, 1)) if k in HALF else v for i, (k, v) in enumerate(sorted(items.items()))}
    told = refused(placed(tmp_path, items))
    assert told.partition(" is damaged: ")[2].partition("; ")[0] == message.strip()


def test_names_dtypes_and_shards_that_cannot_be(tmp_path: Path) -> None:
    assert refused(placed(tmp_path, {b"a\x1b[2J": entry()})) == r"`/m.index` holds a tensor called `a\x1b[2J`"
    told = "`/m.index` holds `a` as TensorFlow's dtype 12, which xconvert does not read"
    assert refused(placed(tmp_path, {b"a": entry(dtype=12)})) == told
    path = placed(tmp_path, {b"a": entry()}, data=DATA[:20])
    assert refused(path) == "`/m.data-00000-of-00001` is truncated: its tensors go on to byte 24 of 20"
    path.with_name("m.data-00000-of-00001").unlink()
    assert refused(path) == "`/m.data-00000-of-00001` does not exist"
    for header in (b"", number(2, 2), block(3, number(2, 2))):
        told = "its index has no header" if not header else "its index is of a version that is not known"
        assert refused(placed(tmp_path, {b"a": entry()}, header)) == f"`/m.index` is damaged: {told}"


def test_big_endian_numbers(tmp_path: Path) -> None:
    data = np.arange(6, dtype=">f4").tobytes()
    found = read(placed(tmp_path, {b"a": entry(data=data)}, HEADER + number(2, 1), data)).tensors["a"].read()
    np.testing.assert_array_equal(found, np.arange(6, dtype=np.float32).reshape(2, 3), strict=True)


def test_partitioned_variables(tmp_path: Path) -> None:
    found = read(placed(tmp_path, {b"a": sliced(*HALVES), **HALF, key("b", FULL): entry(0, 0, (0,))}))
    assert found.tensors["a"].read().tobytes() == DATA
    assert found.notes == ("left out 1 parts of tensors that its index does not list",)


def test_texts_and_handles_are_left_out(tmp_path: Path) -> None:
    text = b"\x02" + checksum([b"\x02\0\0\0"]).to_bytes(4, "little") + b"hi"
    crc = fixed32(6, checksum([b"\x02\0\0\0", text[1:]]))
    word = number(1, 7) + block(2, b"") + number(5, len(text)) + crc
    items = {b"word": word, b"words": entry(0, 0, (0,), dtype=7), b"table": entry(0, 0, (), dtype=20)}
    found = read(placed(tmp_path, items, data=text))
    assert (found.tensors, found.metadata) == ({}, {})
    assert found.notes == ("left out 2 tensors of text or handles", "left out 1 texts: `word`")
    broken = placed(tmp_path, {b"word": word}, data=text[:-1] + b"o")
    assert refused(broken) == "`/m.index` is damaged: `word` does not have its checksum"


def test_reading_is_lazy_and_copies_nothing(tmp_path: Path) -> None:
    tensorflow.write(tmp_path / "a", sample())
    data = tmp_path / "a.data-00000-of-00001"
    data.write_bytes(bytes([data.read_bytes()[0] ^ 1]) + data.read_bytes()[1:])
    found = read(tmp_path / "a")
    array = found.tensors["conv/kernel"].read()
    assert not array.flags.owndata
    assert not array.flags.writeable
    with pytest.raises(UnreadableError, match=r"`a\.b/gamma` does not have its checksum"):
        found.tensors["a.b/gamma"].read()


@pytest.mark.slow
@given(st.integers(0, 10**6), st.integers(0, 7))
@settings(max_examples=150, deadline=None)
def test_a_flipped_bit_is_always_seen(at: int, bit: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        tensorflow_objects.write(Path(folder, "a"), sample())
        files = tensorflow.files(Path(folder, "a"))
        contents = [path.read_bytes() for path in files]
        at %= sum(map(len, contents)) - 48  # the footer has no checksum
        victim, at = (0, at) if at < len(contents[0]) else (1, at - len(contents[0]))
        broken = bytearray(contents[victim])
        broken[at] ^= 1 << bit
        files[victim].write_bytes(broken)
        try:
            found = read(Path(folder, "a"))
            arrays = {name: tensor.read() for name, tensor in found.tensors.items()}
        except UnreadableError:
            return
        # the empty block of metadata, which nothing reads, is all that may change
        assert {n: a.tobytes() for n, a in arrays.items()} == {n: t.read().tobytes() for n, t in sample().tensors.items()}
        assert found.metadata == sample().metadata


@pytest.mark.slow
@given(
    st.sampled_from(["v2", "objects", "v1"]),
    st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=3)), min_size=1, max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_whatever_a_table_says_is_read_or_refused(layout: str, edits: list[tuple[int, bytes]]) -> None:
    """With right checksums around wrong values: nothing but our own errors, and nothing large."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.index")
        if layout == "v1":
            items = dict(V1)
        else:
            (tensorflow if layout == "v2" else tensorflow_objects).write(Path(folder, "m"), sample())
            items = {k: bytes(v) for k, v in entries(path, memoryview(path.read_bytes()))}
        for at, text in edits:
            key = sorted(items)[at % len(items)]
            at = at // len(items) % (len(items[key]) + 1)
            items[key] = items[key][:at] + text + items[key][at + len(text) :]
        path.write_bytes(table(sorted(items.items())))
        with suppress(UnreadableError):
            found = read(path)
            assert sum(tensor.read().nbytes for tensor in found.tensors.values()) < 10_000


# --- parts ---------------------------------------------------------------------------------------------------------------


def test_keys_of_parts() -> None:
    """As ``ordered_code.cc`` makes them: of one, two, three and ten bytes."""
    assert key("a", ((0, -1),)) == b"\0a\0\x01\x01\x01\x80\x7f"
    assert key("a", ((63, 64), (8191, 8192))).endswith(b"\x01\x02" + b"\xbf" + b"\xc0\x40" + b"\xdf\xff" + b"\xe0\x20\0")
    assert key("a", ((2**62, -(2**63)),))[-20:] == b"\xff\xc0\x40" + bytes(7) + b"\x00\x3f\x80" + bytes(7)


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, max_size=9, unique=True))
def test_keys_are_in_the_order_of_what_they_say(starts: list[int]) -> None:
    keys = [key("a", ((start, -1),)) for start in sorted(starts)]
    assert keys == sorted(keys)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=3), st.data())
def test_any_partition_makes_the_whole(shape: list[int], data: st.DataObject) -> None:
    array = np.arange(elements(shape)).reshape(shape)
    axis = data.draw(st.integers(0, len(shape) - 1))
    cuts = sorted({0, shape[axis], *data.draw(st.lists(st.integers(0, shape[axis]), max_size=3))}) if shape[axis] else [0, 0]
    parts = [tuple((a, b - a) if i == axis else (0, -1) for i in range(len(shape))) for a, b in pairwise(cuts)]
    places = [within("a", tuple(shape), part) for part in parts]
    found = whole_tensor("a", tuple(shape), [(place, Tensor.of(array[place])) for place in places])
    np.testing.assert_array_equal(found.read(), array, strict=True)


# --- objects -------------------------------------------------------------------------------------------------------------


def objects(folder: Path, text: bytes, *keys: str) -> Path:
    """A checkpoint with the object graph ``text`` and a tensor under each key, which holds its place among them."""
    write: Callable[..., None] = write_bundle
    write(folder / "m", {k: Tensor.of(np.full((1, 1), i, np.float32)) for i, k in enumerate(keys)}, {}, text)
    return folder / "m"


def test_what_training_adds_is_left_out(tmp_path: Path) -> None:
    keys = ["model/a/.A", "optimizer/m/.A", "optimizer/_trainable_variables/0/.A", "save_counter/.A", "b/.OPTIMIZER_SLOT/o/m/.A"]
    keys += ["_all_variables/0/.A", "model/keras_api/metrics/0/total/.A", "model/s/.A", "stray"]
    told = ["a/kernel", "m", "b/kernel", "save_counter", "b/m", "a/kernel", "total", "seed_generator/seed_generator_state"]
    found = read(objects(tmp_path, graph(*(variable(n, k) for n, k in zip(told, keys[:-1], strict=True))), *keys))
    assert {name: tensor.read().item() for name, tensor in found.tensors.items()} == {"a/kernel": 0, "b/kernel": 2}
    assert found.notes == (
        "left out the optimizer's 2 tensors",
        "left out `save_counter`",
        "left out 1 tensors that it holds twice (`_all_variables`)",
        "left out the metrics' 1 tensors",
        "left out 1 states of random numbers",
        "left out 1 tensors that its object graph does not list",
    )


def test_a_key_chooses_among_objects(tmp_path: Path) -> None:
    nodes = [children(one=1, two=2), children(k=3, optimizer=2), children(k=4), variable("a/k", "1"), variable("a/k", "2")]
    path = objects(tmp_path, graph(*nodes), "1", "2")
    with pytest.raises(AmbiguousError, match="holds several variables of the same name") as caught:
        read(path)
    assert caught.value.facts == ("2 are called `a/k`",)
    assert caught.value.hints == tuple(f"`--key {name}` takes the 1 tensors of that object" for name in ("one", "two"))
    assert [read(path, name).tensors["a/k"].read().item() for name in ("one", "two")] == [0, 1]
    with pytest.raises(UnreadableError, match="holds no object `three` with variables") as missing:
        read(path, "three")
    assert missing.value.facts == ("`one` (1 tensors)", "`two` (1 tensors)")


def test_variables_without_names_go_by_class(tmp_path: Path) -> None:
    named = {f"layer_with_weights-{i}": 1 + i for i in range(4)}
    layers = [children(kernel=5), children(gamma=6, moving_variance=7), children(pointwise_kernel=8), children(kernel=9, bias=10)]
    keys = [str(i) for i in range(6)]
    path = objects(tmp_path, graph(children(**named), *layers, *(variable("", k) for k in keys)), *keys)
    found = read(path)
    assert list(found.tensors) == [
        "dense/0",
        "batch_normalization/0",
        "batch_normalization/3",
        "separable_conv2d/1",
        "dense_1/0",
        "dense_1/1",
    ]
    assert found.notes == ("its variables have no names; layers are counted by their class",)
    stray = objects(tmp_path, graph(children(other=1), children(kernel=2), variable("", "0")), "0")
    assert refused(stray) == "`/m.index` holds variables without names"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (graph(variable("a", "missing")), "its object graph names `missing`, which is missing or holds no numbers"),
        (number(1, 3), "its object graph is none"),
        (b"\x0a\xff\xff\x03", "a field of 65535 bytes goes on past the end"),
        (graph(block(1, number(1, 2)), variable("", "k")), "a message in it is not complete"),
        (graph(block(2, block(1, "VARIABLE_VALUE") + block(2, b"\xff"))), "a name in it is not UTF-8"),
    ],
)
def test_hostile_graphs(tmp_path: Path, text: bytes, message: str) -> None:
    assert refused(objects(tmp_path, text, "k")) == f"`/m.index` is damaged: {message}"


@pytest.mark.slow
def test_a_tangled_graph_ends(tmp_path: Path) -> None:
    """A thousand objects that all reach two thousand nodes."""
    chain = [children(next=i + 3) for i in range(2000)]
    text = graph(children(**{f"c{i}": 1 for i in range(1000)}), children(next=2), *chain, variable("a", "1"), variable("a", "2"))
    assert refused(objects(tmp_path, text, "1", "2")) == "`/m.index` is damaged: its object graph is too tangled"


def test_a_graph_that_is_no_text(tmp_path: Path) -> None:
    path = placed(tmp_path, {GRAPH.encode(): entry()})
    assert refused(path) == "`/m.index` is damaged: its object graph is no text"


# --- version 1 -----------------------------------------------------------------------------------------------------------


def first(folder: Path, items: dict[bytes, bytes]) -> Path:
    (folder / "m.ckpt").write_bytes(table(sorted(items.items())))
    return folder / "m.ckpt"


def test_version_1(tmp_path: Path) -> None:
    found = read(first(tmp_path, V1))
    assert (found.format, found.notes) == ("tensorflow-v1", ())
    array = found.tensors["a"].read()
    assert (array.tobytes(), array.shape, array.flags.owndata) == (DATA, (2, 3), False)
    unpacked = b"".join(b"\x2d" + DATA[i : i + 4] for i in range(0, 24, 4))
    assert read(first(tmp_path, V1 | {key("a", FULL): saved(unpacked)})).tensors["a"].read().tobytes() == DATA
    for dtype, field, name in ((3, 7, "int32"), (6, 7, "int8"), (9, 10, "int64")):
        numbers = saved(block(field, b"".join(encoded(n) for n in range(-2, 4))))
        items = {b"": block(1, listed("a", dtype, WHOLE) + listed("words", 7, WHOLE)), key("a", FULL): numbers}
        found = read(first(tmp_path, items))
        assert found.notes == ("left out 1 tensors of text or handles",)
        np.testing.assert_array_equal(found.tensors["a"].read(), np.arange(-2, 4, dtype=name).reshape(2, 3), strict=True)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({key("a", FULL): saved(block(5, DATA[:20]))}, "`a` does not have the size of its shape"),
        ({key("a", FULL): saved(number(5, 1))}, "its numbers are of another kind than it says"),
        ({key("a", FULL): block(2, b"")}, "a message in it is not complete"),
        ({b"": block(1, listed("a", 1, WHOLE, WHOLE))}, "a part of `a` is missing"),
        ({b"": block(1, listed("a", 1))}, "the parts of `a` do not make a whole"),
        ({b"": block(1, listed("a", 1, WHOLE) * 2)}, "it lists `a` twice"),
        ({b"": block(1, listed("a", 3, WHOLE, dims=(2**20, 2**20)))}, "`a` does not have the size of its shape"),
        ({b"": block(1, listed("a", 3, WHOLE)), key("a", FULL): saved(block(7, b"\xff" * 12))}, "a number goes on past its end"),
        (
            {b"": block(1, listed("a", 3, WHOLE)), key("a", FULL): saved(block(7, bytes(7)))},
            "`a` does not have the size of its shape",
        ),
    ],
)
def test_hostile_version_1(tmp_path: Path, items: dict[bytes, bytes], message: str) -> None:
    assert refused(first(tmp_path, V1 | items)) == f"`/m.ckpt` is damaged: {message}"
