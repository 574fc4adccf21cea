"""Files behind URLs: from a real web server and a real object store, by way of the cache, and back."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tests.servers import free_port, http, s3
from tests.test_cli import run
from xconvert import remote
from xconvert.conversion import convert
from xconvert.errors import UsageError, XconvertError
from xconvert.loading import load
from xconvert.remote import cache

pytestmark = pytest.mark.framework
FIXTURES = Path(__file__).parents[1] / "fixtures"
fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XCONVERT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("XCONVERT_MAX_DOWNLOAD", raising=False)
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with http(FIXTURES, tmp_path_factory.mktemp("http")) as address:
        yield address


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("s3fs")
    with s3(tmp_path_factory.mktemp("s3")) as address:
        yield address


def forget() -> None:
    """Let s3fs read the environment again."""
    fsspec.get_filesystem_class("s3").clear_instance_cache()


@pytest.fixture
def bucket(store: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The object store as s3fs sees it, with a bucket called ``zoo``."""
    for name, value in {
        "ENDPOINT_URL": store,
        "ACCESS_KEY_ID": "a",
        "SECRET_ACCESS_KEY": "b",
        "DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    forget()
    fs = fsspec.filesystem("s3", skip_instance_cache=True, use_listings_cache=False)
    fs.makedirs("zoo", exist_ok=True)
    yield fs
    fs.rm("zoo", recursive=True)
    forget()


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_from_a_web_server_is_converted_into_the_folder_one_is_in(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, f"{web}/keras.h5", "--to", "torch")
    assert (code, err) == (0, "")
    assert out.startswith(f"{web}/keras.h5 → keras.pth\n") and "verified: same answer" in out
    convert(FIXTURES / "keras.h5", tmp_path / "local.pth", to="torch")
    assert (tmp_path / "keras.pth").read_bytes() == (tmp_path / "local.pth").read_bytes()
    code, out, _ = run(capsys, "verify", f"{web}/keras.h5", "keras.pth", "--sizes", "75", "--json")
    told = json.loads(out)
    assert code == 0 and told["provenance"]["source"]["sha256"] == sha256(FIXTURES / "keras.h5")
    assert told["provenance"]["source"]["file"] == f"{web}/keras.h5"
    assert run(capsys, "diff", f"{web}/keras.h5", tmp_path / "keras.pth")[0] == 0


def test_a_checkpoint_of_several_files_comes_from_a_server_that_lists_nothing(web: str) -> None:
    model = load(f"{web}/deeplab.ckpt")
    assert model.family.name == "xception_aligned"
    place = Path(model.origin.place)
    assert sorted(file.name for file in place.parent.iterdir()) == ["deeplab.ckpt.data-00000-of-00001", "deeplab.ckpt.index"]
    assert model.origin.sha256() == load(FIXTURES / "deeplab.ckpt").origin.sha256()


@pytest.mark.parametrize("fragment", ["sha256={}", "sha256={:.8}"])
def test_a_checksum_is_checked_and_then_the_server_is_not_asked(web: str, fragment: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{web}/timm.pth#" + fragment.format(sha256(FIXTURES / "timm.pth"))
    place = cache.copy_of(url)
    monkeypatch.setattr(cache, "opened", lambda url: pytest.fail("asked"))
    assert cache.copy_of(url) == place


def test_a_wrong_checksum_is_refused_and_nothing_is_kept(web: str, own_cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = "0" * 64
    code, out, err = run(capsys, "inspect", f"{web}/timm.pth#sha256={wrong}")
    assert (code, out) == (2, "")
    assert err.splitlines()[:4] == [
        f"error: `{web}/timm.pth` has another checksum than it should",
        "",
        f"  expected sha256  {wrong}",
        f"  fetched  sha256  {sha256(FIXTURES / 'timm.pth')}",
    ]
    assert not [file for file in own_cache.rglob("*") if file.is_file() and file.name != "lock"]


def test_a_changed_copy_is_noticed(web: str) -> None:
    url = f"{web}/timm.pth#md5=" + hashlib.md5((FIXTURES / "timm.pth").read_bytes()).hexdigest()
    place = cache.copy_of(url)
    place.write_bytes(b"changed")
    assert cache.copy_of(url).read_bytes() == (FIXTURES / "timm.pth").read_bytes()


def test_what_is_wrong_is_told_in_one_message(
    web: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = f"http://127.0.0.1:{free_port()}/x.pth"
    monkeypatch.setenv("XCONVERT_MAX_DOWNLOAD", "100K")
    for url, told in {
        f"{web}/none.pth": f"error: `{web}/none.pth` does not exist\n",
        nobody: f"error: `{nobody}` cannot be reached\n",
        "https://no.such.host.invalid/x.pth": "error: `https://no.such.host.invalid/x.pth` cannot be reached\n",
        "hf://timm/no-such-model-anywhere": "error: `hf://timm/no-such-model-anywhere` cannot be reached\n",
        "strange://x/y.pth": "error: `strange://` is no kind of URL that is known\n",
        f"{web}/timm.pth#sha=1": "error: `#sha=1` is no checksum\n",
        f"{web}/timm.pth": f"error: `{web}/timm.pth` is larger than 100 KiB, the most that is fetched\nhint: allow more:",
        f"{web}/README.md": f"error: `{web}/README.md` is not a checkpoint that xconvert can read",
        "s3://zoo/x.pth": "error: `s3://zoo/x.pth` is not for everybody",
    }.items():
        code, out, err = run(capsys, "inspect", url)
        assert (code, out) == (2, "") and err.startswith(told), err


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    code, _, err = run(capsys, "https://x.invalid/y.pth", "--to", "timm")
    assert code == 2
    assert err == "error: `https://` needs a package that is not installed\nhint: pip install 'xconvert[remote]'\n"


def test_an_object_store_takes_and_gives_every_kind_of_checkpoint(
    bucket: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("keras.h5", "deeplab.ckpt.index", "deeplab.ckpt.data-00000-of-00001"):
        bucket.put_file(str(FIXTURES / name), f"zoo/in/{name}")
    for source, to, output in [
        ("s3://zoo/in/keras.h5", "torch", "s3://zoo/out/keras.pth"),
        ("s3://zoo/in/deeplab.ckpt", "tensorflow", "s3://zoo/out/deeplab.ckpt"),
    ]:
        assert run(capsys, source, "--to", to, "-o", output)[0] == 0
        code, out, _ = run(capsys, "verify", source, output, "--sizes", "75")
        assert code == 0 and out.startswith(source)
        code, _, err = run(capsys, source, "--to", to, "-o", output)
        assert code == 2 and err.startswith(f"error: `{output}` exists\n")
        assert run(capsys, source, "--to", to, "-o", output, "--force")[0] == 0
    names = ["deeplab.ckpt.data-00000-of-00001", "deeplab.ckpt.index", "keras.pth"]
    assert sorted(path.rpartition("/")[2] for path in bucket.ls("zoo/out")) == names
    convert("s3://zoo/in/keras.h5", tmp_path / "local.pth", to="torch")
    assert bucket.cat_file("zoo/out/keras.pth") == (tmp_path / "local.pth").read_bytes()


def test_a_folder_of_the_hub_in_an_object_store(bucket: Any, capsys: pytest.CaptureFixture[str]) -> None:
    bucket.put_file(str(FIXTURES / "deeplab.ckpt.index"), "zoo/d.ckpt.index")
    bucket.put_file(str(FIXTURES / "deeplab.ckpt.data-00000-of-00001"), "zoo/d.ckpt.data-00000-of-00001")
    told = run(capsys, "s3://zoo/d.ckpt", "--to", "timm", "--drop-background", "--layout", "hub", "-o", "s3://zoo/hub")
    assert told[0] == 0, told
    bucket.pipe_file("zoo/hub/README.md", b"beside it")
    code, out, err = run(capsys, "inspect", "s3://zoo/hub")
    assert code == 0 and out.startswith("s3://zoo/hub\n"), err
    assert len(list(Path(load("s3://zoo/hub").origin.place).parent.rglob("*.*"))) == 2 + 1  # and entry.json


def test_nothing_is_uploaded_unless_verified(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(XconvertError) as refused:
        convert(FIXTURES / "keras.h5", "s3://zoo/no.pth", to="timm")
    assert refused.value.exit_code == 1
    monkeypatch.setattr("xconvert.weights.check_written", lambda *args: (_ for _ in ()).throw(UsageError("no `x`")))
    with pytest.raises(UsageError):
        convert(FIXTURES / "keras.h5", "s3://zoo/no.pth", to="torch")
    assert not bucket.exists("zoo/no.pth")


def test_what_has_not_changed_is_not_fetched_again_and_what_has_is(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put_file(str(FIXTURES / "timm.pth"), "zoo/x.pth")
    fetched: list[str] = []
    stream = cache._stream
    monkeypatch.setattr(cache, "_stream", lambda fs, file, *rest: (fetched.append(file.name), stream(fs, file, *rest)))
    first = cache.copy_of("s3://zoo/x.pth")
    assert cache.copy_of("s3://zoo/x.pth") == first and fetched == ["x.pth"]
    bucket.put_file(str(FIXTURES / "keras.pth"), "zoo/x.pth")
    assert cache.copy_of("s3://zoo/x.pth").read_bytes() == (FIXTURES / "keras.pth").read_bytes()
    assert fetched == ["x.pth"] * 2


def test_a_download_that_broke_off_is_continued(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "_PIECE", 1 << 16)
    bucket.put_file(str(FIXTURES / "timm.pth"), "zoo/x.pth")
    size, read = (FIXTURES / "timm.pth").stat().st_size, []

    def broken(fs: Any, file: Any, path: Path, take: Any) -> None:
        there = path.stat().st_size if path.exists() else 0
        read.append(there)
        if not there:
            path.write_bytes((FIXTURES / "timm.pth").read_bytes()[:200_000])
            raise ConnectionResetError
        stream(fs, file, path, take)

    stream = cache._stream
    monkeypatch.setattr(cache, "_stream", broken)
    place = cache.copy_of("s3://zoo/x.pth")
    assert read == [0, 200_000] and place.stat().st_size == size
    assert place.read_bytes() == (FIXTURES / "timm.pth").read_bytes()


def test_a_copy_that_the_store_cannot_confirm_is_offered_with_its_checksum(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put_file(str(FIXTURES / "timm.pth"), "zoo/x.pth")
    cache.copy_of("s3://zoo/x.pth")
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    forget()
    with pytest.raises(XconvertError, match="cannot be reached") as told:
        cache.copy_of("s3://zoo/x.pth")
    url = told.value.hints[0].split("`")[1]
    assert url == f"s3://zoo/x.pth#sha256={sha256(FIXTURES / 'timm.pth')[:16]}"
    assert cache.copy_of(url).read_bytes() == (FIXTURES / "timm.pth").read_bytes()


def test_a_web_server_takes_nothing(web: str) -> None:
    with pytest.raises(XconvertError, match=r"cannot be written|cannot be read"):
        convert(FIXTURES / "keras.h5", f"{web}/new.pth", to="torch")
    assert not (FIXTURES / "new.pth").exists()


def test_names_and_urls() -> None:
    assert remote.is_url("s3://a/b") and remote.is_url("https://a/b") and not remote.is_url("C:/x") and not remote.is_url("a/b")
    assert remote.name_of("https://a/b/c.h5?x=1#sha256=12345678") == Path("c.h5")
    assert remote.split("s3://a#sha256=" + "a" * 64) == ("s3://a", "sha256", "a" * 64)


class Hostile(BaseHTTPRequestHandler):
    """A server that promises more than comes, or sends without end."""

    def do_HEAD(self) -> None:
        self.send_response(200)
        if "short" in self.path:
            self.send_header("Content-Length", "100000")
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(b"x" * 1000)
            while "endless" in self.path:
                self.wfile.write(b"x" * 100_000)

    def log_message(self, format: str, *args: Any) -> None:
        pass


def test_a_server_that_lies_fills_no_disk(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XCONVERT_MAX_DOWNLOAD", "5M")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hostile)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        address = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(XconvertError, match="is larger than 5 MiB"):
            cache.copy_of(f"{address}/endless.pth")
        with pytest.raises(XconvertError, match=r"cannot be read|broke off"):
            cache.copy_of(f"{address}/short.pth")
    finally:
        server.shutdown()
        server.server_close()
    assert sum(file.stat().st_size for file in own_cache.rglob("*")) < 7 << 20
