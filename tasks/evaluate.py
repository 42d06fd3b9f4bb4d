"""Evaluate a checkpoint."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from effnet_core import api
from effnet_core.config.schema import RunConfig
from effnet_core.jobs.job import RESULT_NAME
from effnet_core.reports.evaluation import report_evaluation
from effnet_core.results import Measured
from effnet_core.system.files import sha256_of_file
from tasks import policies
from tasks.credentials import credentials_of
from tasks.dashboard.cards import show_evaluation
from tasks.dashboard.progress import on_dashboard

TOPIC = "evaluate"


@task(name="evaluate-checkpoint", task_run_name="evaluate-{split}", **policies.EVALUATE)
def evaluate_checkpoint(
    config: RunConfig, checkpoint: str, data: str, split: str, *, work_dir: str
) -> Measured:
    """Accuracy of a checkpoint over every image of a split.

    A card shows its classes and mistakes; the folder has them as files and as a page.
    """
    folder = Path(work_dir)
    with (
        credentials_of(config.storage),
        on_dashboard("evaluate-progress", TOPIC, description=f"images of split {split}"),
    ):
        result = api.evaluate(checkpoint, Path(data), split=split, config=config, work_dir=folder)
        report = report_evaluation(folder, config.storage)
    show_evaluation(result, checkpoint, report)
    path = folder.resolve() / RESULT_NAME
    return Measured(str(path), sha256_of_file(path), result.headline())
