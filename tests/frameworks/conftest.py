"""Frameworks are imported once for all tests, not once for each: see ``warm.py``."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.frameworks import warm
from xconvert import backends
from xconvert.backends import _stream


@pytest.fixture(scope="session", autouse=True)
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let tests, and the backends that they run in this process, have Pythons with frameworks that are imported already."""
    shared = "PYTEST_XDIST_WORKER" in os.environ
    folder = tmp_path_factory.getbasetemp().parent if shared else tmp_path_factory.getbasetemp()
    (folder / "warm").mkdir(exist_ok=True)
    cold = backends.command_of

    def command_of(module: str, backend: str, *arguments: str) -> list[str]:
        return [*warm.python(backend), *cold(module, backend, *arguments)[1:]]

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(warm.WARM, str(folder / "warm"))
        patch.setenv(warm.OWNER, str(os.getppid() if shared else os.getpid()))
        patch.setenv("KERAS_BACKEND", "tensorflow")  # as the backends do: one server for all
        patch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
        patch.setattr(backends, "command_of", command_of)
        patch.setattr(_stream, "command_of", command_of)
        yield
