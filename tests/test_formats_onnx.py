"""ONNX models: written and read without onnx, lazily, and distrusted."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.graphs import GRAPHS, graph, graph_checkpoint
from tests.messages import attribute, initializer, ints, kept, model
from xconvert.errors import UnreadableError, UsageError, XconvertError
from xconvert.formats import format_for_writing, formats, read
from xconvert.formats._protobuf import block, encoded, fields, head, number
from xconvert.formats.onnx import _tensor, write
from xconvert.model import Array, Checkpoint, DType, Graph, Layer, Tensor

# An `image` of two channels through a 1x1 convolution to the features.
LAYERS = (Layer("c", "conv", ("image",), stride=2),)
WEIGHT = np.array([[[[1, 3], [2, 4]]]], np.float32)  # H W I O


def tiny(**metadata: str) -> Checkpoint:
    theirs = np.ascontiguousarray(WEIGHT.transpose(3, 2, 0, 1))
    return Checkpoint(
        {"c.weight": Tensor.of(theirs)},
        metadata,
        dialect="onnx",
        graph=Graph(LAYERS, {"c": "c"}, {"c.weight": Tensor.of(WEIGHT)}),
    )


ONE = initializer("w", number(1, 2), number(2, 1), block(9, struct.pack("<2f", 1, 2)))


def saved(folder: Path, content: bytes) -> Path:
    path = folder / "x.onnx"
    path.write_bytes(content)
    return path


def test_the_bytes_are_these(tmp_path: Path) -> None:
    write(tmp_path / "x.onnx", tiny(a="b"))
    attributes = [
        attribute("dilations", ints(1, 1), 7),
        attribute("group", number(3, 1), 2),
        attribute("kernel_shape", ints(1, 1), 7),
        attribute("pads", ints(0, 0, 0, 0), 7),
        attribute("strides", ints(2, 2), 7),
    ]
    conv = block(1, "image") + block(1, "c.weight") + block(2, "features") + block(3, "c") + block(4, "Conv")
    told = block(6, "conv")
    dims = b"".join(number(1, size) for size in (2, 2, 1, 1))

    def value(name: str, *shape: bytes) -> bytes:
        return block(1, name) + block(2, block(1, number(1, 1) + block(2, b"".join(block(1, size) for size in shape))))

    image = value("image", block(2, "batch"), number(1, 2), block(2, "height"), block(2, "width"))
    parts = [
        block(1, conv + b"".join(attributes) + told),
        block(2, "xconvert"),
        block(5, dims + number(2, 1) + block(8, "c.weight") + block(9, struct.pack("<4f", 1, 2, 3, 4))),
        block(11, image),
        block(12, value("features", block(2, "batch"), number(1, 2), b"", b"")),
    ]
    expected = number(1, 8) + block(2, "xconvert") + block(7, b"".join(parts))
    expected += block(8, block(1, "") + number(2, 17)) + block(14, block(1, "a") + block(2, "b"))
    assert (tmp_path / "x.onnx").read_bytes() == expected


@pytest.mark.parametrize("name", GRAPHS)
def test_what_is_written_is_read_again(name: str, tmp_path: Path) -> None:
    layers, weights = graph(name)
    given = graph_checkpoint(layers, weights, metadata={"xconvert": '{"é": 1}', "other": ""})
    for copy in "ab":
        write(tmp_path / f"{copy}.onnx", given)
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    again = read(tmp_path / "a.onnx")
    assert (again.format, list(again.tensors), again.metadata) == ("onnx", list(given.tensors), given.metadata)
    for tensor, found in zip(given.tensors.values(), again.tensors.values(), strict=True):
        assert (found.shape, found.dtype) == (tensor.shape, tensor.dtype)
        assert np.array_equal(found.read(), tensor.read())
    epsilon = next(layer.epsilon for layer in layers if layer.op == "batch_norm")
    assert again.evidence["bn_epsilon"] == (epsilon, "graph")
    pools = {"symmetric" if layer.padding == 1 else layer.padding for layer in layers if layer.op == "max_pool"}
    assert again.evidence.get("pool_padding") == ((pools.pop(), "graph") if pools else None)
    assert again.notes == ()


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_floats_stay_as_they_are_stored(dtype: Any, tmp_path: Path) -> None:
    layers, weights = graph("xception.headless")
    mixed = {name: array.astype(dtype) if array.ndim > 1 else array for name, array in weights.items()}
    given = graph_checkpoint(layers, mixed)
    write(tmp_path / "x.onnx", given)
    again = read(tmp_path / "x.onnx")
    assert {name: tensor.dtype for name, tensor in again.tensors.items()} == {n: t.dtype for n, t in given.tensors.items()}
    assert all(tensor.read().tobytes() == given.tensors[name].read().tobytes() for name, tensor in again.tensors.items())


def test_tensors_are_views_of_the_file(tmp_path: Path) -> None:
    write(tmp_path / "x.onnx", tiny())
    array = read(tmp_path / "x.onnx").tensors["c.weight"].read()
    assert not array.flags.owndata
    assert not array.flags.writeable


def test_only_one_tensor_is_read_at_a_time(tmp_path: Path) -> None:
    """Each is let go before the next one is read."""
    import weakref

    layers, weights = graph("xception.headless")
    given = graph_checkpoint(layers, weights)
    alive: list[weakref.ref[Array]] = []

    def counted(tensor: Tensor) -> Tensor:
        def load() -> Array:
            assert sum(reference() is not None for reference in alive) <= 1
            array = tensor.read().copy()
            alive.append(weakref.ref(array))
            return array

        return Tensor(tensor.shape, tensor.dtype, load)

    write(tmp_path / "x.onnx", given._replace(tensors={name: counted(tensor) for name, tensor in given.tensors.items()}))
    assert len(alive) == len(given.tensors)


def test_the_format_goes_by_suffix_and_dialect() -> None:
    assert format_for_writing(Path("x.onnx"), "onnx").name == "onnx"
    assert formats()["onnx"].dialects == {"onnx": "onnx"}


def test_what_cannot_be_written_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    with pytest.raises(UsageError, match=r"an `\.onnx` file holds the network itself, and only weights are there"):
        write(path, Checkpoint({}))
    whole = tiny()._replace(tensors={"c.weight": Tensor.of(WEIGHT.astype(np.int32))})
    with pytest.raises(UsageError, match=r"cannot compute with `c\.weight` of dtype `int32`"):
        write(path, whole)
    huge = Tensor((1 << 29, 1, 1, 1), DType("float32"), lambda: pytest.fail("it was read"))
    with pytest.raises(UsageError, match="more than 2 GB does not fit"):
        write(path, tiny()._replace(tensors={"c.weight": huge}))


# Reading what others write.

TYPED = [
    ("float32", 1, block(4, struct.pack("<3f", 1, -2, 0.5))),
    ("float64", 11, block(10, struct.pack("<3d", 1, -2, 0.5))),
    ("float16", 10, block(5, encoded(0x3C00) + encoded(0xC000) + encoded(0x3800))),
    ("bfloat16", 16, block(5, encoded(0x3F80) + encoded(0xC000) + encoded(0x3F00))),
]


@pytest.mark.parametrize(("dtype", "kind", "content"), TYPED, ids=[dtype for dtype, *_ in TYPED])
def test_numbers_in_typed_fields(dtype: str, kind: int, content: bytes, tmp_path: Path) -> None:
    """And packed dimensions."""
    made = kept((3, 1, 1, 1), block(1, encoded(3) + encoded(1) * 3), number(2, 1), block(4, struct.pack("<3f", 1, -2, 0.5)))
    assert read(saved(tmp_path, made)).tensors["w.weight"].read().ravel().tolist() == [1, -2, 0.5]
    name, tensor = _tensor(tmp_path, memoryview(number(1, 3) + number(2, kind) + content + block(8, "w")))
    assert (name, tensor.shape, tensor.dtype, tensor.read().dtype.name) == ("w", (3,), dtype, dtype)
    assert tensor.read().tolist() == [1, -2, 0.5]


# Hostile and damaged files.

HOSTILE = [
    (model(ONE)[:-1], "is truncated: a field of"),
    (number(1, 8) + head(7, 1 << 60), "is truncated: a field of 1152921504606846976 bytes goes on past the end"),
    (model(ONE) * 2, "is damaged: it holds 2 graphs"),
    (model(ONE, ONE), "is damaged: it holds `w` twice"),
    (model(number(5, 1)), "is damaged: a field has the wrong type"),
    (model(ONE) + number(14, 1), "is damaged: a field has the wrong type"),
    (model(block(15, b"")), "holds sparse tensors, which xconvert does not read"),
    (model(initializer("w", number(2, 8))), "holds `w` as ONNX type 8, which xconvert does not read"),
    (model(initializer("w", number(2, 1), number(14, 1))), "keeps the numbers of `w` in another file"),
    (model(initializer("w", number(2, 1), block(13, b""))), "keeps the numbers of `w` in another file"),
    (model(initializer("w", number(2, 1), number(3, 0))), "is damaged: `` is in pieces"),
    (model(initializer("w", number(2, 1), block(9, b"1234"), block(9, b""))), "is damaged: `` is in pieces"),
    (model(initializer("w", number(2, 1), *[number(1, 1)] * 33, block(9, b"1234"))), "is damaged: `` is in pieces"),
    (model(initializer("w", number(1, -1), number(2, 1))), "is damaged: the shape of `w` is impossible"),
    (model(initializer("w", number(1, 1 << 62), number(2, 1))), "is damaged: the shape of `w` is impossible"),
    (model(initializer("w", number(1, 1 << 40), number(2, 1))), "is damaged: `w` does not have the size of its shape"),
    (model(initializer("w", number(1, 1 << 40), number(2, 10), block(5, b"\1"))), "`w` does not have the size of its shape"),
    (model(initializer("w", number(1, 1), number(2, 1), block(10, bytes(8)))), "is damaged: `w` cannot be `float32`"),
    (model(initializer("", number(2, 1), block(9, b"1234"))), "holds a tensor called ``"),
    (model(initializer("\x1b[2J", number(2, 1), block(9, b"1234"))), r"holds a tensor called `\x1b[2J`"),
    (model(block(5, block(8, b"\xff"))), "is damaged: a name is no text"),
]


@pytest.mark.parametrize(("content", "message"), HOSTILE, ids=range(len(HOSTILE)))
def test_a_hostile_file_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UnreadableError) as caught:
        read(saved(tmp_path, content))
    assert message in caught.value.message


def test_numbers_too_large_for_their_dtype_are_refused_when_read(tmp_path: Path) -> None:
    _, tensor = _tensor(
        tmp_path / "x.onnx", memoryview(number(1, 1) + number(2, 10) + block(5, encoded(1 << 16)) + block(8, "w"))
    )
    with pytest.raises(UnreadableError, match="`w` holds numbers that no `float16` is"):
        tensor.read()


@pytest.mark.slow
@given(at=st.integers(0), bits=st.integers(1, 255), cut=st.booleans())
def test_no_damage_crashes(tmp_path_factory: pytest.TempPathFactory, at: int, bits: int, cut: bool) -> None:
    folder = tmp_path_factory.mktemp("x")
    write(folder / "x.onnx", tiny(xconvert="{}"))
    content = bytearray((folder / "x.onnx").read_bytes())
    content[at % len(content)] ^= bits
    try:
        found = read(saved(folder, bytes(content[: at % len(content)] if cut else content)))
        for tensor in found.tensors.values():
            assert (tensor.read().shape, tensor.read().dtype) == (tensor.shape, tensor.dtype)
    except XconvertError:
        pass


OTHERS = [
    b"\x08",
    b"\x08\x01\x12\x02ab",  # a SavedModel
    b"\x0a\x0bconv1.weight\x12\x02\x08\x01",  # MindSpore
    b"\x08" + b"\xff" * 80,
    b"\x08\x08" + b"\x10\x01" * 200,
    b"PK\x03\x04",
    b"\x00" * 64,
]


@pytest.mark.parametrize("content", OTHERS, ids=range(len(OTHERS)))
def test_other_files_are_not_claimed(content: bytes, tmp_path: Path) -> None:
    assert not formats()["onnx"].matches(mapped(saved(tmp_path, content)))


def test_a_truncated_model_is_still_known_as_one(tmp_path: Path) -> None:
    assert formats()["onnx"].matches(mapped(saved(tmp_path, model(ONE)[:20])))


def mapped(path: Path) -> Any:
    import mmap

    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


SHAPES = st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(1, 3)).map(lambda s: (*s, s[-1]))


@pytest.mark.slow
@given(array=hnp.arrays(np.float32, SHAPES, elements=st.floats(width=32)))
def test_any_float_keeps_its_bits(tmp_path_factory: pytest.TempPathFactory, array: Array) -> None:
    parts = [*(number(1, size) for size in array.shape), number(2, 1), block(9, array.tobytes())]
    found = read(saved(tmp_path_factory.mktemp("x"), kept(array.shape, *parts))).tensors["w.weight"].read()
    assert found.shape == array.shape
    assert found.tobytes() == array.tobytes()


def operators(content: bytes) -> Iterator[str]:
    found = dict(fields(memoryview(content)))[7]
    assert isinstance(found, memoryview)
    for field, value in fields(found):
        if field == 1 and isinstance(value, memoryview):
            yield bytes(dict(fields(value))[4]).decode()


def test_casts_stand_only_where_dtypes_are_mixed(tmp_path: Path) -> None:
    layers, weights = graph("xception.headless")
    write(tmp_path / "a.onnx", graph_checkpoint(layers, weights))
    assert "Cast" not in set(operators((tmp_path / "a.onnx").read_bytes()))
    half = {name: array.astype(np.float16) for name, array in weights.items()}
    write(tmp_path / "b.onnx", graph_checkpoint(layers, half))
    assert list(operators((tmp_path / "b.onnx").read_bytes())).count("Cast") == len(weights)
