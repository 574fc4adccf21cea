"""What PyTorch and safetensors write is read to the bit, and what is written here they load; each in a process of its
own."""

from __future__ import annotations

import importlib.util
import mmap
import subprocess
import sys
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from tests.frameworks.nets import assert_same_numbers
from xconvert.errors import UnreadableError
from xconvert.formats import read
from xconvert.formats._zip import ZipWriter, open_zip
from xconvert.formats.safetensors import write as write_safetensors
from xconvert.formats.torch_zip import write as write_torch
from xconvert.model import Checkpoint, Tensor

pytestmark = [
    pytest.mark.framework,
    pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed"),
]

# A tensor of every dtype and kind of layout. `save_numbers` keeps their bytes, which NumPy has for all of them.
KINDS = """
import sys, torch, numpy as np
from collections import OrderedDict
torch.manual_seed(0)
base = torch.randn(4, 6)
kinds = {
    str(d).removeprefix("torch."): (torch.randn(3, 5) * 9).to(d)
    for d in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
              torch.uint8, torch.bool, torch.complex64, torch.complex128)
}
later = {
    str(d).removeprefix("torch."): (torch.rand(3, 5) * 9).to(d)
    for d in (torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e4m3fnuz,
              torch.float8_e5m2fnuz, torch.float8_e8m0fnu)
}
kinds |= {
    "whole": base, "transposed": base.t(), "sliced": base[1:3, ::2], "row": base[2], "element": base[1, 1],
    "scalar": torch.tensor(7.5), "empty": torch.empty(0, 3),
    "channels_last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "parameter": torch.nn.Parameter(torch.randn(3)), "conjugate": torch.randn(3, dtype=torch.complex64).conj(),
    "negative": torch.randn(3, dtype=torch.complex64).conj().imag, "reshaped": torch.arange(24).reshape(2, 3, 4).permute(2, 0, 1),
}
attributed = torch.nn.Parameter(torch.randn(2, 2))
attributed.remark = "kept by __reduce_ex__"
kinds["attributed"] = attributed
def save_numbers(path, tensors):
    dense = {k: v.detach().resolve_conj().resolve_neg().contiguous().clone() for k, v in tensors.items()}
    np.savez(path, **{k: np.frombuffer(bytes(v.untyped_storage()), np.uint8).reshape(-1) for k, v in dense.items()})
"""


