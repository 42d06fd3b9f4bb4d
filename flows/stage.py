"""Stage a data set: ``python -m flows.stage --help``."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from flows.logs import leave_out_tracebacks
from flows.names import staging_name
from flows.parameters import FolderPath, Overrides, Recipe, Seed, Share, ValidationShare
from flows.service.environments import flow_config
from tasks.stage_data import Staged, stage


@flow(
    name="stage",
    flow_run_name=staging_name,
    persist_result=False,
    on_running=[leave_out_tracebacks],
)
def stage_flow(
    source: FolderPath,
    out: FolderPath,
    val_share: ValidationShare = 0.2,
    seed: Seed = 0,
    max_rejected_share: Share = 0.1,
    recipe: Recipe | None = None,
    overrides: Overrides = None,
    corrections: str | None = None,
) -> Staged:
    """Bring labelled images from wherever they live into a verified, staged data set.

    Args:
        source: Folder of class folders, archive, tar shards, .csv file, ILSVRC2012, or s3://bucket/prefix.
        out: Folder of the staged data set.
        val_share: Share of images for validation where the source has no splits.
        seed: Changes which images those are.
        max_rejected_share: Share of unusable files above which staging is refused.
        recipe: Name of a recipe.
        overrides: Settings as section.key=value, such as storage.endpoint_url=https://s3.example.org.
        corrections: CSV file of effnet review's page, or a folder with such files: right labels, pictures to
            leave out.
    """
    config = flow_config(recipe, overrides)
    return stage(
        source,
        str(Path(out)),
        val_share=val_share,
        seed=seed,
        max_rejected_share=max_rejected_share,
        config=config,
        corrections=corrections,
    )


if __name__ == "__main__":
    from flows.command import run_as_command

    run_as_command("flows.stage:stage_flow")
