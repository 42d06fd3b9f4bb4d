"""Stopping, losing and resuming jobs; nothing may be left behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from effnet_core import api
from effnet_core.errors import JobTimeout, WorkerLost
from effnet_core.events import Event, listen
from effnet_core.jobs.job import METRICS_NAME
from effnet_core.system.files import read_jsonl
from effnet_core.weights import checkpoint
from tests.support.signals import heed_ctrl_c
from tests.support.tiny import SMALL, small_config, tiny_config

pytestmark = pytest.mark.mindspore

LONG = ("train.epochs=4000", "runtime.stop_grace_s=60")


def wait_for(condition: Callable[[], object], *, seconds: float = 90) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.1)


def processes_of(run_dir: Path) -> list[int]:
    """Process ids whose command line names the run folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(run_dir) in (entry / "cmdline").read_text():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def start_training(
    data_dir: Path, run_dir: Path, *overrides: str, processes: int
) -> subprocess.Popen[str]:
    settings = [part for setting in (*SMALL, *LONG, *overrides) for part in ("-o", setting)]
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "effnet_core", "train"),
            *("--data", str(data_dir), "--run-dir", str(run_dir), "-n", str(processes), *settings),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - before any thread of the child
    )


def steps_done(run_dir: Path) -> int:
    rows = read_jsonl(run_dir / METRICS_NAME)
    return rows[-1]["step"] if rows else 0


STOPS = {
    signal.SIGINT: (130, "effnet: interrupted; run the same command again to continue"),
    signal.SIGTERM: (75, "effnet: stopped by SIGTERM; run the same command again to continue"),
}


def interrupt(process: subprocess.Popen[str], run_dir: Path) -> None:
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert processes_of(run_dir) == []


def kill_the_parent(process: subprocess.Popen[str], run_dir: Path) -> None:
    """It takes everything along."""
    assert len(processes_of(run_dir)) >= 4
    process.kill()
    process.communicate()
    wait_for(lambda: processes_of(run_dir) == [], seconds=15)


@pytest.mark.parametrize(
    ("processes", "stop", "end"),
    [(1, signal.SIGINT, interrupt), (2, signal.SIGTERM, kill_the_parent)],
)
def test_a_stop_saves_leaves_no_process_and_can_be_resumed(
    processes: int,
    stop: signal.Signals,
    end: Callable[[subprocess.Popen[str], Path], None],
    data_dir: Path,
    tmp_path: Path,
) -> None:
    """The resumed run of two ranks ends because its parent is killed."""
    run_dir = tmp_path / "run"
    process = start_training(data_dir, run_dir, processes=processes)
    wait_for(lambda: steps_done(run_dir) >= 4)
    process.send_signal(stop)
    output, errors = process.communicate(timeout=90)
    assert (process.returncode, errors.strip()) == STOPS[stop]
    assert processes_of(run_dir) == []
    saved = checkpoint.newest(run_dir / "checkpoints")
    assert saved is not None
    step = saved.sidecar.step
    assert step >= 4
    assert f"training was stopped at step {step} of 12000 and saved" in output
    assert not [log for log in run_dir.glob("logs/*.log") if "Exception ignored" in log.read_text()]

    process = start_training(data_dir, run_dir, processes=processes)
    wait_for(lambda: (run_dir / "events.jsonl").exists() and steps_done(run_dir) > step)
    end(process, run_dir)
    messages = [row.get("message", "") for row in read_jsonl(run_dir / "events.jsonl")]
    assert any(f"resuming from {saved.path}, step {step} of" in message for message in messages)
    steps = [row["step"] for row in read_jsonl(run_dir / METRICS_NAME) if row["kind"] == "train"]
    assert steps == sorted(set(steps))


