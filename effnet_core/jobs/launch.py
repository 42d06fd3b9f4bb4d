"""The parent's side of a job: start the ranks, listen, and never leave one behind.

Several ranks are started by MindSpore's ``msrun`` (``msrun.py``), one directly; both under ``supervise.py``.
The answer is ``result.json`` or ``error.json``, not an exit code.
"""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from effnet_core.config.load import write_config
from effnet_core.config.schema import RunConfig, RuntimeConfig
from effnet_core.errors import (
    ConfigError,
    DataError,
    JobTimeout,
    WorkerLost,
    WorkerStalled,
)
from effnet_core.events import Event, emit
from effnet_core.jobs import cuda, devices, environment, hosts, supervise
from effnet_core.jobs.job import (
    ERROR_NAME,
    EVENTS_NAME,
    LOGS_NAME,
    RESULT_NAME,
    Job,
    TrainJob,
    read_error,
    reserve_room,
    write_error,
    write_job_file,
)
from effnet_core.jobs.stall import StallWatch, read_processes
from effnet_core.storage.client import in_use
from effnet_core.system import machine
from effnet_core.system.files import (
    is_full,
    make_folder,
    read_json,
    refuse_os_errors,
    remove_temporaries,
)
from effnet_core.system.locks import inherited
from effnet_core.text import os_reason

POLL_S, FIRST_POLL_S = 0.2, 0.02
"""How often a job is looked at, and how often at its start: a short one is not waited for in vain."""
POLL_SHARE = 0.05
"""Of what a job has taken so far, until it is looked at again."""
ANSWER_GRACE_S = 1.0
"""How long an answer may still come after a rank has gone."""
LAST_LINES = 5
REMIND_AFTER_S, REMIND_EVERY_S = 5.0, 10.0
"""How soon a job that says nothing is said to be still at it, and how often after that."""


def run_job(job: Job, config: RunConfig, run_dir: Path) -> dict[str, Any]:
    """Run a job to its end in child processes.

    Events of rank 0 are emitted again in this process while the job runs. Whatever ends this call, an
    exception or a signal included, no process of the job is left.

    Args:
        job: what to do.
        config: settings; ``runtime`` says with how many processes.
        run_dir: the job's folder; an answer that lies there is replaced.

    Returns:
        The content of ``result.json``.

    Raises:
        EffnetError: the error that a rank left, with its own type.
        WorkerLost: a rank died without an answer.
        JobTimeout: the job took longer than ``runtime.timeout_s``.
    """
    if not isinstance(job, TrainJob):
        config = config.model_copy(update={"runtime": config.runtime.on_this_host})
    _check_processes(config.runtime)
    write_job(job, config, run_dir)
    return _run_ranks(config.runtime, run_dir)


def join_job(runtime: RuntimeConfig, run_dir: Path) -> dict[str, Any]:
    """Run this machine's ranks of a job that the first of ``runtime.hosts`` has written and leads.

    Returns:
        The content of ``result.json``.

    Raises:
        WorkerLost: the first machine has not started, or a rank died here; it hears of that.
        EffnetError: as ``run_job``.
    """
    _check_processes(runtime)
    emit(Event("launch", f"waiting for {runtime.hosts[0]} to start the run"))
    hosts.wait_for_first(runtime)
    try:
        return _run_ranks(runtime, run_dir)
    except BaseException as cause:
        if not _answered(run_dir):  # nobody else can know that these ranks are gone
            ranks = hosts.local_ranks(runtime)
            reason = str(cause) or type(cause).__name__
            gone = WorkerLost(f"{_span(ranks)} left the run: {reason}")
            write_error(run_dir, gone, rank=ranks[0])
        raise


def _run_ranks(runtime: RuntimeConfig, run_dir: Path) -> dict[str, Any]:
    """Start this machine's ranks of the job in a folder, and wait for the answer."""
    try:
        return _answer_of_ranks(runtime, run_dir)
    except OSError as cause:
        if not is_full(cause):
            raise
        raise refuse_os_errors(f"the job in {run_dir}")(cause) from cause


