"""What a run starts from: its own last checkpoint, another run's, weights, or nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray
from pydantic import ValidationError

from effnet_core.errors import CheckpointError, ConfigError
from effnet_core.jobs.job import CHECKPOINTS_NAME, METRICS_NAME, PROBE_NAME
from effnet_core.model.network import EfficientNet
from effnet_core.system.files import read_jsonl, write_text
from effnet_core.train.optim import of_head
from effnet_core.train.run import Run, start, step_cell
from effnet_core.train.saving import RANK_STATISTICS
from effnet_core.train.setup import Setup
from effnet_core.train.state import Best, Progress
from effnet_core.train.update import WARM_UP_STEPS, warm_up
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.checkpoint import CLASSIFIER, Checkpoint, Sidecar, open_checkpoint
from effnet_core.weights.load import load_parameters


def resume(setup: Setup) -> Run:
    """The run as it starts in this process, on every rank.

    Order: the last whole checkpoint in its folder > ``train.resume_from`` > the probe's model >
    ``model.weights`` > scratch.

    Raises:
        CheckpointError: the checkpoint or the weights do not fit.
        ConfigError: the checkpoint is beyond the end of this run.
    """
    config = setup.config
    source = checkpoints.newest(setup.run_dir / CHECKPOINTS_NAME)
    if source is None and config.train.resume_from is not None:
        source = open_checkpoint(config.train.resume_from)
    if source is not None:
        run = _continue_from(setup, source)
    else:
        run = start(setup)
        if config.train.probe == "first":
            _start_from_weights(run, _probed(setup))
        elif config.model.weights is not None:
            _start_from_weights(run, open_checkpoint(Path(config.model.weights)))
    if setup.group.is_first:
        _forget_later_metrics(run)
    return run


def _continue_from(setup: Setup, source: Checkpoint) -> Run:
    """The run of a training checkpoint."""
    _require_same_model(setup, source)
    _require_position(setup, source)
    progress = _restored_progress(setup, source)
    before = Progress(frozen=progress.frozen, train_size=progress.train_size)
    run = Run(setup, before, step_cell(setup, frozen=progress.frozen), resumed_from=progress.step)
    if setup.config.runtime.exact_resume and setup.config.runtime.device == "CPU":
        warm_up(run, min(WARM_UP_STEPS, progress.step - progress.same_since))
    run.progress = progress
    others = load_parameters(source, run.parameters())
    if RANK_STATISTICS in others:
        _take_own_statistics(run, others[RANK_STATISTICS])
    if source.path.parent.resolve() != (setup.run_dir / CHECKPOINTS_NAME).resolve():
        progress.best = Best()  # its weights are in the other run's folder
    run.tell(f"resuming from {source.path}, step {progress.step} of {run.total_steps}")
    return run


def _probed(setup: Setup) -> Checkpoint:
    """The model of the run's probe."""
    return open_checkpoint(setup.run_dir / PROBE_NAME / checkpoints.MODEL_NAME)


def _require_position(setup: Setup, source: Checkpoint) -> None:
    sidecar = source.sidecar
    if not sidecar.training_state:
        raise CheckpointError(
            f"checkpoint {source.path} holds weights only, so training cannot continue from it; "
            "use it as model.weights, or give a checkpoints/step-*.ckpt"
        )
    if setup.schedule is not None and sidecar.step > len(setup.schedule):
        raise ConfigError(
            f"checkpoint {source.path} is at step {sidecar.step}, beyond the {len(setup.schedule)} steps of "
            "this run; raise train.epochs"
        )


