"""Slots are devices: jobs that fit run side by side, the next one waits."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

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
