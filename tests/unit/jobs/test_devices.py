"""Devices of a machine: how many processes there are by default, and which job has which."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from effnet_core.config.load import load_config
from effnet_core.config.schema import RuntimeConfig
from effnet_core.errors import ConfigError
from effnet_core.jobs.devices import require_devices, reserved
from effnet_core.storage.cache import CACHE_VARIABLE
from effnet_core.system import machine

SHOWN = "CUDA_VISIBLE_DEVICES"


@pytest.fixture
def eight(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with eight GPUs."""
    monkeypatch.setenv(SHOWN, "0,1,2,3,4,5,6,7")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))


def gpus(count: int) -> RuntimeConfig:
    return RuntimeConfig(device="GPU", world_size=count)


def test_devices_are_those_that_the_driver_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidia0", "nvidia10", "nvidia2", "nvidiactl", "nvidia-uvm", "davinci0"):
        (tmp_path / name).touch()
    monkeypatch.delenv(SHOWN, raising=False)
    assert machine.devices("GPU", tmp_path) == ["0", "2", "10"]
    assert machine.devices("Ascend", tmp_path) == ["0"]
    assert machine.devices("CPU", tmp_path) == []
    monkeypatch.setenv(SHOWN, "3, GPU-8f2a")
    assert machine.devices("GPU", tmp_path) == ["3", "GPU-8f2a"]
    monkeypatch.setenv(SHOWN, "-1")
    assert machine.devices("GPU", tmp_path) == []


@pytest.mark.usefixtures("eight")
def test_a_process_for_each_gpu_unless_somebody_says_how_many() -> None:
    assert load_config(None, ["runtime.device=GPU"]).runtime.world_size == 8
    assert load_config(None, ["runtime.device=GPU", "runtime.world_size=2"]).runtime.world_size == 2
    assert load_config(None, []).runtime.world_size == 1
    hosts = ["runtime.hosts=[a, b]", "runtime.master_port=8118", "runtime.device=GPU"]
    assert load_config(None, hosts).runtime.world_size == 16
    assert load_config(None, ["runtime.device=Ascend"]).runtime.world_size == 1


@pytest.mark.usefixtures("eight")
def test_more_processes_than_devices_are_refused() -> None:
    require_devices(gpus(8))
    require_devices(RuntimeConfig(world_size=9))
    with pytest.raises(ConfigError, match=r"runtime.world_size=9 .* 8 GPU device\(s\) are visible"):
        require_devices(gpus(9))


@pytest.mark.usefixtures("eight")
def test_two_jobs_of_four_share_a_machine_of_eight_and_a_third_waits() -> None:
    third: list[dict[str, str]] = []

    def run_third() -> None:
        with reserved(gpus(4)) as visible:
            third.append(visible)

    thread = threading.Thread(target=run_third)
    with reserved(gpus(4)) as second_half:
        with reserved(gpus(4)) as other_half:
            assert [second_half, other_half] == [{SHOWN: "0,1,2,3"}, {SHOWN: "4,5,6,7"}]
            thread.start()
            thread.join(0.5)
            assert third == []
        thread.join(10)
        assert third == [{SHOWN: "4,5,6,7"}]
    with reserved(gpus(8)) as all_of_them:
        assert all_of_them == {SHOWN: "0,1,2,3,4,5,6,7"}


KILLED = """
import os, subprocess, sys
from effnet_core.config.schema import RuntimeConfig
from effnet_core.jobs.devices import reserved
from effnet_core.system.locks import inherited
with reserved(RuntimeConfig(device="GPU", world_size=6)), inherited() as locks:
    subprocess.Popen([sys.executable, "-c", "input()"], pass_fds=locks)
    os._exit(9)
"""


@pytest.mark.usefixtures("eight")
def test_ranks_of_a_killed_parent_keep_their_devices() -> None:
    reader, writer = os.pipe()  # the rank ends when this is closed
    subprocess.run([sys.executable, "-c", KILLED], stdin=reader, check=False)
    os.close(reader)
    taken: list[dict[str, str]] = []
    thread = threading.Thread(target=lambda: taken.append(_of(gpus(8))))
    try:
        assert _of(gpus(2)) == {SHOWN: "6,7"}
        thread.start()
        thread.join(0.5)
        assert taken == []
    finally:
        os.close(writer)
        thread.join(10)
    assert taken == [{SHOWN: "0,1,2,3,4,5,6,7"}]


def _of(runtime: RuntimeConfig) -> dict[str, str]:
    with reserved(runtime) as visible:
        return visible


def test_cpus_are_not_reserved() -> None:
    assert _of(RuntimeConfig(world_size=4)) == {}


def test_settings_of_gpus_are_refused_elsewhere() -> None:
    with pytest.raises(
        ConfigError, match=r"runtime.conv_algorithm=performance is for runtime.device=GPU"
    ):
        load_config(None, ["runtime.conv_algorithm=performance"])
    with pytest.raises(
        ConfigError, match=r"runtime.conv_tf32=false is for runtime.device=GPU, not CPU"
    ):
        load_config(None, ["runtime.conv_tf32=false"])
    with pytest.raises(ConfigError, match=r"train.amp_norm=mixed needs train.amp_level=O2, not O0"):
        load_config(None, ["train.amp_norm=mixed"])
