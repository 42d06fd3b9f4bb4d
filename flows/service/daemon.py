"""The process behind ``effnet up``: keeps a Prefect server and a worker alive, and runs from being lost.

What it adds to Prefect, for one machine:

- a server or worker that dies, is stopped (SIGSTOP) or neither answers nor computes is started again;
- a slot that the server counts though nobody holds it is freed;
- a run whose process died with its worker becomes Crashed and is tried again, instead of being
  Running for ever; a run that lost its worker continues, and can still be cancelled;
- SIGTERM ends it in an order that lets runs save and report: worker, runs, server.

It runs under ``supervise.py``, so that nothing is left when it is killed itself. It imports little, since it
lives long.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import IO

import psutil

from effnet_core.errors import EffnetError
from effnet_core.jobs import supervise
from effnet_core.jobs.stall import StallWatch, read_processes
from effnet_core.system.files import write_json
from effnet_core.system.locks import sole_user
from effnet_core.text import visible
from flows.service.api import JSON, Api
from flows.service.lost_slots import LostSlots
from flows.service.recovery import STOPPED, Recovery, age_s
from flows.service.server import SERVER_AUTH_VARIABLE, server_command

RECORD_NAME = "service.json"
LOOK_EVERY_S = 2.0
LONGEST_WAIT_S = 30.0
"""Between two starts of a process that does not stay alive."""
STEADY_AFTER_S = 60.0
"""A process that lived this long starts again at once."""
STUCK_AFTER_S = 120.0
"""How long a process may be stopped, or neither answer nor compute."""
RUN_GRACE_S = 45.0
"""Seconds that runs have to save and report before the server is stopped."""
PENDING_AFTER_S = 60.0
"""A run that is Pending for longer without a process lost its worker while it was being started."""
LOG_BYTES = 20_000_000
RUN_VARIABLE = "PREFECT__FLOW_RUN_ID"
LEASES_VARIABLE = "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"


@dataclass
class Kept:
    """A process that is started again when it ends."""

    name: str
    command: list[str]
    log: Path
    environment: dict[str, str] | None = None
    umask: int = -1
    """For its files; as this process's by default."""
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    wait_s: float = 0.0
    starts: int = field(default=0)
    stuck_after_s: float = STUCK_AFTER_S
    watch: StallWatch | None = None
    answers: int = 0

    def look(self) -> None:
        """Start the process if it is not there and its waiting time is over."""
        try:
            self._look()
        except OSError as error:  # a full disk, a process too many: asked again at the next look
            say(f"{self.name} could not be started: {error}")

    def _look(self) -> None:
        now = time.monotonic()
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None and self.wait_s == 0:
            lived = now - self.started
            say(f"{self.name} ended with code {self.process.returncode} after {lived:.0f} s")
            self.wait_s = 1.0 if lived > STEADY_AFTER_S else min(LONGEST_WAIT_S, 2.0**self.starts)
            self.starts = 0 if lived > STEADY_AFTER_S else self.starts
            self.started = now
            return
        if now - self.started >= self.wait_s:
            self._start(now)

    def end_if_stuck(self, *, answers: bool) -> None:
        """End a process that does nothing any more; the next look starts it again.

        Args:
            answers: whether it has just answered; True of one that nobody asks.
        """
        if self.process is None or self.watch is None or self.process.poll() is not None:
            return
        if answers and not is_stopped(self.process.pid):
            self.answers += 1
        if problem := self.watch.problem(self.answers):
            say(f"{self.name} has hung for {self.stuck_after_s:.0f} s ({problem}): ended")
            self.end(signal.SIGKILL, seconds=5)

    def end(self, number: int, *, seconds: float) -> None:
        """Send a signal, wait, then kill."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(number)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _start(self, now: float) -> None:
        with open_log(self.log) as stream:
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=self.environment,
                umask=self.umask,
                preexec_fn=supervise.end_with_parent,  # noqa: PLW1509 - one thread, one call of the C library
            )
        pid = self.process.pid
        self.watch = StallWatch(self.stuck_after_s, lambda: read_processes([pid]))
        self.started, self.wait_s, self.starts = now, 0.0, self.starts + 1
        say(f"{self.name} started as process {self.process.pid}")


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal or a debugger."""
    with contextlib.suppress(psutil.Error):
        return bool(
            psutil.Process(pid).status() in (psutil.STATUS_STOPPED, psutil.STATUS_TRACING_STOP)
        )
    return False


def say(text: str) -> None:
    """A line of the daemon's own log; lost where the disk is full, since the daemon must continue."""
    with contextlib.suppress(OSError):
        line = f"{datetime.now():%Y-%m-%d %H:%M:%S}  {visible(text)}\n"
        os.write(1, line.encode())


def open_log(path: Path) -> IO[bytes]:
    """A log to add to; one that has grown large is put aside first, and the one before forgotten."""
    if path.exists() and path.stat().st_size > LOG_BYTES:
        path.replace(path.with_suffix(".log.1"))
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")


