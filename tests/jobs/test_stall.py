"""What hangs is noticed within runtime.stall_timeout_s, told in a sentence, ended, and tried again."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from effnet_core import api
from effnet_core.errors import WorkerStalled
from effnet_core.events import Event, listen
from tests.support.images import class_folders
from tests.support.tiny import small_config

STALL_S = 8


def lives(pid: int) -> bool:
    """Whether a process is there, and no zombie that its reaper has not collected yet."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def pid_of_rank(run_dir: Path, rank: int) -> int:
    return int((run_dir / "logs" / f"rank_{rank}.pid").read_text())


@pytest.mark.mindspore
@pytest.mark.slow
def test_one_of_two_ranks_that_is_stopped(data_dir: Path, tmp_path: Path) -> None:
    run_dir = tmp_path / "run"
    config = small_config(
        "runtime.world_size=2", f"runtime.stall_timeout_s={STALL_S}", "train.epochs=300"
    )
    stopped: list[int] = []
    since = 0.0

    def stop_the_other(event: Event) -> None:
        nonlocal since
        if not stopped and "epoch 2/" in event.message:
            stopped.append(pid_of_rank(run_dir, 1))
            os.kill(stopped[0], signal.SIGSTOP)
            since = time.monotonic()

    with listen(stop_the_other), pytest.raises(WorkerStalled) as refused:
        api.train(config, data_dir, run_dir)
    took = time.monotonic() - since
    print(f"noticed and ended after {took:.1f} s of a limit of {STALL_S} s")
    assert refused.value.retryable
    assert f"process {stopped[0]} is stopped (SIGSTOP)" in str(refused.value)
    assert f"runtime.stall_timeout_s={STALL_S} s" in str(refused.value)
    assert not lives(stopped[0])
    resumed: list[str] = []

    class Enough(Exception):
        """The run continues, so it need not end."""

    def heed(event: Event) -> None:
        if "epoch" in event.message:
            resumed.append(event.message)
            if len(resumed) > 3:
                raise Enough

    with listen(heed), pytest.raises(Enough):
        api.train(config, data_dir, run_dir)


class SilentServer:
    """Takes connections and never answers."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0), backlog=50)
        self.url = f"http://127.0.0.1:{self.socket.getsockname()[1]}"


def test_a_source_that_does_not_answer(tmp_path: Path, aws_environment: None) -> None:
    server = SilentServer()
    config = small_config(
        f"storage.endpoint_url={server.url}", f"runtime.stall_timeout_s={STALL_S // 2}"
    )
    with pytest.raises(WorkerStalled, match=r"staging s3://bucket/data stands still: .*only wait"):
        api.stage("s3://bucket/data", tmp_path / "out", config=config)
    server.socket.close()
    assert not (tmp_path / "out").exists()  # nothing was begun, and nobody holds it


def test_staging_that_is_stopped_and_staged_again(tmp_path: Path) -> None:
    """As a process that waits for a share does not move, either."""
    source = class_folders(tmp_path / "source", {"cat": 300, "dog": 300})
    out = tmp_path / "out"
    command = [sys.executable, "-m", "effnet_core", "stage", str(source), "--out", str(out)]
    limit = ["-o", f"runtime.stall_timeout_s={STALL_S // 2}"]
    with subprocess.Popen([*command, *limit], stderr=subprocess.PIPE, text=True) as process:
        children = psutil.Process(process.pid)
        deadline = time.monotonic() + 120
        while not (workers := [p for p in children.children(recursive=True) if is_worker(p)]):
            assert time.monotonic() < deadline and process.poll() is None
            time.sleep(0.01)
        workers[0].suspend()
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"process {workers[0].pid} is stopped (SIGSTOP)" in errors
    assert "Traceback" not in errors
    assert not lives(workers[0].pid)
    dataset, _ = api.stage(source, out)
    assert sum(dataset.counts.values()) == 600


def is_worker(process: psutil.Process) -> bool:
    try:
        words = process.cmdline()
    except psutil.Error:
        return False
    return "effnet_core.worker" in words and not any("supervise" in word for word in words)
