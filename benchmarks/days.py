"""Days of a scheduled loop, on a real Prefect server: the world changes on day 4.

    python -m benchmarks.days --out days.json

A day is compressed into the runs that its schedules start: ``batch-infer-inbox`` labels what has come, with
production; from the first drift on, a person labels the 50 pictures of the review queue, and
``nightly-pipeline`` stages them too, trains and asks the gate. ``--full`` trains as the recipe ``digits``
says, instead of fitting the classifier alone.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.changing_world import World, settings  # noqa: E402
from effnet_core.system.files import read_json, write_json  # noqa: E402
from flows.service.recovery import is_final  # noqa: E402
from tests.flows.service import TestedService, wait_for  # noqa: E402

INBOX, NIGHTLY = "batch-infer/batch-infer-inbox", "pipeline/nightly-pipeline"
EVENT = "effnet.drift"


@dataclass(frozen=True)
class Plan:
    """How long and how large."""

    days: int = 7
    changes_on: int = 4
    labelled: int = 900
    a_day: int = 75
    reviewed: int = 50
    seed: int = 0
    probe: bool = True


@dataclass
class Day:
    """What one day brought."""

    day: int
    changed: bool
    accuracy: float
    """Share of the day's answers that are right."""
    distance: float
    threshold: float
    drifted: bool
    version: str
    """In production while the day's pictures were labelled."""
    events: int
    """``effnet.drift`` so far."""
    reviewed: int = 0
    wrong: int = 0
    """How many reviewed pictures the model had wrong."""
    night: str = ""
    """How the night's model was judged; empty where there was none."""
    old_again: str = ""
    """What the gate says to the first version on the images of that night."""


