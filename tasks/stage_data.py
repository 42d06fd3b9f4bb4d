"""Stage a data set."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from effnet_core.data.manifest import Dataset
from effnet_core.data.staging import STAGE, stage_dataset
from tasks import policies
from tasks.reporting import on_dashboard


@task(name="stage-dataset", task_run_name="stage-{source}", **policies.STAGE)
def stage(
    source: str, out: str, *, val_share: float, seed: int, max_rejected_share: float
) -> tuple[Dataset, bool]:
    """The staged data set, and whether it was there already; see ``stage_dataset``."""
    with on_dashboard("stage-progress", STAGE, description=f"files of {source} looked into"):
        return stage_dataset(
            Path(source),
            Path(out),
            val_share=val_share,
            seed=seed,
            max_rejected_share=max_rejected_share,
        )
