"""A Prefect server for people who have none: started on a free loopback port, stopped at the end.

Prefect's own ephemeral mode loses task runs and prints tracebacks at its end, so commands that run a
flow by themselves start a real server, with its data under the project's state folder. Where
``PREFECT_API_URL`` is set, that server is used instead.

Imports nothing of Prefect, so that it can set the environment that Prefect reads when it is imported.
"""

from __future__ import annotations

import contextlib
import os
import site
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from effnet_core.errors import ConfigError, EffnetError
from effnet_core.jobs import supervise
from effnet_core.system.files import read_json, write_json
from flows.service.private import LOGIN_NAME, login_of, private_folder

STATE_DIR_VARIABLE = "EFFNET_STATE_DIR"
DEFAULT_STATE_DIR = ".effnet"
API_URL = "PREFECT_API_URL"
AUTH_VARIABLE = "PREFECT_API_AUTH_STRING"
SERVER_AUTH_VARIABLE = "PREFECT_SERVER_API_AUTH_STRING"
DASHBOARD_PORT = 4200
LOGIN_PATH = "/effnet/login"
START_TIMEOUT_S = 120
DRAIN_TIMEOUT_S = 30
RECORD_NAME = "server.json"
SERVICE_RECORD = Path("service", "service.json")
"""Left by ``effnet up`` in the state folder while the service runs."""
LOOPBACK = "127.0.0.1"

# Telemetry off, no advertising.
SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_CLI_WRAP_LINES": "false",
}


class ServerError(EffnetError):
    """The local Prefect server did not start."""


def state_dir() -> Path:
    """Where server data lie: ``$EFFNET_STATE_DIR`` or ``.effnet`` in the current folder."""
    return Path(os.environ.get(STATE_DIR_VARIABLE, DEFAULT_STATE_DIR)).resolve()


def own_state_dir() -> Path:
    """The state folder, private to this user from now on.

    Raises:
        DataError: it is not ours, or cannot be made private or written to.
    """
    return private_folder(state_dir(), what="state folder")


def server_settings(port: int, auth: str | None) -> dict[str, str]:
    """What keeps strangers out of a server of ours on the loopback address.

    Args:
        port: that it listens on.
        auth: its login as ``USER:PASSWORD``; none for a server without one.
    """
    origins = ",".join(f"http://{name}:{port}" for name in (LOOPBACK, "localhost"))
    login = {} if auth is None else {SERVER_AUTH_VARIABLE: auth}
    return {
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": origins,
        "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",
        "PREFECT_UI_API_URL": "/api",  # under whatever name the dashboard is opened
        **login,
    }


def server_command(port: int) -> list[str]:
    """The server's command line; see ``flows/service/guarded.py``."""
    return [sys.executable, "-m", "flows.service.guarded", "--host", LOOPBACK, "--port", str(port)]


def python_path() -> str:
    """What lets other processes import this very code, from a checkout too."""
    root = str(Path(__file__).resolve().parents[2])
    installed = root in {*site.getsitepackages(), site.getusersitepackages()}
    return os.pathsep.join(filter(None, ["" if installed else root, os.environ.get("PYTHONPATH")]))


@contextmanager
def prefect_api(*, port: int | None = None) -> Iterator[str]:
    """The address of a healthy Prefect API, for the time of the block.

    The environment of this process and its children points there inside the block. Call it before
    Prefect is imported.

    Args:
        port: of a server that has to be started; a free one by default.

    Raises:
        ConfigError: ``port`` is in use.
        ServerError: the server did not become healthy.
    """
    state = own_state_dir()
    home = private_folder(state / "prefect", what="state folder")
    with _environment(home):
        given, found = os.environ.get(API_URL), running_server(home)
        if found is not None and given in (None, found.url):
            os.environ[API_URL] = found.url
            if found.login:
                os.environ[AUTH_VARIABLE] = login_of(state)
        if url := os.environ.get(API_URL):
            yield url
            return
        auth = login_of(state, os.environ.get(SERVER_AUTH_VARIABLE))
        with _own_server(home, port, auth) as url:
            os.environ.update({API_URL: url, AUTH_VARIABLE: auth})
            yield url


def ui_url(api_url: str) -> str:
    """The dashboard's address that belongs to an API's."""
    return api_url.removesuffix("/api")


def login_link(api_url: str, auth: str | None) -> str:
    """An address that opens the dashboard of a server of ours, logged in.

    Args:
        api_url: of its API.
        auth: its login; the dashboard's plain address where it has none.
    """
    return ui_url(api_url) if auth is None else f"{ui_url(api_url)}{LOGIN_PATH}#{auth}"


