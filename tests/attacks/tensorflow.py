"""TensorFlow's checkpoints whose tensors, shards, slices and objects are not what they say."""

from __future__ import annotations

from tests.attacks.registry import Contents, attack
from tests.attacks.tensorflow_tables import bundle
from tests.tables import DATA, FULL, HALF, HALVES, HEADER, V1, WHOLE, children, entry, graph, listed, saved, sliced, variable
from xconvert.formats._crc32c import checksum
from xconvert.formats._protobuf import block, encoded, fixed32, number
from xconvert.formats._slices import key
from xconvert.formats._sstable import GRAPH, table


def indexed(items: dict[bytes, bytes], header: bytes = HEADER, data: bytes = DATA) -> dict[str, bytes]:
    return bundle(table(sorted({b"": header, **items}.items())), data)


def _enter(name: str, tries: str, message: str, items: dict[bytes, bytes], header: bytes = HEADER, data: bytes = DATA) -> None:
    @attack("tensorflow", "", tries, message, name=name)
    def _() -> Contents:
        return indexed(items, header, data)


_DAMAGED = "`{path}.index` is damaged: "
_SHAPE = f"{_DAMAGED}the shape of `a` is impossible"
_enter(
    "wrong-checksum",
    "numbers that differ from their checksum",
    f"{_DAMAGED}`a` does not have its checksum",
    {b"a": entry(data=bytes(24))},
)
_enter("size-lie", "6 numbers as 4", f"{_DAMAGED}`a` does not have the size of its shape", {b"a": entry(dims=(2, 2))})
_enter("shape-overflow", "2^124 numbers", _SHAPE, {b"a": entry(dims=(2**62, 2**62))})
_enter("negative-dimension", "a dimension of -1", _SHAPE, {b"a": entry(dims=(-1, 3))})
_enter(
    *(
        "tensors-overlap",
        "two tensors of the same bytes",
        f"{_DAMAGED}two of its tensors overlap in `tensors-overlap.data-00000-of-00001`",
    ),
    {b"a": entry(), b"b": entry(12, 12, (3,))},
)
_enter(
    "shard-outside",
    "a tensor in the second of one shard",
    f"{_DAMAGED}a tensor of it lies in shard 2 of 1",
    {b"a": entry(shard=1)},
)
_enter(
    *("shard-missing", "a second shard that is not there", "`{path}.data-00001-of-00002` does not exist"),
    *({b"a": entry(shard=1)}, number(1, 2) + block(3, number(1, 1))),
)
_enter(
    *(
        "tensor-past-the-end",
        "4 TB in 24 bytes",
        "`{path}.data-00000-of-00001` is truncated: its tensors go on to byte 4398046511104 of 24",
    ),
    {b"a": entry(2**42, 0, (2**20, 2**20))},
)
_enter(
    "two-billion-shards",
    "shard 2 000 000 000",
    "`{path}.data-2000000000-of-2000000001` does not exist",
    {b"a": entry(shard=2 * 10**9)},
    number(1, 2 * 10**9 + 1),
)
_enter(
    "version-99",
    "a version that does not exist",
    f"{_DAMAGED}its index is of a version that is not known",
    {b"a": entry()},
    number(1, 1) + block(3, number(2, 99)),
)
_enter("header-missing", "an index without a header", f"{_DAMAGED}its index has no header", {b"a": entry()}, b"")
_enter("name-not-utf-8", "a name that is not UTF-8", f"{_DAMAGED}a name in it is not UTF-8", {b"\xff": entry()})
_enter(
    "name-with-escape-code",
    "a terminal's escape code in a name",
    r"`{path}.index` holds a tensor called `a\x1b[2J`",
    {b"a\x1b[2J": entry()},
)
_enter(
    "field-past-the-end",
    "a message longer than the entry",
    f"{_DAMAGED}a field of 9 bytes goes on past the end",
    {b"a": b"\x0a\x09"},
)
_enter(
    "varint-of-11-bytes",
    "a number of 11 bytes",
    f"{_DAMAGED}a number goes on past its end",
    {b"a": b"\x08" + b"\xff" * 10 + b"\x01"},
)
_enter(
    "unknown-dtype",
    "quantised numbers, `quint8`",
    "`{path}.index` holds `a` as TensorFlow's dtype 12, which xconvert does not read",
    {b"a": entry(dtype=12)},
)
_enter(
    "text-length-lie",
    "a text of another length",
    f"{_DAMAGED}`xconvert` does not have the length that it says",
    {b"xconvert": entry(24, 0, (), dtype=7)},
)
_enter(
    "slices-leave-a-hole",
    "half of a tensor",
    f"{_DAMAGED}the parts of `a` do not make a whole",
    {b"a": sliced(HALVES[0]), **HALF},
)
_enter(
    "slices-overlap",
    "a tensor of two equal halves",
    f"{_DAMAGED}the parts of `a` overlap",
    {b"a": sliced(HALVES[0], HALVES[0]), **HALF},
)
_enter(
    "slice-missing",
    "a half that is not there",
    f"{_DAMAGED}a part of `a` is missing or of another shape",
    {b"a": sliced(*HALVES), key("a", HALVES[0]): entry(12, 0, (1, 3))},
)
_enter(
    "slice-outside", "a part that lies outside", f"{_DAMAGED}a part of `a` lies outside of it", {b"a": sliced(((0, 3), (0, 3)))}
)
_enter(
    "slice-before-the-start",
    "a part that starts at -2^63",
    f"{_DAMAGED}a part of `a` lies outside of it",
    {b"a": sliced(((2**63, 1), (0, 3)))},
)
_enter(
    "slices-of-nothing",
    "4 TB whose parts are not there",
    f"{_DAMAGED}a part of `a` is missing or of another shape",
    {b"a": sliced(FULL, dims=(2**20, 2**20))},
)


