"""The command line: exit codes, what goes to stdout and stderr, one message for each mistake, and no framework on the
way."""

from __future__ import annotations

import io
import json
import re
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import click
import numpy as np
import pytest

from xconvert import cli, commands
from xconvert.cli import main
from xconvert.model import Checkpoint
from xconvert.render import UNSEEN

FIXTURES = Path(__file__).parents[1] / "fixtures"
FRAMEWORKS = ("torch", "tensorflow", "keras", "paddle", "mindspore", "onnx", "timm", "jax")


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as stopped:
        main([str(arg) for arg in args])
    out, err = capsys.readouterr()
    return int(stopped.value.code or 0), out, err


def evil() -> bytes:
    """A protocol-0 pickle that calls posix.system when unpickled."""
    return b"cposix\nsystem\n(S'echo pwned'\ntR."


def torch_zip(pickle: bytes) -> bytes:
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", pickle)
        archive.writestr("archive/version", "3\n")
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("pickle"))
    return buffer.getvalue()


BAD = {
    "nothing.pth": (b"", "is empty"),
    "lfs.pth": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n", "Git-LFS pointer"),
    "page.h5": (b"<!DOCTYPE html><html>", "HTML page"),
    "noise.h5": (bytes(range(256)) * 8, "matches no known format"),
    "packed.pth": (b"\x1f\x8b\x08\0" + bytes(100), "gzip-compressed"),
    "old.pth": (tar(), "tar archive"),
    "cut.h5": ((FIXTURES / "keras.h5").read_bytes()[:300_000], "truncated"),
    "cut.pth": ((FIXTURES / "timm.pth").read_bytes()[:300_000], "truncated"),
    "evil.pth": (torch_zip(evil()), "asks to run `posix.system`; nothing was run"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", ["convert", "inspect", "verify"])
def test_a_bad_file_gets_one_message(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, command: str) -> None:
    content, told = BAD[name]
    path = tmp_path / name
    path.write_bytes(content)
    extra = {"convert": ["--to", "torch"], "inspect": [], "verify": [FIXTURES / "timm.pth"]}[command]
    code, out, err = run(capsys, command, path, *extra)
    assert (code, out) == (2, "")
    assert err.startswith("error: `")
    assert err.count("error:") == 1
    assert name in err
    assert told in err
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capsys, "nowhere.pth", "--to", "torch")
    assert code == 2
    assert err == "error: `nowhere.pth` does not exist\n"


def test_another_network_is_told_in_two_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(
        tmp_path / "resnet.npz", **{"conv1.weight": np.zeros((64, 3, 7, 7), np.float32), "layer1.0.bn1.weight": np.zeros(64)}
    )
    code, _, err = run(capsys, tmp_path / "resnet.npz", "--to", "torch")
    assert code == 2
    assert "holds no network that xconvert knows" in err
    assert "closest: " in err
    assert "MISSING (" in err
    assert "UNEXPECTED (1)\n    layer1.0.bn1.weight" in err


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (["verfy"], "no command and no file is called `verfy`\nhint: did you mean `xconvert verify`?"),
        (["bananas"], "hint: `xconvert --help` lists the commands"),
        ([FIXTURES / "keras.h5"], "missing option '--to'"),
        ([FIXTURES / "keras.h5", "--to", "caffe"], "no implementation or framework is called `caffe`"),
        ([FIXTURES / "keras.h5", "--to", "timm", "--frm", "x"], "no such option"),
        ([FIXTURES / "keras.h5", "--to", "torch", "--from", "kears"], "no implementation or framework is called `kears`"),
        ([FIXTURES / "keras.h5", "--to", "torch", "--set", "bn_epsilon"], "is not of the form NAME=VALUE"),
        ([FIXTURES / "keras.h5", "--to", "torch", "--set", "bn_epsilon=abc"], "`bn_epsilon` cannot be `abc`"),
        ([FIXTURES / "keras.h5", "--to", "torch", "--accept", "padding"], "no attribute is called `padding`"),
        (["verify", FIXTURES / "keras.h5"], "one checkpoint is compared with a backend"),
        (["verify", FIXTURES / "keras.h5", "--backend", "caffe"], "no backend is called `caffe`"),
        (["verify", FIXTURES / "keras.h5", FIXTURES / "keras.h5", "--sizes", "32"], "is no list of sizes"),
        (["verify", FIXTURES / "keras.h5", FIXTURES / "keras.h5", "--sizes", "²"], "is no list of sizes"),
        (["verify", FIXTURES / "keras.h5", FIXTURES / "keras.h5", "--tolerance", "inf"], "the tolerance cannot be inf"),
        (["check", "nowhere.toml"], "cannot be opened"),
        (["x" * 300 + ".pth", "--to", "torch"], "File name too long"),
        ([FIXTURES / "keras.h5", "--to", "torch", "-o", "x" * 300 + ".pth"], "File name too long"),
        (["inspect", "/dev/null"], "is not a regular file"),
    ],
)
def test_a_mistake_is_one_message_and_exit_code_2(capsys: pytest.CaptureFixture[str], args: list, told: str) -> None:
    code, out, err = run(capsys, *args)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert told.lower() in err.lower()
    assert "Traceback" not in err


