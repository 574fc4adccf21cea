"""The main job on files that real frameworks wrote: it converts, verifies, refuses, and leaves nothing
half-written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest

import xconvert
from tests.narrow import assert_folded_back, changed, narrow
from xconvert import convert, formats, verify
from xconvert.backends import forward
from xconvert.cli import main
from xconvert.compare import relative_l2
from xconvert.errors import RefusedError, UsageError, VerificationError
from xconvert.loading import load
from xconvert.probe import images
from xconvert.weights import same_bits

FIXTURES = Path(__file__).parents[1] / "fixtures"
FILES = sorted(path.name for path in FIXTURES.iterdir() if path.with_name(path.name + ".answers.npz").exists())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in FILES:
        shutil.copy(FIXTURES / name, tmp_path)
    return tmp_path


def left_behind(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name not in FILES)


def test_there_are_fixtures() -> None:
    assert FILES == ["keras.h5", "keras.weights.h5", "timm.float16.pth", "timm.pth"]
    assert all(path.stat().st_size < 1_000_000 for path in FIXTURES.rglob("*") if path.is_file())


@pytest.mark.parametrize("name", FILES)
def test_a_fixture_computes_what_the_real_class_answered(name: str) -> None:
    model = load(FIXTURES / name)
    answers = np.load(FIXTURES / f"{name}.answers.npz")
    for size in (75, 96):
        ours = forward(model, images(size, 2), dtype="float64")["logits"]
        assert relative_l2(answers[f"float64_{size}"], ours) < 1e-12
        single = forward(model, images(size, 2))["logits"]
        floor = relative_l2(ours, single)
        assert relative_l2(ours, answers[f"float32_{size}"]) < 8 * floor


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "to", "output", "accept"),
    [
        ("keras.h5", "torch", "a.pth", ()),
        pytest.param(*("keras.h5", "torch", "a.safetensors", ()), marks=pytest.mark.slow),
        pytest.param(*("keras.h5", "torch", "a.npz", ()), marks=pytest.mark.slow),
        pytest.param(*("keras.h5", "keras-hub", "a.weights.h5", ()), marks=pytest.mark.slow),
        pytest.param(*("keras.h5", "mindcv", "a.safetensors", ()), marks=pytest.mark.slow),
        ("keras.weights.h5", "keras.applications", "a.h5", ()),
        pytest.param(*("timm.pth", "keras", "a.weights.h5", ()), marks=pytest.mark.slow),
        pytest.param(*("timm.pth", "cadene", "a.pth", ()), marks=pytest.mark.slow),
        pytest.param(*("timm.float16.pth", "lornatang", "a.safetensors", ()), marks=pytest.mark.slow),
        pytest.param(*("timm.float16.pth", "keras", "a.h5", ()), marks=pytest.mark.slow),
        ("keras.h5", "timm", "a.pth", ("pool_padding",)),
        pytest.param(*("timm.pth", "keras.applications", "a.h5", ("pool_padding",)), marks=pytest.mark.slow),
    ],
)
def test_what_is_written_computes_what_was_read(folder: Path, source: str, to: str, output: str, accept: tuple[str, ...]) -> None:
    report = convert(folder / source, folder / output, to=to, accept=accept)
    assert report.equal
    assert left_behind(folder) == [output]
    before, after = load(folder / source), load(folder / output)
    folded = {
        name for change in report.changes if change["action"] == "folded" for name in after.weights if name.endswith(".gamma")
    }
    assert all(after.weights[n].dtype == ("float32" if n in folded else t.dtype) for n, t in before.weights.items())
    assert verify(folder / source, folder / output, sizes=(75, 96)).equal is not bool(accept)
    assert after.preprocessing == before.preprocessing


@pytest.mark.slow
def test_there_and_back_is_bit_exact_where_nothing_is_folded(folder: Path) -> None:
    convert(folder / "timm.pth", folder / "a.safetensors", to="cadene")
    convert(folder / "a.safetensors", folder / "b.npz", to="lornatang")
    convert(folder / "b.npz", folder / "c.pth", to="timm")
    before, after = (formats.read(folder / name).tensors for name in ("timm.pth", "c.pth"))
    assert before.keys() == after.keys()
    assert all(same_bits(before[n].read(), after[n].read()) for n in before if "num_batches" not in n)


@pytest.mark.slow
def test_there_and_back_is_within_two_units_where_epsilon_is_folded_twice(folder: Path) -> None:
    convert(folder / "timm.pth", folder / "back.h5", to="keras")
    convert(folder / "back.h5", folder / "again.pth", to="timm")
    assert_folded_back(load(folder / "timm.pth"), load(folder / "again.pth"))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("source", "to", "output"),
    [("keras.h5", "torch", f"a{suffix}") for suffix in (".pth", ".safetensors", ".npz")]
    + [("timm.pth", "keras", f"a{suffix}") for suffix in (".h5", ".weights.h5")],
)
def test_the_same_input_gives_the_same_bytes(folder: Path, source: str, to: str, output: str) -> None:
    convert(folder / source, folder / output, to=to, verify=False)
    first = (folder / output).read_bytes()
    convert(folder / source, folder / output, to=to, verify=False, force=True)
    assert (folder / output).read_bytes() == first


def test_padding_is_refused_with_facts_and_nothing_is_written(folder: Path) -> None:
    with pytest.raises(RefusedError, match="`pool_padding` differs, and no weights can make up for it") as caught:
        convert(folder / "keras.h5", to="timm")
    facts = "\n".join(caught.value.facts)
    assert "source  keras.applications  same_upper  the odd pixel goes to the end" in facts
    assert "target  timm                symmetric   one pixel on each side" in facts
    assert "At 299×299 the first layer to part is `block3.pool`; logits move by" in facts
    assert caught.value.hints == ("pass `--accept pool_padding` to convert anyway", "`--to torch` keeps the function exactly")
    assert left_behind(folder) == []


@pytest.mark.slow
def test_the_measured_effect_is_that_of_the_two_networks(folder: Path) -> None:
    report = convert(folder / "keras.h5", folder / "x.safetensors", to="timm", accept=["pool_padding"])
    told = next(note for note in report.notes if note.startswith("accepted"))
    probe = images(299, 1)
    a, b = (forward(load(folder / name), probe, dtype="float64")["logits"] for name in ("keras.h5", "x.safetensors"))
    assert f"the logits move by {np.abs(a - b).max() / np.abs(a).max():.1e} at 299×299" in told
    at_295 = [forward(load(folder / name), images(295, 1), dtype="float64")["logits"] for name in ("keras.h5", "x.safetensors")]
    assert relative_l2(*at_295) < 1e-5


def test_a_result_that_computes_something_else_is_not_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fault in a writer: two batch norms of equal width change places. Names, shapes and dtypes see nothing."""
    from xconvert import conversion, loading

    def faulty(model: xconvert.Model, *rest: object, **options: object) -> object:
        one, other = "block6.sepconv1.bn.gamma", "block7.sepconv1.bn.gamma"
        broken = changed(model, **{one: model.weights[other].read(), other: model.weights[one].read()})
        return loading.save(broken, *rest, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(conversion, "save", faulty)
    with pytest.raises(VerificationError, match="was not written") as caught:
        convert(folder / "timm.pth", folder / "a.pth", to="cadene")
    assert "first layer to part: `block6.sepconv1.bn`" in "\n".join(caught.value.facts)
    assert left_behind(folder) == []


def test_a_file_that_the_disk_changed_is_not_accepted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xconvert.formats import safetensors

    def flipping(path: Path, checkpoint: object) -> None:
        original(path, checkpoint)
        data = bytearray(path.read_bytes())
        data[-5] ^= 0x40
        path.write_bytes(data)

    original = safetensors.FORMAT.write
    monkeypatch.setitem(formats.formats(), "safetensors", _with(safetensors.FORMAT, flipping))
    with pytest.raises(VerificationError):
        convert(folder / "timm.pth", folder / "a.safetensors", to="cadene")
    assert left_behind(folder) == []


def _with(fmt: formats.Format, write: object) -> formats.Format:
    return fmt._replace(write=write)  # type: ignore[arg-type]


def test_a_dangling_link_is_not_replaced_unasked(folder: Path) -> None:
    (folder / "a.pth").symlink_to(folder / "nowhere.pth")
    with pytest.raises(UsageError, match="exists"):
        convert(folder / "keras.h5", folder / "a.pth", to="torch")
    assert (folder / "a.pth").is_symlink()


def test_a_class_that_cannot_load_the_output_is_told_before_the_work(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xconvert import conversion
    from xconvert.backends import Backend

    monkeypatch.setattr(Backend, "installed", True)
    monkeypatch.setattr(conversion, "published", None)  # no writing is reached
    for output, backend in (("a.npz", "timm"), ("a.pth", "cadene"), ("a.pth", "keras.applications")):
        with pytest.raises(UsageError, match=f"`{backend}` itself cannot load"):
            convert(folder / "timm.pth", folder / output, to="timm", verify_with=[backend])


def test_what_was_left_out_is_in_the_verdict(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:

    plain = formats.read(folder / "timm.pth")
    with_aux = plain._replace(tensors={**plain.tensors, "aux.weight": plain.tensors["fc.weight"]})
    formats.formats()["torch"].write(folder / "aux.pth", with_aux)  # type: ignore[misc]
    _, out, _ = run(capsys, folder / "aux.pth", "--to", "cadene", "-o", folder / "b.pth", "--ignore", "aux.*")
    assert "verified: same answer, without `aux.*`" in out


@pytest.mark.slow
def test_attributes_and_preprocessing_travel_with_the_file(folder: Path) -> None:
    for output in ("a.pth", "a.safetensors", "a.npz"):
        convert(folder / "keras.h5", folder / output, to="torch", verify=False)
        model = load(folder / output)
        assert model.values == {"bn_epsilon": 1e-5, "pool_padding": "same_upper", "bn_momentum": 0.99}
        assert model.attributes["pool_padding"].source == "the file, as xconvert wrote it"
        convert(folder / output, folder / f"{output}.h5", to="keras.applications")  # so nothing is refused on the way back
        assert verify(folder / "keras.h5", folder / f"{output}.h5", sizes=(75,), tolerance=1e-5).equal
    convert(folder / "keras.h5", folder / "m.safetensors", to="mindcv")
    assert load(folder / "m.safetensors").preprocessing["mean"] == [0.5, 0.5, 0.5]


def test_what_was_not_verified_does_not_say_so(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = convert(folder / "keras.h5", folder / "a.pth", to="torch", verify=False)
    assert not report.equal
    assert report.to_dict()["equal"] is None
    _, out, _ = run(capsys, folder / "keras.h5", "--to", "torch", "--no-verify", "-o", folder / "b.pth")
    assert "not verified" in out
    assert "same answer" not in out
    assert (folder / "a.pth").read_bytes() == (folder / "b.pth").read_bytes()


@pytest.mark.slow
def test_the_default_output_is_beside_the_source(folder: Path) -> None:
    assert convert(folder / "keras.h5", to="torch").output == str(folder / "keras.pth")
    assert convert(folder / "keras.weights.h5", to="torch", force=True, verify=False).output == str(folder / "keras.pth")
    assert convert(folder / "timm.float16.pth", to="keras", verify=False).output == str(folder / "timm.float16.h5")
    (folder / "out").mkdir()
    assert convert(folder / "timm.pth", folder / "out", to="keras", verify=False).output == str(folder / "out" / "timm.h5")


def test_nothing_is_overwritten_without_being_asked(folder: Path) -> None:
    (folder / "a.pth").write_bytes(b"mine")
    with pytest.raises(UsageError, match="exists"):
        convert(folder / "keras.h5", folder / "a.pth", to="torch")
    assert (folder / "a.pth").read_bytes() == b"mine"
    with pytest.raises(UsageError, match="is the source itself"):
        convert(folder / "timm.pth", folder / "timm.pth", to="cadene", force=True)
    os.link(folder / "timm.pth", folder / "link.pth")
    with pytest.raises(UsageError, match="is the source itself"):
        convert(folder / "timm.pth", folder / "link.pth", to="cadene", force=True)


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("nowhere/a.pth", "cannot be written: No such file or directory"),
        ("/proc/a.pth", "`/proc/a.pth` cannot be written"),
        ("a.keras", "a `keras-archive` file holds keras names, not those of torch"),
        ("a.ckpt", "a `mindspore` file holds mindspore names, not those of torch"),
        ("a.pdiparams", "`paddle-inference` files are read, not written"),
        ("a.onnxx", "no format is written under the name `a.onnxx`"),
        ("a.h5", "a `keras-h5` file holds keras names, not those of torch"),
    ],
)
def test_an_output_that_cannot_be(folder: Path, capsys: pytest.CaptureFixture[str], output: str, told: str) -> None:
    code, out, err = run(capsys, folder / "keras.h5", "--to", "torch", "-o", folder / output, "--force")
    assert (code, out) == (2, "")
    assert told in err
    assert left_behind(folder) == []


def keras_1(source: Path, target: Path, swap: bool = False) -> None:
    """``source``, a Keras 3 file, in the spelling of the file released in 2016, by position in layer_names.

    Batch norms are numbered as Keras 1 created them, a block's shortcut before its separable convolutions, so the
    order of ``layer_names`` is not that of the numbers. ``swap`` exchanges the contents of batchnormalization_36 and
    _38.
    """
    kinds = {"sepconv": "separableconvolution2d", "batch_normalization": "batchnormalization", "_bn": "batchnormalization"}
    spelled = {"kernel": "W", "bias": "b", "moving_mean": "running_mean", "moving_variance": "running_std"}
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        group = old["model_weights"]
        layers = [n for n in group.attrs["layer_names"].astype(str) if len(group[n].attrs["weight_names"])]
        stems = {
            n: next((k for part, k in kinds.items() if part in n and (part != "sepconv" or not n.endswith("_bn"))), "")
            for n in layers
        }
        stems |= {n: "batchnormalization" for n in layers if n.endswith("_bn")}
        stems |= {n: "convolution2d" for n in layers if "conv2d" in n or n in ("block1_conv1", "block1_conv2")}
        stems["predictions"] = "dense"
        created = sorted(layers, key=_creation(layers))
        numbers: dict[str, int] = {}
        names = {}
        for name in created:
            numbers[stems[name]] = numbers.get(stems[name], 0) + 1
            names[name] = f"{stems[name]}_{numbers[stems[name]] + (stems[name] == 'dense')}"  # the released file has dense_2
        assert names["batch_normalization_3"] == "batchnormalization_36"
        assert names["block13_sepconv2_bn"] == "batchnormalization_38"
        contents = {name: name for name in layers}
        if swap:
            contents["batch_normalization_3"], contents["block13_sepconv2_bn"] = "block13_sepconv2_bn", "batch_normalization_3"
        new.attrs["layer_names"] = np.array([names[n].encode() for n in layers])
        for name in layers:
            place = new.create_group(names[name])
            source_group = group[contents[name]]
            weights = [w if isinstance(w, str) else w.decode() for w in source_group.attrs["weight_names"]]
            ends = [w.split("/")[-1].removesuffix(":0") for w in weights]
            titles = [f"{names[name]}_{spelled.get(end, end)}:0" for end in ends]
            place.attrs["weight_names"] = np.array([t.encode() for t in titles])
            for title, weight in zip(titles, weights, strict=True):
                place[title] = source_group[weight][()]


def _creation(layers: list[str]):
    shortcut = {"": 2, "_1": 3, "_2": 4, "_3": 13}

    def order(name: str) -> tuple[int, int, int]:
        if name == "predictions":
            return (99, 0, 0)
        if name.startswith(("conv2d", "batch_normalization")):
            return (shortcut[name.removeprefix("conv2d").removeprefix("batch_normalization")], 0, 0)
        return (int(name[5 : name.index("_")]), 1, layers.index(name))

    return order


@pytest.mark.slow
def test_a_keras_1_file_goes_by_position(folder: Path) -> None:
    keras_1(folder / "keras.h5", folder / "released.h5")
    assert "convolution2d_1/convolution2d_1_W" in formats.read(folder / "released.h5").tensors
    assert verify(folder / "keras.h5", folder / "released.h5").equal
    report = convert(folder / "released.h5", folder / "released.pth", to="torch")
    assert report.equal


@pytest.mark.slow
def test_swapped_batch_norms_of_a_keras_1_file_are_noticed_by_the_numbers(folder: Path) -> None:
    """batchnormalization_36 and _38 have one shape; two published readers disagree about them."""
    keras_1(folder / "keras.h5", folder / "swapped.h5", swap=True)
    report = verify(folder / "keras.h5", folder / "swapped.h5")
    assert [check.ok for check in report.checks if check.name in ("names", "shapes")] == [True, True]
    assert report.first_divergence is not None
    assert report.first_divergence.name == "block13.sepconv2.bn"
    assert not report.equal


def test_a_narrower_network_is_another(folder: Path) -> None:
    report = verify(folder / "keras.h5", narrow(divide=8), sizes=(75,))
    assert not report.equal
    assert not report.checks[1].ok


@pytest.mark.parametrize("name", FILES)
def test_inspect_says_what_is_there(folder: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    code, out, _ = run(capsys, "inspect", folder / name, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["architecture"], told["blocks"], told["classes"]) == ("xception", {"entry": 3, "middle": 8}, 10)
    assert told["dtypes"] == (["float16"] if "float16" in name else ["float32"])
    source = {"keras.h5": "the file's model_config", "keras.weights.h5": "mapping keras.applications"}.get(name, "mapping timm")
    assert told["attributes"]["bn_epsilon"]["source"] == source


MY_DIALECT = """
[mine]
separator  = "."
suffix     = ".npz"
conv       = { weight = ["w", "H W I O"] }
depthwise  = { weight = ["w", "H W C 1"] }
pointwise  = { weight = ["w", "1 1 I O"] }
linear     = { weight = ["w", "I O"], bias = ["b", "O"] }
batch_norm = { gamma = ["g", "C"], beta = ["b", "C"], mean = ["m", "C"], variance = ["v", "C"] }
"""
MY_ZOO = """
architecture = "xception"
dialect      = "mine"
describes    = "my zoo"
names_of     = "timm"
[attributes]
bn_epsilon   = 1e-4
pool_padding = "symmetric"
bn_momentum  = 0.9
"""


@pytest.mark.slow
def test_a_zoo_and_a_framework_of_ones_own_go_both_ways(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "maps").mkdir()
    (folder / "maps" / "dialects.toml").write_text(MY_DIALECT)
    (folder / "maps" / "myzoo.toml").write_text(MY_ZOO)
    options = ["--mappings", folder / "maps"]
    assert run(capsys, "check", folder / "maps" / "myzoo.toml", *options)[0] == 0
    assert run(capsys, folder / "timm.pth", "--to", "myzoo", *options)[0] == 0
    assert (folder / "timm.npz").exists()
    assert run(capsys, folder / "timm.npz", "--to", "timm", "-o", folder / "back.pth", *options)[0] == 0
    assert run(capsys, "verify", folder / "timm.npz", folder / "back.pth", "--sizes", "75", *options)[0] == 0
    assert run(capsys, folder / "timm.npz", "--to", "timm", "-o", folder / "x.pth")[0] == 2  # unknown without the mapping
