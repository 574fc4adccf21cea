"""What is known of a file only when it is written: the digest of its tensors, and that of its source, which is hashed then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from threading import Thread
from typing import Any

from xconvert.formats._arrays import contents, pieces
from xconvert.formats._crc32c import checksum
from xconvert.model import Checkpoint, Tensor

PENDING = "f" * 64  # in the place of a digest that is not known yet


class Sealed(Mapping[str, str]):
    """The metadata of a checkpoint that is being written: the record in them gets its digests when all tensors were."""

    def __init__(
        self, others: Mapping[str, str], record: Mapping[str, Any], digest: Digest, count: int, fingerprint: Callable[[], str]
    ) -> None:
        self._others, self._record, self._digest, self._count, self._fingerprint = others, record, digest, count, fingerprint

    def __getitem__(self, name: str) -> str:
        if name != "xconvert":
            return self._others[name]
        record = dict(self._record)
        if len(self._digest.lines) == self._count:
            record["content"] = str(self._digest)
            if "source" in record:
                record["source"] = {**record["source"], "sha256": self._fingerprint()}
        return json.dumps(record)

    def __iter__(self) -> Iterator[str]:
        return iter(self._others)

    def __len__(self) -> int:
        return len(self._others)


def meanwhile(function: Callable[[], str]) -> Callable[[], str]:
    """Start ``function`` in a thread; who calls what is returned waits for what it returns, or gets what it raises."""
    found: list[str] = []
    failed: list[BaseException] = []

    def run() -> None:
        try:
            found.append(function())
        except BaseException as error:  # raised again where it is waited for
            failed.append(error)

    thread = Thread(target=run, daemon=True)  # an interrupted program does not wait for it
    thread.start()

    def wait() -> str:
        thread.join()
        if failed:
            raise failed[0]
        return found[0]

    return wait


class Digest:
    """The digest of tensors, which may come in any order: the sha256 of a line for each, sorted."""

    def __init__(self) -> None:
        self.lines: dict[str, bytes] = {}

    def add(self, name: str, tensor: Tensor, data: memoryview) -> None:
        """Take the bytes of one tensor, in C order, little-endian."""
        self.lines[name] = json.dumps([name, tensor.dtype.name, tensor.shape, checksum(pieces(data))]).encode() + b"\n"

    def __str__(self) -> str:
        import hashlib

        return hashlib.sha256(b"".join(self.lines[name] for name in sorted(self.lines))).hexdigest()


def content(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 over all tensors, sorted by name: for each a JSON list of its name, dtype, shape, and the masked CRC-32C of its
    numbers in C order, little-endian; and a line break. It does not depend on the file format.

    A checksum of 32 bits for each tensor misses one accident in four thousand million, and costs a tenth of a sha256.
    """
    digest = Digest()
    for name, tensor in tensors.items():
        digest.add(name, tensor, contents(name, tensor))
    return str(digest)


def changed_since(checkpoint: Checkpoint, record: Mapping[str, Any]) -> bool:
    """Whether the tensors of ``checkpoint`` are not those that xconvert wrote into it, by the ``content`` of its ``record``;
    False where the record does not say.
    """
    return record.get("content", PENDING) not in (PENDING, content(checkpoint.tensors))
