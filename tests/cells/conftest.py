"""MindSpore in the test's own process: prepared before its first import, and left without a trace."""

from __future__ import annotations

import functools
import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from effnet_core.jobs import environment
from effnet_core.kernels import build
from tests.support import tiny

environment.prepare()
environment.set_log_level(os.environ, "error")

with environment.importing():
    import mindspore as ms

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark everything in this folder."""
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.mindspore)


@pytest.fixture(scope="session", autouse=True)
def _graph_mode() -> Iterator[None]:
    """As in a job. Cells must be gone before the interpreter takes its modules apart."""
    ms.set_context(mode=ms.GRAPH_MODE)
    yield
    gc.collect()


@pytest.fixture(scope="session", autouse=True)
def _kernels_tested_once() -> Iterator[None]:
    """As in a job, which asks for the kernels once: here some 150 runs are prepared in one process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "plan", functools.cache(build.plan))
        patch.setattr(build, "problem_of", functools.cache(build.problem_of))
        yield


@pytest.fixture(scope="module")
def one_block() -> Iterator[None]:
    """``tiny.one_block`` for a module."""
    with tiny.one_block():
        yield


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore leaves dumps of bad images in the current folder."""
    monkeypatch.chdir(tmp_path_factory.getbasetemp())