def torch_run(code: str, *arguments: Path | str) -> str:
    """What ``code`` prints, run by a Python of its own that imports PyTorch; fails with its message if it fails."""
    command = [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_reads_every_dtype_and_layout(tmp_path: Path, container: str, protocol: int) -> None:
    code = KINDS + (
        "zipped = sys.argv[2] == 'zip'\n"
        "kinds |= later if zipped else {}  # PyTorch cannot load those itself from the legacy format\n"
        "options = {'pickle_protocol': int(sys.argv[3]), '_use_new_zipfile_serialization': zipped}\n"
        "torch.save(OrderedDict(kinds), sys.argv[1] + '/a.pth', **options)\n"
        "save_numbers(sys.argv[1] + '/numbers.npz', kinds)\n"
    )
    torch_run(code, tmp_path, container, str(protocol))
    checkpoint = read(tmp_path / "a.pth")
    assert checkpoint.format == ("torch" if container == "zip" else "torch-legacy")
    assert_same_numbers(checkpoint, tmp_path / "numbers.npz")


def test_big_endian_file_is_read_as_pytorch_reads_it(tmp_path: Path) -> None:
    code = KINDS + ("del kinds['conjugate'], kinds['negative']\ntorch.save(kinds, sys.argv[1] + '/little.pth')\n")
    torch_run(code, tmp_path)
    _swap_archive(tmp_path / "little.pth", tmp_path / "big.pth")
    code = KINDS + "save_numbers(sys.argv[1] + '/numbers.npz', torch.load(sys.argv[1] + '/big.pth'))\n"
    torch_run(code, tmp_path)
    assert_same_numbers(read(tmp_path / "big.pth"), tmp_path / "numbers.npz")


def _swap_archive(source: Path, target: Path) -> None:
    """The same bytes, labelled big-endian: other numbers, but the same ones for every reader."""
    with source.open("rb") as file, target.open("wb") as out:
        index = open_zip(source, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        writer = ZipWriter(out)
        for name in index.names:
            if not name.rpartition("/")[2].startswith("."):
                writer.add(name, b"big" if name.endswith("/byteorder") else index.view(name))
        writer.close()


@pytest.mark.parametrize("container", ["zip", "legacy"])
def test_training_checkpoint_and_whole_module(tmp_path: Path, container: str) -> None:
    code = (
        "import sys, torch\n"
        "zipped = sys.argv[2] == 'zip'\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))\n"
        "optimizer = torch.optim.Adam(model.parameters())\n"
        "model(torch.randn(2, 3, 8, 8)).sum().backward(); optimizer.step()\n"
        "whole = {'epoch': 3, 'state_dict': model.state_dict(), 'optimizer': optimizer.state_dict()}\n"
        "torch.save(whole, sys.argv[1] + '/train.pth.tar', _use_new_zipfile_serialization=zipped)\n"
        "torch.save(model, sys.argv[1] + '/module.pth', _use_new_zipfile_serialization=zipped)\n"
    )
    torch_run(code, tmp_path, container)
    checkpoint = read(tmp_path / "train.pth.tar")
    assert list(checkpoint.tensors) == [
        *("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked")
    ]
    assert checkpoint.notes == ("unwrapped `state_dict`", "left out `optimizer` (12 tensors)")
    with pytest.raises(UnreadableError, match=r"holds a whole `torch.nn.modules.container.Sequential` object, not a state dict"):
        read(tmp_path / "module.pth")


def test_torchscript_and_exotic_tensors_are_refused(tmp_path: Path) -> None:
    code = (
        "import sys, torch\n"
        "torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), sys.argv[1] + '/script.pt')\n"
        "torch.save({'w': torch.quantize_per_tensor(torch.randn(2, 2), .1, 0, torch.qint8)}, sys.argv[1] + '/quantised.pt')\n"
        "torch.save({'w': torch.eye(3).to_sparse()}, sys.argv[1] + '/sparse.pt')\n"
        "torch.save({'w': torch.empty(2, device='meta')}, sys.argv[1] + '/meta.pt')\n"
        "torch.save({'w': torch.ones(1).expand(2**20, 2**20)}, sys.argv[1] + '/expanded.pt')\n"
    )
    torch_run(code, tmp_path)
    for name, message in {
        "script": "is a TorchScript archive",
        "quantised": "holds `w` as a quantised tensor",
        "sparse": "holds `w` as a sparse tensor",
        "meta": "holds `w` as a tensor without data",
        "expanded": "expands storage `0` from 1 numbers to 1099511627776",
    }.items():
        with pytest.raises(UnreadableError, match=message):
            read(tmp_path / f"{name}.pt")


def every_dtype() -> dict[str, Tensor]:
    rng = np.random.default_rng(0)
    extended = [getattr(ml_dtypes, n) for n in ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")]
    dtypes = [np.dtype(t) for t in (*"?bBhHiIqQefdFD", *extended)]
    arrays = {dtype.name: np.asarray(rng.uniform(0, 9, (3, 5)), np.float32).astype(dtype) for dtype in dtypes}
    arrays |= {
        "scalar": np.asarray(3, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "fortran": np.asfortranarray(np.eye(3)[:2]),
    }
    return {name: Tensor.of(array) for name, array in arrays.items()}


def test_pytorch_loads_what_is_written(tmp_path: Path) -> None:
    tensors = every_dtype()
    write_torch(tmp_path / "a.pth", Checkpoint(tensors))
    code = KINDS + (
        "loaded = torch.load(sys.argv[1] + '/a.pth', weights_only=True)\n"
        "mapped = torch.load(sys.argv[1] + '/a.pth', weights_only=True, mmap=True)\n"
        "save_numbers(sys.argv[1] + '/loaded.npz', loaded); save_numbers(sys.argv[1] + '/mapped.npz', mapped)\n"
        "print({k: (str(v.dtype).removeprefix('torch.'), tuple(v.shape), v.is_contiguous()) for k, v in loaded.items()})\n"
    )
    seen = torch_run(code, tmp_path)
    assert seen.strip() == str({k: (t.dtype, t.shape, True) for k, t in tensors.items()})
    assert_same_numbers(Checkpoint(tensors), tmp_path / "loaded.npz")
    assert_same_numbers(Checkpoint(tensors), tmp_path / "mapped.npz")


def test_written_file_loads_strictly_and_metadata_survive_pytorch(tmp_path: Path) -> None:
    shapes = {
        "0.weight": (4, 3, 3, 3),
        "0.bias": (4,),
        **{f"1.{n}": (4,) for n in ("weight", "bias", "running_mean", "running_var")},
    }
    tensors = {name: Tensor.of(np.full(shape, 0.5, np.float32)) for name, shape in shapes.items()}
    metadata = {"xconvert": '{"record": "ä"}', "version": "a text, where PyTorch wants a number"}
    write_torch(tmp_path / "a.pth", Checkpoint(tensors, metadata))
    code = (
        "import sys, torch\n"
        "state = torch.load(sys.argv[1] + '/a.pth', weights_only=True)\n"
        "model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))\n"
        "print(model.load_state_dict(state, strict=True))\n"
        "torch.save(state, sys.argv[1] + '/again.pth')\n"
        "torch.save(state, sys.argv[1] + '/legacy.pth', _use_new_zipfile_serialization=False)\n"
    )
    assert torch_run(code, tmp_path).strip() == "<All keys matched successfully>"
    for name in ("a", "again", "legacy"):
        checkpoint = read(tmp_path / f"{name}.pth")
        assert checkpoint.metadata == {"xconvert": '{"record": "ä"}'}
        assert list(checkpoint.tensors)[: len(shapes)] == list(shapes)


def test_safetensors_loads_what_is_written_and_the_reverse(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    tensors = {k: v for k, v in every_dtype().items() if k != "complex128"}
    write_safetensors(tmp_path / "a.safetensors", Checkpoint(tensors, {"xconvert": "{}"}))
    code = KINDS + (
        "from safetensors import safe_open\n"
        "from safetensors.torch import load_file, save_file\n"
        "loaded = load_file(sys.argv[1] + '/a.safetensors')\n"
        "with safe_open(sys.argv[1] + '/a.safetensors', 'pt') as file: metadata = file.metadata()\n"
        "print(dict(sorted(metadata.items())))\n"
        "save_numbers(sys.argv[1] + '/loaded.npz', loaded)\n"
        "save_file(loaded, sys.argv[1] + '/again.safetensors', metadata)\n"
    )
    assert torch_run(code, tmp_path).strip() == "{'format': 'pt', 'xconvert': '{}'}"
    assert_same_numbers(Checkpoint(tensors), tmp_path / "loaded.npz")
    again = read(tmp_path / "again.safetensors")
    assert again.metadata == {"format": "pt", "xconvert": "{}"}
    assert_same_numbers(again, tmp_path / "loaded.npz")
