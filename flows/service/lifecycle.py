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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from effnet_core.cli.terminal import console
from effnet_core.errors import ConfigError
from effnet_core.jobs import supervise
from effnet_core.system.files import read_json, require_space
from effnet_core.system.locks import turn
from flows.service.api import Api
from flows.service.client_file import remove_client_file, write_client_file
from flows.service.daemon import RECORD_NAME, RUN_GRACE_S, open_log
from flows.service.deploy import SERVICE_SETTINGS, ServiceError, deploy
from flows.service.environments import Environment, read_environment
from flows.service.private import login_of, private_folder
from flows.service.server import (
    API_URL,
    AUTH_VARIABLE,
    DASHBOARD_PORT,
    LOOPBACK,
    SERVER_AUTH_VARIABLE,
    choose_port,
    login_link,
    own_state_dir,
    python_path,
    running_server,
    server_settings,
    state_dir,
    ui_url,
)

START_TIMEOUT_S = 180
STOP_TIMEOUT_S = RUN_GRACE_S + 45
UP_LOCK_NAME = "up.lock"
LOGINS = {AUTH_VARIABLE, SERVER_AUTH_VARIABLE}
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
    login: bool = False
    """Whether its server wants the login of the state folder."""
    working_dir: str = ""
    """Where relative paths of its runs start: the folder in which it was started."""

    @property
    def auth(self) -> str | None:
        """Its login as ``USER:PASSWORD``."""
        return login_of(state_dir()) if self.login else None

    @property
    def api(self) -> Api:
        """Its server."""
        return Api(self.url, auth=self.auth)


def folder() -> Path:
    """Where the service's logs and record lie."""
    return state_dir() / "service"


def running() -> Service | None:
    """The service of this state folder, if its daemon lives."""
    path = folder() / RECORD_NAME
    if not path.exists():
        return None
    found = Service(**read_json(path))
    return found if _is_daemon(found.pid) else None


def server_api() -> Api:
    """The server that commands talk to: ``PREFECT_API_URL``, else this machine's service.

    Raises:
        ServiceError: there is none.
    """
    service, given = running(), os.environ.get(API_URL)
    if given and (service is None or given != service.url):
        return Api(given)
    if service is None:
        raise ServiceError(f"no service runs here; start it with effnet up, or set {API_URL}")
    return service.api


def working_dir(api: Api) -> Path:
    """Where relative paths of a server's runs start: where its service was started, else here."""
    service = running()
    ours = service is not None and service.url == api.url and service.working_dir
    return Path(service.working_dir) if service and ours else Path.cwd()


