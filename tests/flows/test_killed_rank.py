"""A training flow that loses a rank continues by itself."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterName,
    LogFilter,
    LogFilterFlowRunId,
)

from effnet_core.events import Event, listen
from flows.train import train_flow
from tests.support.tiny import SMALL

pytestmark = [pytest.mark.prefect, pytest.mark.mindspore]


def descendants_of(run_dir: Path) -> set[int]:
    """Processes whose command line names the run folder."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                if str(run_dir) in (entry / "cmdline").read_text():
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


async def run_and_lines(name: str) -> tuple[Any, list[str]]:
    async with get_client() as client:
        named = FlowRunFilter(name=FlowRunFilterName(any_=[name]))
        (run,) = await client.read_flow_runs(flow_run_filter=named)
        own = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id]))
        lines: list[str] = []
        while page := await client.read_logs(own, limit=200, offset=len(lines)):
            lines += [log.message for log in page]
        return run, lines


def test_a_killed_rank_becomes_a_retry_that_resumes_and_completes(
    data_dir: Path, tmp_path: Path
) -> None:
    run_dir = tmp_path / "run"
    settings = [*SMALL, "runtime.world_size=2", "train.epochs=40", "train.checkpoint_every_steps=2"]
    settings.append("data.image_size=128")  # or a busy machine's ranks end before the kill
    seconds: list[float] = []
    killed: list[int] = []

    def watch(pids: set[int]) -> None:
        started = time.monotonic()
        while any(Path(f"/proc/{pid}").exists() for pid in pids):
            time.sleep(0.2)
        seconds.append(time.monotonic() - started)

    watcher: list[threading.Thread] = []

    def kill_once(event: Event) -> None:
        if not killed and event.metrics.get("step", 0) >= 7:
            watcher.append(threading.Thread(target=watch, args=(descendants_of(run_dir),)))
            killed.append(int((run_dir / "logs" / "rank_1.pid").read_text()))
            os.kill(killed[0], signal.SIGKILL)
            watcher[0].start()

    flow = train_flow.with_options(flow_run_name="killed-rank")
    with listen(kill_once):
        result = flow(str(data_dir), str(run_dir), recipe="digits", overrides=settings)
    watcher[0].join(60)
    assert seconds
    assert seconds[0] < 30
    assert descendants_of(run_dir) == set()
    assert result.steps == 120
    assert 4 <= result.resumed_from_step < 120
    flow_run, lines = asyncio.run(run_and_lines("killed-rank"))
    assert flow_run.state.is_completed()
    assert any("1 died without an answer" in line for line in lines)
    name = f"step-{result.resumed_from_step:08d}.ckpt, step {result.resumed_from_step} of 120"
    assert any(line.startswith("resuming from") and name in line for line in lines)
