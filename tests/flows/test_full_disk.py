"""The service on a disk that becomes full under its server, and then has room again."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flows.service import TestedService, processes_naming, wait_for

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(600)]

SIZE = "350m"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, in memory."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a file system")
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("this machine does not let anybody mount a file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(path: Path) -> None:
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 16))
        except OSError:
            return


def test_a_full_disk_is_told_and_forgotten(small_disk: Path, source_dir: Path) -> None:
    service = TestedService(small_disk)
    out = small_disk.parent / "data"
    options = ["-p", f"source={source_dir}", "-p", f"out={out}"]
    try:
        service.up()
        daemon = service.server(), service.worker()
        fill(small_disk / "filler")
        refused = None
        for _ in range(20):  # until the last page of the database is written
            refused = service.effnet("run", "stage", *options)
            if refused.returncode:
                break
        assert refused is not None
        assert refused.returncode == 1
        assert "failed (HTTP 500); its log says why" in refused.stderr
        again = service.effnet("up")
        assert again.returncode == 1
        assert "0 B free" in again.stderr and "make room" in again.stderr
        assert "Traceback" not in refused.stderr + again.stderr
        (small_disk / "filler").unlink()

        def all_ended() -> bool:
            return not service.api.runs("SCHEDULED", "PENDING", "RUNNING")

        assert service.effnet("run", "stage", *options, "--watch").returncode == 0
        wait_for("the runs that waited", all_ended, seconds=300)
        assert {run["state_name"] for run in service.api.runs()} == {"Completed"}
        assert (service.server(), service.worker()) == daemon  # nothing was started again
    finally:
        done = service.effnet("down")
    assert done.returncode == 0, done.stderr
    assert processes_naming(small_disk) == []
