"""How tasks behave when something fails: one place for retries, time-outs and caching.

No task caches its result with Prefect: a cached result does not know that a file was deleted. Each
function of ``effnet_core`` finds out for itself, by digest, what is done already.
"""

from __future__ import annotations

from typing import Any, TypedDict

from prefect.cache_policies import NO_CACHE, CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from effnet_core.errors import EffnetError

HOUR_S = 3600.0


class Policy(TypedDict):
    """Keyword arguments of ``@task``."""

    retries: int
    retry_delay_seconds: Any
    retry_jitter_factor: float | None
    retry_condition_fn: Any
    timeout_seconds: float | None
    cache_policy: CachePolicy
    persist_result: bool


def may_help(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:
    """Whether trying again can help: the error says so itself; errors that are not ours do not."""
    try:
        state.result()
    except EffnetError as error:
        return error.retryable
    except BaseException:
        return False
    return False


def policy(*, retries: int, timeout_s: float | None, first_delay_s: float = 2.0) -> Policy:
    """A policy with exponential waits between tries.

    Args:
        retries: tries after the first, for errors that call themselves retryable.
        timeout_s: seconds that one try may take; None for work that has its own limit.
        first_delay_s: seconds before the second try; doubles from then on.
    """
    return Policy(
        retries=retries,
        retry_delay_seconds=exponential_backoff(first_delay_s) if retries else None,
        retry_jitter_factor=0.2 if retries else None,
        retry_condition_fn=may_help if retries else None,
        timeout_seconds=timeout_s,
        cache_policy=NO_CACHE,
        persist_result=False,
    )


STAGE = policy(retries=2, timeout_s=12 * HOUR_S)
TRAIN = policy(retries=5, timeout_s=None, first_delay_s=5.0)
"""Training is limited by ``runtime.timeout_s``; a retry continues from the last checkpoint, so a run of
many days may lose a rank now and then."""
EVALUATE = policy(retries=2, timeout_s=6 * HOUR_S)
PUBLISH = policy(retries=3, timeout_s=6 * HOUR_S)
"""Production may have to be measured first."""
INFER = policy(retries=3, timeout_s=6 * HOUR_S)
SHARD = policy(retries=3, timeout_s=None)
"""A shard is limited by ``runtime.timeout_s``: Prefect cannot interrupt what runs in a worker thread."""
REPORT = policy(retries=0, timeout_s=HOUR_S)
