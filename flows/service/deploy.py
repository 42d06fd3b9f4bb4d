"""Bring a server's work pool, device slots and deployments to what the repository says.

What people changed on the dashboard, a schedule that was switched on or a number of slots, stays.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from effnet_core.errors import ConfigError, EffnetError
from flows.service.api import Api
from flows.service.environments import DEPLOYMENTS, ROOT, VARIABLE, Environment, read_environment
from flows.service.server import API_URL, SETTINGS, state_dir

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
    if place.slot not in {limit["name"] for limit in limits(api)}:
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


def limits(api: Api) -> list[dict[str, Any]]:
    """The global concurrency limits of a server."""
    found: list[dict[str, Any]] = api.post("/v2/concurrency_limits/filter", {"limit": 200})
    return found


def python_path() -> str:
    """What lets other processes import this very code."""
    return os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))


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
    environment["PYTHONPATH"] = python_path()
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
