"""Inputs that hypothesis makes up: programs of pickle opcodes, headers, messages and tables that no seed has."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests import pickles
from tests.fuzz import json_values, mutate
from xconvert.formats._protobuf import block, fixed32, number
from xconvert.formats._slices import key
from xconvert.formats._sstable import table

Parts = tuple[bytes, ...]
Strategy = st.SearchStrategy

names = st.text(max_size=12) | st.sampled_from(["layer.weight", "conv.bias", "", "\0", "a/b", "ema.x", "_metadata"])
sizes = st.integers(0, 4) | st.sampled_from(mutate.EDGES) | st.integers()
shapes = st.lists(sizes, max_size=5)
opcodes = st.sampled_from(mutate.PICKLE) | st.binary(max_size=6)
programs = st.lists(opcodes, max_size=40).map(b"".join)


def _pickled(root: bytes) -> bytes:
    return b"\x80\x02" + root + b"."


@st.composite
def tensors(draw: st.DrawFn) -> pickles.Raw:
    """A call that rebuilds a tensor, with arguments that may make no sense."""
    kind = draw(
        st.sampled_from(["FloatStorage", "HalfStorage", "BFloat16Storage", "QInt8Storage", "UntypedStorage", "BoolStorage"])
    )
    shape, strides = tuple(draw(shapes)), tuple(draw(shapes))
    small = all(-(2**63) <= n < 2**63 for n in (*shape, *strides))
    made = pickles.tensor(shape if small else (2,), strides if small else (1,), offset=draw(st.integers(-2, 9)), kind=kind)
    return made if draw(st.booleans()) else pickles.Raw(made.opcodes + draw(programs))


roots = st.dictionaries(st.text(st.characters(codec="utf-8"), max_size=8), tensors() | st.integers(0, 9), max_size=5)
values: Strategy[Any] = st.recursive(
    st.none() | st.booleans() | sizes | st.floats() | names,
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(names, inner), max_size=4).map(json_values.Pairs),
    max_leaves=12,
)
entries = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(["F32", "BF16", "C64", "U8", "Q4"]),
        "shape": shapes,
        "data_offsets": st.lists(sizes, min_size=1, max_size=3),
    }
).map(lambda entry: json_values.Pairs(entry.items()))
headers = st.lists(st.tuples(names, entries | values), max_size=4).map(json_values.Pairs) | values


def _headed(header: Any, body: bytes) -> bytes:
    text = json_values.written(header)
    return len(text).to_bytes(8, "little") + text + body


messages: Strategy[bytes] = st.recursive(
    st.builds(lambda field, value: number(abs(field) % 30, value), st.integers(0, 29), sizes) | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=5).map(b"".join) | st.builds(lambda f, m: block(f, m), st.integers(1, 20), inner),
    max_leaves=15,
)
dims = shapes.map(lambda found: block(2, b"".join(block(2, number(1, size)) for size in found)))
bundled = st.builds(
    lambda dtype, shape, at, size, crc, more: number(1, dtype) + shape + number(4, at) + number(5, size) + fixed32(6, crc) + more,
    st.sampled_from([1, 2, 7, 9, 14, 19, 20, 99]),
    *(dims, st.integers(0, 40), st.integers(0, 40), st.integers(0, 2**32 - 1), messages),
)
parts = st.lists(st.tuples(st.integers(-1, 3), st.integers(-2, 3)), max_size=3)


def _row(name: str, part: list[tuple[int, int]]) -> bytes:
    return key(name.replace("\0", ""), tuple(part))


rows = st.dictionaries(
    st.builds(_row, st.text(st.characters(codec="utf-8"), max_size=3), parts) | st.binary(max_size=6),
    bundled | messages,
    max_size=5,
)
HEADER = number(1, 1) + block(3, number(1, 1))
toml = st.lists(
    st.builds(
        lambda key, value: f"{json.dumps(key)} = {value}\n",
        st.text(max_size=6),
        st.integers() | st.just("[{}, [1]]") | st.just("{a = 1}"),
    )
    | st.sampled_from(
        [
            "[layers]\n",
            "[published.x]\n",
            "[attributes]\n",
            'architecture = "xception"\n',
            'dialect = "torch"\n',
            'describes = "x"\n',
        ]
    ),
    max_size=12,
).map(lambda found: "".join(found).encode("utf-8", "replace"))

STRATEGIES: dict[str, Strategy[Parts]] = {
    "torch": st.builds(pickles.archive, roots).map(lambda data: (data,))
    | programs.map(lambda code: (pickles.zipped([("x/data.pkl", _pickled(code)), ("x/data/0", bytes(16))]),)),
    "torch-legacy": st.builds(lambda root, tail: (pickles.legacy(root, tail),), roots, st.binary(max_size=40))
    | programs.map(lambda code: (pickles.legacy(pickles.Raw(code), bytes(24)),)),
    "paddle": programs.map(lambda code: (_pickled(code),)),
    "safetensors": st.builds(
        lambda header, body, config: (_headed(header, body), json_values.written(config)), headers, st.binary(max_size=24), values
    ),
    "tensorflow": rows.map(lambda found: (table(sorted({**found, b"": HEADER}.items())), bytes(range(40)), b"", b"")),
    "tensorflow-v1": rows.map(
        lambda found: (table(sorted({**found, b"": b"\x0a" + bytes([len(m := b"".join(found.values())[:100])]) + m}.items())),)
    ),
    "mindspore": st.builds(
        lambda name, shape, content, more: (
            block(1, block(1, name) + block(2, shape + block(2, "Float32") + block(3, content))) + more,
        ),
        *(
            st.text(st.characters(codec="utf-8"), max_size=8),
            shapes.map(lambda s: b"".join(number(1, d) for d in s)),
            st.binary(max_size=24),
            messages,
        ),
    ),
    "onnx": messages.map(lambda found: (number(1, 8) + block(7, found),)),
    "mappings": toml.map(lambda text: (text,)),
    "record": values.map(lambda value: (json_values.written(value),)),
}


def some(target: str, seed: str, one: Callable[[Parts], object], over: Callable[[], bool], count: int = 200) -> None:
    """Give ``one`` up to ``count`` inputs of ``target``, always the same for one ``seed``."""

    @hypothesis.seed(seed)
    @settings(max_examples=count, database=None, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
    @given(STRATEGIES[target])
    def run(parts: Parts) -> None:
        if not over():
            one(parts)

    run()
