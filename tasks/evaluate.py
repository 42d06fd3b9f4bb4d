"""Evaluate a checkpoint."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from effnet_core import api
from effnet_core.config.schema import RunConfig
from effnet_core.results import EvalResult
from tasks import policies
from tasks.dashboard.progress import on_dashboard

STAGE = "evaluate"


@task(name="evaluate-checkpoint", task_run_name="evaluate-{split}", **policies.EVALUATE)
def evaluate_checkpoint(
    config: RunConfig, checkpoint: str, data: str, split: str, *, work_dir: str | None
) -> EvalResult:
    """Accuracy of a checkpoint over every image of a split."""
    with on_dashboard("evaluate-progress", STAGE, description=f"images of split {split}"):
        return api.evaluate(
            checkpoint,
            Path(data),
            split=split,
            config=config,
            work_dir=Path(work_dir) if work_dir else None,
        )
