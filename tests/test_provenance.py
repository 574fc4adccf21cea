"""Where a file comes from: what is written into each, that it is the same for the same input, and that a change is told."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import xconvert
from tests.narrow import checkpoint, narrow
from tests.test_cli import run
from xconvert import convert, formats, provenance
from xconvert.errors import UnreadableError
from xconvert.formats._crc32c import checksum
from xconvert.loading import interpret, load
from xconvert.mappings import library
from xconvert.model import Checkpoint, Tensor
from xconvert.provenance import describe, files_of, fingerprint, read_record, remarks
from xconvert.sealing import changed_since, content

FIXTURES = Path(__file__).parents[1] / "fixtures"
# (name of the output, what `--to` says): every format that is written
OUTPUTS = {
    "a.pth": "timm",
    "a.safetensors": "timm",
    "a.npz": "torch",
    "a.h5": "keras",
    "a.weights.h5": "keras",
    "a.keras": "keras",
    "a.ckpt": "tensorflow",
    "b.ckpt": "mindspore",
    "c.ckpt": "keras",
    "a.pdparams": "paddle",
    "a.onnx": "onnx",
}
SUMMED = {"a.ckpt", "c.ckpt"}  # readers check the checksums of these


def sha256(*paths: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def recorded(path: Path) -> dict[str, Any]:
    return read_record(formats.read(path), str(path))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("provenance") / "source.safetensors"
    formats.formats()["safetensors"].write(path, checkpoint(narrow(pool_padding="symmetric"), "timm"))
    return path


def made(source: Path, name: str, folder: Path, **options: Any) -> Path:
    options = {"to": OUTPUTS[name], "accept": ["pool_padding"] if OUTPUTS[name] == "timm" else (), "verify": False, **options}
    convert(source, folder / name, **options, force=True)
    return folder / name


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
def test_every_format_carries_the_record_and_its_tensors_are_those_written(name: str, source: Path, tmp_path: Path) -> None:
    path = made(source, name, tmp_path)
    found = formats.read(path)
    record = read_record(found, name)
    assert record["version"] == xconvert.__version__
    assert record["source"] == {"sha256": sha256(source), "format": "safetensors", "implementation": "timm"}
    assert record["content"] == content(found.tensors)
    assert not changed_since(found, record)
    assert remarks(load(path)) == []
    assert all(change["action"] in ("folded", "accepted") for change in record["changes"])
    if "mapping" in record:
        (mapping,) = (Path(__file__).parents[1] / "mappings" / "xception").glob(f"{record['mapping']['name']}.toml")
        assert record["mapping"]["sha256"].startswith(sha256(mapping)) or "names_of" in mapping.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", OUTPUTS)
def test_the_same_input_gives_the_same_bytes_wherever_it_lies(name: str, source: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    elsewhere = shutil.copy(source, tmp_path / "other" / "another name.safetensors")
    one, two = made(source, name, tmp_path), made(Path(elsewhere), name, tmp_path / "other")
    assert fingerprint(one) == fingerprint(two)
    assert [file.read_bytes() for file in files_of(one)] == [file.read_bytes() for file in files_of(two)]
    assert str(tmp_path).encode() not in b"".join(file.read_bytes() for file in files_of(one))


@pytest.mark.parametrize(
    "name", ["a.safetensors", *(pytest.param(n, marks=pytest.mark.slow) for n in OUTPUTS if n != "a.safetensors")]
)
def test_a_flipped_bit_in_a_tensor_is_told(name: str, source: Path, tmp_path: Path) -> None:
    path = made(source, name, tmp_path)
    beta = np.ascontiguousarray(load(path).weights["block1.conv1.bn.beta"].read()).tobytes()
    (file,) = (file for file in files_of(path) if beta in file.read_bytes())
    data = bytearray(file.read_bytes())
    at = data.index(beta)
    assert beta not in data[at + 1 :]
    data[at] ^= 1  # the lowest bit of the first number
    file.write_bytes(data)
    if name in SUMMED:
        with pytest.raises(UnreadableError):
            remarks(load(path))
    else:
        assert remarks(load(path)) == [f"`{path}` has changed since xconvert wrote it"]


def test_a_file_that_a_framework_saved_again_with_other_weights_has_changed(source: Path, tmp_path: Path) -> None:
    path = made(source, "a.pth", tmp_path)
    found = formats.read(path)
    trained = {name: Tensor.of(tensor.read() + np.asarray(1, tensor.dtype)) for name, tensor in found.tensors.items()}
    formats.formats()["torch"].write(path, found._replace(tensors=trained, dialect="torch"))
    assert remarks(load(path), load(source)) == [f"`{path}` has changed since xconvert wrote it"]


@pytest.mark.parametrize(
    "change",
    [
        lambda t: {f"x{name}": tensor for name, tensor in t.items()},
        lambda t: {name: Tensor.of(tensor.read().astype(np.float16)) for name, tensor in t.items()},
        lambda t: {name: Tensor.of(tensor.read().reshape(-1)) for name, tensor in t.items()},
        lambda t: dict(list(t.items())[1:]),
        lambda t: {**t, "more": Tensor.of(np.zeros(0))},
    ],
    ids=["names", "dtypes", "shapes", "fewer", "more"],
)
def test_the_content_is_names_dtypes_shapes_and_numbers(change: Callable[[Any], Any]) -> None:
    tensors = {"a": Tensor.of(np.arange(6, dtype=np.float32).reshape(2, 3)), "b": Tensor.of(np.float64(3)[None])}
    assert content(change(tensors)) != content(tensors)


def test_the_content_does_not_depend_on_order_or_layout() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensors = {"b": Tensor.of(np.asfortranarray(array)), "a": Tensor.of(np.zeros((), np.int64))}
    told = b'["a", "int64", [], %d]\n' % checksum([bytes(8)]) + b'["b", "float32", [2, 3], %d]\n' % checksum([array.tobytes()])
    assert content(tensors) == content(dict(reversed(tensors.items()))) == hashlib.sha256(told).hexdigest()


def test_a_chain_of_conversions_names_the_file_before(source: Path, tmp_path: Path) -> None:
    b = made(source, "a.h5", tmp_path)
    c = tmp_path / "c.pth"
    convert(b, c, to="torch", verify=False)
    assert recorded(c)["source"] == {"sha256": sha256(b), "format": "keras-h5", "implementation": "keras.applications"}
    assert recorded(b)["source"]["sha256"] == sha256(source)
    assert [change["attribute"] for change in recorded(c)["changes"]] == ["bn_epsilon"]


@pytest.mark.slow
def test_what_was_folded_accepted_dropped_and_left_out_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "source.safetensors"
    formats.formats()["safetensors"].write(path, checkpoint(narrow(classes=11), "keras.applications", "keras"))
    convert(path, tmp_path / "a.pth", to="timm", accept=["pool_padding"], background="drop", verify=False)
    assert recorded(tmp_path / "a.pth")["changes"] == [
        {"attribute": "background", "source": "first", "target": "none", "action": "dropped"},
        {"attribute": "bn_epsilon", "source": 1e-3, "target": 1e-5, "action": "folded"},
        {"attribute": "pool_padding", "source": "same_upper", "target": "symmetric", "action": "accepted"},
        *recorded(tmp_path / "a.pth")["changes"][3:],
    ]
    convert(path, tmp_path / "b.pth", to="torch", background="add", ignore=["predictions*"][:0], verify=False)
    assert recorded(tmp_path / "b.pth")["changes"][0]["action"] == "added"
    convert(path, tmp_path / "c.pth", to="torch", ignore=["predictions/*"], verify=False)
    assert recorded(tmp_path / "c.pth")["omitted"] == ["predictions/*"]


def test_a_source_that_changed_since_is_told(source: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.safetensors"
    data = source.read_bytes()
    kept.write_bytes(data)
    convert(kept, tmp_path / "a.pth", to="torch", verify=False)
    assert remarks(load(kept), load(tmp_path / "a.pth")) == []
    kept.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert remarks(load(kept), load(tmp_path / "a.pth")) == [f"`{tmp_path / 'a.pth'}` was not made from `{kept}` as it is now"]


def test_a_conversion_reports_the_files_on_both_sides(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "a.ckpt", to="tensorflow", verify=False)
    files = [tmp_path / "a.ckpt.data-00000-of-00001", tmp_path / "a.ckpt.index"]
    told = report.provenance
    assert told["source"] == {"file": str(source), "sha256": sha256(source), "bytes": source.stat().st_size}
    assert told["target"]["sha256"] == sha256(*files)  # as `cat FILES | sha256sum` gives it
    assert told["target"]["bytes"] == sum(file.stat().st_size for file in files)
    assert told["versions"] == {"numpy": np.__version__}


def test_a_comparison_is_described_with_the_record_of_each_file(source: Path, tmp_path: Path) -> None:
    path = made(source, "a.h5", tmp_path)
    told = describe(load(source), load(path), probe={"seed": 0})
    assert "record" not in told["source"]
    assert told["target"]["record"]["source"]["sha256"] == told["source"]["sha256"]
    assert told["probe"] == {"seed": 0}
    assert told["xconvert"] == xconvert.__version__
    assert json.loads(json.dumps(told, allow_nan=False)) == told
    assert "source" not in describe(narrow())


def test_the_versions_of_a_backend_come_from_the_python_that_runs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "python"
    other.symlink_to(sys.executable)  # another name for it, so another Python
    monkeypatch.setenv("XCONVERT_PYTHON_TORCH", str(other))
    versions = describe(narrow(), backends=["torch"])["versions"]
    assert versions["python (torch)"] == ".".join(map(str, sys.version_info[:3]))
    monkeypatch.setenv("XCONVERT_PYTHON_TORCH", str(tmp_path / "nowhere"))
    assert describe(narrow(), backends=["torch"])["versions"] == {"numpy": np.__version__}


# ——— fingerprints


def test_the_fingerprint_of_a_file_is_its_sha256() -> None:
    path = FIXTURES / "keras.h5"
    assert fingerprint(path) == fingerprint(str(path)) == sha256(path)


def test_the_fingerprint_of_several_files_is_that_of_one_after_another(tmp_path: Path) -> None:
    shards = [FIXTURES / "deeplab.ckpt.data-00000-of-00001", FIXTURES / "deeplab.ckpt.index"]
    assert fingerprint(FIXTURES / "deeplab.ckpt") == fingerprint(shards[1]) == sha256(*shards)
    for name in ("config.json", "model.safetensors", "README.md"):
        (tmp_path / name).write_text(name)
    pair = [tmp_path / "config.json", tmp_path / "model.safetensors"]
    assert fingerprint(tmp_path) == sha256(*pair)
    assert fingerprint(pair[1]) == sha256(pair[1])
    for name in ("x[1].pdiparams", "x[1].json", "x1.json", "x[1].pdiparams.info", "y.pdmodel"):
        (tmp_path / name).write_text(name)
    beside = [tmp_path / "x[1].json", tmp_path / "x[1].pdiparams", tmp_path / "x[1].pdiparams.info"]
    assert files_of(tmp_path / "x[1].pdiparams") == tuple(beside)


def test_an_empty_shard_counts_as_nothing_and_a_missing_file_is_told(tmp_path: Path) -> None:
    for name in ("a.index", "a.data-00000-of-00002"):
        (tmp_path / name).write_text(name)
    (tmp_path / "a.data-00001-of-00002").touch()
    assert fingerprint(tmp_path / "a") == sha256(*sorted(tmp_path.iterdir()))
    with pytest.raises(UnreadableError, match="does not exist"):
        fingerprint(tmp_path / "nothing.pth")


def test_a_source_that_cannot_be_hashed_while_it_is_written_from_ends_the_conversion(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: object) -> str:
        raise UnreadableError("the disk was pulled out")

    monkeypatch.setattr("xconvert.loading.fingerprint", gone)
    with pytest.raises(UnreadableError, match="pulled out"):
        convert(source, tmp_path / "a.pth", to="torch")
    assert [*tmp_path.iterdir()] == []


def test_the_digest_of_a_mapping_covers_those_that_it_takes_names_of() -> None:
    folder = Path(__file__).parents[1] / "mappings"
    alone = {i.name: i.sha256 for i in library().implementations if i.family.name == "xception" and not i.own}
    inherits = {p.stem: p for p in (folder / "xception").glob("*.toml") if "\nnames_of" in p.read_text()}
    for name, digest in alone.items():
        assert (digest == sha256(folder / "xception" / f"{name}.toml")) is (name not in inherits), name
    assert all(not i.sha256 for i in library().implementations if i.own)


# ——— records of others


OLD = {"version": "0.1.0", "implementation": "timm", "attributes": {"bn_epsilon": 1e-5}, "preprocessing": {}}
DIGEST = "0" * 64


def read(**more: Any) -> dict[str, Any]:
    return read_record(Checkpoint({}, {"xconvert": json.dumps({**OLD, **more})}), "f")


def test_a_record_without_provenance_stays_readable() -> None:
    assert read() == OLD
    assert not changed_since(Checkpoint({}), read())
    assert read(later="a field of a later version") == OLD
    assert read_record(Checkpoint({}), "f") == {}


def test_a_record_of_another_content_is_told() -> None:
    assert changed_since(Checkpoint({}), read(content=DIGEST))
    assert not changed_since(Checkpoint({}), read(content=content({})))


CHANGE = {"attribute": "a", "source": 1, "target": "b", "action": "folded"}


def hostile() -> Iterator[tuple[str, Any]]:
    for name in ("mapping", "source", "changes", "omitted", "content", "version", "published"):
        for value in (None, 1, [1], {"sha256": 1}, {"x": "y"}, "\x1b[31m", "\ud800", [[]], [{}], True):
            yield name, value
    yield "content", DIGEST.upper().replace("0", "A")
    yield "content", "٠" * 64  # digits, but not ours
    yield "source", {"sha256": DIGEST, "format": "x" * 2000}
    yield "source", {"sha256": DIGEST, "more": "x"}
    yield "changes", [CHANGE] * 1001
    yield "omitted", ["x"] * 1001
    for value in (float("nan"), float("inf"), 10**400, None, [], "\x1b[31m"):
        yield "changes", [{**CHANGE, "source": value}]
    yield "changes", [{**CHANGE, "more": 1}]
    yield "version", "x" * (1 << 20)


@pytest.mark.parametrize(("name", "value"), list(hostile()), ids=lambda part: ascii(part)[:30])
def test_a_hostile_record_is_refused(name: str, value: Any) -> None:
    with pytest.raises(UnreadableError, match="xconvert's own record in `f` is damaged"):
        read(**{name: value})


def test_a_whole_record_is_given_back() -> None:
    more = {
        "published": "legacy_xception",
        "mapping": {"name": "timm", "sha256": DIGEST},
        "source": {"sha256": DIGEST, "format": "keras-h5", "implementation": "keras.applications"},
        "changes": [CHANGE, {**CHANGE, "source": True, "target": 1e-5}],
        "omitted": ["aux.*"],
        "content": DIGEST,
    }
    assert read(**more) == {**OLD, **more}


def test_a_model_made_in_memory_claims_no_source_and_no_module_a_content(source: Path) -> None:
    implementation = library().find("timm", narrow().family, narrow().depth)
    assert implementation
    record = json.loads(provenance.record_of(narrow(), implementation))
    assert not {"source", "content", "changes"} & record.keys()
    record = json.loads(provenance.record_of(load(source), implementation))
    assert record["source"]["sha256"] == sha256(source)
    assert "content" not in record


def test_a_mapping_with_an_odd_name_still_makes_a_record_that_can_be_read() -> None:
    implementation = library().find("timm", narrow().family, narrow().depth)
    assert implementation
    odd = implementation._replace(name="x\n" * 2000)
    text = provenance.record_of(narrow()._replace(omitted=("`\x1b`", "`aux.*`")), odd)
    record = read_record(Checkpoint({}, {"xconvert": text}), "f")
    assert record["mapping"] == {"sha256": implementation.sha256}
    assert record["omitted"] == ["aux.*"]


def test_interpreting_reads_what_loading_reads(source: Path) -> None:
    found = load(source)
    assert found.origin
    assert (found.origin.path, found.origin.record) == (str(source), {})
    assert interpret(found.origin.checkpoint, "f").origin is None


# ——— what users see


@pytest.mark.slow
def test_inspect_tells_how_a_file_was_made(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made(source, "a.h5", tmp_path)
    digest = next(i.sha256 for i in library().implementations if i.name == "keras.applications")
    code, out, _ = run(capsys, "inspect", path)
    assert code == 0
    words = " ".join(out.split())
    assert f" written by xconvert {xconvert.__version__} with mapping keras.applications (sha256 {digest[:12]}…) from " in words
    told = f" from safetensors, names of timm (sha256 {sha256(source)[:12]}…) folded bn_epsilon 1e-05 → 0.001 tensors sha256 "
    assert told in words
    told = json.loads(run(capsys, "inspect", path, "--json")[1])
    assert told["record"] == recorded(path)
    assert json.loads(run(capsys, "inspect", source, "--json")[1])["record"] is None
    assert "written by" not in run(capsys, "inspect", source)[1]


def test_a_folder_for_the_hub_carries_the_record_too(source: Path, tmp_path: Path) -> None:
    report = convert(source, tmp_path / "hub", to="timm", layout="hub", verify=False)
    pair = [tmp_path / "hub" / "config.json", tmp_path / "hub" / "model.safetensors"]
    assert report.provenance["target"]["sha256"] == sha256(*pair)
    assert recorded(tmp_path / "hub")["source"]["sha256"] == sha256(source)
    assert remarks(load(tmp_path / "hub")) == []


TORCH = """
import sys, torch, xconvert
source, folder = sys.argv[1:]
state = torch.load(f"{folder}/a.pth", weights_only=True)
torch.save(state, f"{folder}/again.pth")
torch.save(state, f"{folder}/legacy.pth", _use_new_zipfile_serialization=False)
with torch.no_grad():
    state["fc.bias"] += 1
torch.save({"epoch": 1, "state_dict": state}, f"{folder}/trained.pth")
torch.save(xconvert.build(source, "torch").state_dict(), f"{folder}/built.pth")
"""


@pytest.mark.framework
def test_pytorch_keeps_the_record_and_training_is_told(source: Path, tmp_path: Path) -> None:
    path = made(source, "a.pth", tmp_path)
    subprocess.run([sys.executable, "-c", TORCH, source, tmp_path], check=True)
    for name in ("again.pth", "legacy.pth"):
        assert recorded(tmp_path / name) == recorded(path)
        assert remarks(load(tmp_path / name)) == []
    trained = tmp_path / "trained.pth"
    assert remarks(load(trained)) == [f"`{trained}` has changed since xconvert wrote it"]
    built = load(tmp_path / "built.pth")
    assert built.origin
    assert built.origin.record["source"]["sha256"] == sha256(source)
    assert "content" not in built.origin.record
    assert remarks(built) == []
