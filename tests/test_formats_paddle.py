"""PaddlePaddle's pickles and networks for inference: what honest programs write is read to the bit, what none writes is
refused."""

from __future__ import annotations

import io
import json
import pickle
import struct
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from tests.messages import description, program, stored
from tests.pickles import Raw, call, mapped, named, opcodes
from xconvert.errors import AmbiguousError, UnreadableError, UsageError
from xconvert.formats import Choice, paddle, paddle_inference, torch_legacy
from xconvert.model import Checkpoint, Tensor

TABLE = paddle.NAMES
DTYPES = [np.dtype(t) for t in "?bhiqBefdFD"]  # those that Paddle has, without bfloat16
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def checkpoint(data: bytes, **choice: Any) -> Checkpoint:
    area = mapped(data)
    assert paddle.FORMAT.matches(area)
    return paddle.FORMAT.read(Path("x.pdparams"), area, Choice(**choice))


def written(tmp_path: Path, given: Checkpoint, protocol: int = 4) -> bytes:
    paddle.write_pickle(tmp_path / "x.pdparams", given, protocol)
    return (tmp_path / "x.pdparams").read_bytes()


def named_arrays(count: int = 4) -> dict[str, np.ndarray]:
    return {f"layer{i}.weight": np.arange(6, dtype=np.float32).reshape(2, 3) + i for i in range(count)}


