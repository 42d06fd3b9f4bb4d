"""Evaluate a checkpoint: ``python -m flows.evaluate --help``."""

from __future__ import annotations

from prefect import flow

from effnet_core.results import Measured
from flows.logs import leave_out_tracebacks
from flows.names import data_name, evaluation_name, tag_run, weights_name
from flows.parameters import (
    AS_IN_RECIPE,
    Device,
    FolderPath,
    Overrides,
    Processes,
    Recipe,
    Split,
    form_values,
    own_folder,
)
from flows.service.environments import flow_config
from tasks.evaluate import evaluate_checkpoint
from tasks.slots import device_slot


@flow(
    name="evaluate",
    flow_run_name=evaluation_name,
    persist_result=False,
    on_running=[leave_out_tracebacks],
)
def evaluate_flow(
    weights: FolderPath,
    data: FolderPath,
    split: Split = "val",
    work_dir: str | None = None,
    recipe: Recipe | None = None,
    device: Device = AS_IN_RECIPE,
    processes: Processes = None,
    overrides: Overrides = None,
) -> Measured:
    """Accuracy of a checkpoint over every image of a split, exact on any number of processes.

    Args:
        weights: Checkpoint, folder of a training run, file of another publisher, URL or known name.
        data: Folder of the staged data set.
        split: Split to evaluate.
        work_dir: Folder for logs and result; one of the run's own by default.
        recipe: Name of a recipe for processes and batch size.
        device: What MindSpore computes on.
        processes: Processes that evaluate together, one a device.
        overrides: Further settings as section.key=value; they win over the fields above.
    """
    form = form_values({"runtime.device": device, "runtime.world_size": processes})
    config = flow_config(recipe, overrides, form=form)
    tag_run(f"data:{data_name(data)}")
    work_dir = work_dir or own_folder("evaluate")
    devices = config.runtime.local_world_size
    with device_slot(f"evaluating {weights_name(weights)}", devices=devices):
        return evaluate_checkpoint(config, weights, data, split, work_dir=work_dir)


if __name__ == "__main__":
    from flows.command import run_as_command

    run_as_command("flows.evaluate:evaluate_flow")
