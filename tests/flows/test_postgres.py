"""The service on PostgreSQL, with four workers and forty runs at once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.postgres import postgres
from tests.flows.service import ROOT, TestedService, processes_naming, wait_for

pytestmark = [pytest.mark.prefect, pytest.mark.slow, pytest.mark.timeout(900)]

WORKERS = 4
RUNS = 40


def test_forty_runs_on_four_workers(
    tmp_path_factory: pytest.TempPathFactory, source_dir: Path, tmp_path: Path
) -> None:
    service = TestedService(tmp_path_factory.mktemp("postgres"))
    with postgres() as url:
        service.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
        workers = []
        try:
            service.up()
            command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "local"]
            variables = service.for_clients()
            for number in range(2, WORKERS + 1):
                with (service.folder / f"worker-{number}.log").open("wb") as log:
                    workers.append(
                        subprocess.Popen(
                            [*command, "--name", f"worker-{number}", "--limit", "4"],
                            env={**variables, "PREFECT_WORKER_QUERY_SECONDS": "2"},
                            cwd=ROOT,
                            stdout=log,
                            stderr=subprocess.STDOUT,
                        )
                    )
            path = "/work_pools/local/workers/filter"
            wait_for(
                "four workers",
                lambda: (
                    sum(item["status"] == "ONLINE" for item in service.api.post(path)) == WORKERS
                ),
            )
            deployment = service.api.get("/deployments/name/stage/stage")
            # Its runs take turns otherwise, and this is about many at once.
            service.api.patch(f"/deployments/{deployment['id']}", {"concurrency_limit": None})
            for number in range(RUNS):
                parameters = {"source": str(source_dir), "out": str(tmp_path / f"data-{number}")}
                body = {"parameters": parameters, "state": {"type": "SCHEDULED"}}
                service.api.post(f"/deployments/{deployment['id']}/create_flow_run", body)

            def finished() -> bool:
                states = [run["state_type"] for run in service.api.runs()]
                assert not {"FAILED", "CRASHED", "CANCELLED"} & set(states)
                return states.count("COMPLETED") == RUNS

            wait_for(f"{RUNS} runs", finished, seconds=800)
        finally:
            for worker in workers:
                worker.terminate()
            for worker in workers:
                worker.wait(60)
            done = service.effnet("down")
    assert done.returncode == 0, done.stderr
    logs = list(service.folder.glob("**/*.log"))
    assert len(logs) >= WORKERS + 2
    for log in logs:
        assert "database is locked" not in log.read_text(errors="replace")
    assert processes_naming(service.folder) == []
