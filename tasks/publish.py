"""Publish a trained model."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from effnet_core.config.schema import RunConfig
from effnet_core.model_store.publication import Published, publish_model
from effnet_core.results import EvalResult
from tasks import policies
from tasks.credentials import credentials_of
from tasks.dashboard.progress import on_dashboard

STAGE = "publish"


@task(name="publish-model", task_run_name="publish-{config.storage.name}", **policies.PUBLISH)
def publish(
    config: RunConfig,
    run_dir: str,
    evaluation: EvalResult,
    *,
    version: str | None,
    promote: bool,
) -> Published:
    """Put a run's model into the store as an immutable version, and promote it through the gate."""
    title = f"files of {config.storage.name}"
    with (
        credentials_of(config.storage),
        on_dashboard("publish-progress", STAGE, description=title),
    ):
        return publish_model(
            Path(run_dir),
            evaluation=evaluation,
            storage=config.storage,
            gate=config.evaluate,
            version=version,
            promote=promote,
        )
