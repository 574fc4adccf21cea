"""A file may claim anything: it gets the memory that is allowed, and checksums are compared where they are asked for."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from tests.narrow import checkpoint, narrow
from tests.pickles import archive, call, named, opcodes, tensor, zipped
from xconvert import convert, isolation, load
from xconvert.errors import NetworkError, UnreadableError, UsageError
from xconvert.formats import format_for_writing, read
from xconvert.formats._limits import FREE, TIMES, Limits, parse_memory, told
from xconvert.formats._protobuf import block, number
from xconvert.model import Tensor

MEASURE = """
import resource, sys
from pathlib import Path
from xconvert import formats
from xconvert.errors import XconvertError
formats.formats()
import h5py, ml_dtypes
path, allowed = Path(sys.argv[1]), int(sys.argv[2])
lines = Path("/proc/self/status").read_text().splitlines()
used = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData"))
resource.setrlimit(resource.RLIMIT_DATA, (used + allowed, used + allowed))
try:
    held = [tensor.read() for tensor in formats.read(path).tensors.values()]
    print("read", len(held))
except XconvertError as error:
    print(error.message)
"""


def endless(objects: bytes) -> bytes:
    """A pickle that makes ``objects`` over and over, three million bytes of them."""
    start = b"\x80\x02" + opcodes(named("x.Y")) + b"q\x00"
    return zipped([("x/data.pkl", start + objects * (3_000_000 // len(objects)) + b".")])


def header(text: bytes) -> bytes:
    return len(text).to_bytes(8, "little") + text


def one_text_as_many(path: Path) -> bytes:
    """HDF5 whose list of layers is one text of 8 MB, 4000 times: a name is a length, the place of its text, and a number."""
    with h5py.File(path, "w") as root:
        root.attrs.create("layer_names", np.array(["x" * 8_000_000, *[""] * 3999], h5py.string_dtype()))
    content = path.read_bytes()
    at = content.index((8_000_000).to_bytes(4, "little"))
    assert content[at + 16 : at + 20] == bytes(4)
    return content[:at] + content[at : at + 16] * 4000 + content[at + 64_000 :]


# Each claims as much as its kind of file can; most would take gigabytes if nobody counted.
CLAIMS: dict[str, tuple[str, Callable[[Path], bytes]]] = {
    "lists": (".pth", lambda _: endless(b"]")),
    "memo": (".pth", lambda _: endless(b"]\x94")),
    "calls": (".pth", lambda _: endless(b"h\x00)R")),
    "one storage as many tensors": (
        ".pth",
        lambda _: archive({f"a{i}": tensor((1 << 19,), (1,), count=1 << 19) for i in range(2000)}, **{"data/0": bytes(4 << 19)}),
    ),
    "encoded again and again": (
        ".pdparams",
        lambda _: (
            b"\x80\x02"
            + opcodes("a" * 2_000_000)
            + b"q\x00"
            + (opcodes(named("_codecs.encode")) + b"h\x00" + opcodes("latin1") + b"\x86R") * 4000
            + b"."
        ),
    ),
    "a header of lists": (".safetensors", lambda _: header(b'{"a":[' + b"[]," * 2_000_000 + b"[]]}")),
    "a header of dicts": (".safetensors", lambda _: header(b'{"a":[' + b'{"":0},' * 1_000_000 + b"0]}")),
    "many values": (
        ".ckpt",
        lambda _: b"".join(block(1, block(1, f"{i:x}") + block(2, number(1, 0) + block(2, "Bool"))) for i in range(200_000)),
    ),
    "one text as many": (".h5", one_text_as_many),
    "a graph of nodes": (".onnx", lambda _: number(1, 8) + block(7, block(1, b"") * 500_000)),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CLAIMS)
def test_no_claim_takes_more_memory_than_allowed(name: str, tmp_path: Path) -> None:
    """In a process that the kernel gives no more than that, and 32 MiB for the interpreter."""
    suffix, build = CLAIMS[name]
    path = tmp_path / f"a{suffix}"
    content = build(tmp_path / "work")
    path.write_bytes(content)
    allowed = FREE + TIMES * len(content) + (32 << 20)
    command = [sys.executable, "-c", MEASURE, str(path), str(allowed)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"`{path}` ")


@pytest.mark.slow
def test_a_network_may_not_be_all_maps(tmp_path: Path) -> None:
    """Two megabytes of weights, from one channel to 600 and back, or 300 channels of images: the maps would take gigabytes."""
    path, model = tmp_path / "a.safetensors", narrow()
    write = format_for_writing(path, "torch").write
    assert write
    write(path, checkpoint(narrow(channels=256), "timm"))
    assert load(path)
    write(path, checkpoint(narrow(channels=257), "timm"))
    with pytest.raises(NetworkError, match="takes images of 257 channels") as caught:
        load(path)
    assert caught.value.facts == ("at most 256 are computed",)
    width, weights = 32 * 8 + 1, dict(model.weights)
    for name, held in model.weights.items():
        if name.startswith(("block1.conv1.", "block1.conv2.weight")):
            axis = 2 if name == "block1.conv2.weight" else -1
            weights[name] = Tensor.of(np.repeat(held.read()[..., :1, :] if axis == 2 else held.read()[..., :1], width, axis))
    write(path, checkpoint(model._replace(weights=weights), "timm"))
    with pytest.raises(NetworkError, match=r"has 257 filters in `block1.conv1`, the published network 32"):
        load(path)


def test_sizes_as_people_write_them() -> None:
    for text, size in {"2G": 2 << 30, "512M": 512 << 20, "1.5 GiB": 3 << 29, "1000000": 10**6, "64kb": 64 << 10}.items():
        assert parse_memory(text) == size
    for text in ("", "G", "-1G", "1P", "1e9", "2 giga", "1.G"):
        with pytest.raises(UsageError, match="is no size"):
            parse_memory(text)
    assert [told(n) for n in (0, 1000, 1 << 20, 1023 << 20, 1 << 70)] == [
        "0 bytes",
        "1000 bytes",
        "1 MiB",
        "1023 MiB",
        "1024 EiB",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("isolate", [False, True], ids=["here", "apart"])
def test_max_memory_is_what_the_user_says(isolate: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez_compressed(path, a=np.zeros(1_000_000))
    assert read(path, limits=Limits(isolate=isolate)).tensors["a"].read().shape == (1_000_000,)
    with pytest.raises(UnreadableError, match=r"more memory than it may: it would inflate to 7.63 MiB") as caught:
        read(path, limits=Limits(memory=1 << 20, isolate=isolate))
    assert caught.value.facts == ("allowed are 1 MiB",)


# --- Checksums ---


def flipped(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("isolate", [False, True], ids=["here", "apart"])
def test_a_flipped_bit_in_an_archive_is_found_where_asked(isolate: bool, tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(archive({"a": tensor()}))
    flipped(path, path.read_bytes().index(np.float32([0, 1, 2, 3]).tobytes()) + 6)
    assert read(path, limits=Limits(isolate=isolate)).tensors["a"].read()[1] != 1
    with pytest.raises(UnreadableError, match="`x/data/0` does not have its checksum") as caught:
        read(path, limits=Limits(checksums=True, isolate=isolate))
    assert "set_crc32_options" in caught.value.facts[0]


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".safetensors", ".h5", ".weights.h5", ".pdparams", ".onnx", ".ckpt"])
def test_a_flipped_bit_is_found_by_the_record(suffix: str, tmp_path: Path) -> None:
    """These formats have no checksums, or none that xconvert writes; the record of a converted file has a digest."""
    source, path = tmp_path / "source.npz", tmp_path / f"a{suffix}"
    format_for_writing(source, "torch").write(source, checkpoint(narrow(), "timm"))  # type: ignore[misc]
    to = {".pdparams": "paddle", ".onnx": "onnx", ".ckpt": "mindspore", ".safetensors": "torch"}.get(suffix, "keras")
    convert(source, path, to=to, verify=False)
    load(path, verify_checksums=True)
    largest = max((tensor.read() for tensor in read(path).tensors.values()), key=np.size)
    flipped(path, path.read_bytes().index(largest.tobytes()[:40]) + 21)
    load(path)
    with pytest.raises(UnreadableError, match="they do not have the digest of its record") as caught:
        load(path, verify_checksums=True)
    assert caught.value.facts == ("it was damaged, or trained or edited since",)


def test_mindspores_own_checksum_is_always_compared(tmp_path: Path) -> None:
    data = block(1, block(1, "a") + block(2, number(1, 1) + block(2, "Float32") + block(3, bytes(4))))
    path = tmp_path / "a.ckpt"
    path.write_bytes(data + b"crc_num" + zlib.crc32(data).to_bytes(10, "big"))
    assert len(read(path).tensors) == 1
    flipped(path, len(data) - 1)
    with pytest.raises(UnreadableError, match="its checksum is not that of its content"):
        read(path)


# --- A process of its own ---


@pytest.mark.slow
def test_a_checkpoint_is_the_same_read_apart(tmp_path: Path) -> None:
    for name in ("keras.h5", "keras.weights.h5", "timm.float16.pth", "deeplab.ckpt", "deeplab.pdparams"):
        path = Path(__file__).parents[1] / "fixtures" / name
        here, apart = read(path), read(path, limits=Limits(isolate=True))
        for field in ("metadata", "evidence", "stated", "preprocessing", "averages", "notes", "format", "program"):
            assert getattr(here, field) == getattr(apart, field), (name, field)
        assert list(here.tensors) == list(apart.tensors)
        for key, found in here.tensors.items():
            assert np.array_equal(found.read(), apart.tensors[key].read())


@pytest.mark.slow
def test_numpy_itself_takes_nothing_of_what_reading_apart_may(tmp_path: Path) -> None:
    """The numbers take 188 MB, and as many again while they are turned to this machine's order; with NumPy it was too much."""
    path = tmp_path / "a.weights.h5"
    with h5py.File(path, "w") as file:
        options = {"chunks": (1_000_000,), "compression": "gzip", "compression_opts": 1}
        file.create_group("layers/dense/vars").create_dataset(
            "0", (47_000_000,), ">f4", np.tile(np.arange(100, dtype=">f4"), 470_000), **options
        )
    assert read(path, limits=Limits(isolate=True)).tensors["dense/0"].shape == (47_000_000,)