def _answer_of_ranks(runtime: RuntimeConfig, run_dir: Path) -> dict[str, Any]:
    events = _EventTail(run_dir / EVENTS_NAME)
    command = _command(runtime, run_dir)
    with (
        devices.reserved(runtime) as visible,
        _supervised(command, runtime, run_dir, events, visible) as process,
    ):
        _wait(process, runtime, run_dir, events)
    if (run_dir / RESULT_NAME).exists():
        result: dict[str, Any] = read_json(run_dir / RESULT_NAME)
        return result
    raise read_error(run_dir) or _lost(run_dir, "the job ended without an answer")


def write_job(job: Job, config: RunConfig, run_dir: Path) -> None:
    """Leave job and settings in their folder for the ranks, and nothing of an earlier try.

    Raises:
        DataError: the folder cannot be written to.
    """
    make_folder(run_dir, what="run folder")
    make_folder(run_dir / LOGS_NAME, what="log folder")
    for stale in (RESULT_NAME, ERROR_NAME, EVENTS_NAME):
        (run_dir / stale).unlink(missing_ok=True)
    remove_temporaries(run_dir)
    for stale_pid in (run_dir / LOGS_NAME).glob("rank_*.pid"):
        stale_pid.unlink()
    try:
        write_config(config, run_dir)
        write_job_file(job, run_dir)
        reserve_room(run_dir)
    except OSError as cause:
        raise DataError(
            f"run folder {run_dir} cannot be written to ({os_reason(cause)}); make room or choose another"
        ) from cause


def _check_processes(runtime: RuntimeConfig) -> None:
    devices.require_devices(runtime)
    cores = len(machine.available_cores())
    if runtime.device == "CPU" and runtime.local_world_size > cores:
        here = " on this host" if runtime.hosts else ""
        emit(
            Event(
                "launch",
                f"runtime.world_size={runtime.local_world_size} processes{here} share {cores} cores; "
                f"{cores} would be faster",
            )
        )
    leads = hosts.host_index(runtime) == 0
    if leads and runtime.world_size > 1 and runtime.master_port and not _is_free(runtime):
        raise ConfigError(
            f"runtime.master_port={runtime.master_port} is in use on this machine; "
            "choose another, or 0 for a free one"
        )


def _command(runtime: RuntimeConfig, run_dir: Path) -> list[str]:
    worker = ["-m", "effnet_core.worker", str(run_dir.resolve())]
    if runtime.world_size == 1:
        return [sys.executable, *worker]
    if importlib.util.find_spec("mindspore") is None:
        raise ConfigError(
            f"runtime.world_size={runtime.world_size} needs MindSpore's launcher, but {sys.executable} "
            "has no mindspore; install it into this environment, or set runtime.world_size=1"
        )
    port = runtime.master_port or _free_port()
    return [
        *(sys.executable, "-m", "effnet_core.jobs.msrun"),
        f"--worker_num={runtime.world_size}",
        f"--local_worker_num={runtime.local_world_size}",
        f"--master_addr={hosts.first_address(runtime)}",
        f"--node_rank={hosts.host_index(runtime)}",
        f"--master_port={port}",
        f"--log_dir={(run_dir / LOGS_NAME).resolve()}",
        f"--cluster_time_out={runtime.startup_timeout_s}",
        "--join=True",
        "--tail_worker_log=0",
        "python",
        *worker,
    ]


