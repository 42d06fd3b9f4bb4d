"""Train a model: ``python -m flows.train --help``."""

from __future__ import annotations

from prefect import flow

from effnet_core.config import load_config
from effnet_core.results import TrainResult
from flows.names import named
from tasks.train import train_model


@flow(name="train", flow_run_name=named("train", "recipe"), persist_result=False)
def train_flow(
    data: str, run_dir: str, recipe: str = "digits", overrides: list[str] | None = None
) -> TrainResult:
    """Train a model of the family on a staged data set.

    Args:
        data: Folder of the staged data set.
        run_dir: Folder of the run; a run that was cut goes on from its last checkpoint.
        recipe: Name of a recipe, or path of a YAML file.
        overrides: Settings as section.key=value.
    """
    config = load_config(recipe, overrides or [])
    return train_model(config, data, run_dir)


if __name__ == "__main__":
    from flows.command import run_as_command

    run_as_command("flows.train:train_flow")
