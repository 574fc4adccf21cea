"""Mapping files: each names exactly the tensors of the real class, and every way of writing one wrongly is told."""

from __future__ import annotations

import json
import tempfile
import tomllib
from collections.abc import Iterator
from copy import deepcopy
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.narrow import checkpoint, narrow
from tests.oracle import inventory
from xconvert import mappings
from xconvert.cli import main
from xconvert.errors import MappingError, UsageError
from xconvert.implementation import Dialect, Implementation, Library, written_names
from xconvert.loading import interpret
from xconvert.mappings import library
from xconvert.matching import _search, attempt, see
from xconvert.model import PARAMETERS, Checkpoint, Depth, Layer, Tensor
from xconvert.preprocessing import preprocessing_problems

# Every shipped mapping, by family, and the inventories of the real classes' checkpoints that it must cover, with their depth.
INVENTORIES = [
    ("xception", "timm", "timm.legacy_xception", (3, 8)),
    ("xception", "lornatang", "lornatang.xception", (3, 8)),
    ("xception", "cadene", "cadene.xception_fc_file", (3, 8)),
    ("xception", "cadene", "cadene.xception_last_linear", (3, 8)),
    ("xception", "keras.applications", "keras_applications.xception_top", (3, 8)),
    ("xception", "keras.applications", "keras_applications.xception_notop", (3, 8)),
    ("xception", "keras-hub", "keras_hub.xception_41_imagenet_backbone", (3, 8)),
    ("xception", "keras-hub", "keras_hub.xception_41_imagenet_classifier", (3, 8)),
    ("xception", "mindcv", "mindcv.xception", (3, 8)),
    ("xception_aligned", "timm", "timm.xception41", (3, 8)),
    ("xception_aligned", "timm", "timm.xception65", (3, 16)),
    ("xception_aligned", "timm", "timm.xception71", (5, 16)),
    ("xception_aligned", "tf-deeplab", "tf_deeplab.xception_41", (3, 8)),
    ("xception_aligned", "tf-deeplab", "tf_deeplab.xception_65", (3, 16)),
    ("xception_aligned", "tf-deeplab", "tf_deeplab.xception_71", (5, 16)),
    ("xception_aligned", "paddleclas", "paddleclas.Xception41_deeplab", (3, 8)),
    ("xception_aligned", "paddleclas", "paddleclas.Xception65_deeplab", (3, 16)),
    ("xception_preact", "timm", "timm.xception41p", (3, 8)),
    ("xception_preact", "timm", "timm.xception65p", (3, 16)),
    ("xception_paddleclas", "paddleclas", "paddleclas.Xception41", (3, 8)),
    ("xception_paddleclas", "paddleclas", "paddleclas.Xception65", (3, 16)),
    ("xception_paddleclas", "paddleclas", "paddleclas.Xception71", (5, 16)),
]


def empty(shapes: dict[str, tuple[int, ...]]) -> Checkpoint:
    """A checkpoint of zeros that costs no memory."""
    return Checkpoint({name: Tensor.of(np.broadcast_to(np.float32(0), shape)) for name, shape in shapes.items()})


def test_every_shipped_mapping_is_held_to_an_inventory() -> None:
    held = {told[:2] for told in INVENTORIES} | {told[:2] for told in EXPORTED}
    assert held == {(i.family.name, i.name) for i in library().implementations if not i.own}


