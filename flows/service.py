"""``effnet up``, ``down`` and ``status``: the flows as a service on this machine.

``up`` starts the keeper (``flows/keeper.py``) in the background and brings work pool, device slots and
deployments to what the repository says. Doing it again is harmless: what runs goes on, and what people
changed on the dashboard (a schedule that was switched on, a number of slots) stays.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from effnet_core import supervise
from effnet_core.data.space import require_space
from effnet_core.errors import ConfigError, EffnetError
from effnet_core.files import make_folder, read_json
from effnet_core.supervise import descendants
from effnet_core.terminal import console
from flows.api import AUTH_VARIABLE, Api, ApiError
from flows.environments import DEPLOYMENTS, ROOT, VARIABLE, Environment, read_environment
from flows.keeper import RECORD_NAME, RUN_GRACE_S, open_log
from flows.recovery import Recovery
from flows.server import (
    API_URL,
    DASHBOARD_PORT,
    LOOPBACK,
    SETTINGS,
    choose_port,
    running_server,
    state_dir,
    ui_url,
)

START_TIMEOUT_S = 180
STOP_TIMEOUT_S = RUN_GRACE_S + 45
WATCH_EVERY_S = 5.0
UP_LOCK_NAME = "up.lock"
DATABASE_BYTES = 50_000_000
"""Room that a server's database and logs want at least."""

# A worker asks for work every two seconds instead of ten, so a run starts sooner. Heartbeats let the
# automation deployments/automations/heartbeat.yaml notice runs that were lost with their machine. Leases of
# slots are kept on the disk: in memory, Prefect's default, a restarted server forgets who holds a slot
# and it is never free again.
SERVICE_SETTINGS = {
    **SETTINGS,
    "PREFECT_WORKER_QUERY_SECONDS": "2",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}


class ServiceError(EffnetError):
    """The service did not start, or is not there."""


