"""What becomes of runs that lost their process: cancelled ones end, others are tried again.

A worker reports a crash twice, some seconds apart, so this waits a little before it decides. A run that
is tried again keeps its id, so it finds its folder and continues from its last checkpoint.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from flows.service.api import FINAL, JSON, Api

MAX_CRASHES = 3
"""A run that crashes for the third time stays Crashed, because something is wrong with it."""
SETTLED_AFTER_S = 6.0
"""Age of a crash from which a worker has nothing to add."""
FORGOTTEN_AFTER = timedelta(hours=1)
"""Crashes that nobody looked after for so long are left to people."""
DELIBERATE = "termination signal"
"""Part of the message of a crash that was asked for, by a stop or a drained machine: not counted."""
STOPPED = f"{DELIBERATE}: the service was stopped"


class Recovery:
    """Decides about the runs of one work pool.

    Args:
        api: their server.
        pool: its name.
    """

    def __init__(self, api: Api, pool: str) -> None:
        self.api = api
        self.pool = {"name": {"any_": [pool]}}
        self.decided: set[tuple[str, str]] = set()

    def look(self) -> list[str]:
        """Settle crashed runs, and runs inside of runs that have ended.

        Returns:
            A line for each run that is tried again.
        """
        said = []
        since = {"after_": (datetime.now(timezone.utc) - FORGOTTEN_AFTER).isoformat()}
        for run in self.api.runs("CRASHED", flow_runs={"end_time": since}, work_pools=self.pool):
            key = run["id"], run["state"]["timestamp"]
            if key not in self.decided and age_s(run) > SETTLED_AFTER_S:
                self.decided.add(key)
                said.append(f"run {run['name']} crashed: now {self.settle(run['id'])}")
        inner = {"parent_task_run_id": {"is_null_": False}}
        for child in self.api.runs("RUNNING", "PENDING", "CANCELLING", flow_runs=inner):
            task = self.api.get(f"/task_runs/{child['parent_task_run_id']}")
            outer = self.api.run(task["flow_run_id"])
            if outer["state_type"] in ("CRASHED", "CANCELLED") and age_s(outer) > SETTLED_AFTER_S:
                self._end_inner(outer["id"], outer["state_type"])
        return said

    def settle(self, flow_run_id: str, *, message: str = "") -> str:
        """Decide what follows for a run whose process is gone.

        Args:
            flow_run_id: the run.
            message: why it has crashed, where nobody has said so yet.

        Returns:
            The name of its state now.
        """
        run, history = self.api.run(flow_run_id), self._history(flow_run_id)
        last = next((item["type"] for item in reversed(history) if item["type"] != "CRASHED"), "")
        if last == "CANCELLING":
            self._end_inner(flow_run_id, "CANCELLED")
            text = "cancelled; its processes have ended"
            self.api.set_state(flow_run_id, "CANCELLED", "Cancelled", text)
            return "Cancelled"
        if run["state_type"] in ("COMPLETED", "FAILED", "CANCELLED", "SCHEDULED"):
            return str(run["state_name"])  # somebody else was faster
        self._end_inner(flow_run_id, "CRASHED")
        if run["state_type"] != "CRASHED":
            self.api.set_state(flow_run_id, "CRASHED", "Crashed", message)
            history = self._history(flow_run_id)
        crashes = count_crashes(history)
        if run["deployment_id"] is None or crashes >= MAX_CRASHES:
            return "Crashed"
        reason = message or history[-1]["message"] or "no reason given"
        text = f"tried again after {crashes} of {MAX_CRASHES} crashes: {reason}"
        details = {"scheduled_time": datetime.now(timezone.utc).isoformat()}
        self.api.set_state(flow_run_id, "SCHEDULED", "AwaitingRetry", text, state_details=details)
        return "AwaitingRetry"

    def _history(self, flow_run_id: str) -> list[JSON]:
        """The states of a run, oldest first."""
        found = self.api.get(f"/flow_run_states/?flow_run_id={flow_run_id}")
        return sorted(found, key=lambda item: str(item["timestamp"]))

    def _end_inner(self, flow_run_id: str, kind: str) -> None:
        """Runs and tasks inside a run cannot outlive its process."""
        name, text = kind.capitalize(), "the run that it was part of has ended"
        inside = {"parent_flow_run_id": {"any_": [flow_run_id]}}
        for child in self.api.runs("RUNNING", "PENDING", "CANCELLING", flow_runs=inside):
            self.api.set_state(child["id"], kind, name, text)
            self._end_inner(child["id"], kind)
        body = {
            "flow_runs": {"id": {"any_": [flow_run_id]}},
            "task_runs": {"state": {"type": {"any_": ["RUNNING", "PENDING"]}}},
        }
        for task in self.api.post("/task_runs/filter", body):
            state = {"type": kind, "name": name, "message": text}
            path = f"/task_runs/{task['id']}/set_state"
            self.api.post(path, {"state": state, "force": True})


def count_crashes(history: list[JSON]) -> int:
    """Starts of a run that ended in a crash which nobody had asked for.

    Args:
        history: its states, oldest first.
    """
    crashes, counted = 0, True
    for item in history:
        if item["type"] == "CRASHED" and not counted:
            counted = True
            crashes += DELIBERATE not in (item["message"] or "")
        elif item["type"] in ("PENDING", "RUNNING"):
            counted = False
    return crashes


def age_s(run: JSON) -> float:
    """Seconds since a run entered its state."""
    since = datetime.fromisoformat(str(run["state"]["timestamp"]).replace("Z", "+00:00"))
    return (datetime.now(timezone.utc) - since).total_seconds()


def is_final(run: JSON) -> bool:
    """Whether a run has ended, and will not be tried again."""
    settled = run["state_type"] != "CRASHED" or age_s(run) > 2 * SETTLED_AFTER_S
    return run["state_type"] in FINAL and settled