@pytest.mark.parametrize("path", sorted(mappings.folder().glob("*/*.toml")), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_shipped_lines_come_last_and_are_read_later_as_they_stand(path: Path) -> None:
    """Of mappings that are shipped everything before ``[layers]`` is read, and the lines when they are asked for."""
    before, whole = mappings._toml(path, "head"), tomllib.loads(path.read_text(encoding="utf-8"))
    assert before == {key: value for key, value in whole.items() if key != "layers"}
    later = next(i for i in library().implementations if path.resolve() in i.files[:1])
    assert later.rules == mappings.load(path, library().dialects).rules
    assert later.rules


def test_the_shipped_dialects_which_nobody_checks_again_are_right() -> None:
    assert list(mappings._dialect_problems(DIALECTS, {})) == []


EXPORTED = [(f, "paddleclas-inference", told, depth) for f, name, told, depth in INVENTORIES if name == "paddleclas"]


@pytest.mark.parametrize(("family", "name", "told", "depth"), EXPORTED, ids=[told for *_, told, _ in EXPORTED])
def test_paddles_internal_names_are_those_of_its_parameters(family: str, name: str, told: str, depth: tuple[int, int]) -> None:
    """What `.pdiparams` holds: the names that parameters have in the real class, not those of its layers."""
    shapes = {t["param_name"]: tuple(t["shape"]) for t in inventory(told)["tensors"]}
    model = interpret(empty(shapes), told)
    assert (model.family.name, model.implementation, model.depth) == (family, name, depth)
    assert {n: t.shape for n, t in checkpoint(model, name).tensors.items()} == shapes


@pytest.mark.parametrize(("family", "name", "told", "depth"), INVENTORIES, ids=[told for *_, told, _ in INVENTORIES])
def test_a_mapping_names_exactly_the_tensors_of_the_real_class(family: str, name: str, told: str, depth: tuple[int, int]) -> None:
    shapes = {t["name"]: tuple(t["shape"]) for t in inventory(told)["tensors"]}
    model = interpret(empty(shapes), told, implementation=name)
    assert (model.family.name, model.depth) == (family, depth)
    assert sum(int(np.prod(t.shape)) for t in model.weights.values()) == inventory(told)["params_total_with_bn_stats"]
    written = checkpoint(model, name)
    renamed = {n.replace("fc.", "last_linear."): s for n, s in shapes.items()} if told.endswith("fc_file") else shapes
    assert {n: t.shape for n, t in written.tensors.items()} == renamed


@pytest.mark.slow
@pytest.mark.parametrize("told", [told for *_, told, _ in INVENTORIES])
def test_a_checkpoint_is_recognised_without_being_asked_about(told: str) -> None:
    shapes = {t["name"]: tuple(t["shape"]) for t in inventory(told)["tensors"]}
    model = interpret(empty(shapes), told)
    assert (model.family.name, model.depth) == next((family, depth) for family, _, t, depth in INVENTORIES if t == told)


def test_weights_h5_positions_are_those_of_the_real_file() -> None:
    told = inventory("keras_applications.xception_top")["tensors"]
    shapes = {t["weights_h5"].removeprefix("layers/").replace("/vars/", "/"): tuple(t["shape"]) for t in told}
    model = interpret(empty(shapes), "weights.h5", implementation="keras.applications")
    assert {n: t.shape for n, t in checkpoint(model, "keras.applications", "keras_weights").tensors.items()} == shapes


@pytest.mark.slow
@pytest.mark.parametrize("implementation", library().implementations, ids=lambda i: f"{i.family.name}-{i.dialect}-{i.name}")
@pytest.mark.parametrize("depth", [Depth(3, 0), Depth(5, 16)])
def test_names_stay_one_to_one_at_any_depth(implementation: Implementation, depth: Depth) -> None:
    family = implementation.family
    if depth not in family.depths:
        return  # Chollet's network has three entry blocks
    dialect = library().dialects[implementation.dialect]
    names = written_names(implementation.at(depth), dialect, depth, True)
    layers = [layer for layer in family.build(depth, True, family.attributes) if layer.parameters]
    shapes = {}
    for layer in layers:
        for parameter in layer.parameters:
            spelling, pattern = dialect.spellings[layer.op][parameter][:2]
            shapes[dialect.tensor(names[layer.name], spelling)] = _shape(layer, pattern)
    assert len(shapes) == sum(len(layer.parameters) for layer in layers)
    found, _ = _search(empty(shapes), [(implementation, dialect)], ())
    assert [match.depth for match in found] == [depth]


def _shape(layer: Layer, pattern: str) -> tuple[int, ...]:
    """One channel everywhere: what counts here are names."""
    return tuple(layer.kernel if axis in "HW" else 1 for axis in pattern.split())


ROOTS = "keras, keras_apart, mindspore, onnx, paddle, paddle_scopes, paddle_variables, tensorflow, torch"
GOOD = """
architecture = "xception"
dialect = "torch"
describes = "a zoo"
names_of = "timm"
[attributes]
bn_epsilon = 1e-5
pool_padding = "symmetric"
bn_momentum = 0.9
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("[attributes]", '[layers]\n"predictions" = "bn1"\n[attributes]'), "both called `bn1.weight`"),
        (("[attributes]", '[layers]\n"predction" = "head"\n[attributes]'), "line `predction` serves no layer"),
        (('names_of = "timm"', ""), "layer `block1.conv1` has no line"),
        (("bn_epsilon = 1e-5", ""), "attribute `bn_epsilon` is missing"),
        (("bn_epsilon = 1e-5", "bn_epsilon = 3"), "`bn_epsilon` cannot be `3`"),
        (("bn_momentum = 0.9", ""), "attribute `bn_momentum` is missing"),
        (
            ("bn_momentum = 0.9", "bn_momentum = 1"),
            "`bn_momentum` cannot be `1`: expected a number between 0 and 1, such as 0.99",
        ),
        (('"symmetric"', '"valid"'), "expected one of `same_upper`, `symmetric`"),
        (("pool_padding", "exit_dilation = 1\npool_padding"), "attribute `exit_dilation` is none of xception's"),
        (('"torch"', '"pytorch"'), "`dialect` is 'pytorch', expected one of `torch`"),
        (('"xception"', '"xception_99"'), "`architecture` is 'xception_99', expected one of `xception`"),
        (("describes", "describe"), "`describe` is none of architecture, dialect, describes"),
        (("[attributes]", '[layers]\n"predictions" = "fc{j}"\n[attributes]'), "`j` is not bound"),
        (("[attributes]", '[layers]\n"block{b}.add" = "b{b*2}"\n[attributes]'), "a placeholder is {i}"),
        (
            ("[attributes]", '[preprocessing]\nsize = "big"\n[attributes]'),
            "preprocessing `size` is 'big', expected a whole",
        ),
        (('names_of = "timm"', 'names_of = "tim"'), "`names_of` asks for `tim.toml`, which is not there"),
        (("[attributes]", '[layers]\n"block{b}.conv{b}" = "x{b}"\n[attributes]'), "a placeholder stands there twice"),
        (("[attributes]", '[layers]\n"block{b}.add" = "b{b+99999}"\n[attributes]'), "a placeholder is {i}"),
    ],
)
def test_a_wrong_mapping_is_told_precisely(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: tuple[str, str], told: str
) -> None:
    assert change[0] in GOOD
    path = written(tmp_path, GOOD.replace(*change, 1))
    with pytest.raises(MappingError) as caught:
        mappings.load(path, library().dialects)
    assert told in "\n".join(caught.value.facts)
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(path)])
    assert stopped.value.code == 1
    assert told in capsys.readouterr().out


def test_all_problems_are_told_at_once(tmp_path: Path) -> None:
    lines = GOOD.replace("bn_epsilon = 1e-5", "").replace('"symmetric"', '"valid"')
    with pytest.raises(MappingError, match="has 2 problems"):
        mappings.load(written(tmp_path, lines), library().dialects)


def test_what_is_not_toml_could_not_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(written(tmp_path, "architecture ="))])
    assert stopped.value.code == 2
    assert "is not TOML" in capsys.readouterr().err


def test_a_zoo_is_added_with_one_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The test of the design: a made-up zoo touches one TOML file."""
    lines = GOOD.replace("[attributes]", '[layers]\n"predictions" = "top"\n[attributes]', 1)
    path = written(tmp_path, lines)
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(path), "--json"])
    assert stopped.value.code == 0
    assert json.loads(capsys.readouterr().out)["tensors"] == 236
    known = library(tmp_path)
    tensors = {n.replace("fc.", "top."): t for n, t in checkpoint(narrow(), "timm").tensors.items()}
    model = interpret(Checkpoint(tensors), "mine.pth", mappings=[tmp_path])
    assert model.implementation == "mine"
    assert known.named("mine")[0].describes == "a zoo"


