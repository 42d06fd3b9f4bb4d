"""``effnet up``, ``down`` and ``status``: the flows as a service on this machine.

``up`` starts the daemon (``flows/service/daemon.py``) in the background and brings work pool, device slots
and deployments to what the repository says. Doing it again is harmless: what runs continues, and what people
changed on the dashboard (a schedule that was switched on, a number of slots) stays.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from effnet_core.cli.terminal import console
from effnet_core.errors import ConfigError
from effnet_core.files import make_folder, read_json, require_space
from effnet_core.jobs import supervise
from effnet_core.jobs.supervise import descendants
from effnet_core.locks import turn
from flows.service.api import AUTH_VARIABLE, Api
from flows.service.daemon import RECORD_NAME, RUN_GRACE_S, open_log
from flows.service.deploy import SERVICE_SETTINGS, ServiceError, deploy, python_path
from flows.service.environments import ROOT, Environment, read_environment
from flows.service.server import (
    API_URL,
    DASHBOARD_PORT,
    LOOPBACK,
    choose_port,
    running_server,
    state_dir,
    ui_url,
)

START_TIMEOUT_S = 180
STOP_TIMEOUT_S = RUN_GRACE_S + 45
UP_LOCK_NAME = "up.lock"
DATABASE_BYTES = 50_000_000
"""Room that a server's database and logs want at least."""


@dataclass(frozen=True)
class Service:
    """A service that runs on this machine."""

    url: str
    pid: int
    """Process id of the daemon."""
    pool: str
    worker: str
    port: int

    @property
    def api(self) -> Api:
        """Its server."""
        return Api(self.url)


def folder() -> Path:
    """Where the service's logs and record lie."""
    return state_dir() / "service"


def running() -> Service | None:
    """The service of this state folder, if its daemon lives."""
    path = folder() / RECORD_NAME
    if not path.exists():
        return None
    found = Service(**read_json(path))
    return found if _is_keeper(found.pid) else None


def server_api() -> Api:
    """The server that commands talk to: ``PREFECT_API_URL``, else this machine's service.

    Raises:
        ServiceError: there is none.
    """
    if given := os.environ.get(API_URL):
        return Api(given)
    service = running()
    if service is None:
        raise ServiceError(f"no service runs here; start it with effnet up, or set {API_URL}")
    return service.api