def assert_same(found: Checkpoint, expected: dict[str, np.ndarray]) -> None:
    assert list(found.tensors) == list(expected)
    for name, tensor in found.tensors.items():
        array = tensor.read()
        assert (
            (array.shape, array.dtype)
            == (tensor.shape, tensor.dtype)
            == (expected[name].shape, expected[name].dtype.newbyteorder("="))
        )
        assert array.tobytes() == expected[name].astype(array.dtype).tobytes(), name


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_dtype_and_layout_under_every_protocol(protocol: int) -> None:
    tensors = {dtype.name: (np.arange(300) % 7).reshape(20, 15).astype(dtype) for dtype in DTYPES}
    tensors |= {
        "big": np.arange(5, dtype=">f4"),
        "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        "scalar": np.array(2.5, np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }
    found = checkpoint(pickle.dumps({**tensors, TABLE: {name: f"{name}_0.w_0" for name in tensors}}, protocol))
    assert_same(found, tensors)
    assert json.loads(found.metadata[TABLE])["float32"] == "float32_0.w_0"
    assert (found.format, found.notes) == ("paddle", ())


def test_uint16_is_bfloat16() -> None:
    array = np.array([1.5, -2.0], BFLOAT16)
    assert_same(checkpoint(pickle.dumps({"a": array.view(np.uint16)})), {"a": array})


def test_large_arrays_are_views_of_the_file() -> None:
    area = mapped(pickle.dumps({"a": np.arange(1000.0)}, 4))
    array = paddle.FORMAT.read(Path("x"), area, Choice()).tensors["a"].read()
    assert not array.flags.owndata


class Saved:
    """A tensor, as Paddle saves it in any object but a state dict."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self.name, self.array = name, array

    def __reduce__(self) -> Any:
        return tuple, ((self.name, self.array),)


class Dense(Saved):
    """A DenseTensor."""

    def __reduce__(self) -> Any:
        return eval, ("data", {"data": self.array})


@pytest.mark.parametrize("protocol", [2, 4])
def test_nested_object_is_unwrapped_and_its_internal_names_kept(protocol: int) -> None:
    tensors = named_arrays()
    model = {name: Saved(f"linear_{i}.w_0", array) for i, (name, array) in enumerate(tensors.items())}
    found = checkpoint(pickle.dumps({"epoch": 1, "model": model, "opt": {"velocity": np.ones(3)}}, protocol))
    assert_same(found, tensors)
    assert found.notes == ("unwrapped `model`", "left out `opt` (1 tensor)")
    assert list(json.loads(found.metadata[TABLE]).values()) == [f"linear_{i}.w_0" for i in range(4)]


def test_file_of_static_save_has_internal_names_and_no_table() -> None:
    tensors = {"conv2d_0.w_0": np.ones((2, 2), np.float32), "batch_norm_0.w_1": np.zeros(2, np.float32)}
    found = checkpoint(pickle.dumps(tensors))
    assert_same(found, tensors)
    assert found.metadata == {}


def test_what_is_no_tensor_is_left_out_with_a_note() -> None:
    found = checkpoint(pickle.dumps({**named_arrays(), "LR_Scheduler": {"last_lr": 0.1}, "step": 3, TABLE: {}}))
    assert found.notes == ("left out `LR_Scheduler`, `step`, not tensors",)


def test_choice_among_several() -> None:
    data = pickle.dumps({"model": named_arrays(), "ema": named_arrays(5)})
    with pytest.raises(AmbiguousError, match="holds two state dicts"):
        checkpoint(data)
    assert len(checkpoint(data, key="ema").tensors) == len(checkpoint(data, ema=True).tensors) == 5
    assert len(checkpoint(data, ema=False).tensors) == 4
    with pytest.raises(UnreadableError, match="holds no state dict") as caught:
        checkpoint(pickle.dumps({"epoch": 3}))
    assert caught.value.hints == ("save one with `paddle.save(model.state_dict(), path)`",)


def test_dense_tensor_is_the_one_call_of_eval_that_is_understood() -> None:
    tensors = named_arrays()
    assert_same(checkpoint(pickle.dumps({name: Dense(name, array) for name, array in tensors.items()})), tensors)


@pytest.mark.parametrize(
    "arguments",
    [("print(1)", {"data": Raw(b"N")}), ("data", {"data": 3}), ("data", {"data": 3, "more": 4}), ("data",), ("data", "data")],
)
def test_any_other_call_of_eval_is_refused(arguments: Any) -> None:
    for module in ("builtins", "__builtin__"):
        data = b"\x80\x02" + opcodes({"a": call(f"{module}.eval", *arguments)}) + b"."
        with pytest.raises(UnreadableError, match=r"asks to run `eval`; nothing was run"):
            checkpoint(data)


def test_eval_with_an_array_runs_no_other_text() -> None:
    array = Raw(pickle.dumps(np.ones(3), 2)[2:-1])
    for arguments in (
        ("data.tofile('x')", {"data": array}),
        ("data", {"data": array}, {"data": array}),
        ("data", {"date": array}),
    ):
        with pytest.raises(UnreadableError, match=r"asks to run `eval`; nothing was run"):
            checkpoint(b"\x80\x02" + opcodes({"a": call("builtins.eval", *arguments)}) + b".")


@pytest.mark.parametrize("name", ["posix.system", "numpy.load", "builtins.exec", "numpy.core.os.system"])
def test_what_only_an_attack_names_is_refused(name: str) -> None:
    with pytest.raises(UnreadableError, match=rf"asks to run `{name}`; nothing was run"):
        checkpoint(b"\x80\x02" + opcodes({"a": call(name, "x")}) + b".")


def old_array(raw: bytes, shape: tuple[int, ...] = (2,), code: str = "f4", order: str = "<") -> Raw:
    """An array as Python 2 pickled it: its bytes are a string."""
    dtype = Raw(opcodes(call("numpy.dtype", code, 0, 1)) + opcodes((3, order, None, None, None, -1, -1, 0)) + b"b")
    string = Raw(b"T" + struct.pack("<L", len(raw)) + raw)
    made = call("numpy.core.multiarray._reconstruct", named("numpy.ndarray"), (0,), Raw(b"U\x01b"))
    return Raw(opcodes(made) + opcodes((1, shape, dtype, False, string)) + b"b")


def test_file_of_python_2() -> None:
    array = np.array([1.5, -3e38], "<f4")
    assert_same(checkpoint(b"\x80\x02" + opcodes({"a": old_array(array.tobytes())}) + b"."), {"a": array})
    not_bytes = Raw(old_array(bytes(8)).opcodes.replace(b"T\x08\0\0\0" + bytes(8), opcodes("ä" * 7 + "€")))
    tensor = checkpoint(b"\x80\x02" + opcodes({"a": not_bytes}) + b".").tensors["a"]
    with pytest.raises(UnreadableError, match="the numbers of `a` are text"):
        tensor.read()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (old_array(bytes(7)), "`a` does not have the size of its shape"),
        (old_array(bytes(8), (2, 2**40)), "`a` does not have the size of its shape"),
        (old_array(bytes(8), (-2,)), "the shape of `a` is impossible"),
        (old_array(bytes(8), (2**60, 2**60, 0)), "the shape of `a` is impossible"),
        (old_array(bytes(8), code="O8"), "holds `a` as an array of `O8`"),
        (old_array(bytes(8), code="V4"), "holds `a` as an array of `V4`"),
        (old_array(bytes(8), order="?"), "holds `a` as an array of `f4`"),
        (call("numpy.core.multiarray._reconstruct", named("numpy.ndarray"), (0,), "b"), "`a` is no whole array"),
        (
            Raw(opcodes(call("numpy.core.multiarray._reconstruct")) + opcodes((1, (2,), 5, False, "ab")) + b"b"),
            "an array of no dtype",
        ),
    ],
)
def test_arrays_that_contradict_themselves(array: Raw, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        checkpoint(b"\x80\x02" + opcodes({"a": array}) + b".")


def pieces(**changes: Any) -> bytes:
    whole = np.arange(10, dtype=np.float32)
    told = {"OriginShape": (2, 5), "slices": ["w@@.0", "w@@.1"]} | changes.pop("told", {})
    entries = {"w@@.0": whole[:7], "w@@.1": whole[7:], "b": np.ones(1, np.float32), paddle.PIECES: {"w": told}} | changes
    return pickle.dumps(entries, 2)


def test_pieces_of_protocol_2_are_joined() -> None:
    found = checkpoint(pieces())
    assert_same(found, {"b": np.ones(1, np.float32), "w": np.arange(10, dtype=np.float32).reshape(2, 5)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"w@@.1": np.ones(2, np.float32)}, "the pieces of `w` do not make up its shape"),
        ({"w@@.1": np.ones(3)}, "the pieces of `w` have several dtypes"),
        ({"told": {"slices": ["w@@.0", "gone"]}}, "the pieces of `w` do not make up its shape"),
        ({"told": {"slices": ["w@@.0", "w@@.0"]}}, "the pieces of `w` do not make up its shape"),
        ({"told": {"slices": "w@@.0"}}, "its `UnpackBigParamInfor@@` is incomplete"),
        ({"told": {"OriginShape": (-10, -1)}}, "the shape of `w` is impossible"),
        ({"w": np.ones(1)}, "its `UnpackBigParamInfor@@` is incomplete"),
        ({paddle.PIECES: [1]}, "its `UnpackBigParamInfor@@` is no table"),
    ],
)
def test_pieces_that_do_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        checkpoint(pieces(**changes))


@pytest.mark.parametrize("table", [{"a": 3}, {"a": Raw(b"X\x03\0\0\0\xed\xa0\x80")}, [1]])
def test_table_of_names_that_is_none(table: Any) -> None:
    array = Raw(pickle.dumps(np.ones(3), 2)[2:-1])
    with pytest.raises(UnreadableError, match=f"its `{TABLE}` is no table of names"):
        checkpoint(b"\x80\x02" + opcodes({"a": array, TABLE: table}) + b".")


def test_only_pickles_match_and_those_of_pytorch_do_not() -> None:
    torch = mapped(b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19." + bytes(20))
    assert torch_legacy.FORMAT.matches(torch)
    for data in (torch, mapped(b"\x80\x01}."), mapped(b"\x80"), mapped(b"PK\x03\x04")):
        assert not paddle.FORMAT.matches(data)


def full() -> Checkpoint:
    tensors = {dtype.name: Tensor.of((np.arange(300) % 7).reshape(20, 15).astype(dtype)) for dtype in [*DTYPES, BFLOAT16]}
    tensors |= {"scalar": Tensor.of(np.array(3, np.int64)), "empty": Tensor.of(np.zeros((2, 0), np.float32))}
    return Checkpoint(tensors, {"xconvert": '{"ä": "\\n"}', "other": ""})


@pytest.mark.parametrize("protocol", [2, 4])
def test_standard_library_reads_what_is_written(tmp_path: Path, protocol: int) -> None:
    """As Paddle does: the first pickle, with NumPy's own functions; what follows it is not looked at."""
    data = written(tmp_path, full(), protocol)
    file = io.BytesIO(data)
    found = pickle.load(file, encoding="latin1")
    assert found.pop(TABLE) == {name: name for name in full().tensors}
    assert list(found) == list(full().tensors)
    for name, tensor in full().tensors.items():
        expected = tensor.read().view(np.uint16) if tensor.dtype == BFLOAT16 else tensor.read()
        assert (found[name].dtype, found[name].shape) == (expected.dtype, expected.shape)
        assert found[name].tobytes() == expected.tobytes()
    assert pickle.load(file) == full().metadata
    assert file.tell() == len(data)
    assert data == written(tmp_path, full(), protocol)


@pytest.mark.parametrize("protocol", [2, 4])
def test_what_is_written_is_read(tmp_path: Path, protocol: int) -> None:
    found = checkpoint(written(tmp_path, full(), protocol))
    assert_same(found, {name: tensor.read() for name, tensor in full().tensors.items()})
    table = json.loads(found.metadata[TABLE])
    assert table == {name: name for name in full().tensors}
    assert {k: v for k, v in found.metadata.items() if k != TABLE} == full().metadata


GOLDEN = (
    b"\x80\x04}(X\x01\0\0\0acnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85B\x01\0\0\0b\x87R(K\x01(K\x02t"
    b"cnumpy\ndtype\nX\x02\0\0\0f4\x89\x88\x87R(K\x03X\x01\0\0\0<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb\x89B\x08\0\0\0"
    b"\0\0\x80?\0\0\0@tbX\x1b\0\0\0StructuredToParameterName@@}(X\x01\0\0\0aX\x0c\0\0\0conv2d_0.w_0uu."
)


def test_bytes_of_a_small_file(tmp_path: Path) -> None:
    given = Checkpoint({"a": Tensor.of(np.array([1, 2], np.float32))}, {TABLE: '{"a": "conv2d_0.w_0", "gone": "x"}'})
    assert written(tmp_path, given) == GOLDEN
    assert written(tmp_path, checkpoint(GOLDEN)) == GOLDEN, "the table survives reading and writing"


@pytest.mark.parametrize("table", ["", "[1]", '{"a": 1}', '{"b": "c"}', "{"])
def test_table_that_is_none_is_not_written(tmp_path: Path, table: str) -> None:
    data = written(tmp_path, Checkpoint({"a": Tensor.of(np.ones(2))}, {TABLE: table}))
    assert pickle.loads(data)[TABLE] == {"a": "a"}


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for name in (TABLE, paddle.PIECES):
        with pytest.raises(UsageError, match=f"cannot hold a tensor called `{name}`"):
            paddle.write(tmp_path / "x", Checkpoint({name: Tensor.of(np.ones(1))}))
    for dtype in (np.uint16, np.uint32, np.uint64, ml_dtypes.float8_e5m2):  # Paddle would take the first for bfloat16
        name = np.dtype(dtype).name
        with pytest.raises(UsageError, match=f"cannot hold `a` of dtype `{name}`"):
            paddle.write(tmp_path / "x", Checkpoint({"a": Tensor.of(np.ones(1, dtype))}))
    with pytest.raises(ValueError, match="protocol 3 is not written"):
        paddle.write_pickle(tmp_path / "x", Checkpoint({}), 3)


def test_protocol_2_refuses_a_text_that_is_too_long(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paddle, "_MAX_TEXT", 15)
    given = Checkpoint({"a": Tensor.of(np.ones(2))})
    with pytest.raises(UsageError, match="protocol 2 cannot hold `a` of 2 numbers"):
        written(tmp_path, given, 2)
    written(tmp_path, given, 4)


def test_what_stands_behind_the_pickle() -> None:
    start = pickle.dumps(named_arrays())
    assert checkpoint(start + pickle.dumps({"xconvert": "{}"})).metadata == {"xconvert": "{}"}
    for rest in (bytes(7), pickle.dumps(["no texts"]), pickle.dumps({"a": "b"}) + b"more", pickle.dumps({"a": "\ud800"})):
        found = checkpoint(start + rest)
        assert (found.metadata, found.notes) == ({}, (f"left out {len(rest)} bytes behind its pickle",))
    with pytest.raises(UnreadableError, match=r"asks to run `posix.system`"):
        checkpoint(start + b"\x80\x02" + opcodes(call("posix.system", "x")) + b".")


def test_every_truncation_is_refused_or_noted(tmp_path: Path) -> None:
    data = written(tmp_path, Checkpoint({"a": Tensor.of(np.ones(2, np.float32))}, {"xconvert": "{}"}))
    first = data.index(b"uu.") + 3
    for size in range(2, len(data)):
        if size == first:
            assert checkpoint(data[:size]).metadata == {TABLE: '{"a": "a"}'}
        else:
            with pytest.raises(UnreadableError, match=r"is (truncated|damaged)"):
                checkpoint(data[:size])


@settings(max_examples=150, deadline=None)
@given(at=st.integers(2, len(GOLDEN) - 1), byte=st.integers(0, 255))
def test_a_changed_byte_raises_nothing_unforeseen(at: int, byte: int) -> None:
    try:
        for tensor in checkpoint(GOLDEN[:at] + bytes([byte]) + GOLDEN[at + 1 :]).tensors.values():
            tensor.read()
    except (UnreadableError, AmbiguousError):
        pass


LETTERS = st.characters(exclude_categories=("C", "Z"))


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(
    given_=st.dictionaries(
        st.text(LETTERS, min_size=1, max_size=9),
        st.sampled_from([*DTYPES, BFLOAT16]).flatmap(
            lambda d: arrays(f"u{d.itemsize}" if d.itemsize < 16 else d, array_shapes(min_dims=0, max_side=3)).map(
                lambda a: (a != 0 if d.kind == "b" else a).astype(d) if d.itemsize == 16 or d.kind == "b" else a.view(d)
            )
        ),
        min_size=1,
    ),
    metadata=st.dictionaries(st.text(st.characters(exclude_categories=("Cs",)), max_size=5), st.text(LETTERS, max_size=9)),
    protocol=st.sampled_from([2, 4]),
)
def test_writing_and_reading_is_the_identity(
    tmp_path_factory: pytest.TempPathFactory, given_: dict[str, np.ndarray], metadata: dict[str, str], protocol: int
) -> None:
    before = Checkpoint({name: Tensor.of(array) for name, array in given_.items()}, metadata)
    found = checkpoint(written(tmp_path_factory.mktemp("x"), before, protocol))
    assert_same(found, given_)
    assert {k: v for k, v in found.metadata.items() if k != TABLE} == metadata


# networks for inference


NET = {
    "conv2d_0.w_0": np.ones((2, 1, 1, 1), "<f4"),
    "batch_norm_0.w_10": np.arange(2, dtype="<f4"),
    "batch_norm_0.w_2": np.zeros(2, "<f4"),
}
ORDER = ["batch_norm_0.w_10", "batch_norm_0.w_2", "conv2d_0.w_0"]  # of bytes, not of numbers


def folder(tmp_path: Path, **files: str | bytes) -> Path:
    contents = {"pdiparams": b"".join(stored(NET[name]) for name in ORDER)} | files
    for suffix, content in contents.items():
        raw = content.encode() if isinstance(content, str) else content
        (tmp_path / f"net.{suffix.replace('_', '.')}").write_bytes(raw)
    return tmp_path / "net.pdiparams"


def inference(path: Path, **choice: Any) -> Checkpoint:
    area = mapped(path.read_bytes())
    assert paddle_inference.FORMAT.matches(area)
    return paddle_inference.FORMAT.read(path, area, Choice(**choice))


SHAPES = {name: array.shape for name, array in NET.items()}


@pytest.mark.parametrize("beside", [{"json": program(SHAPES)}, {"pdmodel": description(SHAPES)}], ids=["json", "pdmodel"])
def test_names_come_from_the_program_beside(tmp_path: Path, beside: dict[str, Any]) -> None:
    found = inference(folder(tmp_path, **beside))
    assert_same(found, {name: NET[name] for name in ORDER})
    assert found.format == "paddle-inference"


def test_structured_names_come_from_the_info(tmp_path: Path) -> None:
    info = pickle.dumps({name: {"structured_name": f"net.{i}", "trainable": True} for i, name in enumerate(ORDER)}, 2)
    found = inference(folder(tmp_path, pdmodel=description(SHAPES), pdiparams_info=info))
    assert list(found.tensors) == ["net.0", "net.1", "net.2"]
    for less in ({}, {name: {} for name in ORDER}, {name: {"structured_name": "same"} for name in ORDER}, [1]):
        path = folder(tmp_path, pdmodel=description(SHAPES), pdiparams_info=pickle.dumps(less))
        assert list(inference(path).tensors) == ORDER
    with pytest.raises(UnreadableError, match=r"asks to run `posix.system`"):
        inference(folder(tmp_path, pdiparams_info=b"\x80\x02" + opcodes(call("posix.system", "x")) + b"."))


def test_other_dtypes_and_levels_of_detail(tmp_path: Path) -> None:
    levels = struct.pack("<QQ", 1, 16) + bytes(16)
    arrays_ = {"a": np.array([1.5, 2], np.float16), "b": np.array(7, "<i8"), "c": np.array([1.5], BFLOAT16)}
    data = stored(arrays_["a"], 4) + stored(arrays_["b"], 3, levels) + stored(arrays_["c"], 22)
    path = folder(tmp_path, pdiparams=data, json=program({name: array.shape for name, array in arrays_.items()}))
    assert_same(inference(path), arrays_)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, r"holds tensors without names"),
        ({"json": program({"a": (2,)})}, r"holds 3 tensors, the program beside it names 1"),
        (
            {"json": program(SHAPES | {"conv2d_0.w_0": (1, 2, 1, 1)})},
            r"a tensor of shape \(2, 1, 1, 1\) where the program has `conv2d_0.w_0`",
        ),
        ({"json": "{}"}, r"net.json` is damaged: it is no program of PaddlePaddle"),
        ({"json": "[" * 100_000}, r"net.json` is damaged"),
        ({"json": program({"a\n": (2,)})}, r"holds a tensor called `a\\n`"),
        ({"json": program({"a": [2.5]})}, r"the shape of `a` is impossible"),
        ({"pdmodel": b"\x0a\x7f"}, r"net.pdmodel` is damaged"),
        ({"pdmodel": b"\x08\x01"}, r"net.pdmodel` is damaged"),
        ({"json": program(SHAPES), "pdiparams": stored(NET[ORDER[0]])[:-1]}, r"is truncated: tensor 0 goes on to byte 32 of 31"),
        ({"json": program(SHAPES), "pdiparams": stored(NET[ORDER[0]]) + b"\1" + bytes(40)}, r"tensor 1 has no head of version 0"),
        ({"json": program(SHAPES), "pdiparams": stored(NET[ORDER[0]], 99)}, r"tensor 0 as data type 99"),
        (
            {"json": program(SHAPES), "pdiparams": bytes(16) + struct.pack("<i", 3) + b"\x08\x05\x10"},
            r"the description of tensor 0 makes no sense",
        ),
    ],
)
def test_networks_that_do_not_fit(tmp_path: Path, files: dict[str, Any], message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        inference(folder(tmp_path, **files))


def test_nothing_else_is_taken_for_a_network() -> None:
    for data in (
        bytes(100),
        bytes(16) + b"\x02\0\0\0\x10\0",
        bytes(15),
        bytes(16) + struct.pack("<i", 600) + b"\x08" + bytes(700),
    ):
        assert not paddle_inference.FORMAT.matches(mapped(data))