def test_an_unknown_folder_of_mappings_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no folder of mapping files"):
        library(tmp_path / "nowhere")


def toml(value: Any) -> str:
    """``value`` as TOML on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml(key)} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    return json.dumps(value) if isinstance(value, bool) else str(value)


def document(table: dict[str, Any]) -> str:
    return "".join(f"{toml(key)} = {toml(value)}\n" for key, value in table.items())


def replaced(table: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """A copy of ``table`` with another value at ``path``; None takes it away."""
    copy = deepcopy(table)
    *way, last = path.split("/")
    place = copy
    for key in way:
        place = place.setdefault(key, {})
    if value is None:
        del place[last]
    else:
        place[last] = value
    return copy


GOOD_TABLE = tomllib.loads(GOOD)
DIALECTS = tomllib.loads((mappings.folder() / "dialects.toml").read_text())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("attributes", 3, "`attributes` is 3, expected a table"),
        ("attributes/bn_epsilon", 10**400, "`bn_epsilon` cannot be `1000"),
        ("attributes/bn_epsilon", [], "`bn_epsilon` cannot be `[]`"),
        ("layers", 3, "`layers` is 3, expected a table"),
        ("layers", [], "`layers` is [], expected a table"),
        ("layers/predictions", 3, "line `predictions` is 3, expected a name or a list of names"),
        ("layers/predictions", [], "line `predictions` is [], expected a name or a list of names"),
        ("layers/predictions", ["fc", ["fc"]], "line `predictions` is ['fc', ['fc']], expected"),
        ("preprocessing", "x", "`preprocessing` is 'x', expected a table"),
        ("preprocessing/size", True, "preprocessing `size` is True, expected a whole number"),
        ("preprocessing/size", 0, "preprocessing `size` is 0, expected a whole number from 1"),
        ("preprocessing/mean", ["a", {}], "preprocessing `mean` is ['a', {}], expected a list of 1 or more"),
        ("preprocessing/mean", [0.5, float("inf")], "each a finite number"),
        ("preprocessing/mean", [float("nan")], "each a finite number"),
        ("preprocessing/mean", [True], "each a finite number"),
        ("preprocessing/mean", [10**400], "each a finite number"),
        ("preprocessing/std", [0], "each a finite positive number"),
        ("preprocessing/mean", [0] * 65, "preprocessing `mean` is [0, 0, 0"),
        ("preprocessing", {"mean": [0.5] * 3, "std": [0.5]}, "preprocessing `mean` has 3 values and `std` 1"),
        ("preprocessing/interpolation", "magic", "expected one of `bilinear`"),
        ("preprocessing/channels", "\x1b[31m", "expected one of `RGB`, `BGR`"),
        ("preprocessing/crop", 3, "preprocessing `crop` is 3, expected one of `centre`, `square`, `central fraction`, `none`"),
        ("architecture", ["x"], "`architecture` is ['x'], expected one of `xception`"),
        ("dialect", 3, "`dialect` is 3, expected one of `torch`"),
        ("dialect", date(2017, 4, 1), "`dialect` is datetime.date(2017, 4, 1), expected"),
        ("describes", 3, "`describes` is 3, expected text"),
        ("describes", "\x07", "expected text without control characters"),
        ("names_of", 3, "`names_of` is 3, expected the name of another mapping"),
        ("names_of", "../xception/timm", "expected the name of another mapping"),
        ("names_of", "mine", "`names_of` asks for `mine.toml`, which leads back to itself"),
        ("names_of", "broken", "broken.toml`: `layers` is 3, expected a table"),
    ],
)
def test_a_value_of_the_wrong_type_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, value: Any, told: str
) -> None:
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "broken.toml").write_text(document({**GOOD_TABLE, "layers": 3}))
    file = written(tmp_path, document(replaced(GOOD_TABLE, path, value)))
    with pytest.raises(MappingError) as caught:
        mappings.load(file, library().dialects, tmp_path / "else")
    assert told in "\n".join(caught.value.facts)
    assert len(caught.value.facts) == 1
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(file), "--mappings", str(tmp_path / "else")])
    assert stopped.value.code == 1
    assert told in capsys.readouterr().out
    if "broken" not in told:
        with pytest.raises(MappingError):
            library(tmp_path)


def test_types_and_attributes_are_told_at_once(tmp_path: Path) -> None:
    table = {**GOOD_TABLE, "layers": 3, "preprocessing": {"size": "x"}, "attributes": {"bn_epsilon": 3}, "describes": []}
    with pytest.raises(MappingError, match="has 6 problems"):
        mappings.load(written(tmp_path, document(table)), library().dialects)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("describes = " + "[" * 100_000, "is nested too deeply"),
        ("describes" + ".a" * 90 + " = 1", "`describes` is {'a': {'a': {...}}}, expected text"),
        ("architecture" + ".a" * 90 + " = 1", "`architecture` is {'a': {'a': {...}}}, expected one of"),
        ("attributes.bn_epsilon" + ".a" * 90 + " = 1", "`bn_epsilon` cannot be `{'a': {'a': {...}}}`"),
        ("attributes.bn_epsilon = 0x" + "f" * 5_000, "`bn_epsilon` cannot be `a number that is too long to show`"),
        ("describes = " + "9" * 5_000, "is not TOML"),
        ("describes" + ".a" * 20_000 + " = 1", "has a line with 20000 dots"),
        ("\xff", "is not TOML"),
    ],
    ids=range(8),
)
def test_deep_and_long_values_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, told: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(('architecture = "xception"\n' * (not text.startswith("arch")) + text).encode("latin-1"))
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(path)])
    assert stopped.value.code in (1, 2)
    assert told in "".join(capsys.readouterr())


def test_names_that_go_in_a_circle_are_told(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "c"), ("c", "b")):
        (tmp_path / f"{name}.toml").write_text(document({**GOOD_TABLE, "names_of": other}))
    with pytest.raises(MappingError) as caught:
        mappings.load(tmp_path / "a.toml", library().dialects)
    assert "`names_of` asks for `b.toml`, which leads back to itself" in caught.value.facts


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("mine", 3, "[mine] is 3, expected a table"),
        ("mine/conv", 3, "[mine] `conv` is 3, expected a table of weight, each a list of 2 or more, each text"),
        ("mine/conv", None, "[mine] `conv` is missing"),
        ("mine/conv", {}, "[mine] `conv` is {}, expected a table of weight"),
        ("mine/conv/weight", [], "[mine] `conv` is {'weight': []}, expected"),
        ("mine/conv/weight", ["weight"], "[mine] `conv` is {'weight': ['weight']}, expected"),
        ("mine/conv/weight", 3, "[mine] `conv` is {'weight': 3}, expected"),
        ("mine/conv/bias", ["bias", "O"], "[mine] `conv` is"),
        ("mine/conv/weight", ["weight", "O I H H"], "is no list of distinct axes"),
        ("mine/conv/weight", ["weight", "O I"], "[mine] conv.weight: `O I` lacks the axes H, W"),
        ("mine/conv/weight", ["weight", "O I H W D"], "[mine] conv.weight: `O I H W D` has the axes D, expected H W I O"),
        ("mine/separator", None, "[mine] `separator` is missing"),
        ("mine/separator", "", "[mine] `separator` is '', expected text"),
        ("mine/suffix", "pth", "expected a suffix such as `.pth`"),
        (
            "mine/family",
            "nope",
            f"[mine] family `nope` is none of the dialects {ROOTS}",
        ),
        (
            "mine/family",
            "keras_1",
            f"[mine] family `keras_1` is none of the dialects {ROOTS}",
        ),
        ("mine/family", [], "[mine] `family` is [], expected text"),
        ("mine/positional", True, "[mine] is `positional`, so `numbered` must give a stem for batch_norm, conv"),
        ("mine/positional", "yes", "[mine] `positional` is 'yes', expected true or false"),
        ("mine/file_order", 1, "[mine] `file_order` is 1, expected true or false"),
        ("mine/default", [3], "[mine] `default` is [3], expected a list, each text"),
        ("mine/prefixes", [""], "[mine] `prefixes` is [''], expected a list, each text"),
        ("mine/ignored", ["*.x"], "[mine] `ignored` is ['*.x'], expected a table, each text"),
        (
            "mine/added/batch_norm/count",
            "object",
            "expected a table of conv, depthwise, pointwise, batch_norm, linear, each",
        ),
        ("mine/numbered", {"pool": "pool"}, "[mine] `numbered` is {'pool': 'pool'}, expected a table of conv"),
        ("mine/name", "x", "[mine] `name` is none of separator, suffix"),
    ],
)
def test_a_wrong_dialect_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], path: str, value: Any, told: str) -> None:
    file = tmp_path / "dialects.toml"
    file.write_text(document(replaced({"mine": DIALECTS["torch"]}, path, value)))
    with pytest.raises(MappingError) as caught:
        library(tmp_path)
    assert told in "\n".join(caught.value.facts)
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(mappings.folder() / "xception" / "timm.toml"), "--mappings", str(tmp_path)])
    assert stopped.value.code == 2
    assert f"`{file}` has" in capsys.readouterr().err


def test_every_option_of_a_dialect_has_its_kind() -> None:
    assert mappings.DIALECT.keys() == (set(Dialect._fields) - {"name", "spellings"}) | PARAMETERS.keys()


ANY = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(10**400), 10**400),
        st.floats(),
        st.text(max_size=4),
        st.dates(),
        st.sampled_from(["torch", "keras", "mine", "timm", "block{i}.conv{i}", "#conv", "O I H W", "1", "{b+1}", "RGB"]),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["conv", "weight", "x"]), inner, max_size=2),
    max_leaves=4,
)
WHOLE = {  # a mapping that has everything, beside a dialect that has everything
    "mine.toml": {
        **tomllib.loads((mappings.folder() / "xception" / "timm.toml").read_text()),
        "dialect": "mine",
        "names_of": "keras.applications",
    },
    "dialects.toml": {
        "mine": {**DIALECTS["torch"], "family": "mine", "ignored": {"*.x": "nothing"}, "file_order": False, "positional": False},
        "other": {**DIALECTS["keras_1"], "family": "mine"},
    },
}


def places(table: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if way:
        yield way
    for key in table if isinstance(table, dict) else range(len(table)) if isinstance(table, list) else ():
        yield from places(table[key], (*way, key))


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whatever_a_mapping_file_says_it_loads_or_is_told(data: st.DataObject) -> None:
    tables = deepcopy(WHOLE)
    for _ in range(data.draw(st.integers(1, 2))):
        *way, last = data.draw(st.sampled_from([w for w in places(tables) if len(w) > 1]))
        place: Any = tables
        for key in way:
            place = place[key]
        place[last] = data.draw(ANY)
    with tempfile.TemporaryDirectory() as folder:
        for name, table in tables.items():
            (Path(folder) / name).write_text(document(table), encoding="utf-8")
        try:
            known = mappings.dialects(Path(folder))
            mine = mappings.load(Path(folder) / "mine.toml", known, Path(folder))
        except MappingError as error:
            assert all(isinstance(fact, str) for fact in error.facts)
            return
    for dialect in Library(known, (mine,)).spoken(mine):  # what loads can be used
        written_names(mine, dialect, Depth(3, 0), False)
        attempt(see(checkpoint(narrow(), "timm"), dialect), mine, dialect, Depth(3, 8), True)
    assert preprocessing_problems(json.loads(json.dumps(mine.preprocessing))) == []


@pytest.mark.parametrize("table", [3, [], None, "x", {"size": None}, {3: 3}, {"mean": [None]}, {"std": {}}])
def test_the_checker_of_preprocessing_takes_anything(table: Any) -> None:
    assert preprocessing_problems(table)


def test_a_name_is_given_once(tmp_path: Path) -> None:
    (tmp_path / "timm.toml").write_text(document({**GOOD_TABLE, "names_of": "cadene"}))
    with pytest.raises(MappingError, match="two mappings are called `timm`") as caught:
        library(tmp_path)
    assert caught.value.facts == (str(mappings.folder() / "xception" / "timm.toml"), str(tmp_path / "timm.toml"))
    assert caught.value.hints[0].startswith("rename `")


def test_the_same_folder_twice_is_one(tmp_path: Path) -> None:
    written(tmp_path, GOOD)
    known = library(tmp_path, tmp_path / "..", tmp_path, mappings.folder())
    assert [i.name for i in known.implementations].count("mine") == 1


def test_a_mapping_may_use_dialects_and_names_of_other_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "extra" / "xception").mkdir(parents=True)
    (tmp_path / "extra" / "dialects.toml").write_text(document({"mine": {**DIALECTS["torch"], "separator": "|"}}))
    parent = {**GOOD_TABLE, "dialect": "mine", "layers": {"predictions": "theirs"}}
    (tmp_path / "extra" / "xception" / "parent.toml").write_text(document(parent))
    path = written(tmp_path, document({**GOOD_TABLE, "dialect": "mine", "names_of": "parent"}))
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(path), "--mappings", str(tmp_path / "extra")])
    assert stopped.value.code == 0
    known = library(tmp_path, tmp_path / "extra")
    assert written_names(known.named("mine")[0], known.dialects["mine"], Depth(3, 8), True)["predictions"] == "theirs"
    (tmp_path / "parent.toml").write_text(document({**parent, "layers": {"predictions": "beside"}}))
    beside = mappings.load(path, known.dialects, tmp_path / "extra")
    assert written_names(beside, known.dialects["mine"], Depth(3, 8), True)["predictions"] == "beside"


def test_a_broken_mapping_in_the_folder_can_be_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, document({**GOOD_TABLE, "layers": 3}))
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(path), "--mappings", str(tmp_path), "--json"])
    assert stopped.value.code == 1
    assert json.loads(capsys.readouterr().out)["problems"] == ["`layers` is 3, expected a table"]


def test_other_toml_beside_a_mapping_is_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written(tmp_path, GOOD)
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n')
    (tmp_path / "site" / "xception").mkdir(parents=True)
    (tmp_path / "site" / "xception" / "deep.toml").write_text("architecture = 3")
    assert library(tmp_path).named("mine")
    with pytest.raises(SystemExit) as stopped:
        main(["check", str(tmp_path / "pyproject.toml")])
    assert stopped.value.code == 1
    assert "`architecture` is missing" in capsys.readouterr().out
    (tmp_path / "noise.toml").write_text("=")
    library.cache_clear()
    with pytest.raises(MappingError, match=r"noise\.toml` is not TOML"):
        library(tmp_path)
