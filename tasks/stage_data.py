"""Stage a data set."""

from __future__ import annotations

from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from effnet_core.config.schema import RunConfig
from effnet_core.data.card import read_card
from effnet_core.data.formats import Rules
from effnet_core.data.manifest import Dataset
from effnet_core.data.staging import STAGE, stage_dataset
from effnet_core.text import markdown_code
from tasks import policies
from tasks.credentials import credentials_of
from tasks.dashboard.progress import on_dashboard


@task(name="stage-dataset", task_run_name="stage-dataset", **policies.STAGE)
def stage(
    source: str,
    out: str,
    *,
    val_share: float,
    seed: int,
    max_rejected_share: float,
    config: RunConfig,
) -> tuple[Dataset, bool]:
    """The staged data set, and whether it was there already; its data card is an artifact."""
    with (
        credentials_of(config.storage),
        on_dashboard("stage-progress", STAGE, description=f"files of {source} looked into"),
    ):
        staged = stage_dataset(
            source,
            Path(out),
            val_share=val_share,
            seed=seed,
            max_rejected_share=max_rejected_share,
            max_pixels=config.data.max_pixels,
            background=config.background,
            rules=Rules.of(config.data),
            access=config.storage.access,
            hard_links=config.data.hard_links,
        )
    create_markdown_artifact(
        key="data-card", markdown=read_card(Path(out)), description=f"data set {markdown_code(out)}"
    )
    return staged
