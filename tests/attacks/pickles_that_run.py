"""Pickles that ask to run something, by every opcode that can: each as a PyTorch archive, some for Paddle.

Opcodes are those of the standard library's ``pickletools``. What they would run creates the empty file ``MARKER``.
"""

from __future__ import annotations

from typing import Any

from tests.attacks.paddle import array, network
from tests.attacks.registry import MARKER, Contents, attack
from tests.pickles import Raw, archive, call, legacy, legacy_tensor, many, named, numbers, opcodes

TOUCH = f"touch {MARKER}"
OPEN = f"open({MARKER!r}, 'w').close()"
WORDS = ["touch", MARKER]


def _enter(kind: str, suffix: str, name: str, tries: str, asked: str, code: Any) -> None:
    @attack(kind, suffix, tries, f"`{{path}}` asks to run `{asked}`; nothing was run", name=name)
    def _() -> Contents:
        if kind == "torch":
            return archive(many() | {"more": code})
        return b"\x80\x03" + opcodes({"a": array(), "more": code}) + b"."


def _text(value: str) -> bytes:
    return opcodes(value)


def _stack_global(module: str, name: str) -> Raw:
    return Raw(_text(module) + _text(name) + b"\x93")


_MAP = Raw(opcodes(named("posix.system")) + opcodes([TOUCH]))
# builtins.tuple(map(posix.system, [...])), both made without a call: `map.__new__`, `tuple.__new__`
_NEWOBJ = Raw(opcodes(named("builtins.tuple")) + opcodes(named("builtins.map")) + _MAP.opcodes + b"\x86\x81\x85\x81")
_PARTIAL = opcodes(named("functools.partial"))
_NEWOBJ_EX = Raw(_PARTIAL + opcodes((named("subprocess.call"), WORDS)) + opcodes({"cwd": "."}) + b"\x92)R")
_HUB = Raw(
    _PARTIAL + opcodes((named("torch.hub.load"),)) + opcodes({"source": "local"}) + b"\x92" + opcodes((".", "model")) + b"R"
)
_INNER = b"\x80\x02" + opcodes(call("posix.system", TOUCH)) + b"."
_BYTES = Raw(b"C" + bytes([len(_INNER)]) + _INNER)
_LOAD = call("numpy.load", call("_io.BytesIO", _BYTES), None, True)

_enter("torch", ".pth", "reduce-posix-system", "`os.system` by GLOBAL and REDUCE", "posix.system", call("posix.system", TOUCH))
_enter("torch", ".pth", "python-2-eval", "`eval` under its name in Python 2", "__builtin__.eval", call("__builtin__.eval", OPEN))
_enter("torch", ".pth", "exec", "`exec`", "builtins.exec", call("builtins.exec", OPEN))
_enter(
    *("torch", ".pth", "getattr", "`os.system`, reached through `getattr`", "builtins.getattr"),
    Raw(opcodes(call("builtins.getattr", named("shutil.os"), "system")) + opcodes((TOUCH,)) + b"R"),
)
_enter(
    *("torch", ".pth", "stack-global", "`os.system` by STACK_GLOBAL", "os.system"),
    Raw(_stack_global("os", "system").opcodes + opcodes((TOUCH,)) + b"R"),
)
_enter(
    *("torch", ".pth", "dotted-name", "`torch.serialization` `os.system`, a module of a module", "torch.serialization.os.system"),
    Raw(b"\x80\x04" + _stack_global("torch.serialization", "os.system").opcodes + opcodes((TOUCH,)) + b"R"),
)
_enter("torch", ".pth", "inst", "`os.system` by INST", "posix.system", Raw(b"(" + _text(TOUCH) + b"iposix\nsystem\n"))
_enter(
    *("torch", ".pth", "obj", "`subprocess.call` by OBJ", "subprocess.call"),
    Raw(b"(" + opcodes(named("subprocess.call")) + opcodes(WORDS) + b"o"),
)
_enter("torch", ".pth", "newobj", "`os.system` by `map` and `tuple`, made by NEWOBJ", "posix.system", _NEWOBJ)
_enter("torch", ".pth", "newobj-ex", "`subprocess.call` by `functools.partial` and NEWOBJ_EX", "subprocess.call", _NEWOBJ_EX)
_enter("torch", ".pth", "runpy", "`runpy._run_code`", "runpy._run_code", call("runpy._run_code", OPEN, {}))
_enter("torch", ".pth", "numpy-load", "`numpy.load` of a pickle in the pickle", "numpy.load", _LOAD)
_enter("torch", ".pth", "torch-hub", "`torch.hub.load` of the folder it is in", "torch.hub.load", _HUB)
_enter("paddle", ".pdparams", "reduce-posix-system", "`os.system` by REDUCE", "posix.system", call("posix.system", TOUCH))
_enter(
    *("paddle", ".pdparams", "eval", "`eval`, of which Paddle's own files have one harmless form", "eval"),
    call("builtins.eval", OPEN, {"data": 1}),
)
_enter("paddle", ".pdparams", "numpy-load", "`numpy.load` of a pickle in the pickle", "numpy.load", _LOAD)
_enter("paddle", ".pdparams", "newobj", "`os.system` by `map` and `tuple`, made by NEWOBJ", "posix.system", _NEWOBJ)


