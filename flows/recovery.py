"""What becomes of runs that lost their process: cancelled ones end, others are tried again.

A killed process tells nobody. On a machine of one's own the keeper sees it (``flows/keeper.py``); the
worker sees it while it lives; either way the run becomes Crashed and what is below decides the rest.
A run that is tried again keeps its id, so it finds its folder and goes on from its last checkpoint.
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

from flows.api import FINAL, Api

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

MAX_CRASHES = 3
"""A run that crashes for the third time stays Crashed, because something is wrong with it."""
WAIT_S = 5.0
STOPPED = "termination signal: the service was stopped"
DELIBERATE = "termination signal"
"""Part of the message of a crash that was asked for, by a stop or a drained machine: not counted."""


def after_crash(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """A flow's hook on crashes: put a deployment's run back into the queue, if it may be tried again.

    Args:
        flow: what crashed.
        flow_run: its run.
        state: Crashed.
    """
    url = os.environ.get("PREFECT_API_URL")
    if url and flow_run.deployment_id is not None:
        settle(Api(url), str(flow_run.id), message=state.message or "")


def settle(api: Api, flow_run_id: str, *, message: str = "") -> str:
    """Decide what follows for a run whose process is gone, and for the runs inside it.

    Returns:
        The name of its state now.
    """
    run = api.run(flow_run_id)
    history = _history(api, flow_run_id)
    last = next((item["type"] for item in reversed(history) if item["type"] != "CRASHED"), "")
    if last in FINAL or run["state_type"] == "SCHEDULED":  # somebody else was faster
        return str(run["state_name"])
    if last == "CANCELLING":
        _end_children(api, flow_run_id, "CANCELLED", "Cancelled")
        api.set_state(flow_run_id, "CANCELLED", "Cancelled", "cancelled; its processes have ended")
        return "Cancelled"
    _end_children(api, flow_run_id, "CRASHED", "Crashed")
    if run["state_type"] != "CRASHED":
        api.set_state(flow_run_id, "CRASHED", "Crashed", message)
        history = _history(api, flow_run_id)
    crashes = [item for item in history if item["type"] == "CRASHED"]
    counted = sum(DELIBERATE not in (item["message"] or "") for item in crashes)
    if run["deployment_id"] is None or counted >= MAX_CRASHES:
        return "Crashed"
    soon = datetime.now(timezone.utc) + timedelta(seconds=WAIT_S)
    text = f"tried again after crash {counted} of at most {MAX_CRASHES}: {message}"
    details = {"scheduled_time": soon.isoformat()}
    api.set_state(flow_run_id, "SCHEDULED", "AwaitingRetry", text, state_details=details)
    return "AwaitingRetry"


def _history(api: Api, flow_run_id: str) -> list[dict[str, Any]]:
    """The states of a run, oldest first."""
    found = api.get(f"/flow_run_states/?flow_run_id={flow_run_id}")
    return sorted(found, key=lambda item: str(item["timestamp"]))


def _end_children(api: Api, flow_run_id: str, kind: str, name: str) -> None:
    """Runs and tasks inside a run cannot outlive its process."""
    inside = {"parent_flow_run_id": {"any_": [flow_run_id]}}
    for child in api.runs("RUNNING", "PENDING", "CANCELLING", flow_runs=inside):
        api.set_state(child["id"], kind, name, "the run that it was part of ended")
        _end_children(api, child["id"], kind, name)
    tasks = api.post(
        "/task_runs/filter",
        {
            "flow_runs": {"id": {"any_": [flow_run_id]}},
            "task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
        },
    )
    for task in tasks:
        state = {"type": kind, "name": name, "message": "the run that it was part of ended"}
        api.post(f"/task_runs/{task['id']}/set_state", {"state": state, "force": True})