def test_a_job_that_does_not_save_in_time_is_ended_and_says_so(
    data_dir: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    process = start_training(data_dir, run_dir, "runtime.stop_grace_s=1", processes=1)
    wait_for(lambda: steps_done(run_dir) >= 1)
    rank = int((run_dir / "logs" / "rank_0.pid").read_text())
    os.kill(rank, signal.SIGSTOP)  # like a disk that hangs
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "did not save its state within runtime.stop_grace_s=1 s" in output
    assert processes_of(run_dir) == []


@pytest.mark.parametrize(
    ("rank", "stall_s"),
    [
        pytest.param(0, 0, marks=pytest.mark.slow),  # as in test_exact_resume.py, for every kill
        pytest.param(1, 0, marks=pytest.mark.slow),
        (1, 4),
    ],
)
def test_a_killed_rank_ends_the_job_within_seconds(
    rank: int, stall_s: float, data_dir: Path, tmp_path: Path
) -> None:
    """Also where this process hears of it so late (a busy machine) that the other rank has gone too."""
    run_dir = tmp_path / "run"
    killed: list[float] = []

    def kill_once(event: Event) -> None:
        if not killed and event.metrics.get("step", 0) >= 2:
            os.kill(int((run_dir / "logs" / f"rank_{rank}.pid").read_text()), signal.SIGKILL)
            killed.append(time.monotonic())
            time.sleep(stall_s)

    with listen(kill_once), pytest.raises(WorkerLost, match=rf"rank (0 or )?{rank} (or 1 )?died"):
        api.train(small_config("runtime.world_size=2", *LONG), data_dir, run_dir)
    assert time.monotonic() - killed[0] < 20
    assert processes_of(run_dir) == []


def test_a_job_that_takes_too_long_saves_and_is_stopped(
    data_dir: Path, tmp_path: Path, events: list[Event]
) -> None:
    """It is over while the graph is compiled, and still gets ``runtime.stop_grace_s`` to save."""
    run_dir = tmp_path / "run"
    seldom = ("train.checkpoint_every_epochs=4000", "train.evaluate_every_epochs=4000")
    with pytest.raises(JobTimeout, match=r"runtime\.timeout_s=5"):
        api.train(small_config("runtime.timeout_s=5", *LONG, *seldom), data_dir, run_dir)
    assert processes_of(run_dir) == []
    saved = checkpoint.newest(run_dir / "checkpoints")
    assert saved is not None
    assert any(f"stopped at step {saved.sidecar.step} of" in event.message for event in events)


@pytest.mark.slow  # tests/jobs/test_exact_resume.py asks for more, on two ranks
def test_a_resumed_run_ends_like_a_straight_one(data_dir: Path, tmp_path: Path) -> None:
    """Cut after the first of two epochs: same losses, nearly the same weights."""
    settings = ("train.epochs=2", "runtime.exact_resume=true", "runtime.mindspore_log=error")
    straight = tmp_path / "straight"
    api.train(small_config(*settings), data_dir, straight)
    resumed = tmp_path / "resumed"
    api.train(small_config(*settings), data_dir, resumed)
    last = checkpoint.newest(resumed / "checkpoints")
    assert last is not None
    for path in (last.path, checkpoint.sidecar_path(last.path), resumed / "result.json"):
        path.unlink()
    result = api.train(small_config(*settings), data_dir, resumed)
    assert result.resumed_from_step == 3
    losses = [
        [row["loss"] for row in read_jsonl(folder / METRICS_NAME) if row["kind"] == "train"]
        for folder in (straight, resumed)
    ]
    assert len(losses[0]) == len(losses[1]) == 6
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_the_same_call_on_a_finished_run_does_nothing(
    one_rank: tuple[Path, object], data_dir: Path, events: list[Event]
) -> None:
    run_dir, first = one_rank
    before = (run_dir / "model.ckpt").stat().st_mtime_ns
    assert api.train(tiny_config(), data_dir, run_dir) == first
    assert (run_dir / "model.ckpt").stat().st_mtime_ns == before
    assert "finished already" in events[-1].message


def test_settings_reach_the_ranks_by_file(one_rank: tuple[Path, object]) -> None:
    run_dir, _ = one_rank
    sidecar = json.loads((run_dir / "model.json").read_text())
    assert sidecar["variant"] == "efficientnet_tiny"
    assert sidecar["preprocess"]["image_size"] == 32
    assert sidecar["training_state"] is False
