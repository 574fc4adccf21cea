"""The pickle machine builds what ``pickle`` writes, calls nothing, and does no more work than the file is long."""

from __future__ import annotations

import pickle
import struct
import tracemalloc
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pickles import Raw, archive, call, checkpoint, many, named, opcodes
from xconvert.errors import UnreadableError
from xconvert.formats import _globals, _pickle
from xconvert.formats._globals import key_of
from xconvert.formats._limits import Limits
from xconvert.formats._pickle import Dict, Global, Opaque, load


def pickled(data: bytes, **options: Any) -> Any:
    """What the machine makes of ``data``."""
    return load(Path("x.pth"), memoryview(data), options.pop("handlers", {}), **options)[0]


scalars = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.text() | st.binary(max_size=400)
)
keys = st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.tuples(st.text(), st.integers(0, 9))
trees = st.recursive(
    scalars | st.complex_numbers(allow_nan=False) | st.frozensets(keys) | st.sets(keys) | st.binary().map(bytearray),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.tuples(inner) | st.dictionaries(keys, inner) | st.just(()),
    max_leaves=20,
)


def keyed(tree: Any) -> Any:
    """``tree`` with the keys that the machine makes of tuples."""
    match tree:
        case dict():
            return {key_of(key): keyed(value) for key, value in tree.items()}
        case set() | frozenset():
            return type(tree)(map(key_of, tree))
        case list() | tuple():
            return type(tree)(map(keyed, tree))
    return tree


@pytest.mark.slow
@given(trees, st.integers(0, 5))
def test_builds_what_pickle_writes(tree: Any, protocol: int) -> None:
    assert pickled(pickle.dumps(tree, protocol)) == keyed(tree)


@pytest.mark.parametrize("protocol", range(6))
def test_ordered_dict_keeps_its_attributes(protocol: int) -> None:
    state = OrderedDict(b=1, a=2)
    state._metadata = {"": {"version": 1}}  # type: ignore[attr-defined]
    found = pickled(pickle.dumps(state, protocol))
    assert isinstance(found, Dict) and list(found.items()) == list(state.items())
    assert found.state == {"_metadata": {"": {"version": 1}}}


def test_python_2_text_and_pairs() -> None:
    pairs = b"]](U\x01aK\x01eaT\x02\x00\x00\x00\xe9b0"  # [["a", 1]], and a string that is dropped
    assert pickled(b"ccollections\nOrderedDict\n(" + pairs + b"tR.") == {"a": 1}
    assert pickled(b"S'caf\\xe9'\n.") == "café"


@pytest.mark.parametrize("protocol", range(2, 6))
def test_unknown_classes_stay_inert(protocol: int) -> None:
    found = pickled(pickle.dumps({"path": Path("a"), "error": UnreadableError}, protocol))
    assert isinstance(found["path"], Opaque) and found["path"].name.startswith("pathlib")
    assert found["error"] == Global("xconvert.errors.UnreadableError")


def test_end_of_the_pickle_is_reported() -> None:
    first, second = pickle.dumps([1]), pickle.dumps({"a": "b"})
    data = memoryview(first + second + b"tail")
    value, at = load(Path("x"), data, {})
    assert (value, at) == ([1], len(first))
    assert load(Path("x"), data, {}, start=at) == ({"a": "b"}, len(first + second))


