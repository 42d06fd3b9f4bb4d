"""MindSpore in the test's own process: prepared before its first import, and left without a trace."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from effnet_core.jobs import environment

environment.prepare()
environment.set_log_level(os.environ, "error")

import mindspore as ms  # noqa: E402

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


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """MindSpore leaves dumps of bad images in the current folder."""
    monkeypatch.chdir(tmp_path_factory.getbasetemp())
