"""Train a model: ``python -m flows.train --help``."""

from __future__ import annotations

from prefect import flow

from effnet_core.results import TrainResult
from flows.logs import leave_out_tracebacks
from flows.names import data_name, tag_run, training_name, training_values
from flows.parameters import (
    AS_IN_RECIPE,
    BatchSize,
    Device,
    Epochs,
    FolderPath,
    LearningRate,
    Overrides,
    Processes,
    Recipe,
    VariantName,
    own_folder,
)
from flows.service.environments import flow_config
from tasks.dashboard.training import training_page
from tasks.slots import device_slot
from tasks.train import train_model


@flow(
    name="train",
    flow_run_name=training_name("train"),
    persist_result=False,
    on_running=[leave_out_tracebacks],
)
def train_flow(
    data: FolderPath,
    run_dir: str | None = None,
    recipe: Recipe = "digits",
    variant: VariantName = AS_IN_RECIPE,
    epochs: Epochs = None,
    global_batch_size: BatchSize = None,
    base_lr: LearningRate = None,
    weights: str | None = None,
    device: Device = AS_IN_RECIPE,
    processes: Processes = None,
    overrides: Overrides = None,
) -> TrainResult:
    """Train a model of the family on a staged data set.

    Args:
        data: Folder of the staged data set.
        run_dir: Folder of the run, one of its own by default; a run that was cut continues in it.
        recipe: Name of a recipe, or path of a YAML file.
        variant: Member of the family.
        epochs: Full passes over the training images.
        global_batch_size: Images per update, all processes together.
        base_lr: Peak learning rate per 256 images.
        weights: What to start from: checkpoint, run folder, file of another publisher, URL, name, or none.
        device: What MindSpore computes on.
        processes: Processes that train together, one a device.
        overrides: Further settings as section.key=value; they win over the fields above.
    """
    given = {
        "variant": variant,
        "epochs": epochs,
        "global_batch_size": global_batch_size,
        "base_lr": base_lr,
        "weights": weights,
        "device": device,
        "processes": processes,
    }
    config = flow_config(recipe, overrides, form=training_values(given))
    tag_run(config.model.variant, f"data:{data_name(data)}")
    run_dir = run_dir or own_folder("train")
    with (
        device_slot(f"training {config.model.variant}", devices=config.runtime.local_world_size),
        training_page(config, run_dir) as page,
    ):
        result = train_model(config, data, run_dir)
    page.update(result)
    return result


if __name__ == "__main__":
    from flows.command import run_as_command

    run_as_command("flows.train:train_flow")