@pytest.mark.parametrize(
    "name",
    [
        *("posix.system", "nt.system", "os.system", "subprocess.Popen", "builtins.eval", "__builtin__.eval", "builtins.exec"),
        *("builtins.getattr", "builtins.__import__", "sys.exit", "socket.socket", "shutil.rmtree", "runpy.run_path", "pty.spawn"),
        *("importlib.import_module", "ctypes.CDLL", "webbrowser.open", "code.interact", "torch.serialization.os.system"),
    ],
)
def test_hostile_global_is_named(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    both = opcodes(module) + opcodes(attribute)
    for data in (
        f"c{module}\n{attribute}\n(U\x02idtR.".encode(),
        b"\x80\x04" + both + b"\x93.",
        f"(i{module}\n{attribute}\n.".encode(),
    ):
        with pytest.raises(UnreadableError) as caught:
            pickled(data)
        assert caught.value.message == f"`x.pth` asks to run `{name}`; nothing was run"
    with pytest.raises(UnreadableError) as caught:
        checkpoint(archive(many() | {"x": call(name, "id")}))
    assert caught.value.message == f"`x.pth` asks to run `{name}`; nothing was run"


def test_protocol_4_may_hide_the_name_behind_an_attribute() -> None:
    with pytest.raises(UnreadableError, match=r"asks to run `torch.serialization.os.system`; nothing was run"):
        pickled(b"\x80\x04" + opcodes("torch.serialization") + opcodes("os.system") + b"\x93.")


def test_control_characters_in_a_global_are_escaped() -> None:
    with pytest.raises(UnreadableError, match=r"asks to run `posix.sys\\x1b\[31mtem`"):
        pickled(b"cposix\nsys\x1b[31mtem\n.")


def test_caller_decides_about_a_name_it_handles() -> None:
    assert pickled(bytes(opcodes(call("__builtin__.eval", "data")) + b"."), handlers={"builtins.eval": str.upper}) == "DATA"


SENSELESS = {
    "nothing to pop": b"0.",
    "no opcode": b"\xff.",
    "protocol 6": b"\x80\x06N.",
    "no such memo": b"h\x05.",
    "name of a number": b"K\x01K\x02\x93.",
    "call of text": b"U\x01a)R.",
    "arguments in a list": b"ccollections\nOrderedDict\n]R.",
    "too many arguments": opcodes(call("builtins.complex", 1, 2, 3)) + b".",
    "bytes of a number": opcodes(call("builtins.bytes", 10**12)) + b".",
    "half a pair": b"}(U\x01au.",
    "items of a list": b"](K\x01K\x02u.",
    "elements of a dict": b"}K\x01a.",
    "list as a key": b"}]K\x01s.",
    "integer of 16 bytes as a key": b"}\x8a\x10" + b"\xff" * 15 + b"\x01K\x01s.",
    "list in a set": b"\x8f(]\x90.",
    "text that is not UTF-8": b"X\x02\x00\x00\x00\xff\xff.",
    "module name that is not UTF-8": b"c\xff\nx\n.",
    "integer that is none": b"Iabc\n.",
    "line without end": b"I" + b"1" * 5000,
    "infinite integer": b"L" + b"9" * 4000 + b"\n0F" + b"x\n.",
    "out-of-band buffer": b"\x97.",
    "extension": b"\x82\x01.",
    "attributes of a list": b"]}b.",
    "outside the pickle": b"Pa\n.",
    "unknown codec": opcodes(call("_codecs.encode", "a", "rot13")) + b".",
    "codec of a number": opcodes(call("_codecs.encode", 7, "latin1")) + b".",
}


@pytest.mark.parametrize("data", SENSELESS.values(), ids=SENSELESS)
def test_senseless_pickle(data: bytes) -> None:
    with pytest.raises(UnreadableError, match=r"^`x.pth` is damaged: its pickle makes no sense at byte \d+$"):
        pickled(data)


def test_lying_lengths_are_truncations() -> None:
    for data in (b"X\xff\xff\xff\x7fa.", b"\x8e" + b"\xff" * 8 + b".", b"\x8d" + b"\xff" * 8 + b".", b"(((", b""):
        with pytest.raises(UnreadableError, match=rf"^`x.pth` is truncated: its pickle breaks off at byte {len(data)}$"):
            pickled(data)


def test_huge_memo_index_allocates_nothing() -> None:
    tracemalloc.start()
    assert pickled(b"Nr\xff\xff\xff\x0f.") is None
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.slow
def test_deep_nesting_neither_crashes_nor_recurses() -> None:
    deep = b")" + b"\x85" * 200_000
    assert isinstance(pickled(deep + b"."), tuple)
    with pytest.raises(UnreadableError, match=r"makes no sense"):
        pickled(b"}" + deep + b"K\x01s.")  # hashing this key overflows the stack of CPython
    with pytest.raises(UnreadableError, match=r"nests more than 1000 deep"):
        pickled(b"](" * 2000)
    assert len(checkpoint(archive({"x": Raw(deep), "state_dict": many()})).tensors) == 4


@pytest.mark.slow
def test_work_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = opcodes(call("_codecs.encode", Raw(b"h\x00"), "latin1"))
    with pytest.raises(UnreadableError, match=r"copies the same data over and over"):
        pickled(opcodes("a" * 1_000_000) + b"q\x00" + encoded * 300 + b".")
    for maker in (b"]0", b"}0", b"\x8f0", b"N\x940", b"h\x00)R0", b"(d0"):
        with pytest.raises(UnreadableError, match=r"makes endlessly many objects"):
            data = memoryview(opcodes(named("x.Y")) + b"q\x00" + maker * 10_000 + b".")
            load(Path("x"), data, {}, budget=Limits(memory=1 << 20).budget(Path("x"), len(data)))
    with pytest.raises(UnreadableError, match=r"an integer of 2000 bytes"):
        pickled(b"\x8b" + struct.pack("<L", 2000) + b"\x01" * 2000 + b".")
    monkeypatch.setattr(_pickle, "MAX_OPCODES", 100)
    with pytest.raises(UnreadableError, match=r"has more opcodes than one of its size"):
        pickled(b"N0" * 60 + b".")


def test_endless_paths_are_walked_once() -> None:
    laughs = b"]q\x00" + b"".join(b"0](h%ch%ceq%c" % (n, n, n + 1) for n in range(60))  # [[[…, …], […, …]], …]: 2^60 paths
    assert len(checkpoint(archive({"x": Raw(laughs), "cycle": Raw(b"]q\x64h\x64a"), "state_dict": many()})).tensors) == 4


def test_no_hostile_name_is_one_that_checkpoints_need() -> None:
    needed = ["collections.OrderedDict", "torch._utils._rebuild_tensor_v2", "torch.storage.UntypedStorage", "numpy.dtype"]
    assert not any(_globals.is_hostile(name) for name in [*needed, *_globals.CONTAINERS, "argparse.Namespace", "codebook.Net"])