def test_a_refusal_looks_as_designed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "keras.h5"
    source.write_bytes((FIXTURES / "keras.h5").read_bytes())
    code, out, err = run(capsys, source, "--to", "timm")
    assert (code, out) == (1, "")
    lines = err.splitlines()
    assert lines[:6] == [
        "error: `pool_padding` differs, and no weights can make up for it",
        "",
        "  source  keras.applications  same_upper  the odd pixel goes to the end",
        "  target  timm                symmetric   one pixel on each side",
        "",
        lines[5],
    ]
    assert lines[5].startswith("  At 299×299 the first layer to part is `block3.pool`; logits move by ")
    assert lines[-2:] == ["hint: pass `--accept pool_padding` to convert anyway", "hint: `--to torch` keeps the function exactly"]
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.slow
def test_json_is_on_stdout_and_errors_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, FIXTURES / "timm.pth", "--to", "keras", "-o", tmp_path / "a.h5", "--json")
    told = json.loads(out)
    assert code == 0
    assert told["equal"] is True
    assert told["output"] == str(tmp_path / "a.h5")
    folded = {
        "attribute": "bn_epsilon",
        "source": 1e-5,
        "target": 1e-3,
        "action": "folded",
        "count": 40,
        "where": "40 batch norms",
    }
    assert told["changes"][0] == folded
    code, out, err = run(capsys, FIXTURES / "keras.h5", "--to", "timm", "--json")
    assert code == 1
    assert json.loads(out)["error"]["hints"][0] == "pass `--accept pool_padding` to convert anyway"
    assert err.startswith("error: ")


@pytest.mark.slow
def test_verify_says_where_two_files_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(capsys, FIXTURES / "keras.h5", "--to", "timm", "--accept", "pool_padding", "-o", tmp_path / "x.pth")
    code, out, _ = run(capsys, "verify", FIXTURES / "keras.h5", tmp_path / "x.pth")
    assert code == 1
    assert "← parts here" in next(line for line in out.splitlines() if line.startswith("  block3.pool"))
    assert "different: first at `block3.pool`" in out
    code, out, _ = run(capsys, "verify", FIXTURES / "keras.h5", tmp_path / "x.pth", "--sizes", "71,295")
    assert code == 0
    assert "equal: logits agree" in out
    code, out, _ = run(capsys, "verify", FIXTURES / "keras.h5", FIXTURES / "keras.weights.h5", "--json", "--sizes", "75")
    assert code == 0
    assert json.loads(out)["equal"] is True


def test_a_name_in_a_file_cannot_drive_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", **{"\x1b[31mred": np.zeros(3, np.float32)})
    _, out, err = run(capsys, "inspect", tmp_path / "x.npz")
    assert "\x1b" not in out + err


@pytest.mark.parametrize(
    "args", [["--help"], ["--version"], ["list"], ["list", "--json"], ["convert", "--help"], ["verify", "-h"]]
)
def test_help_and_lists(capsys: pytest.CaptureFixture[str], args: list[str]) -> None:
    code, out, err = run(capsys, *args)
    assert (code, err) == (0, "")
    assert out.strip()


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run(capsys, "list", "--json")[1])
    assert {i["name"] for i in told["implementations"]} == {
        "timm",
        "cadene",
        "lornatang",
        "keras.applications",
        "keras-hub",
        "mindcv",
        "paddleclas",
        "paddleclas-inference",
        "tf-deeplab",
    }
    formats = {"torch", "torch-legacy", "safetensors", "npz", "keras-h5", "keras-weights", "keras-archive", "hub", "onnx"}
    formats |= {"tensorflow", "tensorflow-objects", "tensorflow-v1", "paddle", "paddle-inference", "mindspore"}
    formats |= {"keras-hub", "paddleclas"}
    assert {f["name"] for f in told["formats"]} == formats
    assert {f["name"] for f in told["formats"] if not f["written"]} == {"torch-legacy", "tensorflow-v1", "paddle-inference"}
    assert {b["name"] for b in told["backends"]} >= {"numpy", "torch", "keras", "timm", "keras.applications"}


