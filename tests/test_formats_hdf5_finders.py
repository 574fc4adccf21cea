"""What code of our own finds in an HDF5 file is what the HDF5 library finds; the library is not loaded for what Keras writes."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.attacks.hdf5 import dense, image, legacy
from tests.pickles import zipped
from xconvert.errors import UnreadableError
from xconvert.formats import read
from xconvert.formats._hdf5 import open_hdf5
from xconvert.formats._hdf5_library import Library
from xconvert.formats._hdf5_objects import Node
from xconvert.formats._limits import USUAL, Limits

ROOT = Path(__file__).parents[1]
PATH = Path("x.h5")
NAMES = st.text(st.characters(min_codepoint=33, max_codepoint=0x17F, exclude_characters="/."), min_size=1, max_size=12).filter(
    str.isprintable
)
DTYPES = [
    "<f4",
    ">f4",
    "<f8",
    ">f8",
    "<f2",
    ">f2",
    "?",
    "i1",
    "u1",
    "<i2",
    ">u2",
    "<i4",
    ">u4",
    "<i8",
    ">u8",
    "V2",
    "V3",
    "c8",
    "S3",
]
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
VERSIONS = ["earliest", "v108", ("earliest", "v110"), "latest"]


def walked(content: bytes, own: bool) -> Any:
    """All that is in a file, or the error that it is refused with."""
    found: list[Any] = []

    def walk(file: Any, group: Any) -> None:
        found.append((group.path, file.members(group), file.attributes(group), file.texts(group)))
        found.extend(answer(lambda name=name: file.strings(group, name)) for name in ("names", "numbers", "empty"))
        groups, datasets = file.children(group)
        for name in datasets:
            found.append((name, answer(lambda name=name: numbers(file.tensor(group, name)))))
        for child in groups.values():
            walk(file, child)

    with open_hdf5(PATH, memoryview(content), USUAL.budget(PATH, len(content)), own) as file:
        try:
            walk(file, file.root)
        except UnreadableError as error:
            found.append(error.message)
    return found


def numbers(tensor: Any) -> Any:
    return tensor.shape, str(tensor.dtype), tensor.read().tobytes()


def answer(ask: Callable[[], Any]) -> Any:
    try:
        return ask()
    except UnreadableError as error:
        return error.message


@st.composite
def datasets(draw: st.DrawFn) -> tuple[np.ndarray, dict[str, Any]]:
    shape, dtype = draw(SHAPES), np.dtype(draw(st.sampled_from(DTYPES)))
    content = np.arange(int(np.prod(shape)) * dtype.itemsize).astype(np.uint8)
    array = content.view(dtype).reshape(shape) if dtype.kind != "b" else content.reshape(shape) % 3 == 0
    if not shape or 0 in shape or not draw(st.booleans()):
        return array, {}
    filters = {"shuffle": draw(st.booleans()), "fletcher32": draw(st.booleans())}
    filters["compression"] = draw(st.sampled_from([None, "gzip", "lzf"]))
    return array, {"chunks": tuple(draw(st.integers(1, size)) for size in shape), **filters}


ATTRIBUTES = st.one_of(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30),
    st.lists(st.text("abcé ", max_size=5), min_size=1, max_size=4),
    st.binary(min_size=1, max_size=6).map(np.bytes_),
    st.lists(st.binary(min_size=1, max_size=4), min_size=1, max_size=4).map(np.array),
    st.sampled_from(
        [3, 2.5, np.zeros((2, 2)), np.zeros(0), h5py.Empty("S3"), h5py.Empty("f4"), np.array(["a"], "S1").reshape(1, 1)]
    ),
)


@st.composite
def trees(draw: st.DrawFn, depth: int = 2) -> dict[str, Any]:
    leaf = datasets() if depth == 0 else st.one_of(datasets(), trees(depth - 1))
    members = draw(st.dictionaries(NAMES, leaf, max_size=12 if depth == 2 else 3))
    attributes = draw(st.dictionaries(st.one_of(NAMES, st.sampled_from(["names", "numbers0", "empty"])), ATTRIBUTES, max_size=3))
    return {"members": members, "attributes": attributes, "order": draw(st.booleans())}


def filled(group: Any, tree: dict[str, Any]) -> None:
    for name, value in tree["attributes"].items():
        group.attrs[name] = value
    for name, value in tree["members"].items():
        if isinstance(value, dict):
            filled(group.create_group(name, track_order=value["order"]), value)
        else:
            group.create_dataset(name, data=value[0], **value[1])


@pytest.mark.slow
@given(trees(), st.sampled_from(VERSIONS), st.sampled_from([0, 512, 2048]))
@settings(max_examples=80, deadline=None)
def test_both_find_the_same(tree: dict[str, Any], version: Any, userblock: int) -> None:
    file = io.BytesIO()
    with h5py.File(file, "w", libver=version, userblock_size=userblock, track_order=tree["order"]) as root:
        filled(root, tree)
    assert walked(file.getvalue(), True) == walked(file.getvalue(), False)


FIXTURES = [ROOT / "fixtures" / name for name in ("keras.h5", "keras.weights.h5")]


@pytest.mark.slow
@pytest.mark.parametrize("path", FIXTURES, ids=lambda path: path.name)
def test_fixtures_are_found_as_the_library_finds_them(path: Path) -> None:
    assert walked(path.read_bytes(), True) == walked(path.read_bytes(), False)
    with h5py.File(path) as root:
        there: list[bytes] = []
        root.visititems(lambda _, item: there.append(item[()].tobytes()) if isinstance(item, h5py.Dataset) else None)
    assert sorted(tensor.read().tobytes() for tensor in read(path).tensors.values()) == sorted(there)


def test_the_library_is_not_loaded_for_what_keras_writes(tmp_path: Path) -> None:
    """Every layout; by hand, because the fixtures of Keras' archives are made when they are needed."""
    paths = [*FIXTURES, tmp_path / "a.keras", tmp_path / "packed.h5", tmp_path / "none"]
    archive = [("metadata.json", b"{}"), ("config.json", b"{}"), ("model.weights.h5", FIXTURES[1].read_bytes())]
    paths[2].write_bytes(zipped(archive))
    packed = image(lambda root: root.create_dataset("layers/dense/vars/0", data=np.ones(9), compression="gzip"), "earliest")
    paths[3].write_bytes(packed)
    paths[4].write_bytes(b"no checkpoint at all")
    code = f"""
import sys
from pathlib import Path
from xconvert.errors import UnreadableError
from xconvert.formats import read
counts = []
for path in {[str(path) for path in paths]!r}:
    try:
        counts.append(len([tensor.read() for tensor in read(Path(path)).tensors.values()]))
    except UnreadableError:
        counts.append(0)
print("h5py" in sys.modules, counts)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    counts = [len(read(path).tensors) for path in paths[:4]]
    assert done.stdout == f"False {[*counts, 0]}\n"
    assert all(counts)


class Counting(Library):
    """A library that tells how often it was opened."""

    opened = 0

    def __init__(self, *arguments: Any) -> None:
        Counting.opened += 1
        super().__init__(*arguments)


@pytest.fixture
def counting(monkeypatch: pytest.MonkeyPatch) -> type[Counting]:
    monkeypatch.setattr("xconvert.formats._hdf5.Library", Counting)
    Counting.opened = 0
    return Counting


def saved(fill: Callable[[Any], Any], **options: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        with h5py.File(Path(folder, "x"), "w", **options) as root:
            fill(root)
        return Path(folder, "x").read_bytes()


def many_links(root: Any) -> None:
    for name in "abcdefghijklmnop":
        root[f"layers/{name}/vars/0"] = np.arange(3.0)


def many_attributes(root: Any) -> None:
    root["a"] = 1.0
    for name in "abcdefghijklmnop":
        root.attrs[name], root["a"].attrs[name] = np.bytes_(name), 1


def committed_types(root: Any) -> None:
    root["type"], root["text"] = np.dtype("<f4"), h5py.string_dtype()
    root.create_dataset("a", data=np.arange(3), dtype=root["type"])
    root.attrs.create("names", ["a", "bc"], dtype=root["text"])


@pytest.mark.parametrize(
    ("fill", "options"),
    [
        (many_links, {"libver": "latest"}),
        (many_attributes, {"libver": "latest"}),
        (committed_types, {}),
        (dense, {"fs_strategy": "page"}),  # told in an extension of the superblock
    ],
)
def test_what_keras_does_not_write_is_left_to_the_library(
    fill: Callable[[Any], Any], options: dict[str, Any], counting: type[Counting]
) -> None:
    content = saved(fill, **options)
    found = walked(content, True)
    assert counting.opened == 1
    assert found == walked(content, False)
    assert len(found) > 3


@pytest.mark.parametrize("kind", [np.dtype([("a", "u1"), ("b", "u1")]), np.dtype(("u1", (2,)))], ids=["compound", "array"])
def test_two_bytes_that_mean_something_are_no_bfloat16(kind: np.dtype[Any], counting: type[Counting]) -> None:
    def fill(root: Any) -> None:
        root["type"] = kind
        h5py.h5d.create(root.id, b"x", root["type"].id, h5py.h5s.create_simple((4,)))

    content = saved(fill)
    for own in (True, False):
        refused = pytest.raises(UnreadableError, match="does not hold plain numbers")
        with open_hdf5(PATH, memoryview(content), USUAL.budget(PATH, len(content)), own) as file, refused:
            file.tensor(file.root, "x")
    assert counting.opened == 2


def test_short_addresses_are_left_to_the_library(counting: type[Counting]) -> None:
    properties = h5py.h5p.create(h5py.h5p.FILE_CREATE)
    properties.set_sizes(4, 4)
    access = h5py.h5p.create(h5py.h5p.FILE_ACCESS)
    access.set_fapl_core(backing_store=False)
    with h5py.File(h5py.h5f.create(b"x", h5py.h5f.ACC_TRUNC, properties, access)) as root:
        root["a"] = np.arange(3.0)
        root.flush()
        content = root.id.get_file_image()
    assert walked(content, True) == walked(content, False)
    assert counting.opened == 2


def test_a_link_that_leads_elsewhere_for_the_library_is_not_followed() -> None:
    """What the library opens must be what the names led to before."""
    content = saved(many_attributes)
    library = Library(PATH, memoryview(content), USUAL.budget(PATH, len(content)))
    node = Node(library.link(library.root, b"a")[1], "/a")
    assert library.attributes(node) == [name.encode() for name in "abcdefghijklmnop"]
    with pytest.raises(ValueError, match="a link leads to two places"):
        library.attributes(node._replace(address=node.address + 1))
    library.close()


def old(fill: Callable[[Any], Any] = dense) -> bytearray:
    return bytearray(image(fill, "earliest"))


def refused(content: bytes | bytearray, monkeypatch: pytest.MonkeyPatch) -> str:
    """What is said of damage, which is found without the library."""
    monkeypatch.setattr("xconvert.formats._hdf5.Library", None)
    found = walked(bytes(content), True)
    return str(found[-1]).removeprefix("`x.h5` is truncated or damaged: ")


@pytest.mark.parametrize(
    ("find", "offset", "new", "message"),
    [
        (b"TREE", 0, b"EERT", "the list of a group's members makes no sense"),
        (b"TREE", 4, b"\1", "the list of a group's members makes no sense"),
        (b"TREE", 6, b"\xff\xff", "it refers to byte"),
        (b"TREE", 32, bytes(8), "the members of a group make no sense"),
        (b"TREE", 24, b"\x08", "the names of a group's members make no sense"),  # what is left of all of them
        (b"TREE", 40, b"\0", "the names of a group's members make no sense"),  # and right
        (b"SNOD", 0, b"DONS", "the members of a group make no sense"),
        (b"SNOD", 4, b"\2", "the members of a group make no sense"),
        (b"SNOD", 6, b"\xff\xff", "it refers to byte"),
        (b"SNOD", 8, b"\xff" * 8, "the names of a group's members make no sense"),
        (b"SNOD", 16, b"\xff" * 8, "it refers to what is not there"),
        (b"HEAP", 0, b"PAEH", "the names of a group's members make no sense"),
        (b"HEAP", 8, b"\xff" * 7, "it refers to byte"),
    ],
)
def test_damaged_groups(find: bytes, offset: int, new: bytes, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    content = old(lambda root: root.create_dataset("only", data=np.ones(3)))
    at = content.index(find) + offset
    content[at : at + len(new)] = new
    assert refused(content, monkeypatch).startswith(message)


def test_members_out_of_order_and_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    for names in ("ba", "aa"):
        content = old(lambda root: [root.create_group(name) for name in "ab"])
        at = content.index(b"a\0\0\0\0\0\0\0b\0")
        content[at], content[at + 8] = names.encode()
        assert refused(content, monkeypatch) == "the names of a group's members make no sense"


def test_a_tree_in_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    content = old()
    at = content.index(b"TREE")
    content[at + 5] = 1  # a level above
    content[at + 32 : at + 40] = struct.pack("<Q", at)
    assert refused(content, monkeypatch) == "the list of a group's members makes no sense"


def test_one_header_many_times_takes_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 000 objects whose headers lie in one another, each a message of those before it: reading all would take minutes."""
    count = 40_000
    names = b"".join(b"%06d\0\0" % i for i in range(count))
    heap, tree, node, root = 1024, 2048, 4096, 96
    headers = node + 8 + 40 * count
    content = bytearray(headers + 16 * count + 64) + bytes(8) + names
    content[:96] = image(dense, "earliest")[:96]
    content[root : root + 40] = struct.pack("<BxHLL4xHHB3x2Q", 1, 1, 1, 24, 0x11, 16, 0, tree, heap)
    content[heap : heap + 32] = struct.pack("<4sB3x3Q", b"HEAP", 0, 8 + len(names), 1, len(content) - 8 - len(names))
    content[tree : tree + 48] = struct.pack("<4s2BH5Q", b"TREE", 0, 0, 1, 0, 0, 0, node, 8 * count)
    content[node : node + 8] = struct.pack("<4sBxH", b"SNOD", 1, count)
    for i in range(count):
        content[node + 8 + 40 * i : node + 24 + 40 * i] = struct.pack("<2Q", 8 + 8 * i, headers + 16 * i)
        content[headers + 16 * i : headers + 16 * i + 16] = struct.pack("<BBHLL4x", 1, 0x7F, 8, 0, 16 * (count - i))
    content[40:48] = struct.pack("<Q", len(content))
    content[64:72] = struct.pack("<Q", root)
    assert refused(content, monkeypatch) == "its parts lie in one another"


