"""What only a process with PyTorch can check: ``python -m tests.frameworks.checks_torch CHECK FOLDER``. Each check is
run by ``test_backends.py``.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.frameworks.make import names
from tests.frameworks.make_torch import make
from tests.frameworks.nets import DIVIDE, apart, arrays, network
from xconvert.backends.torch import build
from xconvert.probe import images

RECORD = '{"bn_epsilon": 1e-05}'


def _built(seed: int = 0, record: str = "") -> Any:
    model = network("symmetric", seed=seed)
    return build(model.layers, arrays(model), names("timm"), record)


def _tensor(x: Any) -> Any:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def loads_the_real_file_strictly(folder: Path) -> None:
    """A file of timm's own class fits a network of other weights, key for key, and gives it timm's answers."""
    answer = make("timm-pth", folder / "x.pth", arrays(network("symmetric")), DIVIDE)
    state = torch.load(folder / "x.pth", weights_only=True)
    built = _built(seed=1).double().eval()
    x = images(75, 2)
    expected = answer(x, "float64")
    assert apart(built(_tensor(x).double()).detach().numpy(), expected) > 0.1, "the weights were the same to begin with"
    assert set(built.state_dict()) == set(state)
    assert {name: tensor.shape for name, tensor in built.state_dict().items()} == {n: t.shape for n, t in state.items()}
    built.load_state_dict(state, strict=True)
    assert apart(built(_tensor(x).double()).detach().numpy(), expected) < 1e-12


def carries_its_record(folder: Path) -> None:
    """The record is in every state dict: of a copy, after ``torch.save``, and for a network inside another."""
    torch.save(copy.deepcopy(_built(record=RECORD)).state_dict(), folder / "x.pth")
    state = torch.load(folder / "x.pth", weights_only=True)
    assert state._metadata[""]["xconvert"] == RECORD
    assert torch.nn.Sequential(_built(record=RECORD)).state_dict()._metadata["0"]["xconvert"] == RECORD
    assert "xconvert" not in _built().state_dict()._metadata[""]
    _built(seed=1).load_state_dict(state, strict=True)


def learns(folder: Path) -> None:
    """Training lowers the loss and moves the running statistics; evaluation moves nothing."""
    net, x, labels = _built(), _tensor(images(75, 4)), torch.tensor([0, 1, 2, 3])
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    net.eval()(x)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    net.train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(net(x), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.8 * losses[0], losses
    after = net.state_dict()
    assert not any(torch.equal(before[name], after[name]) for name in before if "running_" in name)
    assert all(int(after[name]) == 5 for name in after if name.endswith("num_batches_tracked"))


def keeps_double_precision(folder: Path) -> None:
    """Weights in float64 stay so; half floats become float32."""
    model = network("symmetric")
    for given, expected in ((np.float64, torch.float64), (np.float32, torch.float32), (np.float16, torch.float32)):
        net = build(model.layers, {n: a.astype(given) for n, a in arrays(model).items()}, {})
        assert {p.dtype for p in net.parameters()} == {expected}
    assert "block2.sepconv1.depthwise.weight" in net.state_dict(), "without names the layers keep their own"


def refuses_one_name_for_two_layers(folder: Path) -> None:
    """Names of Keras, where a separable convolution is one layer, would lose a kernel."""
    model = network("symmetric")
    try:
        build(model.layers, arrays(model), names("keras"))
    except ValueError as error:
        assert str(error) == "two layers are called `block2_sepconv1`"
    else:
        raise AssertionError("it was built")


if __name__ == "__main__":
    globals()[sys.argv[1]](Path(sys.argv[2]))