@pytest.mark.parametrize(
    "code",
    [
        "import xconvert; xconvert.load, xconvert.convert, xconvert.verify, xconvert.forward, xconvert.build",
        "from xconvert.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass",
        "from xconvert.cli import main\ntry: main(['list'])\nexcept SystemExit: pass",
        f"import xconvert; xconvert.verify({str(FIXTURES / 'timm.pth')!r}, {str(FIXTURES / 'timm.pth')!r}, sizes=[75])",
    ],
)
def test_no_framework_is_imported(code: str) -> None:
    check = f"\nimport sys; found = [m for m in {FRAMEWORKS} if m in sys.modules]; sys.exit(' '.join(found) or 0)"
    done = subprocess.run([sys.executable, "-c", code + check], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_each_command_has_a_module_and_a_line_of_help() -> None:
    modules = {file.stem for file in Path(commands.__file__).parent.glob("[a-z]*.py")}
    assert modules == set(cli.COMMANDS)
    for name in modules:
        found = cli.cli.get_command(click.Context(cli.cli), name)
        assert found is not None
        assert found.help


def imported(*args: object) -> tuple[list[str], str]:
    """The modules that a command has imported when it ends, and what it prints; it must end well, and complain of nothing."""
    code = f"import sys\nfrom xconvert.cli import main\ntry: main({[str(arg) for arg in args]!r})\n"
    code += "except SystemExit as ended: assert not ended.code\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    out, _, modules = done.stdout.removesuffix("\n").rpartition("\n")
    return modules.split(), out


def test_only_the_command_that_is_asked_for_is_imported() -> None:
    modules, _ = imported("list")
    assert [m for m in modules if m.startswith("xconvert.commands.") and "_" not in m] == ["xconvert.commands.list"]


def test_the_process_that_forks_has_imported_nothing_large() -> None:
    code = f"import sys\nsys.path.insert(0, {str(FIXTURES.parent)!r})\nfrom xconvert import program\n"
    code += "sys.exit(' '.join({'typing', 'pathlib', 'click', 'numpy', 'tempfile'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-ES", "-c", code], capture_output=True, text=True, check=False).stderr == "\n"


def test_help_needs_not_even_numpy() -> None:
    assert "numpy" not in imported("--help")[0]


@pytest.mark.parametrize("name", ["keras.h5", "keras.weights.h5", "keras.pth", "timm.pth", "deeplab.ckpt", "deeplab.pdparams"])
def test_a_file_is_inspected_without_numpy(name: str) -> None:
    modules, out = imported("inspect", FIXTURES / name)
    assert "numpy" not in modules
    assert "  architecture " in out


@pytest.mark.parametrize("name", ["x.safetensors", "x.ckpt"])
def test_what_keeps_its_layout_is_converted_without_numpy(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    to = {"x.safetensors": "torch", "x.ckpt": "mindspore"}[name]
    modules, _ = imported(FIXTURES / "timm.pth", "--to", to, "--no-verify", "-o", tmp_path / name)
    assert "numpy" not in modules
    assert run(capsys, "verify", FIXTURES / "timm.pth", tmp_path / name)[0] == 0


def test_no_arguments_show_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys)
    assert (code, out) == (2, "")
    assert err.startswith("Usage: xconvert")


