"""``effnet demo`` as people run it: a process of its own, with the smallest network."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import pyarrow.parquet as pq
import pytest

from flows.service.server import STATE_DIR_VARIABLE
from tests.support.signals import heed_ctrl_c
from tests.support.tiny import ONE_BLOCK

pytestmark = [pytest.mark.prefect, pytest.mark.mindspore]

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    f"model.variant={ONE_BLOCK}",
    "model.weights=null",
    "train.probe=none",
    "data.image_size=32",
    "data.global_batch_size=64",
)


def start(folder: Path, *settings: str) -> subprocess.Popen[str]:
    environment = {**os.environ, STATE_DIR_VARIABLE: str(folder / "state"), "PYTHONPATH": str(ROOT)}
    for name in ("PREFECT_API_URL", "PREFECT_HOME", "PREFECT_TEST_MODE"):
        environment.pop(name, None)
    options = [part for setting in (*SETTINGS, *settings) for part in ("-o", setting)]
    return subprocess.Popen(
        [sys.executable, "-c", "from flows.cli import main; main()", "demo", *options],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - before any thread of the child
    )


def read_until(stream: IO[str] | None, words: str) -> None:
    assert stream is not None
    for line in stream:
        if words in line:
            return
    raise AssertionError(f"the output ended without {words!r}")


def processes_naming(folder: Path) -> list[str]:
    """Command lines that name the folder, this process left out."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if str(folder) in line:
                found.append(line)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


def test_ctrl_c_ends_everything(folder: Path) -> None:
    process = start(folder, "train.epochs=500")
    read_until(process.stdout, "epoch 1/500")
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in output
    assert output.strip().splitlines()[-1].startswith("effnet: interrupted; what was done is in ")
    deadline = time.monotonic() + 10
    while processes_naming(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert processes_naming(folder) == []


def test_the_demo(folder: Path) -> None:
    """After the interrupted run above, whose images and staged data it finds again."""
    process = start(folder, "train.epochs=4", "train.log_every_steps=1", "optim.base_lr=0.02")
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    for bad in ("Traceback", "Exception ignored", "WARNING", "Error", "errors"):
        assert bad not in output, output
    assert "digits reused from" in output
    assert "is up to date" in output
    latest = folder / "runs" / "demo" / "latest"
    summary = json.loads((latest / "summary.json").read_text())
    assert output.strip().splitlines()[-1].split()[-1] == summary["report"]
    assert Path(summary["report"]).exists()
    assert summary["world_size"] == 2
    assert summary["images"] == 300
    assert summary["top1"] > 0.2
    assert pq.read_table(summary["predictions"]).num_rows == 300
    logs = [(latest / "train" / "logs" / f"worker_{rank}.log").read_text() for rank in (0, 1)]
    assert all(summary["weights_digest"] in log for log in logs)
