"""``effnet status`` and ``effnet watch``: what a server's runs do, and crashed ones tried again."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from effnet_core.cli.terminal import console
from flows.service.api import Api, ApiError
from flows.service.deploy import ServiceError
from flows.service.environments import read_environment
from flows.service.lifecycle import folder, server_api
from flows.service.recovery import Recovery
from flows.service.server import ui_url

WATCH_EVERY_S = 5.0


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
    for limit in api.limits():
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
    """Try crashed runs again, until interrupted; the daemon does it on one machine.

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


def _has_active_schedule(deployment: Mapping[str, Any]) -> bool:
    return not deployment["paused"] and any(item["active"] for item in deployment["schedules"])
