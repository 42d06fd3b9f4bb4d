"""The parent's side of a job, as far as it can be seen without starting one."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

import pytest

from effnet_core.config.load import load_config
from effnet_core.config.schema import RunConfig, RuntimeConfig
from effnet_core.errors import ConfigError, DataError, JobTimeout, WorkerLost
from effnet_core.events import Event, listen
from effnet_core.jobs import hosts, launch
from effnet_core.jobs.job import (
    ERROR_NAME,
    EVENTS_NAME,
    LOGS_NAME,
    RESULT_NAME,
    TrainJob,
    read_error,
    read_job,
    write_error,
)
from effnet_core.jobs.launch import run_job
from effnet_core.system.files import append_jsonl, write_json
from effnet_core.system.locks import scratch_folder


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    (tmp_path / LOGS_NAME).mkdir()
    return tmp_path


def dead_pid() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def test_one_process_is_started_directly(run_dir: Path) -> None:
    line = launch._command(RuntimeConfig(), run_dir)
    assert line == [sys.executable, "-m", "effnet_core.worker", str(run_dir)]


def test_a_launcher_that_is_not_installed_is_named(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ConfigError, match=r"has no mindspore; install it .* runtime\.world_size=1"):
        launch._command(RuntimeConfig(world_size=2), run_dir)


def test_several_are_started_by_msrun(run_dir: Path) -> None:
    line = launch._command(RuntimeConfig(world_size=3), run_dir)
    assert line[:3] == [sys.executable, "-m", "effnet_core.jobs.msrun"]
    assert "--worker_num=3" in line
    assert "--local_worker_num=3" in line
    assert line[-4:] == ["python", "-m", "effnet_core.worker", str(run_dir)]


TWO_HOSTS = {"hosts": ("127.0.0.1", "192.0.2.7"), "world_size": 4, "master_port": 23456}
"""The second is an address of documentation, which no machine has."""


def test_each_host_starts_its_share_of_the_ranks(run_dir: Path) -> None:
    for index in (0, 1):
        runtime = RuntimeConfig(**TWO_HOSTS, host_index=index)
        line = launch._command(runtime, run_dir)
        assert "--worker_num=4" in line
        assert "--local_worker_num=2" in line
        assert "--master_addr=127.0.0.1" in line
        assert f"--node_rank={index}" in line
        assert list(hosts.local_ranks(runtime)) == [2 * index, 2 * index + 1]


def test_a_host_finds_its_place_by_its_addresses() -> None:
    assert hosts.host_index(RuntimeConfig()) == 0
    assert hosts.host_index(RuntimeConfig(**TWO_HOSTS)) == 0
    turned = {**TWO_HOSTS, "hosts": ("192.0.2.7", "127.0.0.1")}
    assert hosts.host_index(RuntimeConfig(**turned)) == 1
    both = {**TWO_HOSTS, "hosts": ("127.0.0.1", "127.0.0.2")}
    with pytest.raises(ConfigError, match=r"127\.0\.0\.1 and 127\.0\.0\.2 of runtime.hosts="):
        hosts.host_index(RuntimeConfig(**both))
    nowhere = {**TWO_HOSTS, "hosts": ("192.0.2.7", "192.0.2.8")}
    with pytest.raises(ConfigError, match=r"none of .* set runtime\.host_index .* 0 to 1"):
        hosts.host_index(RuntimeConfig(**nowhere))


def test_a_first_host_that_does_not_start_is_named() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    runtime = RuntimeConfig(**{**TWO_HOSTS, "master_port": port})
    runtime = runtime.model_copy(update={"startup_timeout_s": 0})
    with pytest.raises(WorkerLost, match=rf"127\.0\.0\.1, did not start training at port {port}"):
        hosts.wait_for_first(runtime)


def test_other_hosts_hear_of_ranks_that_are_lost_here(run_dir: Path) -> None:
    runtime = RuntimeConfig(**TWO_HOSTS, host_index=1)
    with (
        mock.patch.object(hosts, "wait_for_first"),
        mock.patch.object(launch, "_run_ranks", side_effect=KeyboardInterrupt),
        pytest.raises(KeyboardInterrupt),
    ):
        launch.join_job(runtime, run_dir)
    error = read_error(run_dir)
    assert isinstance(error, WorkerLost)
    assert str(error) == "ranks 2-3 left the run: KeyboardInterrupt"


def test_a_host_with_one_rank_names_that_rank(run_dir: Path) -> None:
    runtime = RuntimeConfig(**{**TWO_HOSTS, "world_size": 2}, host_index=1)
    with (
        mock.patch.object(hosts, "wait_for_first"),
        mock.patch.object(launch, "_run_ranks", side_effect=WorkerLost("rank 1 died")),
        pytest.raises(WorkerLost),
    ):
        launch.join_job(runtime, run_dir)
    assert str(read_error(run_dir)) == "rank 1 left the run: rank 1 died"


def test_children_find_the_library_and_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    child = launch._child_environment(RuntimeConfig())
    assert child["PATH"].split(os.pathsep)[0] == str(Path(sys.executable).parent)
    root, elsewhere = child["PYTHONPATH"].split(os.pathsep)
    assert (Path(root) / "effnet_core").is_dir()
    assert elsewhere == "/elsewhere"


def test_a_cache_of_other_runs_graphs_is_told_to_be_ignored(
    monkeypatch: pytest.MonkeyPatch, events: list[Event]
) -> None:
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "0")
    launch._child_environment(RuntimeConfig())
    assert events == []
    monkeypatch.setenv("MS_COMPILER_CACHE_ENABLE", "1")
    launch._child_environment(RuntimeConfig())
    assert events[0].message.startswith("MS_COMPILER_CACHE_ENABLE is ignored")


def test_more_processes_than_cores_are_told_not_refused(events: list[Event]) -> None:
    with mock.patch("effnet_core.system.machine.available_cores", return_value=[0, 1]):
        launch._check_processes(RuntimeConfig(world_size=2))
        assert events == []
        launch._check_processes(RuntimeConfig(world_size=3))
    assert events[0].message == ("runtime.world_size=3 processes share 2 cores; 2 would be faster")


def test_a_port_in_use_is_refused_before_anything_is_started() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"runtime.master_port={port} is in use"):
            launch._check_processes(RuntimeConfig(world_size=2, master_port=port))
        launch._check_processes(RuntimeConfig(world_size=1, master_port=port))


def test_a_rank_that_died_without_an_answer_is_noticed(run_dir: Path) -> None:
    logs = run_dir / LOGS_NAME
    (logs / "rank_0.pid").write_text(str(os.getpid()))
    (logs / "rank_1.pid").write_text("")
    assert launch._dead_ranks(run_dir, range(2)) == []
    (logs / "rank_1.pid").write_text(str(dead_pid()))
    assert launch._dead_ranks(run_dir, range(2)) == [1]
    assert launch._dead_ranks(run_dir, range(1)) == []  # rank 1 is another host's


def test_a_lost_rank_shows_its_last_words(run_dir: Path) -> None:
    log = run_dir / LOGS_NAME / "worker_2.log"
    log.write_text("\n\n".join(f"line {index}" for index in range(9)))
    error = launch._lost(run_dir, "rank 2 died", rank=2)
    assert isinstance(error, WorkerLost)
    assert str(error) == (
        f"rank 2 died (was it killed, or out of memory?); see {log}; "
        "its last lines: line 4 | line 5 | line 6 | line 7 | line 8"
    )


def test_events_are_repeated_once_and_whole(run_dir: Path, events: list[Event]) -> None:
    path = run_dir / EVENTS_NAME
    tail = launch._EventTail(path)
    tail.repeat()
    append_jsonl(path, Event("train", "ü \u2028 one", 1, 2).to_dict())
    tail.repeat()
    tail.repeat()
    with path.open("ab") as stream:
        stream.write(b'{"topic": "train", "me')
    tail.repeat()
    with path.open("ab") as stream:
        stream.write(b'ssage": "two"}\n')
    tail.repeat()
    assert [event.message for event in events] == ["ü \\u2028 one", "two"]


SAVES_SLOWLY = """
import os, pathlib, signal, sys, time
def save(*_):
    time.sleep(2.5)
    pathlib.Path("saved").write_text("")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
