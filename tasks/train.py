"""Train a model."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from effnet_core import api
from effnet_core.config.schema import RunConfig
from effnet_core.results import TrainResult
from tasks import policies
from tasks.credentials import credentials_of
from tasks.dashboard.progress import on_dashboard

TOPIC = "train"


@task(name="train-model", task_run_name="train-{config.model.variant}", **policies.TRAIN)
def train_model(config: RunConfig, data: str, run_dir: str) -> TrainResult:
    """Train in child processes; a retry continues from the last checkpoint.

    The result lies in the run folder; its headline is returned.

    Call it directly, not with ``.submit()``: only in the main thread does a cancellation reach it.
    """
    title = f"steps of {config.model.variant}"
    with (
        credentials_of(config.storage),
        on_dashboard("train-progress", TOPIC, description=title),
    ):
        return api.train(config, Path(data), Path(run_dir)).headline()
