"""Jobs in real child processes, with the smallest network and a few images."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from effnet_core import api
from effnet_core.results import TrainResult
from tests.support.services import missing
from tests.support.tiny import tiny_config


@pytest.fixture(scope="session")
def one_rank(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TrainResult]:
    """A finished run of one process: its folder and result."""
    run_dir = tmp_path_factory.mktemp("one-rank")
    return run_dir, api.train(tiny_config(), data_dir, run_dir)


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a disk of a size in memory; that takes root."""
    mounted = []

    def make(size: str) -> Path:
        folder = tmp_path / "disk"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            missing("a disk of the test's own", how=done.stderr.strip())
        mounted.append(folder)
        return folder

    yield make
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
