"""safetensors, NumPy archives, and every format that is written: what goes in comes out, and contradictions are
refused."""

from __future__ import annotations

import hashlib
import json
import mmap
import sys
import tempfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.headers import entry, numpy_file, packed
from tests.pickles import mapped, zipped
from xconvert.errors import UnreadableError, UsageError
from xconvert.formats import Choice, npz, read, safetensors, torch_zip
from xconvert.model import Array, Checkpoint, Tensor

WRITTEN = {form.name: form for form in (torch_zip.FORMAT, safetensors.FORMAT, npz.FORMAT)}
EXTENDED = ("bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
DTYPES = [np.dtype(code) for code in "?bBhHiIqQefdF"] + [np.dtype(getattr(ml_dtypes, name)) for name in EXTENDED]


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Any bits of any dtype that all formats have, in any shape, contiguous or not."""
    dtype, shape = draw(st.sampled_from(DTYPES)), tuple(draw(st.lists(st.integers(0, 3), max_size=4)))
    size = int(np.prod(shape)) * dtype.itemsize
    bits = np.frombuffer(draw(st.binary(min_size=size, max_size=size)), np.uint8)
    array: Array = (bits & 1 if dtype == np.bool_ else bits).view(dtype).reshape(shape)
    return array.transpose(draw(st.permutations(range(array.ndim))))


names = st.text(st.characters(min_codepoint=33, max_codepoint=1000).filter(str.isprintable), min_size=1, max_size=8)
checkpoints = st.dictionaries(names, arrays(), min_size=1, max_size=6)
metadata = st.dictionaries(names, st.text(st.characters(exclude_categories=["Cs"])), max_size=3)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITTEN)
@given(checkpoints, metadata)
@settings(max_examples=60, deadline=None)
def test_what_is_written_is_read(name: str, tensors: dict[str, Array], notes: dict[str, str]) -> None:
    notes.pop("version", None)
    with tempfile.TemporaryDirectory() as folder:
        path, again = Path(folder, "a"), Path(folder, "b")
        WRITTEN[name].write(path, Checkpoint({k: Tensor.of(v) for k, v in tensors.items()}, notes))  # type: ignore[misc]
        found = read(path)
        WRITTEN[name].write(again, found)  # type: ignore[misc]
        assert again.read_bytes() == path.read_bytes()
        assert (found.format, list(found.tensors)) == (name, list(tensors))
        assert found.metadata == ({"format": "pt"} if name == "safetensors" else {}) | notes
        for key, tensor in found.tensors.items():
            array, expected = tensor.read(), tensors[key]
            assert (array.shape, array.dtype, tensor.shape, tensor.dtype) == (expected.shape, expected.dtype) * 2
            assert array.tobytes() == expected.tobytes()


def sample() -> Checkpoint:
    values = {
        "b.weight": np.arange(6, dtype=np.float32).reshape(2, 3),
        "a.steps": np.asarray(7),
        "c": np.asarray([1, -2], ml_dtypes.bfloat16),
        "d": np.asarray([True]),
    }
    return Checkpoint({name: Tensor.of(array) for name, array in values.items()}, {"xconvert": "{}"})


@pytest.mark.parametrize(
    ("name", "digest"),
    [("torch", "f166402375419826"), ("safetensors", "f7d68f27cddc7389"), ("npz", "6ba62b586f7cf1c5")],
)
def test_bytes_never_change(tmp_path: Path, name: str, digest: str) -> None:
    path = tmp_path / "any name"
    WRITTEN[name].write(path, sample())  # type: ignore[misc]
    assert hashlib.sha256(path.read_bytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize("name", WRITTEN)
def test_reading_is_lazy(tmp_path: Path, name: str) -> None:
    WRITTEN[name].write(tmp_path / "a", sample())  # type: ignore[misc]
    first, second = (read(tmp_path / "a").tensors["b.weight"].read() for _ in range(2))
    assert not first.flags.owndata and not first.flags.writeable
    np.testing.assert_array_equal(first, second, strict=True)


@pytest.mark.parametrize("name", WRITTEN)
def test_dtypes_that_a_format_lacks_are_refused(tmp_path: Path, name: str) -> None:
    for array in (np.asarray(["text"]), np.asarray([object()])):
        with pytest.raises(UsageError, match=rf"`word`.*`{array.dtype.name}`|`{array.dtype.name}`.*`word`"):
            WRITTEN[name].write(tmp_path / "a", Checkpoint({"word": Tensor.of(array)}))  # type: ignore[misc]


def test_missing_ml_dtypes_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from xconvert.formats._arrays import dtype_named

    safetensors.write(tmp_path / "a", sample())
    dtype_named.cache_clear()
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(UsageError, match=r"`bfloat16` tensors need the `ml_dtypes` package"):
        read(tmp_path / "a")


@pytest.mark.parametrize("name", ["safetensors", "npz"])
def test_flat_files_have_no_keys(tmp_path: Path, name: str) -> None:
    WRITTEN[name].write(tmp_path / "a", sample())  # type: ignore[misc]
    with pytest.raises(UnreadableError, match=r"holds no state dict under `model`"):
        read(tmp_path / "a", "model")


# --- safetensors -------------------------------------------------------------------------------------------------------


def unpacked(data: bytes) -> Checkpoint:
    area = mapped(data)
    assert safetensors.FORMAT.matches(area)
    return safetensors.FORMAT.read(Path("x.safetensors"), area, Choice())


def test_safetensors_that_the_official_reader_accepts() -> None:
    data = np.asarray([1.5, 2], "<f4").tobytes()
    found = unpacked(
        packed(b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"more":1},"__metadata__":{"format":"ms"}}   ', data)
    )
    np.testing.assert_array_equal(found.tensors["a"].read(), np.asarray([1.5, 2], np.float32), strict=True)
    assert found.metadata == {"format": "ms"}
    assert unpacked(packed({"a": entry(), "none": entry(8, 8, (0, 3))})).tensors["none"].read().shape == (0, 3)
    assert unpacked(packed({}, b"")).tensors == {}
    assert unpacked(packed({"a": entry(0, 2, (2,), "BOOL")}, b"\x00\x07")).tensors["a"].read().tolist() == [False, True]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"a":' + json.dumps(entry()).encode() + b',"a":' + json.dumps(entry()).encode() + b"}", "its header holds `a` twice"),
        (b'{"a":{"dtype":"F32","dtype":"F32"}}', "its header holds `dtype` twice"),
        ({"a": entry(), "b": entry()}, "its tensors overlap"),
        ({"a": entry(4, 8, (1,))}, "nothing lies at byte 0 of its data"),
        ({"a": entry(0, 4, (1,))}, "4 bytes after its last tensor belong to nothing"),
        ({"a": entry(0, 8, (3,))}, "`a` does not have the size of its shape"),
        ({"a": entry(8, 0, (2,))}, "`a` does not have the size of its shape"),
        ({"a": entry(-8, 0, (2,))}, "`a` does not have the size of its shape"),
        ({"a": entry(0, 12, (3,))}, "is truncated: `a` goes on to byte 12 of 8"),
        ({"a": entry(0, 8, (-2,))}, "the shape of `a` is impossible"),
        ({"a": entry(0, 8, (2.0,))}, "the shape of `a` is impossible"),
        ({"a": entry(0, 8, (2**64, 2**64))}, "the shape of `a` is impossible"),
        ({"a": entry(0, 8, "2")}, "the shape of `a` is impossible"),
        ({"a": entry(0, 8.0)}, "the entry of `a` is incomplete"),
        ({"a": {"dtype": "F32", "shape": [2]}}, "the entry of `a` is incomplete"),
        ({"a": 5}, "the entry of `a` is incomplete"),
        ({"a": entry(dtype="F4")}, "holds `a` as `F4`, which is no dtype that xconvert reads"),
        ({"a": entry(), "__metadata__": {"format": 1}}, "its metadata are not text"),
        ({"a\x1b[31m": entry()}, r"holds a tensor called `a\\x1b\[31m`"),
        ({"": entry()}, "holds a tensor called ``"),
        (b'{"a":' + b"[" * 100_000, "its header is not JSON"),
        (b'{"a":' + b"9" * 5000 + b"}", "its header is not JSON"),
        (b'{"\xff":1}', "its header is not JSON"),
    ],
)
def test_safetensors_that_contradict_themselves(header: Any, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        unpacked(packed(header))


def test_truncated_safetensors() -> None:
    whole = packed({"a": entry()})
    for length in range(10, len(whole)):
        with pytest.raises(UnreadableError, match=r"^`x.safetensors` is truncated: "):
            unpacked(whole[:length])


def test_safetensors_data_are_aligned_and_names_in_order(tmp_path: Path) -> None:
    safetensors.write(tmp_path / "a", sample())
    data = (tmp_path / "a").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    assert list(header) == ["__metadata__", "b.weight", "a.steps", "c", "d"]
    begins = {name: header[name]["data_offsets"][0] for name in sample().tensors}
    assert begins == {"a.steps": 0, "b.weight": 8, "c": 32, "d": 36} and size % 8 == 0


# --- NumPy archives ----------------------------------------------------------------------------------------------------


def npz_of(**members: bytes) -> Checkpoint:
    area = mapped(zipped([(f"{name}.npy", content) for name, content in members.items()]))
    assert npz.FORMAT.matches(area)
    return npz.FORMAT.read(Path("x.npz"), area, Choice())


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_archives_of_numpy(tmp_path: Path, save: Any) -> None:
    values: dict[str, Any] = {
        "a/b.weight": np.arange(6.0).reshape(2, 3),
        "fortran": np.asfortranarray(np.arange(6).reshape(2, 3)),
        "big": np.arange(3, dtype=">i4"),
        "scalar": np.asarray(5.0),
        "empty": np.zeros((0, 2), np.float32),
        "zeros": np.zeros(100_000, np.float32),
        "complex": np.asarray([1j]),
    }
    save(tmp_path / "a.npz", **values)
    found = read(tmp_path / "a.npz")
    assert list(found.tensors) == list(values)
    for name, array in values.items():
        np.testing.assert_array_equal(found.tensors[name].read(), array.astype(array.dtype.newbyteorder("=")), strict=True)


def test_numpy_reads_what_is_written(tmp_path: Path) -> None:
    npz.write(tmp_path / "a.npz", sample())
    loaded = np.load(tmp_path / "a.npz", allow_pickle=False)
    assert loaded.files == list(sample().tensors)
    np.testing.assert_array_equal(loaded["b.weight"], sample().tensors["b.weight"].read(), strict=True)
    np.testing.assert_array_equal(loaded["c"], np.asarray([0x3F80, 0xC000], np.uint16), strict=True)


def test_every_header_version() -> None:
    array = np.arange(3, dtype=np.float32)
    header = b"\x93NUMPY\x01\x00\x46\x00" + b"{'descr': '<f4', 'fortran_order': False, 'shape': (3L,), }".ljust(69) + b"\n"
    found = npz_of(
        one=numpy_file(array, (1, 0)),
        two=numpy_file(array, (2, 0)),
        three=numpy_file(array, (3, 0)),
        old=header + array.tobytes(),
    )
    for tensor in found.tensors.values():
        np.testing.assert_array_equal(tensor.read(), array, strict=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no array", "is damaged: `a.npy` has no NumPy header"),
        (b"\x93NUMPY\x01\x00\xff\xff{", "is damaged: `a.npy` has no NumPy header"),
        (b"\x93NUMPY\x01\x00\x04\x00{}((", "is damaged: `a.npy` has no NumPy header"),
        (b"\x93NUMPY\x09\x00\x02\x00{}", "is damaged: `a.npy` has no NumPy header"),
        (b"\x93NUMPY\x01\x00\x12\x00__import__('os')\n\n", "is damaged: `a.npy` has no NumPy header"),
        (numpy_file(np.arange(3))[:-1], "is damaged: `a.npy` does not have the size of its shape"),
        (numpy_file(np.arange(3)).replace(b"(3,)", b"(9,)"), "is damaged: `a.npy` does not have the size of its shape"),
        (numpy_file(np.arange(3)).replace(b"(3,)", b"(-3,)"), "is damaged: "),
        (numpy_file(np.asarray([None])), r"holds `a.npy` as `\|O`"),
        (numpy_file(np.asarray(["text"])), "holds `a.npy` as `<U4`"),
        (numpy_file(np.zeros(2, "f4,i4")), r"holds `a.npy` as `\[\('f0', '<f4'\)"),
        (numpy_file(np.zeros(2, "V2")), r"holds `a.npy` as `\|V2`, bfloat16 that NumPy saved"),
    ],
)
def test_member_that_is_no_array(content: bytes, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        npz_of(a=content)


def test_comment_that_lies_or_is_not_ours(tmp_path: Path) -> None:
    npz.write(tmp_path / "a.npz", sample())
    data = (tmp_path / "a.npz").read_bytes()
    assert npz.FORMAT.read(Path("x"), mapped(data), Choice()).metadata == {"xconvert": "{}"}
    for old, new, message in [
        (b"bfloat16", b"float8_x", "`c.npy` cannot be `float8_x`"),
        (b'"c":"', b'"d":"', "`d.npy` cannot be"),
    ]:
        with pytest.raises(UnreadableError, match=message):
            npz.FORMAT.read(Path("x"), mapped(data.replace(old, new)), Choice())
    other = npz.FORMAT.read(Path("x"), mapped(data.replace(b'{"metadata"', b'["metadata"')), Choice())
    assert not other.metadata and other.tensors["c"].dtype == np.uint16


def test_metadata_too_long_for_a_comment(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"too long for an archive comment"):
        npz.write(tmp_path / "a.npz", Checkpoint(sample().tensors, {"xconvert": "x" * 70_000}))


def test_formats_match_nothing_else() -> None:
    others = [
        b"\x00" * 64,
        b"PK\x03\x04",
        b"PK\x03\x04" + b"\xff" * 60,
        b"\x89HDF\r\n\x1a\n" + bytes(50),
        b"\x80\x04}q\x00.",
        b"x",
    ]
    archives = [
        zipped([("model.weights.h5", b""), ("config.json", b"")]),
        zipped([("a/b/data.pkl", b"")]),
        zipped([("data.pkl", b"")]),
    ]
    for data in [*others, *archives]:
        area: mmap.mmap = mapped(data)
        assert [form.name for form in WRITTEN.values() if form.matches(area)] == []