def test_a_full_device_and_a_closed_pipe_make_no_noise() -> None:
    command = [sys.executable, "-m", "xconvert", "list"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert (done.returncode, done.stderr) == (2, "error: no space left on device\n")
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.wait() == -signal.SIGPIPE
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()


def test_colour_only_on_a_terminal_and_never_with_no_color() -> None:
    import os
    import pty

    for environment, expected in (({}, True), ({"NO_COLOR": "1"}, False)):
        master, slave = pty.openpty()
        clean = {k: v for k, v in os.environ.items() if k != "NO_COLOR"} | {"TERM": "xterm"} | environment
        subprocess.run([sys.executable, "-m", "xconvert", "verfy"], stderr=slave, env=clean, check=False)
        os.close(slave)
        told = os.read(master, 4096)
        os.close(master)
        assert (b"\x1b[" in told) is expected
        assert b"no command and no file" in told


PUBLISHED = {  # the twelve networks with published figures, as their zoos call them
    *("legacy_xception", "xception41", "xception41p", "xception65", "xception65p", "xception71", "Xception"),
    *("Xception41", "Xception41_deeplab", "Xception65", "Xception65_deeplab", "Xception71"),
}


def test_list_knows_the_published_networks_and_counts_them(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(run(capsys, "list", "--json")[1])
    assert {model["name"] for i in told["implementations"] for model in i["published"]} >= PUBLISHED
    short, long = (run(capsys, "list", *options)[1] for options in ((), ("--long",)))
    assert all(name in short and name in long for name in PUBLISHED)
    assert "17,946,553,928" in long
    assert "17,946,553,928" not in short
    assert max(map(len, short.splitlines())) <= 80


@pytest.mark.slow
def test_a_hub_folder_is_written_read_and_replaced_as_a_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = (
        FIXTURES / "deeplab.pdparams",
        "--to",
        "timm",
        "--accept",
        "exit_dilation",
        "--layout",
        "hub",
        "-o",
        tmp_path / "x41",
    )
    assert run(capsys, *command)[0] == 0
    ours = ["README.md", "config.json", "model.safetensors"]
    assert sorted(path.name for path in (tmp_path / "x41").iterdir()) == ours
    config = json.loads((tmp_path / "x41" / "config.json").read_text())
    assert config["architecture"] == "xception41"
    assert config["pretrained_cfg"]["mean"] == [0.485, 0.456, 0.406]  # PaddleClas' own, which go with the weights
    out = run(capsys, "inspect", tmp_path / "x41")[1]
    assert "timm xception41" in out
    assert "mean 0.485/0.456/0.406" in out
    assert "-2.12 to 2.64" in out
    assert run(capsys, *command)[0] == 2
    (tmp_path / "x41" / "stray").write_text("")
    assert run(capsys, *command, "--force")[0] == 0
    assert sorted(path.name for path in (tmp_path / "x41").iterdir()) == [*ours, "stray"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x41"]
    for source in ("x41", "x41/model.safetensors"):
        again = run(capsys, tmp_path / source, "--to", "timm", "--layout", "hub", "-o", tmp_path / "x41", "--force")
        assert (again[0], "is the source itself" in again[2]) == (2, True)
    code, _, err = run(capsys, FIXTURES / "deeplab.pdparams", "--to", "torch", "--layout", "hub", "-o", tmp_path / "y")
    assert (code, "`--to timm` writes one" in err) == (2, True)  # timm computes no dilation, whatever our record says


@pytest.mark.slow
def test_a_checkpoint_of_several_files_goes_by_its_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, FIXTURES / "deeplab.ckpt", "--to", "tensorflow", "-o", tmp_path / "a.ckpt", "--no-verify")[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.ckpt.data-00000-of-00001", "a.ckpt.index"]
    for name in ("a.ckpt", "a.ckpt.index", ""):
        assert "tf-deeplab xception_41" in run(capsys, "inspect", tmp_path / name)[1]
    for source in ("a.ckpt", "a.ckpt.index"):
        code, _, err = run(capsys, tmp_path / source, "--to", "tensorflow", "-o", tmp_path / "a.ckpt", "--force")
        assert (code, "is the source itself" in err) == (2, True)
    (tmp_path / "a.ckpt.data-00000-of-00001").unlink()
    code, _, err = run(capsys, "inspect", tmp_path / "a.ckpt")
    assert code == 2
    assert "a.ckpt.data-00000-of-00001" in err


def test_averages_are_chosen_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from xconvert import formats
    from xconvert.formats import npz

    tensors = dict(formats.read(FIXTURES / "deeplab.ckpt").tensors)
    trained = {name: tensor for name, tensor in tensors.items() if not name.endswith(("_mean", "_variance", "step"))}
    both = tensors | {f"{name}/ExponentialMovingAverage": tensor for name, tensor in trained.items()}
    assert npz.FORMAT.write
    npz.FORMAT.write(tmp_path / "a.npz", Checkpoint(both))
    code, _, err = run(capsys, "inspect", tmp_path / "a.npz")
    assert code == 2
    assert "pass `--ema`" in err
    for flag, told in (("--ema", "took"), ("--no-ema", "left out")):
        code, out, _ = run(capsys, "inspect", tmp_path / "a.npz", flag)
        assert code == 0
        assert f"{told} {len(trained)} moving averages" in out


def test_a_report_never_replaces_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Formats are told apart by content, so a checkpoint may end in .json or .html."""
    data = (FIXTURES / "keras.h5").read_bytes()
    for name in ("a.html", "b.json"):
        (tmp_path / name).write_bytes(data)
    a, b = tmp_path / "a.html", tmp_path / "b.json"
    converted = ["convert", a, "--to", "torch", "--report", a]
    for arguments in (["verify", a, b, "--report", b], ["verify", a, b, "--report", a], converted):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert "is a part of a checkpoint" in err
    assert a.read_bytes() == b.read_bytes() == data
    assert {path.name for path in tmp_path.iterdir()} == {"a.html", "b.json"}


def test_no_report_replaces_a_file_of_the_folder_just_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "hub").mkdir()
    report = tmp_path / "hub" / "config.json"
    written = [FIXTURES / "timm.pth", "--to", "timm", "--from", "timm", "--layout", "hub", "-o", tmp_path / "hub"]
    code, _, err = run(capsys, *written, "--report", report)
    assert code == 2
    assert "is a part of a checkpoint" in err
    assert json.loads(report.read_text())["architecture"] == "legacy_xception"


def test_a_report_goes_nowhere_else(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for report, told in (("r.pdf", "has no suffix of a report"), ("no/r.html", "there is no folder"), ("", "has no suffix")):
        code, _, err = run(capsys, "verify", FIXTURES / "keras.h5", FIXTURES / "keras.h5", "--report", tmp_path / report)
        assert code == 2
        assert told in err


def test_errors_are_annotations_too(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, "verify", FIXTURES / "keras.h5", "no\nfile.pth", "--format", "github")
    assert code == 2
    assert out.startswith("::error title=xconvert::")
    assert out.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_json_on_a_full_disk_is_no_answer() -> None:
    keras = FIXTURES / "keras.h5"
    command = [sys.executable, "-m", "xconvert", "verify", keras, keras, "--sizes", "75", "--json"]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(list(map(str, command)), stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


SPOOF = "a\x1b[31m\nhint: rm\u202e\x9b.pth"


@pytest.mark.parametrize("command", ["inspect", "inspect --json", "diff", "verify", "convert", "missing", "check", "no command"])
def test_the_name_of_a_file_drives_no_terminal(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In every message there are as many lines as for another name, and nothing in them that cannot be seen."""
    told = []
    for name in ("plain.pth", SPOOF):
        path = tmp_path / name
        shutil.copy(FIXTURES / "timm.pth", path)
        arguments = {
            "inspect": ["inspect", path],
            "inspect --json": ["inspect", "--json", path],
            "diff": ["diff", path, path],
            "verify": ["verify", path, path, "--sizes", "75", "--report", path.with_suffix(".md")],
            "convert": [path, "--to", "keras", "--no-verify", "-o", path.with_suffix(".h5")],
            "missing": ["inspect", path.with_suffix(".none")],
            "check": ["check", path],
            "no command": [name.removesuffix(".pth") + "no-such"],
        }[command]
        with pytest.raises(SystemExit):
            main([str(argument) for argument in arguments])
        told.append("".join(capsys.readouterr()))
    assert not re.search(UNSEEN, told[1].replace("\n", ""))
    assert told[1].count("\n") == told[0].count("\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no full device")
@pytest.mark.parametrize("arguments", ["inspect none", "inspect none --json", "verify a b --format github"])
def test_an_error_that_cannot_be_told_has_its_exit_code(arguments: str) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "xconvert", *arguments.split()]
        assert subprocess.run(command, stdout=full, stderr=full, check=False).returncode == 2
