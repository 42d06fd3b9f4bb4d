"""Retries: only where trying again can help."""

from __future__ import annotations

import pytest
from prefect import flow, task

from effnet_core.errors import ConfigError, WorkerLost
from tasks import evaluate, infer, policies, publish, report, stage_data, train

ALL_TASKS = [
    evaluate.evaluate_checkpoint,
    infer.plan_inference,
    infer.predict_shard,
    infer.finish_inference,
    publish.publish,
    report.write_report,
    stage_data.stage,
    train.train_model,
]


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


@pytest.mark.parametrize("item", ALL_TASKS, ids=lambda item: item.name)
def test_every_task_states_its_policy(item: object) -> None:
    assert getattr(item, "cache_policy").__class__.__name__ == "_None"  # noqa: B009
    assert getattr(item, "persist_result") is False  # noqa: B009
    assert (getattr(item, "retry_condition_fn") is None) == (getattr(item, "retries") == 0)  # noqa: B009
