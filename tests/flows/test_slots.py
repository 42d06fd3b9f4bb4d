"""Slots are devices: jobs that fit run side by side, the next one waits."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from uuid import UUID

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.settings import get_current_settings

from flows.service.api import Api
from flows.service.lost_slots import LOOK_EVERY_S, LOST_AFTER_S, OVERDUE, LostSlots
from flows.train import train_flow
from tasks.slots import SLOT_VARIABLE, device_slot
from tests.support.tiny import SMALL

NAME = "devices-of-this-test"


@pytest.fixture
def four_devices(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=NAME, limit=4))
        monkeypatch.setenv(SLOT_VARIABLE, NAME)
        yield
        client.delete_global_concurrency_limit_by_name(NAME)


def active() -> int:
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(NAME).active_slots


class Job(threading.Thread):
    """A run that uses devices until it is told to end."""

    def __init__(self, name: str, devices: int) -> None:
        super().__init__(daemon=True)
        self.started, self.ends = threading.Event(), threading.Event()

        @flow(name=f"job-{name}")
        def job() -> None:
            with device_slot(name, devices=devices):
                self.started.set()
                self.ends.wait(60)

        self.job = job
        self.start()

    def run(self) -> None:
        self.job()

    def end(self) -> None:
        self.ends.set()
        self.join(60)


@pytest.mark.usefixtures("four_devices")
def test_two_jobs_of_two_devices_run_side_by_side_and_a_third_waits() -> None:
    first, second = Job("first", 2), Job("second", 2)
    assert first.started.wait(60)
    assert second.started.wait(60)
    assert active() == 4
    third = Job("third", 2)
    assert not third.started.wait(5)
    second.end()
    assert third.started.wait(60)
    assert active() == 4
    first.end()
    third.end()
    assert active() == 0


@pytest.mark.usefixtures("four_devices")
def test_a_job_of_more_devices_than_there_are_takes_all() -> None:
    job = Job("large", 8)
    assert job.started.wait(60)
    assert active() == 4
    job.end()


class Clock:
    """Seconds that a test lets pass."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def leases() -> Path:
    """Where the server of these tests keeps its leases."""
    return get_current_settings().home / "concurrency_leases"


def take(slots: int) -> Path:
    """Slots of a process that nothing more is heard of; the file of its lease."""
    with get_client(sync_client=True) as client:
        answer = client.increment_concurrency_slots_with_lease(
            names=[NAME], slots=slots, mode="concurrency", lease_duration=60
        )
    return leases() / f"{answer.json()['lease_id']}.json"


@pytest.mark.usefixtures("four_devices")
def test_a_slot_whose_server_was_killed_before_it_wrote_the_lease_is_freed() -> None:
    """The job that waits for it starts then, and what others hold stays theirs."""
    living = Job("living", 1)
    assert living.started.wait(60)
    take(3).unlink()  # as a server leaves it that is killed between counting and writing
    waiting = Job("waiting", 3)
    clock = Clock()
    lost = LostSlots(Api(str(get_current_settings().api.url)), leases(), clock=clock)
    assert lost.look() == []
    clock.now += LOST_AFTER_S - 1
    assert lost.look() == []
    assert not waiting.started.is_set()
    clock.now += LOOK_EVERY_S
    assert lost.look() == [f"3 of the slots {NAME} had no holder: freed"]
    assert waiting.started.wait(60)
    assert active() == 4
    for job in (living, waiting):
        job.end()
    assert active() == 0


@pytest.mark.usefixtures("four_devices")
def test_a_lease_that_the_index_misses_ends_as_well() -> None:
    lease = take(2)
    content = json.loads(lease.read_text())
    long_ago = datetime.now(timezone.utc) - OVERDUE - timedelta(seconds=1)
    lease.write_text(json.dumps({**content, "expiration": long_ago.isoformat()}))
    index = leases() / "expirations.json"
    entries = json.loads(index.read_text())
    index.write_text(json.dumps({k: v for k, v in entries.items() if k != lease.stem}))
    clock = Clock()
    lost = LostSlots(Api(str(get_current_settings().api.url)), leases(), clock=clock)
    assert lost.look() == []
    assert not lease.exists()
    clock.now += LOST_AFTER_S
    assert lost.look() == [f"2 of the slots {NAME} had no holder: freed"]
    assert active() == 0


@pytest.mark.usefixtures("four_devices")
@pytest.mark.parametrize("content", ["", "[]", "{}", '{"expiration": "soon"}'])
def test_a_damaged_lease_holds_nothing_and_stops_nobody(content: str) -> None:
    take(1).write_text(content)
    clock = Clock()
    lost = LostSlots(Api(str(get_current_settings().api.url)), leases(), clock=clock)
    assert lost.look() == []
    clock.now += LOST_AFTER_S
    assert lost.look() == [f"1 of the slots {NAME} had no holder: freed"]
    assert active() == 0


@pytest.mark.usefixtures("four_devices")
def test_slots_that_are_taken_and_given_back_all_the_time_are_left_alone() -> None:
    clock = Clock()
    lost = LostSlots(Api(str(get_current_settings().api.url)), leases(), clock=clock)
    for _ in range(6):
        lease = take(2)
        assert lost.look() == []
        with get_client(sync_client=True) as client:
            client.release_concurrency_slots_with_lease(lease_id=UUID(lease.stem))
        clock.now += LOOK_EVERY_S
    assert active() == 0


@pytest.mark.slow
@pytest.mark.mindspore
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("four_devices")
def test_three_trainings_of_two_processes_on_four_devices(data_dir: Path, tmp_path: Path) -> None:
    """Two of them compute at the same time, and the third begins when one of them has ended."""
    settings = [*SMALL, "runtime.world_size=2", "runtime.timeout_s=600"]
    folders = [tmp_path / name for name in ("a", "b", "c")]
    trainings = [
        threading.Thread(
            target=train_flow,
            args=(str(data_dir), str(folder), "digits"),
            kwargs={"overrides": settings},
        )
        for folder in folders
    ]
    for thread in trainings:
        thread.start()
    for thread in trainings:
        thread.join()
    spans = sorted(
        ((folder / "config.yaml").stat().st_mtime, (folder / "result.json").stat().st_mtime)
        for folder in folders
    )
    (first, second, third) = spans
    assert second[0] < first[1]  # side by side
    assert third[0] > min(first[1], second[1])
