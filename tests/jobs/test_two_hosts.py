"""Two hosts that train together: two network namespaces of this machine, joined by a virtual cable."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from effnet_core.system.files import read_json
from effnet_core.weights import checkpoint
from tests.jobs.test_control import processes_of, steps_done, wait_for
from tests.support.services import missing
from tests.support.tiny import SMALL

pytestmark = [pytest.mark.mindspore, pytest.mark.slow]

ADDRESSES = ("10.213.7.1", "10.213.7.2")
PORT = 23471
SETTINGS = (
    *SMALL,
    f"runtime.hosts=[{', '.join(ADDRESSES)}]",
    "runtime.world_size=4",
    f"runtime.master_port={PORT}",
    "runtime.kernels=builtin",  # own ones would be compiled first, which hosts have no part in
)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


@pytest.fixture
def hosts() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces that reach each other; that takes root and iproute2."""
    names = tuple(f"effnet{os.getpid()}{letter}" for letter in "ab")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", names[0][-12:], "netns", names[0], "type", "veth", "peer", "name",
           names[1][-12:], "netns", names[1])  # fmt: skip
        for name, address in zip(names, ADDRESSES, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", name[-12:])
            ip("-n", name, "link", "set", name[-12:], "up")
            ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as cause:
        missing("a pair of network namespaces", how=str(cause))
    yield names
    for name in names:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


Launcher = subprocess.Popen[str]


@pytest.fixture
def start(data_dir: Path, run_dir: Path) -> Iterator[Callable[..., Launcher]]:
    """Starts the same command on a host, which finds its own place; at the end none is left."""
    launchers: list[Launcher] = []

    def train(host: str, *overrides: str) -> Launcher:
        launchers.append(
            subprocess.Popen(
                [
                    *("ip", "netns", "exec", host, sys.executable, "-m", "effnet_core", "train"),
                    *("--data", str(data_dir), "--run-dir", str(run_dir)),
                    *(part for setting in (*SETTINGS, *overrides) for part in ("-o", setting)),
                ],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return launchers[-1]

    yield train
    for launcher in launchers:
        launcher.kill()
        launcher.communicate()
    wait_for(lambda: not processes_of(run_dir), seconds=15)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "run"


def wait_for_step(step: int, run_dir: Path, launchers: list[Launcher]) -> None:
    """Wait until a step is done; a launcher that ends before says why."""

    def ended() -> list[Launcher]:
        return [launcher for launcher in launchers if launcher.poll() is not None]

    wait_for(lambda: ended() or steps_done(run_dir) >= step, seconds=150)
    assert not ended(), ended()[0].communicate()


def test_two_hosts_train_one_model(
    hosts: tuple[str, str], start: Callable[..., Launcher], run_dir: Path
) -> None:
    second = start(hosts[1])  # it waits for the first
    first = start(hosts[0])
    for process in (first, second):
        output, errors = process.communicate(timeout=240)
        assert process.returncode == 0, output + errors
        assert "4 process(es)" in output
    assert read_json(run_dir / "result.json")["world_size"] == 4
    logs = [(run_dir / "logs" / f"worker_{rank}.log").read_text() for rank in range(4)]
    digests = {re.findall(r"final weights sha256 (\w+)", log)[0] for log in logs}
    assert len(digests) == 1
    shards = [re.findall(r"epoch 1 shard (\w+), 6 images", log)[0] for log in logs]
    assert len(set(shards)) == 4
    assert not processes_of(run_dir)


def test_a_rank_that_is_lost_on_one_host_ends_both_and_the_same_commands_go_on(
    hosts: tuple[str, str], start: Callable[..., Launcher], run_dir: Path
) -> None:
    settings = ("train.epochs=400", "train.checkpoint_every_steps=2")
    running = [start(host, *settings) for host in hosts]
    wait_for_step(4, run_dir, running)
    os.kill(int((run_dir / "logs" / "rank_3.pid").read_text()), signal.SIGKILL)
    killed = time.monotonic()
    outputs = [process.communicate(timeout=60) for process in running]
    assert time.monotonic() - killed < 30
    assert [process.returncode for process in running] == [1, 1]
    assert "3 died without an answer" in outputs[1][1]
    assert re.search(r"ranks 2-3 left the run: rank (2 or )?3 died", outputs[0][1])
    wait_for(lambda: not processes_of(run_dir), seconds=15)

    saved = checkpoint.newest(run_dir / "checkpoints")
    assert saved is not None
    step = saved.sidecar.step
    done = steps_done(run_dir)  # may be beyond the last checkpoint
    running = [start(host, *settings) for host in hosts]
    wait_for_step(done + 1, run_dir, running)
    for process in running:  # told to stop, as a scheduler would do it
        process.send_signal(signal.SIGTERM)
    outputs = [process.communicate(timeout=90) for process in running]
    assert f"resuming from {saved.path}, step {step} of" in outputs[0][0]
    assert "was stopped at step" in outputs[0][0]
    assert [process.returncode for process in running] == [75, 75]
    wait_for(lambda: not processes_of(run_dir), seconds=15)