@dataclass
class Loop:
    """The service, the world, and what is done in it."""

    service: TestedService
    world: World
    plan: Plan
    days: list[Day] = field(default_factory=list)

    def begin(self) -> None:
        """Deploy everything, and train and publish the first version by a scheduled run."""
        folder, plan = self.world.folder, self.plan
        self.world.label(plan.labelled)
        self.world.bring(plan.a_day, "day0", changed=False)
        self.service.up()
        self._set(INBOX, {"overrides": self._settings(), "recipe": "digits"})
        nightly = {"overrides": self._settings(), "recipe": "digits", "folder": "inbox"}
        self._set(NIGHTLY, nightly)
        done = self.service.effnet("deploy", "--automations", "drift")
        assert done.returncode == 0, done.stderr
        self.scheduled(NIGHTLY)
        assert self.production() != "", self.service.log(self.last(NIGHTLY))
        (folder / "reviews").mkdir()

    def day(self, number: int) -> Day:
        """Let a day pass, with its night."""
        plan, folder = self.plan, self.world.folder
        changed, name = number >= plan.changes_on, f"day{number}"
        version, events = self.production(), len(self.events())
        self.world.bring(plan.a_day, name, changed=changed)
        self.scheduled(INBOX)
        found = read_json(folder / "labels" / "summary.json")["drift"]
        assert found["images"] == (plan.a_day if number > 1 else 2 * plan.a_day)
        if found["drifted"]:
            wait_for("the event", lambda: len(self.events()) > events, seconds=120)
        accuracy = self.world.accuracy(folder / "labels", self.world.inbox, name)
        drift = (found["distance"], found["threshold"], found["drifted"])
        today = Day(number, changed, accuracy, *drift, version, len(self.events()))
        self.days.append(today)
        if any(day.drifted for day in self.days) and number < plan.days:
            self._evening(today)
        print(json.dumps(asdict(today)), flush=True)
        return today

    def _evening(self, today: Day) -> None:
        """The first drift starts a run by itself; then a person labels, and the night trains."""
        reviews = self.world.folder / "reviews"
        if sum(day.drifted for day in self.days) == 1:
            started = wait_for("a run that the automation starts", self.automated)
            assert self._end(started) == "Completed", self.service.log(started)
        queue = reviews / f"day-{today.day}"
        decided = ["--corrections", str(reviews)] if list(reviews.rglob("labels.csv")) else []
        count = str(self.plan.reviewed)
        options = ["--out", str(queue), "--count", count, *decided]
        done = self.service.effnet("review", "labels", *options)
        assert done.returncode == 0, done.stderr
        today.wrong = self.world.decide(queue)
        today.reviewed = self.plan.reviewed
        run = self.scheduled(NIGHTLY, {"corrections": "reviews"})
        today.night = self.verdict(run)
        first = self.days[0].version
        if self.production() != first:
            options = [part for text in self._settings() for part in ("-o", text)]
            done = self.service.effnet("store", "promote", first, "--data", "data", *options)
            assert done.returncode != 0, f"the first version is back: {done.stdout}"
            today.old_again = " ".join(done.stderr.split())

    def scheduled(self, name: str, parameters: dict[str, Any] | None = None) -> str:
        """Switch a deployment's schedule on until it has started a run, and wait for that to end."""
        deployment = self.service.api.get(f"/deployments/name/{name}")
        schedule = f"/deployments/{deployment['id']}/schedules/{deployment['schedules'][0]['id']}"
        before = {run["id"] for run in self._runs(name)}
        often = {"interval": 5, "anchor_date": "2026-01-01T00:00:00Z", "timezone": "UTC"}
        entry = {"parameters": parameters or {}, "schedule": often}
        self.service.api.patch(schedule, {"active": True, **entry})

        def started() -> str:
            going = [run for run in self._runs(name) if run["id"] not in before]
            going = [
                run for run in going if run["state_type"] in ("RUNNING", "COMPLETED", "FAILED")
            ]
            return str(going[0]["id"]) if going else ""

        run = str(wait_for(f"a scheduled run of {name}", started))
        self.service.api.patch(schedule, {"active": False, **entry})
        assert self.service.api.run(run)["auto_scheduled"]
        assert self._end(run) == "Completed", self.service.log(run)
        self._nothing_waits(name)
        return run

    def _end(self, run: str) -> str:
        """The state in which a run ends."""
        wait_for(f"the end of run {run}", lambda: is_final(self.service.api.run(run)), seconds=900)
        return self.service.state(run)

    def _nothing_waits(self, name: str) -> None:
        """Until no run that the schedule has made meanwhile is left."""
        waiting = ("SCHEDULED", "PENDING", "RUNNING")
        wait_for(
            f"the end of further runs of {name}",
            lambda: not [run for run in self._runs(name) if run["state_type"] in waiting],
        )

    def automated(self) -> str:
        """The run of the nightly pipeline that no schedule has made, once there is one."""
        found = [run for run in self._runs(NIGHTLY) if not run["auto_scheduled"]]
        return str(found[0]["id"]) if found else ""

    def last(self, name: str) -> str:
        return str(self._runs(name)[0]["id"])

    def events(self) -> list[dict[str, Any]]:
        """The events of drift that the labelling of the inbox has sent."""
        body = {"filter": {"event": {"name": [EVENT]}}, "limit": 50}
        found: list[dict[str, Any]] = self.service.api.post("/events/filter", body)["events"]
        output = str(self.world.folder / "labels")
        return [one for one in found if Path(one["payload"]["output"]).resolve() == Path(output)]

    def production(self) -> str:
        path = self.world.folder / "store" / "digits" / "production.json"
        return str(read_json(path)["version"]) if path.is_file() else ""

    def verdict(self, run: str) -> str:
        """What the gate said in a pipeline's run."""
        texts = [self.service.log(one["id"]) for one in self.service.runs_inside(run)]
        lines = [line for text in texts for line in text.splitlines() if "images won" in line]
        return lines[0] if lines else ""

    def _runs(self, name: str) -> list[dict[str, Any]]:
        body = {
            "deployments": {"name": {"any_": [name.partition("/")[2]]}},
            "sort": "START_TIME_DESC",
            "limit": 200,
        }
        found: list[dict[str, Any]] = self.service.api.post("/flow_runs/filter", body)
        return found

    def _set(self, name: str, parameters: dict[str, Any]) -> None:
        found = self.service.api.get(f"/deployments/name/{name}")
        values = {**found["parameters"], **parameters}
        self.service.api.patch(f"/deployments/{found['id']}", {"parameters": values})

    def _settings(self) -> list[str]:
        return settings(self.world.folder, probe=self.plan.probe)


def simulate(folder: Path, plan: Plan, *, out: Path | None = None) -> list[Day]:
    """Let the days pass in a folder, with a service of its own; what they bring goes into a file, too."""
    world = World(folder, plan.seed)
    service = TestedService(folder)
    loop = Loop(service, world, plan)
    try:
        loop.begin()
        for number in range(1, plan.days + 1):
            loop.day(number)
            if out is not None:
                days = [asdict(day) for day in loop.days]
                write_json(out, {"plan": asdict(plan), "days": days})
    finally:
        done = service.effnet("down")
    assert done.returncode == 0, done.stderr
    return loop.days


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="JSON file of the days")
    parser.add_argument("--days", type=int, default=Plan.days)
    parser.add_argument("--full", action="store_true", help="train as the recipe says")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="days-"))
    try:
        simulate(folder, Plan(days=options.days, probe=not options.full), out=options.out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