def dashboard_link(api_url: str) -> str:
    """The dashboard's address inside ``prefect_api``; it logs in where the server is one of ours."""
    auth, path = os.environ.get(AUTH_VARIABLE), state_dir() / LOGIN_NAME
    ours = auth is not None and path.exists() and login_of(state_dir()) == auth
    return login_link(api_url, auth if ours else None)


@contextmanager
def _environment(home: Path) -> Iterator[None]:
    """Point Prefect to our state folder, and put everything back at the end."""
    changed = {"PREFECT_HOME": str(home), **SETTINGS}
    before = {name: os.environ.get(name) for name in (*changed, API_URL, AUTH_VARIABLE)}
    for name, value in changed.items():
        os.environ.setdefault(name, value)
    try:
        yield
    finally:
        for name, old in before.items():
            if old is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = old


@dataclass(frozen=True)
class RunningServer:
    """A server of ours that runs now."""

    url: str
    login: bool
    """Whether it wants the login of the state folder."""


def running_server(home: Path) -> RunningServer | None:
    """A server that another command of ours has started on the same data."""
    for record in (home / RECORD_NAME, home.parent / SERVICE_RECORD):
        if record.exists():
            content = read_json(record)
            # Only to a server of this user: another one's on the same port would be sent the login.
            if _is_ours(int(content["pid"])) and _healthy(url := str(content["url"])):
                return RunningServer(url, bool(content.get("login")))
    return None


def _is_ours(pid: int) -> bool:
    """Whether a process lives and belongs to this user."""
    try:
        return psutil.Process(pid).uids().effective == os.geteuid()
    except psutil.Error:
        return False


@contextmanager
def _own_server(home: Path, port: int | None, auth: str) -> Iterator[str]:
    port = choose_port(port)
    url = f"http://{LOOPBACK}:{port}/api"
    log = home / "server.log"
    settings = {**server_settings(port, auth), API_URL: url, AUTH_VARIABLE: auth}
    with os.fdopen(os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as stream:
        process = subprocess.Popen(
            [sys.executable, supervise.__file__, "--grace", "10", "--", *server_command(port)],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **settings, "PYTHONPATH": python_path()},
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, url, log)
        write_json(home / RECORD_NAME, {"url": url, "login": True, "pid": process.pid})
        yield url
    finally:
        _send_what_waits()
        (home / RECORD_NAME).unlink(missing_ok=True)
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdin is not None:
            process.stdin.close()


def _send_what_waits() -> None:
    """Let Prefect's client deliver its queued logs and events while the server still listens.

    Prefect's own test harness does the same before it stops its server.
    """
    if "prefect" not in sys.modules:
        return
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    for worker in (APILogWorker, EventsWorker):
        worker.drain_all(timeout=DRAIN_TIMEOUT_S, at_exit=False)


def serve_dashboard(port: int | None) -> None:
    """Serve the dashboard until Ctrl-C.

    Args:
        port: to listen on; 4200 by default.

    Raises:
        ConfigError: the port is in use, or the state folder has a running server already.
    """
    state = own_state_dir()
    home = private_folder(state / "prefect", what="state folder")
    if (found := running_server(home)) is not None:
        link = login_link(found.url, login_of(state) if found.login else None)
        raise ConfigError(f"a server on these data is running already: {link}")
    auth = login_of(state, os.environ.get(SERVER_AUTH_VARIABLE))
    print(f"starting the Prefect server on the runs in {home}", flush=True)  # noqa: T201
    with _environment(home), _own_server(home, port or DASHBOARD_PORT, auth) as url:
        print(f"dashboard: {login_link(url, auth)}  (Ctrl-C stops it)", flush=True)  # noqa: T201
        with contextlib.suppress(KeyboardInterrupt):
            while _healthy(url):
                time.sleep(2)


def choose_port(port: int | None) -> int:
    """A port of the loopback address that is free: the given one, or any.

    Raises:
        ConfigError: it is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port or 0))
        except OSError as cause:
            raise ConfigError(
                f"port {port} is in use on this machine; choose another with --port"
            ) from cause
        chosen: int = probe.getsockname()[1]
        return chosen


def _wait_until_healthy(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _healthy(url):
        if process.poll() is not None:
            raise ServerError(f"the Prefect server ended while starting; see {log}{_tail(log)}")
        if time.monotonic() > deadline:
            raise ServerError(
                f"the Prefect server was not healthy after {START_TIMEOUT_S} s; see {log}"
            )
        time.sleep(0.25)


def _healthy(url: str) -> bool:
    try:
        return bool(httpx.get(f"{url}/health", timeout=2).raise_for_status().json())
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"; its last line: {lines[-1]}" if lines else ""