def _child_environment(runtime: RuntimeConfig) -> dict[str, str]:
    if os.environ.get(environment.GRAPH_CACHE, "0") != "0":
        emit(
            Event(
                "launch",
                f"{environment.GRAPH_CACHE} is ignored: MindSpore's cache takes graphs of other settings",
            )
        )
    child = dict(os.environ)
    environment.set_log_level(child, runtime.mindspore_log)
    if runtime.device == "GPU":
        cuda.prepare(child, lazy_kernels=runtime.lazy_kernels)
    if given := in_use():
        child.update(given.environment())
    # On a busy machine OpenBLAS's threads wait for each other: 44 s where one alone took 2.5 s.
    child.setdefault("OPENBLAS_NUM_THREADS", "1")
    # msrun starts "python" from PATH, which must be the interpreter that runs this.
    child["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{child.get('PATH', '')}"
    root = str(Path(__file__).resolve().parents[2])
    child["PYTHONPATH"] = os.pathsep.join(filter(None, [root, child.get("PYTHONPATH")]))
    return child


@contextmanager
def _supervised(
    command: list[str],
    runtime: RuntimeConfig,
    run_dir: Path,
    events: _EventTail,
    visible: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[subprocess.Popen[bytes]]:
    """A command below a supervisor, in a session of its own; ended with the block, its events passed on."""
    single = runtime.world_size == 1
    index = hosts.host_index(runtime)
    launcher = "launcher.log" if index == 0 else f"launcher_{index}.log"
    log = run_dir / LOGS_NAME / ("worker_0.log" if single else launcher)
    argv = [
        sys.executable,
        supervise.__file__,
        "--grace",
        str(runtime.stop_grace_s),
        "--",
        *command,
    ]
    # Whoever kills this process cannot have its folders before the ranks have ended.
    with log.open("ab") as stream, inherited() as locks:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**_child_environment(runtime), **visible},
            cwd=log.parent,  # MindSpore leaves its dumps in the current folder
            pass_fds=locks,
            start_new_session=True,
        )
    try:
        yield process
    except WorkerLost:
        raise  # ranks that miss one of their number cannot save
    except BaseException:
        process.terminate()  # asks the ranks to save and leave
        _wait_for_ranks(process, runtime, run_dir)
        events.repeat()  # not before: a listener that fails must not keep the ranks from saving
        emit(Event("launch", _how_it_stopped(run_dir, runtime)))
        raise
    finally:
        assert process.stdin is not None
        process.stdin.close()  # the supervisor ends everything that is left
        _wait_for_end(process, supervise.EOF_GRACE_S + 5)
        events.repeat()


def _wait_for_ranks(
    process: subprocess.Popen[bytes], runtime: RuntimeConfig, run_dir: Path
) -> None:
    """Wait until every rank has left; MindSpore's scheduler would stay longer than it is needed."""
    deadline, mine = time.monotonic() + runtime.stop_grace_s, hosts.local_ranks(runtime)
    while process.poll() is None and time.monotonic() < deadline and _living_ranks(run_dir, mine):
        time.sleep(POLL_S)


def _how_it_stopped(run_dir: Path, runtime: RuntimeConfig) -> str:
    """What became of a job that was asked to stop."""
    if error := read_error(run_dir):
        return str(error)
    if (run_dir / RESULT_NAME).exists():
        return "the job had ended before it was stopped"
    return (
        f"the job did not save its state within runtime.stop_grace_s={runtime.stop_grace_s} s and was "
        "ended; what it had saved before counts"
    )


def _wait_for_end(process: subprocess.Popen[bytes], seconds: float) -> None:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait(
    process: subprocess.Popen[bytes], runtime: RuntimeConfig, run_dir: Path, events: _EventTail
) -> None:
    """Repeat events until the job has answered or ended."""
    deadline = time.monotonic() + runtime.timeout_s if runtime.timeout_s else None
    started = time.monotonic()
    lost: tuple[list[int], float] | None = None  # the first ranks seen dead, and when
    mine = hosts.local_ranks(runtime)
    watch = StallWatch(
        runtime.stall_timeout_s,
        lambda: read_processes(supervise.descendants(process.pid)),
    )
    while process.poll() is None:
        events.repeat()
        events.remind()
        if _answered(run_dir):
            break
        if lost is None and (dead := _dead_ranks(run_dir, mine)):
            lost = dead, time.monotonic()
        if lost is not None and time.monotonic() - lost[1] > ANSWER_GRACE_S:
            break
        if problem := watch.problem(events.offset):
            raise WorkerStalled(
                f"nothing has happened in {run_dir} for runtime.stall_timeout_s={runtime.stall_timeout_s} s: "
                f"{problem}; the job was ended, and the same command continues from what was saved"
            )
        if deadline is not None and time.monotonic() > deadline:
            raise JobTimeout(
                f"the job in {run_dir} was stopped after runtime.timeout_s={runtime.timeout_s} s; "
                "raise it, or run again to continue from the last checkpoint"
            )
        time.sleep(min(POLL_S, FIRST_POLL_S + POLL_SHARE * (time.monotonic() - started)))
    events.repeat()
    # The launcher may end before a rank is missed.
    dead = lost[0] if lost else _dead_ranks(run_dir, mine)
    if dead and not _answered(run_dir):
        raise _lost(run_dir, f"{_named(dead)} died without an answer", rank=dead[0])