@pytest.mark.slow
def test_what_goes_wrong_apart_is_one_message(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    path.write_bytes(archive({"a": call("posix.system", "touch xconvert-was-here")}))
    with pytest.raises(UnreadableError, match=r"asks to run `posix.system`; nothing was run"):
        read(path, limits=Limits(isolate=True))
    with pytest.raises(UnreadableError, match="does not exist"):
        read(tmp_path / "none.pth", limits=Limits(isolate=True))


@pytest.mark.parametrize(
    ("does", "message"),
    [
        ("os.kill(os.getpid(), 11)", r"it crashed \(SIGSEGV\)"),
        ("os.abort()", r"it crashed \(SIGABRT\)"),
        ("os.kill(os.getpid(), 9)", r"it was killed"),
        ("pass", "it gave no answer"),
        ("open(asked['problem'], 'w').write('{}')", "it gave no answer"),
        ("open(asked['problem'], 'w').write('[' * 99999)", "it gave no answer"),
        (
            "said = {'kind': 'SystemExit', 'message': 'a\\x1b[2Jb', 'facts': [], 'hints': []}\n"
            "json.dump(said, open(asked['problem'], 'w'))",
            r"^a\\x1b\[2Jb$",
        ),
        ("open(asked['answer'], 'wb').write(b'x' * 999)", "it gave no answer"),
        ("open(asked['answer'], 'wb').write(bytes([2]) + bytes(7) + b'{}')", "it gave no answer"),
    ],
)
def test_a_process_that_crashes_or_lies(does: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a file could make of the process that reads it is believed as little as the file."""
    script = f"import json, os, sys\nasked = json.loads(sys.argv[1])\n{does}\n"
    monkeypatch.setattr(isolation, "COMMAND", [sys.executable, "-c", script])
    path = tmp_path / "a.pth"
    path.write_bytes(archive({"a": tensor()}))
    with pytest.raises(UnreadableError, match=message):
        read(path, limits=Limits(isolate=True))


LYING = """
import json, sys
from dataclasses import replace
from pathlib import Path
from xconvert import formats, isolation
from xconvert.formats import safetensors
asked, name, value = json.loads(sys.argv[3]), sys.argv[1], json.loads(sys.argv[2])
found = formats.read(Path(asked["path"]))
said = {**{name: getattr(found, name) for name in isolation._PLAIN}, "program": None, name: value}
safetensors.write(Path(asked["answer"]), replace(found, metadata={"checkpoint": json.dumps(said)}))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("metadata", "5"),
        ("metadata", '{"xconvert": 5}'),
        ("evidence", "[1, 2]"),
        ("evidence", '{"bn_epsilon": 5}'),
        ("stated", '{"a": 3}'),
        ("stated", '{"a": {"class": 3, "name": "", "calls": 1}}'),
        ("preprocessing", "[]"),
        ("preprocessing", '{"mean": "x"}'),
        ("averages", "{}"),
        ("notes", "5"),
        ("format", '"none"'),
        ("program", "[{}]"),
    ],
)
def test_an_answer_of_the_wrong_kind(name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "COMMAND", [sys.executable, "-c", LYING, name, value])
    path = tmp_path / "a.pth"
    path.write_bytes(archive({"a": tensor()}))
    with pytest.raises(UnreadableError, match="it gave no answer"):
        load(path, isolate=True)


@pytest.mark.slow
def test_what_a_process_prints_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There would be no end to it."""
    monkeypatch.setattr(isolation, "COMMAND", [sys.executable, "-c", "print('x' * 100_000_000)"])
    path = tmp_path / "a.pth"
    path.write_bytes(archive({"a": tensor()}))
    tracemalloc.start()
    with pytest.raises(UnreadableError, match="it gave no answer"):
        read(path, limits=Limits(isolate=True))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 10_000_000


def test_a_process_that_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(isolation, "COMMAND", [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(isolation, "_SECONDS", 0.05)
    path = tmp_path / "a.pth"
    path.write_bytes(archive({"a": tensor()}))
    with pytest.raises(UnreadableError, match=r"it took more than 0\.2 s"):
        read(path, limits=Limits(isolate=True))
