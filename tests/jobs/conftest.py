"""Jobs in real child processes, with the smallest network and a few images."""

from __future__ import annotations

from pathlib import Path

import pytest

from effnet_core import runs
from effnet_core.results import TrainResult
from tests.tiny import tiny_config


@pytest.fixture(scope="session")
def one_rank(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """A finished run of one process: its folder and result."""
    run_dir = tmp_path_factory.mktemp("one-rank")
    return run_dir, runs.train(tiny_config(), data_dir, run_dir)


@pytest.fixture(scope="session")
def two_ranks(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """A finished run of two processes through msrun: its folder and result."""
    run_dir = tmp_path_factory.mktemp("two-ranks")
    return run_dir, runs.train(tiny_config("runtime.world_size=2"), data_dir, run_dir)