def up(
    *, port: int | None, environment: str, login: bool | None = None, reset: bool = False
) -> None:
    """Start server and worker, deploy everything, wait until all is healthy, say what is next.

    Args:
        port: of the dashboard; that of the running service, or 4200.
        environment: a name in ``deployments/environments``.
        login: whether the server wants a login; as the running service, or yes.
        reset: whether what people changed on the dashboard goes back to what the repository says.

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
        if service is None:
            service = _start(port or DASHBOARD_PORT, place, login=login is not False)
        wanted = place.pool, port or service.port, service.login if login is None else login
        if wanted != (service.pool, service.port, service.login):
            raise ConfigError(
                f"the service runs already, with pool {service.pool!r} on port {service.port} and "
                f"{'a' if service.login else 'no'} login; effnet down stops it"
            )
        _wait_for_server(service)
        api = service.api
        deploy(api, environment=environment, working_dir=working_dir(api), reset=reset)
        _wait_for_worker(service)
        found = write_client_file(client_settings())
    _print_next_steps(service, with_prefect=found)


def client_settings() -> dict[str, str]:
    """What Prefect's own commands and programs need to talk to this machine's service.

    Raises:
        ServiceError: there is none.
    """
    service = running()
    if service is None:
        raise ServiceError("no service runs here; start it with effnet up")
    return {API_URL: service.url, **({AUTH_VARIABLE: service.auth} if service.auth else {})}


@contextmanager
def _one_at_a_time() -> Iterator[None]:
    """Let another ``effnet up`` on the same state folder end first; then this one finds all there."""
    own_state_dir()
    path = private_folder(folder(), what="state folder") / UP_LOCK_NAME
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
    while any(map(_is_daemon, processes)):
        if time.monotonic() > deadline:
            raise ServiceError(
                f"the service (process {service.pid}) did not stop within {STOP_TIMEOUT_S:.0f} s; see "
                f"{folder() / 'daemon.log'}"
            )
        time.sleep(0.2)
    remove_client_file()
    console.print("stopped")


def _start(port: int, place: Environment, *, login: bool) -> Service:
    """Start the daemon below a supervisor that outlives this command."""
    home = private_folder(state_dir() / "prefect", what="state folder")
    if (other := running_server(home)) is not None:
        raise ConfigError(
            f"another command of this project runs a server on the same data ({ui_url(other.url)}); "
            "wait for its end or stop it first"
        )
    choose_port(port)
    url = f"http://{LOOPBACK}:{port}/api"
    worker = f"worker-{os.uname().nodename}"
    auth = login_of(state_dir(), os.environ.get(SERVER_AUTH_VARIABLE)) if login else None
    # Without logins of the shell: they may be another server's, or not be wanted.
    shell = {name: os.environ[name] for name in os.environ.keys() - LOGINS}
    environment = {**SERVICE_SETTINGS, **shell, **server_settings(port, auth), API_URL: url}
    if auth is not None:
        environment[AUTH_VARIABLE] = auth
    environment.setdefault("PREFECT_HOME", str(home))
    (folder() / RECORD_NAME).unlink(missing_ok=True)
    daemon = [sys.executable, "-m", "flows.service.daemon", str(folder()), "--port", str(port)]
    daemon += ["--pool", place.pool, "--worker", worker, "--runs", str(place.runs)]
    daemon += ["--working-dir", str(Path.cwd()), *(["--login"] if login else [])]
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
            cwd=folder(),  # where nothing can be taken for a module of ours
            pass_fds=(writer,),
            start_new_session=True,
        )
    os.close(reader)
    os.close(writer)
    deadline = time.monotonic() + 20
    while (service := running()) is None:
        if process.poll() is not None or time.monotonic() > deadline:
            raise ServiceError(f"the service did not start; see {folder() / 'daemon.log'}")
        time.sleep(0.1)
    return service


def _parent(pid: int) -> int:
    """The process that started another; 1 where that has ended."""
    try:
        return psutil.Process(pid).ppid()
    except psutil.Error:
        return 1


def _is_daemon(pid: int) -> bool:
    """Whether a process is a daemon or its supervisor, since ids are used again."""
    try:
        return "flows.service.daemon" in psutil.Process(pid).cmdline()
    except psutil.Error:
        return False


def _wait_for_server(service: Service) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not service.api.healthy():
        if not _is_daemon(service.pid) or time.monotonic() > deadline:
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
        if not _is_daemon(service.pid) or time.monotonic() > deadline:
            raise ServiceError(
                f"no worker was online after {START_TIMEOUT_S} s; see {folder() / 'worker.log'}"
            )
        time.sleep(0.25)


def _busy_with(service: Service, word: str) -> bool:
    """Whether the daemon has a child process of that kind; the server remembers dead ones a while."""
    below: list[psutil.Process] = []
    with suppress(psutil.Error):
        below = psutil.Process(service.pid).children(recursive=True)
    for process in below:
        with suppress(psutil.Error):
            if word in process.cmdline():
                return True
    return False


def _print_next_steps(service: Service, *, with_prefect: bool) -> None:
    deployments = sorted(item["name"] for item in service.api.post("/deployments/filter"))
    console.print(f"dashboard    {ui_url(service.url)}")
    if service.login:
        link = login_link(service.url, service.auth)
        console.print(f"log in with  {link}", soft_wrap=True, markup=False)
    console.print(f"worker       {service.worker} in work pool {service.pool}")
    console.print(f"deployments  {', '.join(deployments)}", soft_wrap=True)
    for text in (
        "",
        "next:",
        "  effnet run demo --watch                       the whole pipeline on handwritten digits",
        "  effnet run train-b0 -p data=runs/demo/data -p recipe=digits -p weights=none --watch",
        "  effnet status                                 what runs; effnet down stops everything",
        *(() if with_prefect else ('  eval "$(effnet env)"',)),
        "  prefect deployment run train/train-b0 -p data=runs/demo/data -p recipe=digits "
        "-p weights=none --watch",
    ):
        console.print(text, soft_wrap=True, markup=False)