def test_more_members_than_any_file_has(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as fewer:
        fewer.setattr("xconvert.formats._hdf5_objects._MOST", 3)
        assert refused(old(), fewer) == "it has more than 3 parts"
    content = old(lambda root: [root.create_group(f"{name}") for name in range(2500)])
    budget = Limits(memory=2_000_000).budget(PATH, len(content))
    with open_hdf5(PATH, memoryview(content), budget) as file, pytest.raises(UnreadableError, match="more memory than it may"):
        file.children(file.root)


def test_a_path_of_a_million_names() -> None:
    content = old(lambda root: root.__setitem__("a", root))
    budget = USUAL.budget(PATH, len(content))
    with open_hdf5(PATH, memoryview(content), budget) as file, pytest.raises(UnreadableError, match="is not a name"):
        file.group(file.root, "a/" * 1_000_000 + "a")


def test_names_of_attributes_are_text() -> None:
    content = old(lambda root: root.attrs.__setitem__("naïve", "x")).replace("naïve".encode(), b"na\xc3\xc3ve")
    with open_hdf5(PATH, memoryview(content), USUAL.budget(PATH, len(content))) as file:
        assert file.texts(file.root) == {"na\ufffd\ufffdve": "x"}


def test_an_enumeration_is_the_numbers_it_is_of() -> None:
    def fill(root: Any) -> None:
        root.create_dataset("a", data=[1, 2], dtype=h5py.enum_dtype({"x": 1, "y": 2, "z": 3}, ">i2"))
        root.create_dataset("b", data=[0, 1], dtype=h5py.enum_dtype({"FALSE": 0, "TRUE": 1}, "u1"))
        root.create_dataset("c", data=[0, 1], dtype=h5py.enum_dtype({"NO": 0, "YES": 1}, "i1"))

    for version in VERSIONS:
        content = saved(fill, libver=version)
        assert walked(content, True) == walked(content, False)


def test_the_older_layout_too() -> None:
    content = bytes(old(legacy))
    assert walked(content, True) == walked(content, False)