def _answered(run_dir: Path) -> bool:
    return (run_dir / RESULT_NAME).exists() or (run_dir / ERROR_NAME).exists()


def _ranks(run_dir: Path, mine: range) -> dict[int, bool]:
    """Every rank of this machine that has started, and whether it is alive."""
    found = {}
    for path in sorted((run_dir / LOGS_NAME).glob("rank_*.pid")):
        rank = int(path.stem.partition("_")[2])
        if rank in mine and (text := path.read_text()):
            found[rank] = _is_alive(int(text))
    return found


def _dead_ranks(run_dir: Path, mine: range) -> list[int]:
    """The ranks that had started and are gone; a killed one soon takes the others along."""
    return [rank for rank, alive in _ranks(run_dir, mine).items() if not alive]


def _named(ranks: list[int]) -> str:
    """``rank 1``, ``rank 0 or 1``: on a busy machine both may be gone before either is missed."""
    return "rank " + " or ".join(str(rank) for rank in ranks)


def _span(ranks: range) -> str:
    """``rank 1``, ``ranks 2-3``."""
    return f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]}-{ranks[-1]}"


def _living_ranks(run_dir: Path, mine: range) -> bool:
    """Whether any rank is still there."""
    return any(_ranks(run_dir, mine).values())


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _lost(run_dir: Path, what: str, *, rank: int = 0) -> WorkerLost:
    log = run_dir / LOGS_NAME / f"worker_{rank}.log"
    lines: list[str] = []
    if log.exists():
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    last = f"; its last lines: {' | '.join(lines[-LAST_LINES:])}" if lines else ""
    return WorkerLost(f"{what} (was it killed, or out of memory?); see {log}{last}")


class _EventTail:
    """Reads lines that are added to ``events.jsonl`` and emits them in this process."""

    def __init__(self, path: Path) -> None:
        self.path, self.offset = path, 0
        self.heard = self.reminded = time.monotonic()
        self.last = Event("launch", "starting")
        """The last event with a message."""

    def remind(self) -> None:
        """Say what is still being done where nothing has come for a while, such as a graph's compilation."""
        now = time.monotonic()
        steps_come = self.last.metrics.get("kind") in ("train", "eval")  # every some seconds
        again = self.reminded > self.heard or steps_come
        wait_s = REMIND_EVERY_S if again else REMIND_AFTER_S
        if now - max(self.heard, self.reminded) < wait_s:
            return
        self.reminded = now
        emit(
            Event(
                self.last.topic,
                f"{self.last.message} ... {now - self.heard:.0f} s",
                metrics={"kind": "reminder"},
            )
        )

    def repeat(self) -> None:
        """Emit what has come since the last call; an unfinished line waits.

        A stop that arrives meanwhile leaves the lines after the one that it met for the next call.
        """
        if not self.path.exists():
            return
        with self.path.open("rb") as stream:
            stream.seek(self.offset)
            content = stream.read()
        whole = content[: content.rfind(b"\n") + 1]
        for line in whole.splitlines(keepends=True):
            self.offset += len(line)
            self.heard = time.monotonic()
            event = Event(**json.loads(line))
            self.last = event if event.message else self.last
            emit(event)


def _is_free(runtime: RuntimeConfig) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((hosts.first_address(runtime), runtime.master_port))
        except OSError:
            return False
    return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