@attack("torch", ".pth", "`os.system` beside the network, in `_metadata`", "`{path}` asks to run `posix.system`; nothing was run")
def state_of_the_network() -> Contents:
    state = {"_metadata": call("posix.system", TOUCH)}
    return archive(Raw(opcodes(call("collections.OrderedDict")) + opcodes(many())[1:] + opcodes(state) + b"b"))


@attack(
    "torch",
    ".pth",
    "a terminal's escape code in the name to run",
    r"`{path}` asks to run `posix.sys\x1b[31mtem`; nothing was run",
)
def escape_code_in_a_name() -> Contents:
    return archive(many() | {"more": Raw(b"cposix\nsys\x1b[31mtem\n")})


@attack(
    "torch",
    ".pth",
    "a whole module, whose class is imported",
    "`{path}` holds a whole `antigravity.Net` object, not a state dict",
)
def whole_module() -> Contents:
    module = opcodes(named("antigravity.Net")) + b")\x81" + opcodes({"_parameters": {}, "_modules": {}}) + b"b"
    return archive({"model": Raw(module)})


@attack(
    "torch-legacy", ".pth", "`os.system` in the third of five pickles", "`{path}` asks to run `posix.system`; nothing was run"
)
def third_pickle() -> Contents:
    content = legacy({"a": legacy_tensor()}, numbers())
    system = b"\x80\x02" + opcodes({"little_endian": True}) + b"."
    return content.replace(system, b"\x80\x02" + opcodes({"little_endian": call("posix.system", TOUCH)}) + b".", 1)


@attack("torch-legacy", ".pth", "`os.system` in a persistent id", "`{path}` asks to run `posix.system`; nothing was run")
def persistent_id() -> Contents:
    storage = Raw(opcodes(("storage", call("posix.system", TOUCH), "0", "cpu", 4, None)) + b"Q")
    return legacy({"a": call("torch._utils._rebuild_tensor", storage, 0, (2,), (1,))}, numbers())


@attack(
    "paddle",
    ".pdparams",
    "`os.system` in a second pickle behind the first",
    "`{path}` asks to run `posix.system`; nothing was run",
)
def behind_the_first_pickle() -> Contents:
    return b"\x80\x03" + opcodes({"a": array()}) + b"." + _INNER


@attack(
    *("paddle-inference", ".pdiparams", "`os.system` in the pickle with the names"),
    "`{path}.info` asks to run `posix.system`; nothing was run",
)
def pickled_names() -> Contents:
    return {**network(), ".pdiparams.info": _INNER}
