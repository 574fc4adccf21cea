"""Networks of every family in PyTorch and Keras: dilation, scale, strided depthwise convolutions, pools that do not stride."""

from __future__ import annotations

import numpy as np
import pytest

from tests.frameworks.nets import apart
from tests.graphs import model
from xconvert.backends import backends, forward
from xconvert.model import Depth
from xconvert.probe import images

pytestmark = pytest.mark.framework
NETWORKS = [
    ("xception_aligned", "timm"),
    ("xception_aligned", "paddleclas"),  # dilated, and its classifier's input is halved
    ("xception_preact", "timm"),
    ("xception_paddleclas", "paddleclas"),
]


@pytest.mark.parametrize(("family", "implementation"), NETWORKS)
@pytest.mark.parametrize("backend", ["torch", "keras"])
def test_graph_is_that_of_the_reference(backend: str, family: str, implementation: str) -> None:
    if not backends()[backend].installed:
        pytest.skip(f"`{backend}` is not installed")
    network = model(family, implementation, Depth(5, 1), divide=16)
    for size in (75, 96):
        x = images(size, 2)
        exact = forward(network, x, dtype="float64", taps="all")
        out = forward(network, x, backend=backend, dtype="float64", taps="all")
        assert out.keys() == exact.keys()
        errors = {name: apart(array, exact[name]) for name, array in out.items()}
        assert max(errors.values()) <= 1e-12, max(errors.items(), key=lambda item: item[1])
        assert all(array.dtype == np.float64 and array.shape == exact[name].shape for name, array in out.items())