pathlib.Path("rank_0.pid").write_text(str(os.getpid()))
time.sleep(60)
"""


@pytest.mark.parametrize("end", [JobTimeout, KeyboardInterrupt])
def test_a_job_that_is_stopped_gets_its_time_to_save(run_dir: Path, end: type) -> None:
    pid = run_dir / LOGS_NAME / "rank_0.pid"
    command = [sys.executable, "-c", SAVES_SLOWLY]
    events = launch._EventTail(run_dir / EVENTS_NAME)
    with pytest.raises(end), launch._supervised(command, RuntimeConfig(), run_dir, events):
        while not pid.exists():
            time.sleep(0.05)
        raise end
    assert (run_dir / LOGS_NAME / "saved").exists()


TELLS_UNTIL_ITS_END = """
import pathlib, os, signal, sys, time
def tell(*messages):
    with open("../events.jsonl", "a") as events:
        events.write("".join('{"topic": "train", "message": "%s"}\\n' % text for text in messages))
def leave(*_):
    tell("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, leave)
pathlib.Path("rank_0.pid").write_text(str(os.getpid()))
tell("operators", "resuming", "training")
time.sleep(60)
"""


@pytest.mark.parametrize("end", [JobTimeout, KeyboardInterrupt, WorkerLost])
def test_what_ranks_tell_until_they_have_left_is_repeated(
    end: type, run_dir: Path, events: list[Event]
) -> None:
    """The stop comes while the first of three lines is shown."""

    def stop(event: Event) -> None:
        if event.message == "operators":
            raise end

    command = [sys.executable, "-c", TELLS_UNTIL_ITS_END]
    with (
        mock.patch.object(launch, "_command", return_value=command),
        listen(stop),
        pytest.raises(end),
    ):
        launch._run_ranks(RuntimeConfig(), run_dir)
    told = [event.message for event in events]
    assert told[:4] == ["operators", "resuming", "training", "saved"]
    assert len(told) == (4 if end is WorkerLost else 5)  # the last: what became of the job


# --- the answer ----------------------------------------------------------------------------------


JOB = TrainJob(Path("data"), "d")


def run_with(run_dir: Path, answer: object) -> dict[str, object]:
    """``run_job`` with a process that only calls ``answer``."""

    def start(*_: object, **__: object) -> mock.Mock:
        if callable(answer):
            answer()
        return mock.Mock(stdin=mock.Mock(), **{"poll.return_value": 0})

    with mock.patch.object(launch.subprocess, "Popen", side_effect=start):
        return run_job(JOB, RunConfig(), run_dir)


def test_the_answer_is_the_result_file(run_dir: Path) -> None:
    result = run_with(run_dir, lambda: write_json(run_dir / RESULT_NAME, {"top1": 1}))
    assert result == {"top1": 1}
    assert read_job(run_dir) == JOB
    assert load_config(run_dir / "config.yaml") == RunConfig()


def test_the_answer_is_the_error_that_a_rank_left(run_dir: Path) -> None:
    with pytest.raises(DataError, match="no such image"):
        run_with(run_dir, lambda: write_error(run_dir, DataError("no such image"), rank=1))


def test_no_answer_is_a_lost_worker(run_dir: Path) -> None:
    with pytest.raises(WorkerLost, match="ended without an answer"):
        run_with(run_dir, None)


def test_a_lost_rank_is_named_though_the_launcher_ended_first(run_dir: Path) -> None:
    pid = dead_pid()
    with pytest.raises(WorkerLost, match="rank 0 died without an answer"):
        run_with(run_dir, lambda: (run_dir / LOGS_NAME / "rank_0.pid").write_text(str(pid)))


def test_answers_of_an_earlier_try_do_not_count(run_dir: Path) -> None:
    write_json(run_dir / RESULT_NAME, {"old": True})
    write_error(run_dir, DataError("old"), rank=0)
    (run_dir / EVENTS_NAME).write_text('{"topic": "old"}\n')
    (run_dir / LOGS_NAME / "rank_0.pid").write_text(str(dead_pid()))
    with pytest.raises(WorkerLost):
        run_with(run_dir, None)
    assert not (run_dir / RESULT_NAME).exists()
    assert not (run_dir / ERROR_NAME).exists()


def test_a_temporary_folder_stays_where_an_error_points_into_it() -> None:
    """ "See /tmp/.../worker_0.log" of a job whose folder was gone helped nobody."""
    with pytest.raises(WorkerLost), scratch_folder("evaluate") as folder:
        (folder / "worker_0.log").write_text("why")
        raise WorkerLost(f"rank 0 died; see {folder / 'worker_0.log'}")
    assert (folder / "worker_0.log").read_text() == "why"
    shutil.rmtree(folder)
    with pytest.raises(DataError), scratch_folder("evaluate") as folder:
        raise DataError("there is no such split")
    assert not folder.exists()
    with scratch_folder("evaluate") as folder:
        (folder / "result.json").write_text("{}")
    assert not folder.exists()


def test_a_job_that_says_nothing_is_said_to_be_still_at_it(
    tmp_path: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = mock.Mock(return_value=100.0)
    monkeypatch.setattr(launch.time, "monotonic", clock)
    append_jsonl(tmp_path / EVENTS_NAME, Event("train", "compiling the graph").to_dict())
    tail = launch._EventTail(tmp_path / EVENTS_NAME)
    tail.repeat()
    for clock.return_value in range(100, 131):
        tail.remind()
    reminders = [event.message for event in events[1:]]
    assert reminders == [f"compiling the graph ... {seconds} s" for seconds in (5, 15, 25)]
    events.clear()
    step = Event("train", "step 7", metrics={"kind": "train"})
    append_jsonl(tmp_path / EVENTS_NAME, step.to_dict())
    tail.repeat()
    for clock.return_value in range(130, 152):  # slow steps are told seldom anyway
        tail.remind()
    assert [event.message for event in events[1:]] == ["step 7 ... 10 s", "step 7 ... 20 s"]