@dataclass(frozen=True)
class Service:
    """A service that runs on this machine."""

    url: str
    pid: int
    """Of the keeper."""
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
    """The service of this state folder, if its keeper lives."""
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
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print("another effnet up is at work here; waiting for its end")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def down() -> None:
    """Stop worker, runs and server, in this order; runs save and go on at the next start.

    Raises:
        ServiceError: the service did not stop in time.
    """
    service = running()
    if service is None:
        console.print("no service runs here")
        return
    busy = len(service.api.runs("RUNNING")) if service.api.healthy() else 0
    if busy:
        console.print(f"{busy} run(s) are asked to save; they go on after the next effnet up")
    os.kill(service.pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT_S
    while _is_keeper(service.pid):
        if time.monotonic() > deadline:
            raise ServiceError(
                f"the service (process {service.pid}) did not stop within {STOP_TIMEOUT_S:.0f} s; see "
                f"{folder() / 'keeper.log'}"
            )
        time.sleep(0.2)
    console.print("stopped")


def status() -> None:
    """Show server, worker, slots, deployments and the newest runs.

    Raises:
        ServiceError: there is no service, or its server does not answer.
    """
    api = server_api()
    if not api.healthy():
        raise ServiceError(f"the Prefect server at {api.url} does not answer; see {folder()}")
    table = Table(show_header=False, box=None)
    table.add_row("dashboard", ui_url(api.url))
    for pool in api.post("/work_pools/filter"):
        workers = api.post(f"/work_pools/{pool['name']}/workers/filter")
        states = ", ".join(f"{item['name']} {item['status'].lower()}" for item in workers[:8])
        paused = " (paused)" if pool["is_paused"] else ""
        table.add_row(f"work pool {pool['name']}{paused}", states or "no worker")
    for limit in _limits(api):
        if limit["name"].startswith("devices-"):
            used = f"{limit['active_slots']} of {limit['limit']} in use"
            table.add_row(f"slots {limit['name']}", used)
    deployments = api.post("/deployments/filter")
    active = sum(_has_active_schedule(item) for item in deployments)
    table.add_row("deployments", f"{len(deployments)}, {active} with an active schedule")
    counts = {
        name: len(api.runs(name)) for name in ("RUNNING", "CANCELLING", "SCHEDULED", "PENDING")
    }
    table.add_row("runs", ", ".join(f"{count} {name.lower()}" for name, count in counts.items()))
    console.print(table)
    newest = Table(title="newest runs", title_justify="left")
    for column in ("run", "state", "since (UTC)", "seconds"):
        newest.add_column(column, justify="right" if column == "seconds" else "left")
    started = [run for run in api.runs() if run["start_time"]]
    for run in sorted(started, key=lambda item: str(item["start_time"]), reverse=True)[:10]:
        since = str(run["start_time"])[:19].replace("T", " ")
        newest.add_row(run["name"], run["state_name"], since, f"{run['total_run_time']:.0f}")
    if started:
        console.print(newest)


def watch(api: Api, *, environment: str) -> None:
    """Try crashed runs again, until interrupted; the keeper does it on one machine.

    Args:
        api: server to watch.
        environment: a name in ``deployments/environments``.

    Raises:
        ConfigError: the environment is unknown.
    """
    place = read_environment(environment)
    recovery = Recovery(api, place.pool)
    console.print(f"watching work pool {place.pool} at {api.url}")
    while True:
        try:
            lines = recovery.look()
        except ApiError as error:
            lines = [str(error)]
        for line in lines:
            console.print(line, soft_wrap=True, markup=False)
        time.sleep(WATCH_EVERY_S)


def deploy(api: Api, *, environment: str) -> None:
    """Bring work pool, device slots and deployments to what the repository says.

    Args:
        api: server to deploy to.
        environment: a name in ``deployments/environments``.

    Raises:
        ConfigError: the environment is unknown, or there is no deployment file.
        ServiceError: Prefect refused a deployment.
    """
    place = read_environment(environment)
    if not DEPLOYMENTS.exists():
        raise ConfigError(f"{DEPLOYMENTS} does not exist; deploy from a checkout of the repository")
    _create_pool(api, place)
    if place.slot not in {limit["name"] for limit in _limits(api)}:
        limit = {"name": place.slot, "limit": place.device_jobs, "active": True}
        api.post("/v2/concurrency_limits/", limit)
    with _schedules_kept(api):
        file = str(DEPLOYMENTS.relative_to(ROOT))
        variables = {
            VARIABLE: environment,
            "EFFNET_POOL": place.pool,
            "EFFNET_SLOT": place.slot,
            "EFFNET_WORKING_DIR": place.working_dir or str(ROOT),
        }
        _prefect(api.url, ["deploy", "--all", "--prefect-file", file], variables)


def _start(port: int, place: Environment) -> Service:
    """Start the keeper below a supervisor that outlives this command."""
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
    keeper = [sys.executable, "-m", "flows.keeper", str(folder()), "--port", str(port)]
    keeper += ["--pool", place.pool, "--worker", worker, "--runs", str(place.runs)]
    reader, writer = os.pipe()  # the supervisor holds both ends, so its input never closes
    with open_log(folder() / "keeper.log") as stream:
        process = subprocess.Popen(
            [
                *(sys.executable, supervise.__file__, "--grace", str(STOP_TIMEOUT_S), "--"),
                *keeper,
            ],
            stdin=reader,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**environment, "PYTHONPATH": _python_path()},
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


def _python_path() -> str:
    """Lets the background processes import this very code."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


def _is_keeper(pid: int) -> bool:
    """Whether a process is a keeper, since ids are used again."""
    try:
        return b"flows.keeper" in Path(f"/proc/{pid}/cmdline").read_bytes()
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
    """Whether the keeper has a child process of that kind; the server remembers dead ones a while."""
    for pid in descendants(service.pid):
        try:
            if word.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return True
        except OSError:
            continue
    return False


def _create_pool(api: Api, place: Environment) -> None:
    """The environment's work pool, if there is none of that name; an old one is left as people set it."""
    named = {"work_pools": {"name": {"any_": [place.pool]}}}
    if api.post("/work_pools/filter", named):
        return
    command = ["work-pool", "create", place.pool, "--type", place.pool_type]
    if place.job_template:
        command += ["--base-job-template", str(DEPLOYMENTS.parent / place.job_template)]
    try:
        _prefect(api.url, command)
    except ServiceError:
        if not api.post("/work_pools/filter", named):  # else a worker that started was faster
            raise


def _limits(api: Api) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = api.post("/v2/concurrency_limits/filter", {"limit": 200})
    return found


def _has_active_schedule(deployment: Mapping[str, Any]) -> bool:
    return not deployment["paused"] and any(item["active"] for item in deployment["schedules"])


@contextmanager
def _schedules_kept(api: Api) -> Iterator[None]:
    """Keep schedules as people switched them on the dashboard; deploying would switch them back."""
    before = {item["id"]: item for item in api.post("/deployments/filter")}
    yield
    for deployment in api.post("/deployments/filter"):
        old = before.get(deployment["id"])
        if old is None:
            continue
        if old["paused"] != deployment["paused"]:
            api.patch(f"/deployments/{deployment['id']}", {"paused": old["paused"]})
        was = {item["slug"]: item["active"] for item in old["schedules"] if item["slug"]}
        for item in deployment["schedules"]:
            active = was.get(item["slug"], item["active"])
            if active != item["active"]:
                path = f"/deployments/{deployment['id']}/schedules/{item['id']}"
                api.patch(path, {"active": active})


def _prefect(url: str, arguments: list[str], variables: Mapping[str, str] | None = None) -> None:
    """What Prefect offers on its command line only."""
    environment = {**SERVICE_SETTINGS, **os.environ, **(variables or {}), API_URL: url}
    environment.setdefault("PREFECT_HOME", str(state_dir() / "prefect"))
    environment["PYTHONPATH"] = _python_path()
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *arguments],
        cwd=ROOT,  # entrypoints are relative to the current folder
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        command = " ".join(["prefect", *arguments])
        raise ServiceError(f"{command} failed: {lines[-1] if lines else 'no output'}")


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
