"""MindSpore's checkpoints: what it writes is read to the bit, what contradicts itself is refused."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tests.messages import floats, value
from tests.pickles import mapped
from xconvert.errors import AmbiguousError, UnreadableError, UsageError
from xconvert.formats import Choice, mindspore
from xconvert.formats._protobuf import block, number
from xconvert.model import Checkpoint, Tensor

DTYPES = [np.dtype(t) for t in "?bhiqBHIQefd"] + [np.dtype(ml_dtypes.bfloat16)]
KINDS = {"bool": "Bool", "bfloat16": "BFloat16", "uint8": "UInt8"}


def checkpoint(data: bytes, **choice: Any) -> Checkpoint:
    area = mapped(data)
    assert mindspore.FORMAT.matches(area)
    return mindspore.FORMAT.read(Path("x.ckpt"), area, Choice(**choice))


def written(tmp_path: Path, given: Checkpoint) -> bytes:
    mindspore.write(tmp_path / "x.ckpt", given)
    return (tmp_path / "x.ckpt").read_bytes()


def assert_same(found: Checkpoint, expected: dict[str, np.ndarray]) -> None:
    assert list(found.tensors) == list(expected)
    for name, tensor in found.tensors.items():
        array = tensor.read()
        assert (array.shape, array.dtype) == (tensor.shape, tensor.dtype) == (expected[name].shape, expected[name].dtype)
        assert array.tobytes() == expected[name].tobytes(), name


def test_every_dtype() -> None:
    made = {dtype.name: (np.arange(6) % 2).reshape(2, 3).astype(dtype) for dtype in DTYPES}
    made |= {"complex64": np.ones(2, np.complex64), "complex128": np.ones((1, 1), np.complex128)}
    data = b"".join(value(n, a.shape, KINDS.get(n, n.title().replace("Ui", "UI")), a.tobytes()) for n, a in made.items())
    found = checkpoint(data)
    assert_same(found, made)
    assert (found.format, found.metadata, found.notes) == ("mindspore", {}, ())


def test_large_arrays_are_views_of_the_file() -> None:
    array = checkpoint(floats("a", *range(1000))).tensors["a"].read()
    assert not array.flags.owndata


def test_scalars_of_every_version() -> None:
    old, new = value("old", (0,), "Int64", struct.pack("<q", 3)), value("new", (), "Float32", struct.pack("<f", 0.5))
    assert_same(checkpoint(old + new), {"old": np.array(3), "new": np.array(0.5, np.float32)})


def test_dims_may_be_packed() -> None:
    tensor = block(1, b"\x02\x01") + block(2, "Float32") + block(3, bytes(8))
    assert checkpoint(block(1, block(1, "a") + block(2, tensor))).tensors["a"].shape == (2, 1)


def test_texts_are_metadata_and_entries_of_training_stay() -> None:
    data = value("note", (0,), "str", "hä".encode("utf-32-le")) + floats("moments.conv1.weight", 1) + floats("epoch", 2)
    found = checkpoint(data)
    assert found.metadata == {"note": "hä"}
    assert list(found.tensors) == ["moments.conv1.weight", "epoch"]
    with pytest.raises(UnreadableError, match="the text of `note` is none"):
        checkpoint(value("note", (0,), "str", b"abc"))


def test_pieces_of_one_tag_are_joined() -> None:
    pieces = [value("a", (2, 3), "Float32", np.arange(i, i + 2, dtype="<f4").tobytes()) for i in (0, 2, 4)]
    assert_same(
        checkpoint(b"".join(pieces) + floats("b", 1)), {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(1, "f4")}
    )


@pytest.mark.parametrize(
    "data",
    [
        floats("a", 1) + floats("a", 1),
        floats("a", 1) + floats("b", 1) + floats("a", 1),
        value("a", (2,), "Float32", bytes(4)) + floats("b", 1) + value("a", (2,), "Float32", bytes(4)),
        value("a", (2,), "Float32", bytes(4)) + value("a", (2,), "Int32", bytes(4)),
        value("a", (0,), "str", bytes(4)) * 2,
    ],
)
def test_one_tag_twice(data: bytes) -> None:
    with pytest.raises(UnreadableError, match="is damaged: it holds `a` twice"):
        checkpoint(data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (value("a", (2,), "Float32", bytes(7)), r"`a` has 7 bytes, its shape \(2,\) takes 8"),
        (value("a", (2**40, 2**10), "Float32", bytes(8)), r"`a` has 8 bytes, its shape"),
        (value("a", (2**64 - 2,), "Float32", bytes(8)), r"the shape of `a` is impossible"),
        (value("a", (2**60, 2**60, 0), "Float32", b""), r"the shape of `a` is impossible"),
        (value("a", (1,) * 33, "Float32", bytes(4)), r"the shape of `a` is impossible"),
        (value("a", (1,) * 50, "Float32", bytes(4)), r"is no whole list of MindSpore's values"),
        (value("a", (2,), "Int4", bytes(1)), r"holds `a` as `Int4`, which is no dtype that xconvert reads"),
        (value("a", (1,), None, bytes(4)), r"is no whole list of MindSpore's values"),
        (value("a\n", (1,), "Float32", bytes(4)), r"holds a tensor called `a\\n`"),
        (value(b"\xff", (1,), "Float32", bytes(4)), r"is no whole list of MindSpore's values"),
        (floats("a", 1) + b"\x0a\x7f", r"is no whole list of MindSpore's values; its end may be missing"),
        (floats("a", 1) + block(1, block(2, b"")), r"is no whole list of MindSpore's values"),
        (floats("a", 1) + block(1, block(1, "b") + number(2, 3)), r"is no whole list of MindSpore's values"),
    ],
)
def test_what_contradicts_itself(data: bytes, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        for tensor in checkpoint(data).tensors.values():
            tensor.read()


def test_no_more_values_than_a_checkpoint_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mindspore, "MAX_TENSORS", 2)
    assert len(checkpoint(floats("a", 1) + floats("b", 1)).tensors) == 2
    with pytest.raises(UnreadableError, match="it has more than 2 values"):
        checkpoint(floats("a", 1) + b"\x10\x00" * 5)


def test_map_tensors_and_unknown_fields_are_left_out() -> None:
    found = checkpoint(floats("a", 1) + block(1, block(1, "table") + block(3, b"")) + block(7, b"\xff") + number(1, 5))
    assert (list(found.tensors), found.notes) == (["a"], ("left out `table`, not a tensor",))


def test_checksum_is_compared_and_left_out() -> None:
    data = floats("a", 1)
    told = b"crc_num" + zlib.crc32(data).to_bytes(10, "big")
    found = checkpoint(data + told)
    assert (list(found.tensors), found.notes) == (["a"], ("left out `crc_num`, a checksum; it is right",))
    with pytest.raises(UnreadableError, match="is damaged: its checksum is not that of its content"):
        checkpoint(floats("a", 2) + told)


def test_encrypted_file_is_named() -> None:
    with pytest.raises(UnreadableError, match=r"`x\.ckpt` is encrypted"):
        checkpoint(bytes.fromhex("d95e3a7f a8020000") + bytes(99))


def test_averages_beside_the_weights_need_a_choice() -> None:
    both = floats("a", 1) + floats("ema.a", 2)
    with pytest.raises(AmbiguousError, match="holds weights and averages of them") as caught:
        checkpoint(both)
    assert caught.value.hints == ("pass `--ema` for the averaged weights, `--no-ema` for the others",)
    for ema, expected, note in ((True, 2, "1 tensors that are no averages"), (False, 1, "1 averages")):
        found = checkpoint(both, ema=ema)
        assert_same(found, {"a": np.array([expected], np.float32)})
        assert found.notes == (f"left out {note}",)
    with pytest.raises(UnreadableError, match="holds no averaged weights"):
        checkpoint(floats("a", 1), ema=True)
    assert list(checkpoint(floats("a", 1), ema=False).tensors) == ["a"]
    with pytest.raises(UnreadableError, match="holds no state dict under `net`"):
        checkpoint(both, key="net")


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",
        b"\x0a\x05\x08\x00\x1a\x01x",
        b"\x08\x08\x12\x07pytorch",
        b"\x0a\x03\x0a\x01a",
        b"\x0a\xff\xff\xff\x0f\x0a\x01a\x12",
        bytes(64),
        b"\n" * 50,
    ],
)
def test_other_protocol_buffers_do_not_match(data: bytes) -> None:
    """ProgramDesc of Paddle, ONNX, nothing at all."""
    assert not mindspore.FORMAT.matches(mapped(data))


GOLDEN = (
    b"\x0a\x1a\x0a\x01a\x12\x15\x08\x02\x12\x07Float32\x1a\x08\x00\x00\x80?\x00\x00\x00@\xc2\x3e\x0e\x0a\x08xconvert\x12\x02{}"
)


def test_bytes_of_a_small_file(tmp_path: Path) -> None:
    given_ = Checkpoint({"a": Tensor.of(np.array([1, 2], np.float32))}, {"xconvert": "{}"})
    assert written(tmp_path, given_) == GOLDEN
    assert checkpoint(GOLDEN).metadata == {"xconvert": "{}"}


def test_large_tensors_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mindspore, "_CHUNK", 12)
    array = np.arange(8, dtype=np.float32).reshape(2, 4)
    data = written(tmp_path, Checkpoint({"a": Tensor.of(array)}))
    parts = [array.tobytes()[i : i + 12] for i in (0, 12, 24)]
    assert data == b"".join(value("a", (2, 4), "Float32", part) for part in parts)
    assert_same(checkpoint(data), {"a": array})


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot hold `a`, which has no elements"):
        mindspore.write(tmp_path / "x", Checkpoint({"a": Tensor.of(np.ones((2, 0), np.float32))}))
    for dtype in (np.complex64, ml_dtypes.float8_e5m2):
        with pytest.raises(UsageError, match=f"cannot hold `a` of dtype `{np.dtype(dtype).name}`"):
            mindspore.write(tmp_path / "x", Checkpoint({"a": Tensor.of(np.ones(1, dtype))}))


def test_every_truncation_is_refused() -> None:
    for size in range(1, len(GOLDEN)):
        area = mapped(GOLDEN[:size])
        if mindspore.FORMAT.matches(area):
            try:
                found = checkpoint(GOLDEN[:size])
            except UnreadableError:
                continue
            assert size == 28, "only the end of a value is an end of a file"
            assert list(found.tensors) == ["a"]
        else:
            assert size < 28


@settings(max_examples=150, deadline=None)
@given(at=st.integers(0, len(GOLDEN) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_raises_nothing_unforeseen(at: int, byte: int) -> None:
    area = mapped(GOLDEN[:at] + bytes([byte]) + GOLDEN[at + 1 :])
    if mindspore.FORMAT.matches(area):
        try:
            for tensor in mindspore.FORMAT.read(Path("x.ckpt"), area, Choice()).tensors.values():
                tensor.read()
        except (UnreadableError, AmbiguousError):
            pass


LETTERS = st.characters(exclude_categories=("C", "Z"))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    given_=st.dictionaries(
        st.text(LETTERS, min_size=1, max_size=9).filter(lambda name: not name.startswith("ema.")),  # MindCV's averages
        st.sampled_from(DTYPES).flatmap(
            lambda d: arrays(f"u{d.itemsize}", array_shapes(min_dims=0, max_side=3)).map(
                lambda a: a != 0 if d.kind == "b" else a.view(d)
            )
        ),
        min_size=1,
    ),
    metadata=st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=5), st.text(LETTERS, max_size=9)),
)
def test_writing_and_reading_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, given_: dict[str, np.ndarray], metadata: dict[str, str]
) -> None:
    before = Checkpoint({name: Tensor.of(array) for name, array in given_.items()}, metadata)
    folder = tmp_path_factory.mktemp("x")
    data = written(folder, before)
    found = checkpoint(data, ema=False)
    assert_same(found, given_)
    assert found.metadata == metadata
    assert data == written(folder, before)