def up(*, port: int | None, environment: str) -> None:
    """Start server and worker, deploy everything, wait until all is healthy, say what is next.

    Args:
        port: of the dashboard; that of the running service, or 4200.
        environment: a name in ``deployments/environments``.

    Raises:
        ConfigError: the port is in use, or the environment is unknown or for another machine.
        DataError: the disk is full.
        ServiceError: something did not become healthy.
    """
    place = read_environment(environment)
    if place.pool_type != "process":
        raise ConfigError(
            f"environment {environment!r} uses a {place.pool_type} work pool, and effnet up serves "
            f"only this machine; use effnet deploy --environment {environment} against its server"
        )
    with _one_at_a_time():
        require_space(folder(), DATABASE_BYTES, what="the database of the Prefect server")
        service = running()
        if service is not None and (service.pool, port or service.port) != (
            place.pool,
            service.port,
        ):
            raise ConfigError(
                f"the service runs already, with pool {service.pool!r} on port {service.port}; "
                "effnet down stops it"
            )
        if service is None:
            service = _start(port or DASHBOARD_PORT, place)
        _wait_for_server(service)
        deploy(service.api, environment=environment)
        _wait_for_worker(service)
    _print_next_steps(service)


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let another ``effnet up`` on the same state folder end first; then this one finds all there."""
    path = make_folder(folder(), what="state folder") / UP_LOCK_NAME
    with turn(path, console.print):
        yield


def down() -> None:
    """Stop worker, runs and server, in this order; runs save and continue at the next start.

    Raises:
        ServiceError: the service did not stop in time.
    """
    service = running()
    if service is None:
        console.print("no service runs here")
        return
    busy = len(service.api.runs("RUNNING")) if service.api.healthy() else 0
    if busy:
        console.print(f"{busy} run(s) are asked to save; they continue after the next effnet up")
    processes = [service.pid, _parent(service.pid)]  # the supervisor ends a moment after the daemon
    os.kill(service.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while any(map(_is_keeper, processes)):
        if time.monotonic() > deadline:
            raise ServiceError(
                f"the service (process {service.pid}) did not stop within {STOP_TIMEOUT_S:.0f} s; see "
                f"{folder() / 'keeper.log'}"
            )
        time.sleep(0.2)
    console.print("stopped")


def _start(port: int, place: Environment) -> Service:
    """Start the daemon below a supervisor that outlives this command."""
    home = make_folder(state_dir() / "prefect", what="state folder")
    if (other := running_server(home)) is not None:
        raise ConfigError(
            f"another command of this project runs a server on the same data ({ui_url(other)}); "
            "wait for its end or stop it first"
        )
    choose_port(port)
    url = f"http://{LOOPBACK}:{port}/api"
    worker = f"worker-{os.uname().nodename}"
    environment = {**SERVICE_SETTINGS, **os.environ, API_URL: url}
    environment.setdefault("PREFECT_HOME", str(home))
    (folder() / RECORD_NAME).unlink(missing_ok=True)
    daemon = [sys.executable, "-m", "flows.service.daemon", str(folder()), "--port", str(port)]
    daemon += ["--pool", place.pool, "--worker", worker, "--runs", str(place.runs)]
    reader, writer = os.pipe()  # the supervisor holds both ends, so its input never closes
    with open_log(folder() / "daemon.log") as stream:
        process = subprocess.Popen(
            [
                *(sys.executable, supervise.__file__, "--grace", str(STOP_TIMEOUT_S), "--"),
                *daemon,
            ],
            stdin=reader,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**environment, "PYTHONPATH": python_path()},
            cwd=ROOT,
            pass_fds=(writer,),
            start_new_session=True,
        )
    os.close(reader)
    os.close(writer)
    deadline = time.monotonic() + 20
    while (service := running()) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServiceError(f"the service did not start; see {folder() / 'keeper.log'}")
        time.sleep(0.1)
    return service


def _parent(pid: int) -> int:
    """The process that started another; 1 where that has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 1


def _is_keeper(pid: int) -> bool:
    """Whether a process is a daemon or its supervisor, since ids are used again."""
    try:
        return b"flows.service.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _wait_for_server(service: Service) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not service.api.healthy():
        if not _is_keeper(service.pid) or time.monotonic() > deadline:
            raise ServiceError(
                f"the Prefect server was not healthy after {START_TIMEOUT_S} s; see "
                f"{folder() / 'server.log'}"
            )
        time.sleep(0.25)


def _wait_for_worker(service: Service) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    path = f"/work_pools/{service.pool}/workers/filter"
    while not any(item["status"] == "ONLINE" for item in service.api.post(path)) or not _busy_with(
        service, "worker"
    ):
        if not _is_keeper(service.pid) or time.monotonic() > deadline:
            raise ServiceError(
                f"no worker was online after {START_TIMEOUT_S} s; see {folder() / 'worker.log'}"
            )
        time.sleep(0.25)


def _busy_with(service: Service, word: str) -> bool:
    """Whether the daemon has a child process of that kind; the server remembers dead ones a while."""
    for pid in descendants(service.pid):
        try:
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def _print_next_steps(service: Service) -> None:
    deployments = sorted(item["name"] for item in service.api.post("/deployments/filter"))
    console.print(f"dashboard    {ui_url(service.url)}")
    console.print(f"worker       {service.worker} in work pool {service.pool}")
    console.print(f"deployments  {', '.join(deployments)}", soft_wrap=True)
    login = f", {AUTH_VARIABLE}" if os.environ.get(AUTH_VARIABLE) else ""
    for text in (
        "",
        "next:",
        "  effnet run demo --watch                       the whole pipeline on handwritten digits",
        "  effnet run train-b0 -p data=runs/demo/data -p recipe=digits -p weights=none --watch",
        "  effnet status                                 what runs; effnet down stops everything",
        f"  export {API_URL}={service.url}{login}",
        "  prefect deployment run train/train-b0 -p data=runs/demo/data -p recipe=digits "
        "-p weights=none --watch",
    ):
        console.print(text, soft_wrap=True, markup=False)
