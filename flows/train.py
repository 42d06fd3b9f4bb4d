"""Train a model: ``python -m flows.train --help``."""

from __future__ import annotations

from pathlib import Path

from prefect import flow

from effnet_core.auto.places import is_staged, staged_folder
from effnet_core.config.load import CONFIG_NAME, read_config
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
    Minutes,
    Overrides,
    Processes,
    Quality,
    Recipe,
    VariantName,
    own_folder,
)
from flows.service.environments import flow_config
from tasks.dashboard.training import training_page
from tasks.slots import device_slot
from tasks.stage_data import stage
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
    recipe: Recipe = "auto",
    variant: VariantName = AS_IN_RECIPE,
    epochs: Epochs = None,
    global_batch_size: BatchSize = None,
    base_lr: LearningRate = None,
    weights: str | None = None,
    device: Device = AS_IN_RECIPE,
    processes: Processes = None,
    overrides: Overrides = None,
    quality: Quality = AS_IN_RECIPE,
    minutes: Minutes = None,
) -> TrainResult:
    """Train a model of the family on labelled pictures.

    Args:
        data: Folder of class folders, archive, table or s3://bucket/prefix, or a staged data set.
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
        quality: fast is a model in seconds, good takes minutes, best longer; of recipe auto.
        minutes: What the whole run may take; of recipe auto.
    """
    given = {
        "variant": variant,
        "epochs": epochs,
        "global_batch_size": global_batch_size,
        "base_lr": base_lr,
        "weights": weights,
        "device": device,
        "processes": processes,
        "quality": quality,
        "minutes": minutes,
    }
    config = flow_config(recipe, overrides, form=training_values(given))
    tag_run(config.model.variant, f"data:{data_name(data)}")
    run_dir = run_dir or own_folder("train")
    if not is_staged(data):
        folder = str(staged_folder(data, Path(run_dir)))
        data = stage(
            data, folder, val_share=0.2, seed=0, max_rejected_share=0.1, config=config
        ).root
    with (
        device_slot(f"training {config.model.variant}", devices=config.runtime.local_world_size),
        training_page(config, run_dir) as page,
    ):
        result = train_model(config, data, run_dir)
    page.update(result)
    if config.auto.enabled:  # which may have decided for another variant
        trained = read_config(Path(run_dir) / CONFIG_NAME).model.variant
        tag_run(trained, f"data:{data_name(data)}")
    return result


if __name__ == "__main__":
    from flows.command import run_as_command

    run_as_command("flows.train:train_flow")