def run_processes() -> dict[str, int]:
    """The first process of every flow run on this machine that is ours to see.

    Children inherit the variable that names the run, so the first is the one whose parent has it not.
    """
    runs: dict[int, tuple[str, int]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            run = process.environ().get(RUN_VARIABLE)
            if run is not None and process.status() != psutil.STATUS_ZOMBIE:
                runs[process.pid] = run, process.ppid()
    return {run: pid for pid, (run, parent) in runs.items() if runs.get(parent, ("", 0))[0] != run}


def stop_run(pid: int) -> None:
    """Ask a run's process group to end, as a worker does when a run is cancelled."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(os.getpgid(pid), signal.SIGTERM)


class Watch:
    """Looks for runs that nobody takes care of any more."""

    def __init__(self, api: Api, pool: str) -> None:
        self.api, self.recovery = api, Recovery(api, pool)
        self.missing: set[str] = set()
        self.reported: set[str] = set()

    def look(self) -> None:
        """Settle runs without a process, and end the processes of cancelled runs without a worker."""
        unfinished = self.api.runs(
            "RUNNING", "CANCELLING", "PENDING", work_pools=self.recovery.pool
        )
        processes = run_processes()
        missing = set()
        for run in unfinished:
            flow_run_id, pid = run["id"], processes.get(run["id"])
            if pid is not None:
                if run["state_type"] == "CANCELLING" and self._is_orphan(pid, flow_run_id):
                    say(f"run {run['name']} is cancelled and has no worker: ended by the daemon")
                    stop_run(pid)
                continue
            if run["state_type"] == "PENDING" and age_s(run) < PENDING_AFTER_S:
                continue
            missing.add(flow_run_id)
            if flow_run_id in self.missing:  # twice, since a worker may be about to say so itself
                self._settle(run)
        self.missing = missing
        for line in self.recovery.look():
            say(line)

    def _settle(self, run: JSON) -> None:
        text = "its process is gone and no worker reported why"
        state = self.recovery.settle(run["id"], message=text)
        say(f"run {run['name']} was {run['state_name']} without a process: now {state}")

    def _is_orphan(self, pid: int, flow_run_id: str) -> bool:
        """Whether a run's process has lost its worker; true only once, since one signal is enough."""
        try:
            parent = psutil.Process(pid).ppid()
        except psutil.Error:  # it has ended meanwhile
            return False
        orphan = parent in (1, os.getppid()) and flow_run_id not in self.reported
        if orphan:
            self.reported.add(flow_run_id)
        return orphan


def lost_slots(api: Api) -> LostSlots | None:
    """What looks after slots; nothing where the server does not keep leases in files."""
    if not os.environ.get(LEASES_VARIABLE, "").endswith(".filesystem"):
        return None
    return LostSlots(api, Path(os.environ["PREFECT_HOME"]) / "concurrency_leases")


def keep(
    folder: Path,
    *,
    port: int,
    pool: str,
    worker: str,
    runs: int,
    working_dir: Path,
    login: bool = False,
) -> None:
    """Run server and worker until SIGTERM.

    Args:
        folder: of the service's logs and record.
        port: of the server, on the loopback address.
        pool: work pool that the worker serves.
        worker: its name.
        runs: flow runs that it has at work at once.
        working_dir: where relative paths of runs start; only noted in the record.
        login: whether the server wants one; it is in the environment.
    """
    umask = os.umask(0o077)  # of our own files; what runs write is not ours to hide
    stops: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda received, _: stops.append(received))
    with sole_user(folder, what="state folder"):
        api = Api(os.environ["PREFECT_API_URL"])
        prefect = [sys.executable, "-m", "prefect"]
        work = ["worker", "start", "--pool", pool, "--type", "process", "--name", worker]
        work += ["--limit", str(runs)]
        server = Kept("server", server_command(port), folder / "server.log", umask=umask)
        # Runs need the login of a client, not the server's own settings.
        theirs = {key: value for key, value in os.environ.items() if key != SERVER_AUTH_VARIABLE}
        workers = Kept("worker", [*prefect, *work], folder / "worker.log", theirs, umask)
        record = {"url": api.url, "port": port, "pool": pool, "worker": worker, "login": login}
        ours = {"working_dir": str(working_dir), "pid": os.getpid()}
        write_json(folder / RECORD_NAME, {**record, **ours})
        watch, slots = Watch(api, pool), lost_slots(api)
        while not stops:
            server.look()
            healthy = api.healthy()
            server.end_if_stuck(answers=healthy)
            workers.end_if_stuck(answers=True)
            if healthy:
                workers.look()
                try:
                    watch.look()
                    if slots is not None:
                        for line in slots.look():
                            say(line)
                except (EffnetError, OSError) as error:
                    say(str(error))
            _pause(LOOK_EVERY_S, stops)
        say("stopping")
        workers.end(signal.SIGKILL, seconds=5)  # asked politely it would kill its runs at once
        _stop_runs(watch.recovery)
        server.end(signal.SIGTERM, seconds=15)
        (folder / RECORD_NAME).unlink(missing_ok=True)
        say("stopped")


def _pause(seconds: float, stops: list[int]) -> None:
    deadline = time.monotonic() + seconds
    while not stops and time.monotonic() < deadline:
        time.sleep(0.1)


def _stop_runs(recovery: Recovery) -> None:
    """Let every run save and report; each continues when the service is up again."""
    try:
        unfinished = recovery.api.runs("RUNNING", "CANCELLING", "PENDING", work_pools=recovery.pool)
        ours = {run["id"] for run in unfinished}
        _end_processes(ours)
        for flow_run_id in ours:
            recovery.settle(flow_run_id, message=STOPPED)
    except EffnetError as error:
        say(str(error))


def _end_processes(runs: set[str]) -> None:
    """Ask the processes of runs to end, and wait for them."""
    asked: set[str] = set()
    deadline = time.monotonic() + RUN_GRACE_S
    while time.monotonic() < deadline:
        running = {run: pid for run, pid in run_processes().items() if run in runs}
        if not running:
            return
        for run, pid in running.items():
            if run not in asked:
                say(f"run {run} is asked to save and end")
                stop_run(pid)
                asked.add(run)
        time.sleep(0.2)


def main() -> None:
    """Command line of the background process."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--worker", required=True)
    parser.add_argument("--runs", type=int, required=True)
    parser.add_argument("--working-dir", type=Path, required=True)
    parser.add_argument("--login", action="store_true")
    options = vars(parser.parse_args())
    keep(options.pop("folder"), **options)


if __name__ == "__main__":
    main()
