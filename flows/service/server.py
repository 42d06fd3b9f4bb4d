"""A Prefect server for people who have none: started on a free loopback port, stopped at the end.

Prefect's own ephemeral mode loses task runs and prints tracebacks at its end, so commands that run a
flow by themselves start a real server, with its data under the project's state folder. Where
``PREFECT_API_URL`` is set, that server is used instead.

Imports nothing of Prefect, so that it can set the environment that Prefect reads when it is imported.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from effnet_core.errors import ConfigError, EffnetError
from effnet_core.files import make_folder, read_json, write_json
from effnet_core.jobs import supervise

STATE_DIR_VARIABLE = "EFFNET_STATE_DIR"
DEFAULT_STATE_DIR = ".effnet"
API_URL = "PREFECT_API_URL"
DASHBOARD_PORT = 4200
START_TIMEOUT_S = 120
DRAIN_TIMEOUT_S = 30
RECORD_NAME = "server.json"
SERVICE_RECORD = Path("service", "service.json")
"""Left by ``effnet up`` in the state folder while the service runs."""
LOOPBACK = "127.0.0.1"

# Telemetry off, no advertising, no logins for a server that only this machine reaches.
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
    home = make_folder(state_dir() / "prefect", what="state folder")
    given = os.environ.get(API_URL) or running_server(home)
    with _environment(home):
        if given:
            os.environ[API_URL] = given
            yield given
            return
        with _own_server(home, port) as url:
            os.environ[API_URL] = url
            yield url


def ui_url(api_url: str) -> str:
    """The dashboard's address that belongs to an API's."""
    return api_url.removesuffix("/api")


@contextmanager
def _environment(home: Path) -> Iterator[None]:
    """Point Prefect to our state folder, and put everything back at the end."""
    changed = {"PREFECT_HOME": str(home), **SETTINGS}
    before = {name: os.environ.get(name) for name in (*changed, API_URL)}
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


def running_server(home: Path) -> str | None:
    """The address of a server that another command of ours has started on the same data."""
    for record in (home / RECORD_NAME, home.parent / SERVICE_RECORD):
        if record.exists() and _healthy(url := str(read_json(record)["url"])):
            return url
    return None


@contextmanager
def _own_server(home: Path, port: int | None) -> Iterator[str]:
    port = choose_port(port)
    url = f"http://{LOOPBACK}:{port}/api"
    log = home / "server.log"
    serve = ["server", "start", "--host", LOOPBACK, "--port", str(port)]
    command = [sys.executable, "-m", "prefect", *serve]
    with log.open("ab") as stream:
        process = subprocess.Popen(
            [sys.executable, supervise.__file__, "--grace", "10", "--", *command],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PREFECT_API_URL": url},
            start_new_session=True,
        )
    try:
        _wait_until_healthy(process, url, log)
        write_json(home / RECORD_NAME, {"url": url, "pid": process.pid})
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
    home = make_folder(state_dir() / "prefect", what="state folder")
    if (url := running_server(home)) is not None:
        raise ConfigError(f"a server on these data is running already: {ui_url(url)}")
    print(f"starting the Prefect server on the runs in {home}", flush=True)  # noqa: T201
    with _environment(home), _own_server(home, port or DASHBOARD_PORT) as url:
        print(f"dashboard: {ui_url(url)}  (Ctrl-C stops it)", flush=True)  # noqa: T201
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
        with urllib.request.urlopen(f"{url}/health", timeout=2) as answer:  # noqa: S310 - loopback
            return bool(json.load(answer))
    except (OSError, ValueError, urllib.error.URLError):
        return False


def _tail(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"; its last line: {lines[-1]}" if lines else ""
