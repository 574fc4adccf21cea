"""TensorFlow's indices whose table makes no sense: blocks, keys, checksums."""

from __future__ import annotations

from tests.attacks.registry import Contents, attack
from tests.tables import DATA, HEADER, ONE, entry, footer, raw, row, rows, tabled
from xconvert.formats._protobuf import encoded
from xconvert.formats._sstable import MAGIC


def bundle(index: bytes, data: bytes = DATA) -> dict[str, bytes]:
    """The files of a prefix with one shard."""
    return {".index": index, ".data-00000-of-00001": data}


def _enter(name: str, tries: str, message: str, index: bytes) -> None:
    @attack("tensorflow", "", tries, f"`{{path}}.index` is damaged: {message}", name=f"table-{name}")
    def _() -> Contents:
        return bundle(index)


def _block(name: str, tries: str, message: str, block: bytes) -> None:
    _enter(name, tries, message, tabled(block))


_REPEATED = b"".join(row(i.to_bytes(2, "big"), b"", shared=4000) for i in range(2000))  # 8 MB of names
_AT_0 = "the block of its table at byte 0"
_block(
    "wrong-checksum",
    "a block that differs from its checksum",
    f"{_AT_0} does not have its checksum",
    ONE[:-1] + bytes([ONE[-1] ^ 1]),
)
_block(
    "unknown-compression",
    "a compression that nobody knows",
    f"{_AT_0} is compressed in the way 7, which is unknown",
    raw(rows((b"", HEADER)), 7),
)
_block(
    *("keys-not-in-order", "names in another order", "the keys of its table are not in order"),
    raw(rows((b"", HEADER), (b"b", entry()), (b"a", entry()))),
)
_block(
    *("one-key-twice", "one name twice", "the keys of its table are not in order"),
    raw(rows((b"", HEADER), (b"a", entry()), (b"a", entry()))),
)
_block(
    "endless-restarts",
    "a block of 4 billion entries",
    "a block of its table is shorter than it says",
    raw(b"\0\0\0\0\xff\xff\xff\xff"),
)
_block(
    "entry-past-the-end",
    "a name behind the block",
    "an entry of its table goes on past the end",
    raw(b"\0\x7f\0a" + bytes(4) + b"\x01\0\0\0"),
)
_block("endless-number", "a number of 40 bytes", "a number goes on past its end", raw(b"\xff" * 40 + bytes(4) + b"\x01\0\0\0"))
_block(
    *(
        "keys-that-repeat",
        "names of 8 MB in 12 kB, each the one before and a byte",
        "the keys of its table repeat each other too often",
    ),
    raw(rows((b"", HEADER), (b"k" * 4000, b""), then=_REPEATED)),
)
_block(
    "snappy-size",
    "a compressed block of a terabyte",
    "a compressed block says that it is larger than it can be",
    raw(encoded(2**40) + b"\0a", 1),
)
_block(
    "snappy-copy",
    "a copy of what is not there yet",
    "a compressed block refers to what is not in it",
    raw(encoded(9) + b"\x01\x05", 1),
)
_block(
    *("snappy-short", "a compressed block of fewer bytes than it says", "a compressed block does not have the size that it says"),
    raw(encoded(9) + b"\0a", 1),
)
_enter(
    *("blocks-overlap", "one block that is two", "the blocks of its table overlap"),
    tabled(ONE, handles=((b"a", 0, len(ONE) - 5), (b"b", 0, len(ONE) - 5))),
)
_enter(
    *("block-past-the-end", "a block of a terabyte", f"{_AT_0} goes on to byte {2**40 + 5} of {len(ONE)}"),
    tabled(ONE, handles=((b"a", 0, 2**40),)),
)
_enter(
    *(
        "block-before-the-start",
        "a block at byte 2^63",
        f"the block of its table at byte {2**63} goes on to byte {2**63 + 10} of {len(ONE)}",
    ),
    tabled(ONE, handles=((b"a", 2**63, 5),)),
)
_enter("index-of-itself", "an index that is its own block", f"{_AT_0} goes on to byte 53 of 48", bytes(48) + footer(0, 48))
_enter("nothing-but-an-end", "an end without a table", "its end is no table's", MAGIC)


@attack("tensorflow", "", "an index whose end is missing", "`{path}` is not a checkpoint that xconvert can read")
def table_cut_off() -> Contents:
    return bundle(tabled(ONE)[:-9])
