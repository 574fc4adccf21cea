"""PyTorch's formats without PyTorch: what it wrote is read, what it would not write is refused with the reason."""

from __future__ import annotations

import base64
import io
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.pickles import (
    Raw,
    archive,
    call,
    checkpoint,
    legacy,
    legacy_tensor,
    many,
    mapped,
    named,
    numbers,
    opcodes,
    read_legacy,
    tensor,
    zipped,
)
from xconvert.errors import AmbiguousError, UnreadableError, XconvertError
from xconvert.formats import Choice, _state_dict, read, torch_legacy, torch_zip

# {"epoch": 1, "state_dict": …} as torch 2.13 saved it, in both formats: a transposed float32, an int64 scalar, bfloat16, bool.
ZIP = (
    "c-o~^UvJY^6u)*_CpFMN3@CJ?gLObUiW@s^l5Rl3LVoe2m25~>Uo6MD#8#cS$G$0SQ>93#Nc$3qZ?U(j+BfJP&>r?MiHB)V<B`YRYd67m6tdB)99"
    "xd>@6Yu;=iDtlH-S*0fQH5_I*Y8pcHBL@+O&uz?e2J*I*qndqsQ+9DjJg%fOmb{0Z!)(kv@gQBG_!YHUZwYeb2)-as5sxeiJltfSV8K8xeBLb(km"
    "`rzpVoJA2X-?6w>NlQ!|Gv}AUP>xH5j;6~T=nkK=W&=1T#MFgQ(H1d&-A6P96`4}Q<o^O$F<3B|x7#y8bf+-`%BzC(X>Zb{udZ;5^(D~<ZTIY1(I"
    "h^^)VOFLI%+z7lxIia2I#Q?GHX9bP9UPh@u<RY&ggJ*QJAJjU{Z4Bjb~X}|;Uh=XIRfXX$ntVbe4fCCI?NkWbb^Derqpn)5H6;;)X2JA8Sq_-_!L"
    ";6d^~}VnQ8t2KGC@YxE%8?68N+ZR}8v`sBMKia5YWo``&==vxu$?OEKN&$8^^i-SwF627zK7mb?4#MP$`%V`8z*hnvy+6@z64+}Z~z`uKY|2<fK6"
    "s?LRB*yu`IdcI)x-dvvH5n{15GQH-}${@X@$9~YZh<Qw>sl`l|jUF;n{P~|hp0TyD7_GQ~s_zt!)5f$sx7BIm4$;)|e-=%Q${I7U`2_x^t3~{K4a"
    "}j<fq};N1pBNKH1(?w(d`e<CB(zb!@-@`mjtRJyw}4tx|^!%)sm)uc>)75Yj2ZY?$IBO9*vhY4r%;J1Kp>+gvJ#brTfh3)BVSHOROx%I6aqkDr@T"
    "OkkkC}Y{t9$>Mx%W6~^%1PV*|7TKnKHaJY#MnRfo+_G?yz6JxaRrM1hNdix~Xzs*G}|7Gb{V|@P2(5>jJ4@&LMiR8D-BGW&5(Rwsqe-SC~3NTuJh"
    "y#~a;13o%8cesTsnY+nBbTbxT1BZU8`X`C+WMMYQPyQesjbQDmFk9El529MRw_kp;%MoNQlvhLkxP!59r#Q(t=S>x*>f<9PBx(V6w>6;s5X}+Nj8"
    "y%6v<JNWT<mxd6JD_F2z&Nq2UIUg(s_XIt71~Lz&)@#U?8-jqOcjuyPigte`aZ_bgV)Vw3rw#(p=M!IrbwWbV$Su)ig+BlawrQj6(tEub;UzNHJo"
    "O20I6w+2WtbAQIi_qRg7)d^A8`*A9Mj!(TwA;yT&{CMuabtNu4"
)
LEGACY = (
    "c-n1JOK;Oa5MDcJLfy24SD`$^JK<sSCOMTN)XVY=7hjO&*sIvo@n*d1Adn*E(hB$u960hb@>96-6OcGCwv$4ntoGZrXJ)@|W_PCQSIz(PZU1-a{g"
    "2l>`c!@KD}(C<NZBY7LPjB%+~&SHW})zS015^eo9OX9DSc+L!11gA)X#>7M)`5XOyPZE0x}cGmW?$u3YUix)~IS^@Xre*<Y?B&#vD8tK%Qo!XrUR"
    "$vk|vlP^gkn3Ta7ZI-V^-wJ{T)*%A{G+N;oEA#<LgM}thI7t3wn0h<S7{R8s`E{fWchqkMmk@S3_nIY>(p6{5F1%ij>xUNC2TsHEF4iBvXgM4~K+"
    "xNL8-=;<lP8eGl({0uo?Rv9at#_-{4y-2y*`o+FT6ig8;|(P=N7W-JP=)4>VDpO`C$=TwWDknQHb(aYJ&1;8-;%b=gegPIK41=<axo8gq5T~1<yi"
    "XkKj~Vl+j!h<b((O-)u@7!XHl|JNoCGS*zUo3V;#d?W;uG_vjkjNVt$&GRcjx!?<})-8r5bME+V^%?3dz#)I+#Tl|#6as$7+Dtp}y#{f3q}fa}Ww"
    "ocqV*H<rkooqDU@ftz#kTXXW;G5MX8{H}y@4=T|F?j>cILnbZ9k`~-g{0|H?5_mWPJ$bZ6S3aVO5TYNq(Yv^fR@|7fs!(-Rf|*rson^X0(vhF<>U"
    "^K=lG);0AqDdPnC{~81SevO_>Pz%ej>;oAw@(9QQi9sIZ)-e"
)
GOLDEN = {name: zlib.decompress(base64.b85decode(text)) for name, text in (("torch", ZIP), ("torch-legacy", LEGACY))}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_file(tmp_path: Path, name: str) -> None:
    (tmp_path / "x.pth").write_bytes(GOLDEN[name])
    found = read(tmp_path / "x.pth")
    assert (found.format, found.notes, found.metadata) == (name, ("unwrapped `state_dict`",), {})
    expected = {
        "conv.weight": np.arange(12, dtype=np.float32).reshape(2, 6).T,
        "bn.num_batches_tracked": np.asarray(7),
        "head.bias": np.asarray([1.5, -2], ml_dtypes.bfloat16),
        "mask": np.asarray([True, False]),
    }
    assert list(found.tensors) == list(expected)
    for key, array in expected.items():
        assert (found.tensors[key].shape, found.tensors[key].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(found.tensors[key].read(), array, strict=True)


def test_archive_of_another_zip_program_is_read() -> None:
    source, file = zipfile.ZipFile(io.BytesIO(GOLDEN["torch"])), io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as target:
        for name in source.namelist():
            target.writestr(name, source.read(name))
    found, expected = checkpoint(file.getvalue()), checkpoint(GOLDEN["torch"])
    for name, value in expected.tensors.items():
        np.testing.assert_array_equal(found.tensors[name].read(), value.read(), strict=True)


@pytest.mark.parametrize("name", GOLDEN)
def test_every_truncation_is_reported(name: str) -> None:
    form = {"torch": torch_zip, "torch-legacy": torch_legacy}[name].FORMAT
    for length in range(64, len(GOLDEN[name])):
        area = mapped(GOLDEN[name][:length])
        assert form.matches(area)
        with pytest.raises(UnreadableError, match=r"^`x.pth` is (truncated|damaged): "):
            form.read(Path("x.pth"), area, Choice())


@given(st.sampled_from(sorted(GOLDEN)), st.lists(st.tuples(st.integers(0), st.integers(0, 255)), min_size=1, max_size=4))
def test_damage_never_escapes_as_another_error(name: str, changes: list[tuple[int, int]]) -> None:
    data = bytearray(GOLDEN[name])
    for at, value in changes:
        data[at % len(data)] = value
    area = mapped(bytes(data))
    for form in (torch_zip.FORMAT, torch_legacy.FORMAT):
        if form.matches(area):
            try:
                found = form.read(Path("x.pth"), area, Choice())
            except XconvertError as error:
                assert error.message.isprintable()
            else:
                for value_ in found.tensors.values():
                    assert value_.read().shape == value_.shape


def test_views_of_one_storage() -> None:
    found = checkpoint(
        archive({"a": tensor((2, 2), (1, 2)), "b": tensor((), (), offset=3), "c": tensor((0, 7), (7, 1)), "d": tensor()})
    )
    np.testing.assert_array_equal(found.tensors["a"].read(), np.asarray([[0, 2], [1, 3]], np.float32), strict=True)
    np.testing.assert_array_equal(found.tensors["b"].read(), np.float32(3), strict=True)
    assert found.tensors["c"].read().shape == (0, 7)
    assert np.shares_memory(found.tensors["a"].read(), found.tensors["d"].read())


def test_old_files_name_cuda_storages_and_call_the_first_rebuild() -> None:
    storage = Raw(opcodes(("storage", named("torch.cuda.IntStorage"), "0", "cuda:0", 4)) + b"Q")
    found = checkpoint(archive({"a": call("torch._utils._rebuild_tensor", storage, 1, (2,), (1,))}))
    assert found.tensors["a"].dtype == np.int32 and found.tensors["a"].read().tobytes() == np.asarray([1, 2], "<f4").tobytes()


def test_lazy_conjugates_and_negatives_are_resolved() -> None:
    def flagged(**flags: bool) -> Raw:
        storage = Raw(opcodes(("storage", named("torch.ComplexFloatStorage"), "0", "cpu", 2)) + b"Q")
        return call("torch._utils._rebuild_tensor_v2", storage, 0, (2,), (1,), False, {}, flags)

    found = checkpoint(archive({"a": flagged(), "b": flagged(conj=True), "c": flagged(neg=True)})).tensors
    for name, expected in (("a", [1j, 2 + 3j]), ("b", [-1j, 2 - 3j]), ("c", [-1j, -2 - 3j])):
        np.testing.assert_array_equal(found[name].read(), np.asarray(expected, np.complex64), strict=True)


def test_empty_slice_may_start_at_the_end() -> None:
    found = checkpoint(archive({"a": tensor((0, 2), (2, 1), offset=4), "b": tensor((0,), (1,), offset=99)}))
    assert [t.read().shape for t in found.tensors.values()] == [(0, 2), (0,)]


def test_any_byte_is_a_boolean() -> None:
    data = archive({"a": tensor((4,), (1,), kind="BoolStorage")}, **{"data/0": bytes([0, 1, 2, 255])})
    np.testing.assert_array_equal(checkpoint(data).tensors["a"].read(), [False, True, True, True])


def test_big_endian() -> None:
    numbers = {"data/0": np.asarray([1, 2, 3, 4], ">f4").tobytes(), "byteorder": b"big"}
    np.testing.assert_array_equal(
        checkpoint(archive({"a": tensor()}, **numbers)).tensors["a"].read(), np.asarray([1, 2], np.float32), strict=True
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (tensor((2**20, 2**20), (0, 0)), "expands storage `0` from 4 numbers to 1099511627776"),
        (tensor((4,), (1,), offset=1), "is damaged: a tensor reaches outside its storage `0`"),
        (tensor((2, 2), (3, 1)), "is damaged: a tensor reaches outside its storage `0`"),
        (tensor((2,), (-1,)), "is damaged: its pickle makes no sense at byte"),
        (tensor((2,), (1, 1)), "is damaged: its pickle makes no sense at byte"),
        (tensor((2,), (1,), offset=-1), "is damaged: its pickle makes no sense at byte"),
        (tensor((-2,), (1,)), "is damaged: the shape of `data/0` is impossible"),
        (tensor(("2",), (1,)), "is damaged: the shape of `data/0` is impossible"),
        (tensor((1,) * 40, (1,) * 40), "is damaged: the shape of `data/0` is impossible"),
        (tensor((0, 2**60), (1, 1)), "is damaged: the shape of `data/0` is impossible"),
        (tensor(count=5), "is damaged: storage `0` does not have its 20 bytes"),
        (tensor(key="1"), "is damaged: storage `1` does not have its 16 bytes"),
        (tensor(kind="QInt8Storage"), "holds `a` as a tensor of `torch.QInt8Storage`"),
        (call("torch._utils._rebuild_qtensor", 1, 2), "holds `a` as a quantised tensor"),
        (call("torch._utils._rebuild_sparse_tensor", 1, 2), "holds `a` as a sparse tensor"),
    ],
)
def test_impossible_tensor(value: Raw, message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        checkpoint(archive({"a": value}))


def test_archive_with_two_pickles_or_a_program() -> None:
    with pytest.raises(UnreadableError, match=r"is damaged: it holds 2 pickles, not one"):
        checkpoint(zipped([("x/data.pkl", b"N."), ("y/data.pkl", b"N.")]))
    with pytest.raises(UnreadableError, match=r"it holds `x/data.pkl` twice"):
        checkpoint(zipped([("x/data.pkl", b"first, for PyTorch"), ("x/data.pkl", b"last, for Python")]))
    with pytest.raises(UnreadableError, match=r"is a TorchScript archive, not a state dict"):
        checkpoint(archive({}, **{"constants.pkl": b""}))


def test_wrapper_is_unwrapped_whatever_it_is_called() -> None:
    found = checkpoint(archive({"epoch": 3, "nested": {"any name": many()}, "optimizer": {"state": {0: {"exp_avg": tensor()}}}}))
    assert list(found.tensors) == list(many())
    assert found.notes == ("unwrapped `nested.any name`", "left out `optimizer` (1 tensor)")


def test_several_state_dicts_need_a_key() -> None:
    data = archive({"state_dict": many(), "ema_state_dict": many(5), "mean": {"a": tensor()}, "optimizer_state": many()})
    with pytest.raises(AmbiguousError) as caught:
        checkpoint(data)
    assert caught.value.message == "`x.pth` holds two state dicts"
    assert caught.value.facts == ("`state_dict` (4 tensors)", "`ema_state_dict` (5 tensors)")
    assert caught.value.hints == (
        "pass `--key state_dict`",
        "or `--ema` for the averaged weights, `--no-ema` for the others",
    )
    assert len(checkpoint(data, ema=True).tensors) == 5
    assert len(checkpoint(data, ema=False).tensors) == 4
    with pytest.raises(UnreadableError, match="no averaged weights"):
        checkpoint(archive({"state_dict": many()}), ema=True)
    found = checkpoint(data, "ema_state_dict")
    assert len(found.tensors) == 5
    assert found.notes[:2] == ("unwrapped `ema_state_dict`", "left out `state_dict` (4 tensors)")
    assert list(checkpoint(data, "mean").tensors) == ["a"]
    with pytest.raises(UnreadableError, match=r"holds no state dict under `net`") as unknown:
        checkpoint(data, "net")
    assert "`ema_state_dict` (5 tensors)" in unknown.value.facts


def test_search_is_shallow_and_outer_entries_come_first(monkeypatch: pytest.MonkeyPatch) -> None:
    deep: Any = many()
    for _ in range(9):
        deep = {"inner": deep}
    with pytest.raises(UnreadableError, match=r"holds no state dict"):
        checkpoint(archive(deep))
    assert len(checkpoint(archive(deep["inner"])).tensors) == 4
    monkeypatch.setattr(_state_dict, "_MAX_VISITED", 10)
    history = [[loss] for loss in range(20)]
    assert len(checkpoint(archive({"history": history, "model": many()})).tensors) == 4
    with pytest.raises(UnreadableError, match=r"holds no state dict"):
        checkpoint(archive({"history": history, "nested": {"model": many()}}))


def test_one_dict_under_two_names_counts_once() -> None:
    shared = Raw(opcodes(many()) + b"q\x07")
    assert checkpoint(archive({"model": shared, "again": Raw(b"h\x07")})).notes == ("unwrapped `model`",)


def test_other_values_of_the_state_dict_are_left_out() -> None:
    found = checkpoint(archive(many() | {"epoch": 3, "config": call("argparse.Namespace")}))
    assert list(found.tensors) == list(many()) and found.notes == ("left out `epoch`, `config`, not tensors",)


def test_dict_of_an_unknown_class_is_still_one() -> None:
    easy = Raw(opcodes(named("easydict.EasyDict")) + b")\x81(" + opcodes(many())[2:])
    assert list(checkpoint(archive({"model": easy})).tensors) == list(many())


def test_exotic_tensors_outside_the_state_dict_do_no_harm() -> None:
    found = checkpoint(archive({"model": many(), "optimizer": {"a": call("torch._utils._rebuild_qtensor")}}))
    assert len(found.tensors) == 4


def test_whole_module_is_named() -> None:
    module = Raw(opcodes(named("models.Xception")) + b")\x81" + opcodes({"_parameters": {}, "_modules": {}}) + b"b")
    for root in (module, {"epoch": 1, "model": module}):
        with pytest.raises(UnreadableError) as caught:
            checkpoint(archive(root))
        assert caught.value.message == "`x.pth` holds a whole `models.Xception` object, not a state dict"
        assert "state_dict()" in caught.value.hints[0]


@pytest.mark.parametrize("root", [{"epoch": 3}, [], None, tensor(), {}, {1: tensor()}])
def test_no_state_dict(root: Any) -> None:
    with pytest.raises(UnreadableError, match=r"^`x.pth` holds no state dict$"):
        checkpoint(archive(root))


@pytest.mark.parametrize("name", ["", "a\x00b", "a\x1b[31mb", "a\nb", "a\u202eb"])
def test_unprintable_names_are_refused_and_escaped(name: str) -> None:
    with pytest.raises(UnreadableError, match=r"holds a tensor called") as caught:
        checkpoint(archive(many() | {name: tensor()}))
    assert caught.value.message.isprintable()


def test_metadata_are_the_text_of_the_root_entry() -> None:
    entries = {"": {"version": 1, "xconvert": "{}"}, "conv": {"note": "of a layer"}}
    state = Raw(opcodes(call("collections.OrderedDict")) + opcodes(many())[1:] + opcodes({"_metadata": entries}) + b"b")
    assert checkpoint(archive(state)).metadata == {"xconvert": "{}"}


@pytest.mark.parametrize(
    ("version", "names", "told"),
    [
        (2, ("a", "b"), "lacks 2 of 3 `num_batches_tracked`, of no effect on answers, that strict loading asks for"),
        (2, (), None),
        (1, ("a", "b"), None),  # written by PyTorch before 0.4.1: it makes up the zeros
        ("2", ("a", "b"), None),
    ],
)
def test_counters_that_strict_loading_asks_for_are_told(version: object, names: tuple[str, ...], told: str | None) -> None:
    """As PyTorch 2.13 does: `load_state_dict` lacks a counter where the file states version 2 of its batch norm."""
    modules = {name: {"version": version} for name in ("a", "b", "c")} | {"": {"version": 1}, "d": None}
    tensors = {f"{name}.running_mean": tensor() for name in ("a", "b", "c", "d")}
    tensors |= {f"{name}.num_batches_tracked": tensor() for name in ("a", "b", "c") if name not in names}
    state = Raw(opcodes(call("collections.OrderedDict")) + opcodes(tensors)[1:] + opcodes({"_metadata": modules}) + b"b")
    assert checkpoint(archive(state)).notes == ((told,) if told else ())


@pytest.mark.parametrize("little", [True, False])
def test_legacy_parts_of_storages(little: bool) -> None:
    roots = {"a": legacy_tensor(), "b": legacy_tensor(("1", 2, 2))}
    found = read_legacy(legacy(roots, numbers("<" if little else ">"), little=little))
    np.testing.assert_array_equal(found.tensors["a"].read(), np.asarray([0, 1], np.float32), strict=True)
    np.testing.assert_array_equal(found.tensors["b"].read(), np.asarray([2, 3], np.float32), strict=True)


def test_legacy_whole_module_comes_with_its_source() -> None:
    kind = Raw(opcodes(("module", named("models.Xception"), "models.py", "class Xception: pass")) + b"Q")
    module = Raw(opcodes(kind) + b")\x81" + opcodes({"_modules": {}}) + b"b")
    with pytest.raises(UnreadableError, match=r"holds a whole `models.Xception` object"):
        read_legacy(legacy(module, b"", ()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (lambda: legacy({"a": legacy_tensor()}, numbers()[:-1]), "is truncated: storage `0` goes on to byte"),
        (lambda: legacy({"a": legacy_tensor()}, numbers(), version=1002), "it is no PyTorch file of protocol 1001"),
        (lambda: legacy({"a": legacy_tensor()}, numbers(), keys=("0", "0")), "its list of storages does not fit its tensors"),
        (lambda: legacy({"a": legacy_tensor()}, numbers(), keys=("7",)), "its list of storages does not fit its tensors"),
        (lambda: legacy({"a": legacy_tensor()}, b"", keys=()), "storage `0` is missing or too small"),
        (lambda: legacy({"a": legacy_tensor()}, struct.pack("<q", 3) + bytes(12)), "storage `0` is missing or too small"),
        (lambda: legacy({"a": legacy_tensor()}, struct.pack("<q", -1)), "is truncated: storage `0` goes on to byte"),
        (lambda: legacy({"a": legacy_tensor(("1", 3, 2))}, numbers()), "its pickle makes no sense"),
        (lambda: legacy({"a": legacy_tensor(("1", 2, 2), shape=(3,))}, numbers()), "expands storage `0` from 2 numbers to 3"),
        (lambda: legacy({"a": legacy_tensor(), "b": legacy_tensor(kind="LongStorage")}, numbers()), "its pickle makes no sense"),
    ],
)
def test_legacy_damage(data: Callable[[], bytes], message: str) -> None:
    with pytest.raises(UnreadableError, match=message):
        read_legacy(data())


def test_the_record_of_a_network_inside_a_module_is_found() -> None:
    """`DataParallel`, `torch.compile` and a user's own module put a name before it; of two networks, neither is meant."""

    def metadata(**modules: str) -> dict[str, str]:
        entries = {"": {"version": 1}, **{name: {"xconvert": text} for name, text in modules.items()}}
        state = Raw(opcodes(call("collections.OrderedDict")) + opcodes(many())[1:] + opcodes({"_metadata": entries}) + b"b")
        return dict(checkpoint(archive(state)).metadata)

    assert metadata(module="{}") == {"xconvert": "{}"}
    assert metadata(one="{}", two="[]") == {}
