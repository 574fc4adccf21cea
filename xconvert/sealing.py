"""What is known of a file only when it is written: the digest of its tensors, and that of its source, which is hashed then."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from threading import Thread
from typing import Any

from xconvert.formats._arrays import contents
from xconvert.formats._crc32c import extended, masked
from xconvert.model import Checkpoint, Tensor

PENDING = "f" * 64  # in the place of a digest that is not known yet


class Sealed(Mapping[str, str]):
    """The metadata of a checkpoint that is being written: the record in them gets its digests when all tensors were."""

    def __init__(
        self, others: Mapping[str, str], record: Mapping[str, Any], digest: Digest, fingerprint: Callable[[], str]
    ) -> None:
        self._others, self._record, self._digest, self._fingerprint = others, record, digest, fingerprint

    def __getitem__(self, name: str) -> str:
        if name != "xconvert":
            return self._others[name]
        record = dict(self._record)
        if self._digest.complete:
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

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._tensors, self._sums = tensors, dict[str, int]()

    @property
    def complete(self) -> bool:
        """Whether something was taken of all tensors."""
        return len(self._sums) == len(self._tensors)

    def add(self, name: str, piece: memoryview) -> None:
        """Take the next of the bytes of one tensor, in C order, little-endian; of an empty one the empty piece."""
        self._sums[name] = extended(self._sums.get(name, 0), piece)

    def __str__(self) -> str:
        import hashlib

        named = ((name, self._tensors[name]) for name in sorted(self._sums))
        lines = (json.dumps([name, tensor.dtype, tensor.shape, masked(self._sums[name])]) for name, tensor in named)
        return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()


def content(tensors: Mapping[str, Tensor]) -> str:
    """The sha256 over all tensors, sorted by name: for each a JSON list of its name, dtype, shape, and the masked CRC-32C of its
    numbers in C order, little-endian; and a line break. It does not depend on the file format.

    A checksum of 32 bits for each tensor misses one accident in four thousand million, and costs a tenth of a sha256.
    """
    digest = Digest(tensors)
    for name, tensor in tensors.items():
        for piece in contents(name, tensor):
            digest.add(name, piece)
    return str(digest)


def changed_since(checkpoint: Checkpoint, record: Mapping[str, Any]) -> bool:
    """Whether the tensors of ``checkpoint`` are not those that xconvert wrote into it, by the ``content`` of its ``record``;
    False where the record does not say.
    """
    return record.get("content", PENDING) not in (PENDING, content(checkpoint.tensors))
