"""``effnet up`` and its daemon on bad days: given twice at once, and on a full disk."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from effnet_core.errors import DataError, EffnetError
from effnet_core.system import files
from flows.service import api as api_module
from flows.service import deploy, doctor, lifecycle
from flows.service.api import Api, ApiError
from flows.service.daemon import RUN_VARIABLE, Kept, Watch, run_processes
from flows.service.deploy import ServiceError
from flows.service.environments import ROOT, read_environment
from flows.service.server import STATE_DIR_VARIABLE

FOUND = lifecycle.Service("http://127.0.0.1:9/api", pid=1, pool="local", worker="w", port=9)


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE_DIR_VARIABLE, str(tmp_path))
    return tmp_path


def test_up_twice_at_once_starts_one_service(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[lifecycle.Service] = []

    def start(*_: object, **__: object) -> lifecycle.Service:
        time.sleep(0.3)  # the daemon's record comes a moment after its process
        started.append(FOUND)
        return FOUND

    def nothing(*_: object, **__: object) -> None:
        pass

    monkeypatch.setattr(lifecycle, "running", lambda: started[0] if started else None)
    monkeypatch.setattr(lifecycle, "_start", start)
    for name in ("_wait_for_server", "deploy", "_wait_for_worker", "_print_next_steps"):
        monkeypatch.setattr(lifecycle, name, nothing)

    def up() -> None:
        lifecycle.up(port=9, environment="local")

    both = [threading.Thread(target=up) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert started == [FOUND]


@pytest.mark.parametrize("login", [True, False])
def test_a_login_of_the_shell_reaches_the_server_only_where_it_is_wanted(
    monkeypatch: pytest.MonkeyPatch, *, login: bool
) -> None:
    given: list[dict[str, str]] = []

    class Ended:
        def __init__(self, *_: object, env: dict[str, str], **__: object) -> None:
            given.append(env)

        def poll(self) -> int:
            return 1

    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "admin:own")
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "admin:another-servers")
    monkeypatch.setattr(subprocess, "Popen", Ended)
    lifecycle.folder().mkdir()
    with pytest.raises(ServiceError, match="did not start"):
        lifecycle._start(0, read_environment("local"), login=login)
    logins = {name: value for name, value in given[0].items() if name.endswith("AUTH_STRING")}
    wanted = {"PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING"}
    assert logins == ({name: "admin:own" for name in wanted} if login else {})


def test_up_on_a_full_disk_says_so_before_it_starts_anything(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> Any:
        raise AssertionError("started a process")

    usage = files.shutil.disk_usage(state)._replace(free=12_000_000)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(subprocess, "Popen", never)
    with pytest.raises(DataError, match=r"database .* needs .* has 12\.0 MB free"):
        lifecycle.up(port=None, environment="local")


def test_doctor_sees_that_the_servers_disk_is_full(
    state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (before,) = doctor.state_folder()
    usage = doctor.shutil.disk_usage(state)._replace(free=12_000_000)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: usage)
    (full,) = doctor.state_folder()
    assert (before.level, full.level) == ("ok", "problem")
    assert "12.0 MB free" in full.found


def test_a_server_that_fails_is_told_from_one_that_refuses() -> None:
    class Broken(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(500)
            self.end_headers()
            self.wfile.write(b'{"exception_message": "Internal Server Error"}')

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Broken)
    thread = threading.Thread(target=server.handle_request)
    thread.start()
    try:
        with pytest.raises(ApiError, match=r"failed \(HTTP 500\); its log says why, .* full disk"):
            Api(f"http://127.0.0.1:{server.server_port}/api").runs()
    finally:
        thread.join()
        server.server_close()


@pytest.mark.parametrize(
    ("answers", "outcome"),
    [
        ([(503, b"{}"), (429, b"{}"), (200, b"[]")], []),
        ([(503, b"{}")] * 3, r"failed \(HTTP 503\)"),
        (
            [(200, b"<html>hello</html>")],
            "does not answer as a Prefect server does; is the address",
        ),
        ([(404, b'{"detail": "no such run"}')], "the Prefect server refused: no such run"),
        ([(401, b"who?")], "wants a login; set PREFECT_API_AUTH_STRING=USER:PASSWORD"),
        ([(None, b"")], r"at http://127.0.0.1:\d+/api does not answer \(Server disconnected"),
    ],
)
def test_what_a_server_answers_is_reported(
    answers: list[tuple[int | None, bytes]], outcome: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is busy is asked again."""
    monkeypatch.setattr(api_module, "WAITS_S", (0.0, 0.0))
    left = iter(answers)

    class Server(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            code, body = next(left)
            if code is not None:
                self.send_response(code)
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        api = Api(f"http://127.0.0.1:{server.server_port}/api")
        if isinstance(outcome, str):
            with pytest.raises(EffnetError, match=outcome):
                api.runs()
        else:
            assert api.runs() == outcome
        assert next(left, None) is None
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_nobody_at_the_address() -> None:
    for url in ("http://127.0.0.1:9/api", "http://127.0.0.1:port/api", "nowhere"):
        with pytest.raises(ApiError, match=f"the Prefect server at {url} does not answer"):
            Api(url).runs()
        assert not Api(url).healthy()


def test_a_proof_that_has_grown_old_is_renewed() -> None:
    """A server's CSRF tokens are good for an hour; the service asks for weeks."""
    asked: list[str] = []

    class Guarded(BaseHTTPRequestHandler):
        def answer(self, code: int, body: object) -> None:
            self.send_response(code)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_GET(self) -> None:
            asked.append("token")
            self.answer(200, {"token": f"token-{asked.count('token')}"})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            newest = f"token-{asked.count('token')}"
            if self.headers["Prefect-Csrf-Token"] != newest or asked[-1] == "old":
                asked.append("refused")
                self.answer(403, {"detail": "Invalid CSRF token or client identifier."})
            else:
                asked.append("done")
                self.answer(200, [])

        def log_message(self, *arguments: object) -> None:
            """Silent."""

    server = HTTPServer(("127.0.0.1", 0), Guarded)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        api = Api(f"http://127.0.0.1:{server.server_port}/api")
        assert api.runs() == []
        asked.append("old")
        assert api.runs() == []
        assert asked == ["refused", "token", "done", "old", "refused", "token", "done"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_daemon_whose_log_has_no_room_goes_on() -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from flows.service.daemon import say; say('a line'); say('another')",
            ],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_process_that_cannot_be_started_is_tried_again(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "later" / "server.log"
    kept = Kept("server", [sys.executable, "-c", "pass"], log)
    kept.look()
    assert "server could not be started" in capfd.readouterr().out
    log.parent.mkdir()
    kept.look()
    assert kept.process is not None
    assert kept.process.wait(30) == 0


def test_down_waits_for_the_supervisor_too(
    state: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The shell stands for a supervisor that lives a moment longer than its daemon."""
    script = "sh -c 'echo $$; exec sleep 60' flows.service.daemon & wait; sleep 1; exit 0"
    supervisor = subprocess.Popen(
        ["sh", "-c", script, "flows.service.daemon"], stdout=subprocess.PIPE, text=True
    )
    assert supervisor.stdout is not None
    daemon = int(supervisor.stdout.readline())
    found = lifecycle.Service("http://127.0.0.1:9/api", pid=daemon, pool="p", worker="w", port=9)
    monkeypatch.setattr(lifecycle, "running", lambda: found)
    reaper = threading.Thread(target=supervisor.wait)
    reaper.start()
    lifecycle.down()
    assert not lifecycle._is_daemon(supervisor.pid)
    reaper.join(10)
    supervisor.stdout.close()
    assert "stopped" in capsys.readouterr().out


def test_the_process_of_a_run_is_the_first_that_knows_its_name() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'input()'])"
    environment = {**os.environ, RUN_VARIABLE: "a-run"}
    with subprocess.Popen(
        [sys.executable, "-c", child], env=environment, stdin=subprocess.PIPE
    ) as process:
        deadline = time.monotonic() + 20
        while not psutil.Process(process.pid).children():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert run_processes()["a-run"] == process.pid
    assert "a-run" not in run_processes()


def test_a_run_that_ends_while_it_is_looked_at_is_left_alone() -> None:
    """The daemon ended with a traceback."""
    watch = Watch(Api("http://127.0.0.1:9/api"), "pool")
    assert not watch._is_orphan(2**22 + 1, "a-run")
    told = [watch._is_orphan(os.getpid(), "a-run") for _ in range(2)]
    assert told == [True, False]


KEEPER = (
    "import sys, time; from pathlib import Path; from flows.service.daemon import Kept\n"
    "kept = Kept('it', [sys.executable, '-c', 'import time; time.sleep(300)'], Path(sys.argv[1]))\n"
    "kept.look(); print(kept.process.pid, flush=True); time.sleep(300)\n"
)


COMPUTES = "while True: pass"
WAITS = "import time; time.sleep(300)"


@pytest.mark.parametrize(
    ("code", "stops", "answers", "ended"),
    [
        (WAITS, True, True, True),  # as a worker, which nobody asks
        (COMPUTES, True, False, True),
        (WAITS, False, False, True),
        (WAITS, False, True, False),
        (COMPUTES, False, False, False),
    ],
)
@pytest.mark.costly
def test_a_server_that_hangs_is_started_again(
    code: str, stops: bool, answers: bool, ended: bool, tmp_path: Path
) -> None:
    kept = Kept("server", [sys.executable, "-c", code], tmp_path / "log", stuck_after_s=0.8)
    kept.look()
    first = kept.process
    assert first is not None
    try:
        if stops:
            first.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + (20 if ended else 2)
        while first.poll() is None and time.monotonic() < deadline:
            kept.end_if_stuck(answers=answers)
            time.sleep(0.1)
        assert (first.poll() is not None) is ended
        kept.look()  # it notices
        kept.wait_s = 0.01
        time.sleep(0.05)
        kept.look()
        assert (kept.process is not first) is ended
    finally:
        kept.end(signal.SIGKILL, seconds=5)


@pytest.mark.costly
def test_a_deployment_does_not_wait_for_ever(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy, "PATIENCE_S", 2.0)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        api = Api(f"http://127.0.0.1:{silent.getsockname()[1]}/api")
        with pytest.raises(ServiceError, match=r"did not end within 2 s.*effnet status"):
            deploy._prefect(api, ["work-pool", "ls"])


def test_what_a_daemon_keeps_ends_with_it_even_without_its_supervisor(tmp_path: Path) -> None:
    command = [sys.executable, "-c", KEEPER, str(tmp_path / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as daemon:
        assert daemon.stdout is not None
        lines = (line for line in daemon.stdout if line.strip().isdigit())
        kept = psutil.Process(int(next(lines)))
        daemon.kill()
    deadline = time.monotonic() + 20
    with contextlib.suppress(psutil.NoSuchProcess):
        while kept.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline
            time.sleep(0.05)
