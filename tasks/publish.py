"""Publish a trained model."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from effnet_core.config.schema import RunConfig
from effnet_core.model_store.publication import PublishedVersion
from effnet_core.quality.gate import publish as publish_run
from tasks import policies
from tasks.credentials import credentials_of
from tasks.dashboard.progress import on_dashboard

TOPIC = "publish"


@task(name="publish-model", task_run_name="publish-{config.storage.name}", **policies.PUBLISH)
def publish(
    config: RunConfig,
    run_dir: str,
    *,
    evaluation: str | None,
    version: str | None,
    promote: bool,
) -> PublishedVersion:
    """Put a run's model into the store as an immutable version, and promote it through the gate.

    Production is measured on the images of the evaluation, where it was not before.

    Args:
        config: settings of store and gate.
        run_dir: folder of a finished training run.
        evaluation: file or folder of the evaluation that the gate decides on; the run's own by default.
        version: name of the version; made from time and digest by default.
        promote: whether to try the gate.
    """
    title = f"files of {config.storage.name}"
    with (
        credentials_of(config.storage),
        on_dashboard("publish-progress", TOPIC, description=title),
    ):
        return publish_run(
            Path(run_dir),
            config=config,
            evaluation=Path(evaluation) if evaluation else None,
            version=version,
            promote=promote,
        )
