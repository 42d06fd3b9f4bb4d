"""Stage a data set."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact

from effnet_core import api
from effnet_core.config.schema import RunConfig
from effnet_core.data.card import read_card
from effnet_core.data.staging import TOPIC
from effnet_core.text import markdown_code
from tasks import policies
from tasks.credentials import credentials_of
from tasks.dashboard.progress import on_dashboard


@dataclass(frozen=True)
class Staged:
    """A staged data set as it travels between tasks; the rest lies in its folder."""

    root: str
    digest: str
    counts: dict[str, int]
    """Images of each split."""
    classes: int
    rejected: int
    """Files that were set aside."""
    reused: bool
    """Whether it was there already."""


@task(name="stage-dataset", task_run_name="stage-dataset", **policies.STAGE)
def stage(
    source: str,
    out: str,
    *,
    val_share: float,
    seed: int,
    max_rejected_share: float,
    config: RunConfig,
    corrections: str | None = None,
) -> Staged:
    """Stage a data set; its data card is an artifact."""
    with (
        credentials_of(config.storage),
        on_dashboard("stage-progress", TOPIC, description=f"files of {source} looked into"),
    ):
        dataset, reused = api.stage(
            source,
            Path(out),
            val_share=val_share,
            seed=seed,
            max_rejected_share=max_rejected_share,
            config=config,
            corrections=Path(corrections) if corrections else None,
        )
    create_markdown_artifact(
        key="data-card", markdown=read_card(Path(out)), description=f"data set {markdown_code(out)}"
    )
    return Staged(
        str(dataset.root),
        dataset.digest,
        dataset.counts,
        classes=dataset.num_classes,
        rejected=dataset.rejected,
        reused=reused,
    )
