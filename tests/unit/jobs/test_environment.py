"""What MindSpore must find in its environment, and who gets which cores."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from effnet_core.jobs import environment
from effnet_core.system import machine


def test_the_instruction_set_is_limited_where_the_user_has_not_said_otherwise() -> None:
    assert environment.prepare({})["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert environment.prepare({"ONEDNN_MAX_CPU_ISA": "ALL"}) == {"ONEDNN_MAX_CPU_ISA": "ALL"}


def test_a_cache_that_takes_graphs_of_other_settings_is_not_used() -> None:
    assert "MS_COMPILER_CACHE_ENABLE" not in environment.prepare({"MS_COMPILER_CACHE_ENABLE": "1"})


def test_the_processs_own_environment_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert environment.prepare() is os.environ
    assert os.environ["ONEDNN_MAX_CPU_ISA"] == "AVX2"


def test_cpus_compute_in_the_thread_that_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, str] = {}
    environment.compute_at_once(values)
    assert values == {"MS_DEV_HOST_BLOCKING_RUN": "1"}
    values = {"MS_DEV_HOST_BLOCKING_RUN": "0"}
    environment.compute_at_once(values)
    assert values == {"MS_DEV_HOST_BLOCKING_RUN": "0"}
    monkeypatch.delenv("MS_DEV_HOST_BLOCKING_RUN", raising=False)
    environment.compute_at_once()
    assert os.environ["MS_DEV_HOST_BLOCKING_RUN"] == "1"
    monkeypatch.delenv("MS_DEV_HOST_BLOCKING_RUN")


@pytest.mark.parametrize(("level", "number"), [("debug", "0"), ("error", "3"), ("critical", "4")])
def test_log_levels(level: str, number: str) -> None:
    values: dict[str, str] = {}
    environment.set_log_level(values, level)
    assert values == {"GLOG_v": number}
    environment.set_log_level(values, "warning")
    assert values == {"GLOG_v": number}


def test_available_cores() -> None:
    assert machine.available_cores() == sorted(os.sched_getaffinity(0))


@pytest.mark.parametrize(("cores", "ranks"), [(2, 1), (2, 2), (8, 3), (7, 7), (16, 5)])
def test_ranks_share_all_cores_without_overlap(cores: int, ranks: int) -> None:
    numbers = [10 + i for i in range(cores)]
    shares = [machine.cores_of_rank(numbers, rank, ranks) for rank in range(ranks)]
    assert [core for share in shares for core in share] == numbers
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert min(map(len, shares)) >= 1


def test_more_ranks_than_cores_take_turns() -> None:
    assert [machine.cores_of_rank([4, 5], rank, 5) for rank in range(5)] == [
        [4],
        [5],
        [4],
        [5],
        [4],
    ]


@pytest.mark.parametrize(
    ("answer", "newer"),
    [("echo 9.0", True), ("echo 8.6", False), ("echo 10.0; echo 8.0", True), ("exit 9", False)],
)
def test_a_gpu_that_is_newer_than_mindspore_s_kernels(
    answer: str, newer: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert machine.newer_than_kernels() is newer


def test_what_imports_make_is_never_looked_through_and_later_garbage_is_collected() -> None:
    gc.unfreeze()
    try:
        with pytest.raises(ImportError), environment.importing():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled()
        assert gc.get_freeze_count() > 0
        cycle: list[object] = []
        cycle.append(cycle)
        del cycle
        assert gc.collect() > 0
    finally:
        gc.unfreeze()
