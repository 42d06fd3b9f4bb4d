"""Publish a trained model: ``python -m flows.publish --help``."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from effnet_core.config.load import CONFIG_NAME
from effnet_core.model_store.publication import PublishedVersion
from flows.logs import leave_out_tracebacks
from flows.names import last_name, publication_name
from flows.parameters import FolderPath, Overrides, Version
from flows.service.environments import flow_config
from tasks.dashboard.cards import show_published
from tasks.publish import publish
from tasks.slots import device_slot


@flow(
    name="publish",
    flow_run_name=publication_name,
    persist_result=False,
    on_running=[leave_out_tracebacks],
)
def publish_flow(
    run_dir: FolderPath,
    version: Version = None,
    promote: bool = True,
    overrides: Overrides = None,
    evaluation: FolderPath | None = None,
) -> PublishedVersion:
    """Put the model of a finished run into the store, and promote it if it is good enough.

    Args:
        run_dir: Folder of a finished training run.
        version: Name of the version; made from time and digest by default.
        promote: Whether to move the production pointer, through the gate.
        overrides: Settings as section.key=value, such as storage.root=store.
        evaluation: Folder or result.json of an evaluation, for the gate; the run's own by default.
    """
    config = flow_config(Path(run_dir) / CONFIG_NAME, overrides)
    with device_slot(f"comparing {last_name(run_dir)} with production"):
        published = publish(
            config, run_dir, evaluation=evaluation, version=version, promote=promote
        )
    show_published(published)
    return published


if __name__ == "__main__":
    from flows.command import run_as_command

    run_as_command("flows.publish:publish_flow")
