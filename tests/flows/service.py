"""A real service for tests: ``effnet up`` in a folder of its own, and what tests ask it."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from flows.cli import app
from flows.service.api import Api, ApiError
from flows.service.daemon import run_processes
from flows.service.private import login_of
from flows.service.recovery import is_final
from flows.service.server import STATE_DIR_VARIABLE
from tests.support.signals import heed_ctrl_c
from tests.support.tiny import ONE_BLOCK, TINY

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 180.0


def wait_for(what: str, question: Callable[[], Any], *, seconds: float = PATIENCE_S) -> Any:
    """The first true answer; a server on SQLite under load may give none for a minute."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            if answer := question():
                return answer
        except ApiError as error:
            what = f"{what} ({error})" if "(" not in what else what
        assert time.monotonic() < deadline, f"waited {seconds:.0f} s in vain for {what}"
        time.sleep(0.4)


class TestedService:
    """``effnet`` commands and the server's answers, for one state folder."""

    __test__ = False

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.api = Api(f"{self.url}/api")
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
        }
        for name in (STATE_DIR_VARIABLE, "PREFECT_API_URL", "PREFECT_HOME", "PREFECT_TEST_MODE"):
            self.environment.pop(name, None)
        self.state_dir = folder / ".effnet"

    def effnet(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return self._run(["-m", "flows.cli", *arguments], variables)

    def here(self, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Result:
        """As ``effnet``, in this process: for commands that only ask the server."""
        monkeypatch.chdir(self.folder)
        monkeypatch.delenv("PREFECT_API_URL", raising=False)
        return CliRunner().invoke(app, arguments)

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "flows.cli", *arguments],
            env={**self.environment, "PYTHONUNBUFFERED": "1"},
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=heed_ctrl_c,  # noqa: PLW1509 - before any thread of the child
        )

    def prefect(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Prefect's own command in the folder of ``effnet up``: nobody tells it address and login."""
        variables = {"PREFECT_HOME": str(self.folder / "home"), "DO_NOT_TRACK": "1"}
        return self._run(["-m", "prefect", "--no-prompt", *arguments], variables)

    def for_clients(self) -> dict[str, str]:
        """The environment of other programs that talk to the service."""
        login = {"PREFECT_API_URL": self.api.url, "PREFECT_API_AUTH_STRING": str(self.api.auth)}
        return {**self.environment, **login}

    def _run(
        self, arguments: list[str], variables: dict[str, str]
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *arguments],
            env={**self.environment, **variables},
            cwd=self.folder,
            check=False,
            capture_output=True,
            text=True,
            timeout=900,
        )

    def up(self, *options: str) -> str:
        """Start the service; returns what the command said."""
        done = self.effnet("up", "--port", str(self.port), *options)
        assert done.returncode == 0, done.stdout + done.stderr
        self.api.auth = login_of(self.state_dir)
        return done.stdout

    def ask(self, method: str, path: str, *, login: bool = False, **headers: str) -> int:
        """The status of a bare request, as any program of the machine may send it."""
        if login:
            headers["Authorization"] = _basic(login_of(self.state_dir))
        body = b"{}" if method == "POST" else None
        headers = {"Content-Type": "application/json", **headers}
        request = urllib.request.Request(f"{self.api.url}{path}", body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code

    def start_training(self, data: Path, run_dir: Path, *, epochs: int, name: str = "b0") -> str:
        """A run of the smallest network, on images so large that an epoch takes most of a second."""
        parameters = {
            "data": str(data),
            "run_dir": str(run_dir),
            "recipe": "digits",
            "epochs": epochs,
            "overrides": [
                *TINY[:-3],
                *(f"model.variant={ONE_BLOCK}", "data.image_size=384"),
                *("train.log_every_steps=1", "runtime.world_size=1"),
            ],
        }
        return self.start_run(f"train/train-{name}", parameters)

    def start_run(self, deployment: str, parameters: dict[str, Any]) -> str:
        """A run of ``FLOW/DEPLOYMENT``."""
        found = self.api.get(f"/deployments/name/{deployment}")
        path = f"/deployments/{found['id']}/create_flow_run"
        body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
        return str(self.api.post(path, body)["id"])

    def runs_inside(self, run: str) -> list[dict[str, Any]]:
        """The runs inside a run, and those inside them."""
        inside = {"parent_flow_run_id": {"any_": [run]}}
        found = self.api.runs(flow_runs=inside)
        return [*found, *(deeper for item in found for deeper in self.runs_inside(item["id"]))]

    def state(self, run: str) -> str:
        return str(self.api.run(run)["state_name"])

    def history(self, run: str) -> list[str]:
        found = self.api.get(f"/flow_run_states/?flow_run_id={run}")
        return [item["name"] for item in sorted(found, key=lambda item: item["timestamp"])]

    def log(self, run: str) -> str:
        body = {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200, "sort": "TIMESTAMP_DESC"}
        return "\n".join(line["message"] for line in self.api.post("/logs/filter", body))

    def wait_until_final(self, run: str) -> str:
        """The state that a run has once it is not tried again."""

        def ended() -> bool:
            return is_final(self.api.run(run))

        wait_for(f"the end of run {run}", ended)
        return self.state(run)

    def wait_for_epoch(self, run_dir: Path, epoch: int) -> None:
        """Until a checkpoint of that epoch lies there."""

        def reached() -> bool:
            try:
                rows = (run_dir / "metrics.jsonl").read_text().splitlines()
                return any(json.loads(row)["epoch"] > epoch for row in rows)
            except (OSError, ValueError):
                return False

        wait_for(f"epoch {epoch} in {run_dir}", reached)

    def process_of(self, run: str) -> int:
        return run_processes()[run]

    def worker(self) -> int:
        """The process id of the worker that lives now."""
        line = wait_for("a worker", lambda: self._started("worker"))
        return int(line.rsplit(" ", 1)[1])

    def server(self) -> int:
        return int(self._started("server").rsplit(" ", 1)[1])

    def _started(self, name: str) -> str:
        text = (self.state_dir / "service" / "daemon.log").read_text()
        lines = [line for line in text.splitlines() if f"{name} started as process" in line]
        return lines[-1] if lines and Path(f"/proc/{lines[-1].rsplit(' ', 1)[1]}").exists() else ""


def _basic(login: str) -> str:
    return "Basic " + base64.b64encode(login.encode()).decode()


def processes_naming(folder: Path) -> list[str]:
    """Command lines of living processes that name a folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
            if str(folder) in line:
                found.append(line)
    return found


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