def _restored_progress(setup: Setup, source: Checkpoint) -> Progress:
    """Where a run is that continues from a checkpoint.

    A sidecar that was written before ``Progress`` existed lacks some fields; they follow from the rest.
    """
    sidecar = source.sidecar
    frozen = setup.frozen_steps > 0 and sidecar.step <= setup.frozen_steps
    earlier: dict[str, Any] = {
        "step": sidecar.step,
        "frozen": frozen,
        "train_size": setup.training_size(0.0),
        "same_since": 0 if frozen else setup.frozen_steps,
        "metrics": sidecar.metrics,
    }
    try:
        return Progress.from_dict({**earlier, **sidecar.progress})
    except ValidationError as cause:
        raise CheckpointError(
            f"the sidecar of checkpoint {source.path} does not describe a run's progress as this version "
            "does; resume with the version that wrote it, or use the checkpoint as model.weights"
        ) from cause


def _take_own_statistics(run: Run, of_ranks: NDArray[np.float32]) -> None:
    """This rank's running statistics of a checkpoint (ranks, values) from within an epoch.

    Another number of ranks shares none of them, so it starts from their mean, as an epoch's end would.
    """
    group = run.setup.group
    mine = of_ranks[group.rank] if len(of_ranks) == group.world_size else of_ranks.mean(axis=0)
    start = 0
    for parameter in run.statistics():
        piece = mine[start : start + parameter.size].reshape(parameter.shape)
        parameter.set_data(Tensor(piece.astype(np.float32)))
        start += parameter.size


def _start_from_weights(run: Run, source: Checkpoint) -> None:
    setup, sidecar = run.setup, source.sidecar
    new_head = _starts_new_head(setup, sidecar)
    _require_same_model(setup, source, classes=not new_head)
    weights = [p for p in setup.network.get_parameters() if not (new_head and of_head(p.name))]
    load_parameters(source, weights, skip=CLASSIFIER if new_head else ())
    head = ""
    if new_head:
        _clear_head(setup.network)
        new = setup.dataset.num_classes
        head = f"; its {sidecar.num_classes} classes are replaced by a new head of {new}"
    if setup.step_options.ema is not None:
        setup.step_options.ema.restart()
    run.tell(f"starting from the weights of {source.path}{head}")


def _clear_head(network: EfficientNet) -> None:
    """Set the classifier to zero, as BiT does (Kolesnikov et al., 2020).

    A drawn one would first push its noise into the backbone that others have trained.
    """
    for parameter in network.get_parameters():
        if of_head(parameter.name):
            parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))


def _starts_new_head(setup: Setup, sidecar: Sidecar) -> bool:
    """Whether the weights are of other classes and the settings ask for a new head, or name its size."""
    model = setup.config.model
    wanted = model.new_head or model.num_classes is not None
    return wanted and sidecar.class_names != setup.dataset.class_names


def _require_same_model(setup: Setup, source: Checkpoint, *, classes: bool = True) -> None:
    path, sidecar = source.path, source.sidecar
    if sidecar.variant != setup.config.model.variant:
        raise CheckpointError(
            f"checkpoint {path} is of variant {sidecar.variant}, the run trains "
            f"{setup.config.model.variant}; change model.variant or the checkpoint"
        )
    if (sidecar.bn_eps, sidecar.padding) != (setup.config.bn_eps, setup.config.padding):
        raise CheckpointError(
            f"checkpoint {path} has eps {sidecar.bn_eps:g} and {sidecar.padding} padding, the run "
            f"{setup.config.bn_eps:g} and {setup.config.padding}; leave out model.bn_eps and model.padding"
        )
    if classes and sidecar.class_names != setup.dataset.class_names:
        raise CheckpointError(
            f"checkpoint {path} knows {sidecar.num_classes} classes, the data set has "
            f"{setup.dataset.num_classes}, or their names differ; use a checkpoint of the same classes, or "
            "set model.new_head=true to start a new head on its backbone"
        )


def _forget_later_metrics(run: Run) -> None:
    """Drop lines of steps and evaluations that will be done again."""
    progress = run.progress
    path = run.setup.run_dir / METRICS_NAME
    rows = read_jsonl(path)
    kept = [
        row
        for row in rows
        if row["step"] < progress.step
        or (row["step"] == progress.step and (row["kind"] != "eval" or progress.epoch_finished))
    ]
    if len(kept) != len(rows):
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
