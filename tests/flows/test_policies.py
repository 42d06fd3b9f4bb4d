"""Retries: only where trying again can help."""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path

import pytest
from prefect import Task, flow, task
from prefect.cache_policies import NO_CACHE

import tasks
from effnet_core.errors import ConfigError, WorkerLost
from tasks import policies

MODULES = [
    importlib.import_module(found.name)
    for found in pkgutil.walk_packages(tasks.__path__, prefix="tasks.")
]
ALL_TASKS = [item for module in MODULES for item in vars(module).values() if isinstance(item, Task)]


@pytest.mark.prefect
@pytest.mark.parametrize(("error", "tries"), [(WorkerLost, 3), (ConfigError, 1), (KeyError, 1)])
def test_only_retryable_errors_are_retried(error: type[Exception], tries: int) -> None:
    calls: list[int] = []

    @task(**{**policies.policy(retries=2, timeout_s=None), "retry_delay_seconds": 0})
    def fails() -> None:
        calls.append(1)
        raise error("no")

    @flow
    def run() -> None:
        fails()

    with pytest.raises(error):
        run()
    assert len(calls) == tries


def test_every_task_is_found() -> None:
    sources = (path.read_text() for path in Path(tasks.__path__[0]).rglob("*.py"))
    assert len(ALL_TASKS) == sum(source.count("\n@task(") for source in sources) > 0


@pytest.mark.parametrize("item", ALL_TASKS, ids=lambda item: item.name)
def test_every_task_states_its_policy(item: Task[..., object]) -> None:
    assert item.cache_policy is NO_CACHE
    assert item.persist_result is False
    assert (item.retry_condition_fn is None) == (item.retries == 0)
