"""A job that does nothing any more is told from one that computes, reports something, or has just begun."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from effnet_core.config.schema import RuntimeConfig
from effnet_core.errors import WorkerStalled
from effnet_core.jobs import launch, supervise
from effnet_core.jobs.stall import Process, StallWatch, read_processes

LIMIT_S = 100.0
STATES = {
    "S": psutil.STATUS_SLEEPING,
    "T": psutil.STATUS_STOPPED,
    "D": psutil.STATUS_DISK_SLEEP,
}
"""By the letters that ``ps`` shows."""


class Job:
    """Processes whose state the test decides, and the time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.reported = 0
        self.processes = {1: Process(STATES["S"], 0.0), 2: Process(STATES["S"], 0.0)}
        self.watch = StallWatch(LIMIT_S, lambda: dict(self.processes), lambda: self.now)

    def run(self, seconds: int, cpu: tuple[float, float], states: str = "SS") -> str | None:
        """Let time pass, with so many cores in use; the first problem that is seen."""
        for _ in range(seconds):
            self.now += 1
            for pid, (state, cores) in enumerate(zip(states, cpu, strict=True), start=1):
                self.processes[pid] = Process(STATES[state], self.processes[pid].cpu_s + cores)
            if problem := self.watch.problem(self.reported):
                return problem
        return None


def test_a_job_that_only_waits_is_noticed_after_the_limit() -> None:
    job = Job()
    assert job.run(99, (0.0, 0.0)) is None
    assert job.run(10, (0.001, 0.0)) == "its processes only wait"


def test_a_job_that_computes_without_a_word_is_left_alone() -> None:
    assert Job().run(5000, (0.5, 0.0)) is None


def test_a_job_that_tells_something_is_left_alone() -> None:
    job = Job()
    for _ in range(50):
        assert job.run(90, (0.0, 0.0)) is None
        job.reported += 1


@pytest.mark.parametrize(
    ("state", "words"),
    [("T", "process 2 is stopped"), ("D", "process 2 waits for a disk or share")],
)
def test_one_process_that_hangs_while_another_spins(state: str, words: str) -> None:
    job = Job()
    assert job.run(500, (1.0, 1.0)) is None
    problem = job.run(120, (1.0, 0.0), f"S{state}")
    assert problem is not None
    assert problem.startswith(words)


def test_reading_from_a_slow_disk_is_no_stall() -> None:
    """It waits at each look, but moves in between."""
    assert Job().run(5000, (0.0, 0.02), "SD") is None


def test_a_limit_of_zero_is_none() -> None:
    job = Job()
    job.watch = StallWatch(0, lambda: dict(job.processes), lambda: job.now)
    assert job.run(5000, (0.0, 0.0), "TT") is None


def test_a_job_computes_before_it_stalls() -> None:
    job = Job()
    assert job.run(1000, (1.0, 0.0)) is None
    assert job.run(90, (0.0, 0.0)) is None
    assert job.run(30, (0.0, 0.0)) == "its processes only wait"


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as process:
        yield process
        process.send_signal(signal.SIGCONT)
        process.kill()


def test_what_the_system_says(busy: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    while (first := read_processes([busy.pid]))[busy.pid].cpu_s < 0.05:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert first[busy.pid].state in (psutil.STATUS_RUNNING, STATES["S"])
    os.kill(busy.pid, signal.SIGSTOP)
    while read_processes([busy.pid])[busy.pid].state != STATES["T"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert read_processes([2**22 + 1]) == {}


def test_a_stopped_process_of_a_job_ends_the_job(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    code = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"
    command = [sys.executable, supervise.__file__, "--grace", "1", "--", sys.executable, "-c", code]
    runtime = RuntimeConfig(stall_timeout_s=1)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        with pytest.raises(
            WorkerStalled, match=r"runtime\.stall_timeout_s=1 s: process .* is stopped"
        ):
            launch._wait(process, runtime, tmp_path, launch._EventTail(tmp_path / "events.jsonl"))
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(20) != 0
