"""The project's own Prefect server: healthy, cleaned up, and its scheduler really schedules."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from effnet_core.errors import ConfigError
from flows.service import server

pytestmark = pytest.mark.prefect

# In a process of its own, because Prefect reads its settings once. A deployment with a cron schedule
# must get scheduled runs; with Prefect 3.8.8 and sqlalchemy 2.1 it silently gets none.
SCHEDULE = textwrap.dedent(
    """
    import json, sys, time, urllib.error, urllib.request
    from flows.service.api import Api
    from flows.service.server import prefect_api

    with prefect_api() as url:
        from flows.stage import stage_flow

        stage_flow.from_source(source=sys.argv[1], entrypoint="flows/stage.py:stage_flow")
        deployment = stage_flow.to_deployment(name="nightly", cron="0 3 * * *")
        deployment.apply()
        question = {"flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}}}
        for _ in range(120):
            count = Api(url).post("/flow_runs/count", question)
            if count:
                break
            time.sleep(0.5)
        refused = []
        for headers in ({}, {"Origin": "http://evil.example"}, {"Host": "evil.example"}):
            try:
                urllib.request.urlopen(urllib.request.Request(f"{url}/admin/settings", headers=headers))
            except urllib.error.HTTPError as error:
                refused.append(error.code)
    print(json.dumps({"scheduled": count, "url": url, "refused": refused}))
    """
)


def test_a_cron_deployment_gets_scheduled_runs_and_the_server_ends(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, server.STATE_DIR_VARIABLE: str(tmp_path / "state")}
    for name in ("PREFECT_API_URL", "PREFECT_HOME"):
        environment.pop(name, None)
    done = subprocess.run(
        [sys.executable, "-c", SCHEDULE, str(root)],
        env={**environment, "PYTHONPATH": str(root)},
        check=False,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["scheduled"] > 0
    assert answer["refused"] == [401, 403, 400]
    entries = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
    assert [entry for entry in entries if entry.lstat().st_mode & 0o077] == []
    assert "Traceback" not in done.stderr
    assert "connection" not in done.stderr.lower()
    port = int(answer["url"].split(":")[2].split("/")[0])
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0
    assert not (tmp_path / "state" / "prefect" / server.RECORD_NAME).exists()


def test_a_port_in_use_is_refused_in_one_sentence() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} is in use"):
            server.choose_port(port)


def test_a_given_api_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(server.STATE_DIR_VARIABLE, str(tmp_path))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    with server.prefect_api() as url:
        assert url == "http://127.0.0.1:1/api"
    assert server.ui_url(url) == "http://127.0.0.1:1"