@attack("tensorflow", "", "the file `checkpoint` that leads out of its folder", "`{path}` is a folder without a checkpoint")
def checkpoint_elsewhere() -> Contents:
    return {"/checkpoint": b'model_checkpoint_path: "../tensors-overlap"\nall_model_checkpoint_paths: "/etc/passwd"\n'}


# --- objects


def objects(text: bytes, *names: str) -> dict[str, bytes]:
    """A checkpoint with the object graph ``text`` and a number under each name."""
    one = b"\0\0\x80?"
    coded = len(text).to_bytes(4, "little")
    pieces = encoded(len(text)), checksum([coded]).to_bytes(4, "little"), text
    size = sum(map(len, pieces))
    told = number(1, 7) + block(2, b"") + number(5, size) + fixed32(6, checksum([coded, *pieces[1:]]))
    data, items = b"".join(pieces), {GRAPH.encode(): told}
    for name in names:
        shape = block(2, block(2, number(1, 1)))
        items[name.encode()] = number(1, 1) + shape + number(4, len(data)) + number(5, 4) + fixed32(6, checksum([one]))
        data += one
    return indexed(items, data=data)


def _graph(name: str, tries: str, message: str, text: bytes, *names: str) -> None:
    @attack("tensorflow-objects", "", tries, _DAMAGED + message, name=name)
    def _() -> Contents:
        return objects(text, *(names or ("k",)))


_graph(
    "variable-missing",
    "a variable without numbers",
    "its object graph names `missing`, which is missing or holds no numbers",
    graph(variable("a", "missing")),
)
_graph("no-graph", "a number in the place of the graph", "its object graph is none", number(1, 3))
_graph(
    "field-past-the-end", "an object longer than the graph", "a field of 65535 bytes goes on past the end", b"\x0a\xff\xff\x03"
)
_graph(
    "name-not-utf-8",
    "a name that is not UTF-8",
    "a name in it is not UTF-8",
    graph(block(2, block(1, "VARIABLE_VALUE") + block(2, b"\xff"))),
)
_graph(
    *("tangled", "300 objects that each lead through 600 others", "its object graph is too tangled"),
    graph(
        children(**{f"c{i}": 1 for i in range(900)}),
        *[children(n=i + 2) for i in range(600)],
        variable("a", "1"),
        variable("a", "2"),
    ),
    *("1", "2"),
)


@attack("tensorflow-objects", "", "numbers in the place of the graph's text", f"{_DAMAGED}its object graph is no text")
def graph_of_numbers() -> Contents:
    return indexed({GRAPH.encode(): entry()})


# --- version 1


def _first(name: str, tries: str, message: str, items: dict[bytes, bytes]) -> None:
    @attack("tensorflow-v1", ".ckpt", tries, f"`{{path}}` is damaged: {message}", name=name)
    def _() -> Contents:
        return table(sorted((V1 | items).items()))


def _lists(*tensors: bytes) -> dict[bytes, bytes]:
    return {b"": block(1, b"".join(tensors))}


_SIZE = "`a` does not have the size of its shape"
_first("size-lie", "5 numbers as 6", _SIZE, {key("a", FULL): saved(block(5, DATA[:20]))})
_first("shape-larger-than-file", "4 TB in 24 bytes", _SIZE, _lists(listed("a", 3, WHOLE, dims=(2**20, 2**20))))
_first("one-part-twice", "one part, used twice", "a part of `a` is missing", _lists(listed("a", 1, WHOLE, WHOLE)))
_first("no-parts", "a tensor without parts", "the parts of `a` do not make a whole", _lists(listed("a", 1)))
_first("one-name-twice", "one name twice", "it lists `a` twice", _lists(listed("a", 1, WHOLE), listed("a", 1, WHOLE)))
_first(
    "numbers-of-another-kind",
    "a number in the place of floats",
    "its numbers are of another kind than it says",
    {key("a", FULL): saved(number(5, 1))},
)
_first(
    *("varint-of-12-bytes", "an integer of 12 bytes", "a number goes on past its end"),
    _lists(listed("a", 3, WHOLE)) | {key("a", FULL): saved(block(7, b"\xff" * 12))},
)
