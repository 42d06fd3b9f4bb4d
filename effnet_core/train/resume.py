"""What a run starts from: its own last checkpoint, another run's, weights, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from mindspore import Tensor
from numpy.typing import NDArray

from effnet_core.errors import CheckpointError, ConfigError
from effnet_core.files import read_jsonl, write_text
from effnet_core.jobs.job import CHECKPOINTS_NAME, METRICS_NAME
from effnet_core.model.network import EfficientNet
from effnet_core.train.optim import of_head
from effnet_core.train.run import Run, step_cell, thaw
from effnet_core.train.saving import RANK_STATISTICS, restore_progress
from effnet_core.train.state import Best
from effnet_core.train.step import TrainStep
from effnet_core.train.update import SETTLED_STEPS, practise
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.checkpoint import CLASSIFIER, Sidecar
from effnet_core.weights.load import load_parameters


def resume(run: Run) -> TrainStep:
    """Load what the run starts from, on every rank.

    Order: the last whole checkpoint in its folder > ``train.resume_from`` > ``model.weights`` > scratch.

    Returns:
        The compiled step to continue with.

    Raises:
        CheckpointError: the checkpoint or the weights do not fit.
        ConfigError: the checkpoint is beyond the end of this run.
    """
    source = checkpoints.newest(run.run_dir / CHECKPOINTS_NAME) or run.config.train.resume_from
    cell = _go_on(run, source) if source is not None else step_cell(run)
    if source is None and run.config.model.weights is not None:
        _start_from_weights(run, Path(run.config.model.weights))
    if run.group.is_first:
        _forget_later_metrics(run)
    return cell


def _go_on(run: Run, source: Path) -> TrainStep:
    sidecar = checkpoints.read_sidecar(source)
    _require_same_model(run, source, sidecar)
    if not sidecar.training_state:
        raise CheckpointError(
            f"checkpoint {source} holds weights only, so training cannot continue from it; "
            "use it as model.weights, or give a checkpoints/step-*.ckpt"
        )
    if run.rates is not None and sidecar.step > len(run.rates):
        raise ConfigError(
            f"checkpoint {source} is at step {sidecar.step}, beyond the {len(run.rates)} steps of this "
            "run; raise train.epochs"
        )
    if run.frozen and sidecar.step > run.frozen_steps:
        thaw(run)  # its optimizer state is of all parameters
    run.train_size = sidecar.progress.get("train_size", run.train_size)
    run.same_since = sidecar.progress.get("same_since", 0 if run.frozen else run.frozen_steps)
    cell = step_cell(run)
    if run.config.runtime.exact_resume and run.config.runtime.device == "CPU":
        practise(run, cell, min(SETTLED_STEPS, sidecar.step - run.same_since))
    others = load_parameters(source, run.parameters())
    if RANK_STATISTICS in others:
        _take_own_statistics(run, others[RANK_STATISTICS])
    run.step = run.resumed_from = sidecar.step
    restore_progress(run, sidecar)
    if source.parent.resolve() != (run.run_dir / CHECKPOINTS_NAME).resolve():
        run.best = Best()  # its weights lie in the other run's folder
    run.tell(f"resuming from {source}, step {run.step} of {run.total_steps}")
    return cell


def _take_own_statistics(run: Run, of_ranks: NDArray[np.float32]) -> None:
    """This rank's running statistics of a checkpoint (ranks, values) from within an epoch.

    Another number of ranks shares none of them, so it starts from their mean, as an epoch's end would.
    """
    same = len(of_ranks) == run.group.world_size
    mine = of_ranks[run.group.rank] if same else of_ranks.mean(axis=0)
    start = 0
    for parameter in run.statistics():
        piece = mine[start : start + parameter.size].reshape(parameter.shape)
        parameter.set_data(Tensor(piece.astype(np.float32)))
        start += parameter.size


def _start_from_weights(run: Run, source: Path) -> None:
    sidecar = checkpoints.read_sidecar(source)
    new_head = _starts_new_head(run, sidecar)
    _require_same_model(run, source, sidecar, classes=not new_head)
    weights = [p for p in run.network.get_parameters() if not (new_head and of_head(p.name))]
    load_parameters(source, weights, skip=CLASSIFIER if new_head else ())
    if new_head:
        _clear_head(run.network)
    head = (
        f"; its {sidecar.num_classes} classes are replaced by a new head of {run.dataset.num_classes}"
        if new_head
        else ""
    )
    if run.ema is not None:
        run.ema.restart()
    run.tell(f"starting from the weights of {source}{head}")


def _clear_head(network: EfficientNet) -> None:
    """Set the classifier to zero, as BiT does (Kolesnikov et al., 2020).

    A drawn one would first push its noise into the backbone that others have trained.
    """
    for parameter in network.get_parameters():
        if of_head(parameter.name):
            parameter.set_data(Tensor(np.zeros(parameter.shape, np.float32)))


def _starts_new_head(run: Run, sidecar: Sidecar) -> bool:
    """Whether the weights' classes are others, and the caller knows: said so, or how many are new."""
    model = run.config.model
    wanted = model.new_head or model.num_classes is not None
    return wanted and sidecar.class_names != run.dataset.class_names


def _require_same_model(run: Run, source: Path, sidecar: Sidecar, *, classes: bool = True) -> None:
    if sidecar.variant != run.config.model.variant:
        raise CheckpointError(
            f"checkpoint {source} is of variant {sidecar.variant}, the run trains "
            f"{run.config.model.variant}; change model.variant or the checkpoint"
        )
    if (sidecar.bn_eps, sidecar.padding) != (run.config.bn_eps, run.config.padding):
        raise CheckpointError(
            f"checkpoint {source} has eps {sidecar.bn_eps:g} and {sidecar.padding} padding, the run "
            f"{run.config.bn_eps:g} and {run.config.padding}; leave out model.bn_eps and model.padding"
        )
    if classes and sidecar.class_names != run.dataset.class_names:
        raise CheckpointError(
            f"checkpoint {source} knows {sidecar.num_classes} classes, the data set has "
            f"{run.dataset.num_classes}, or their names differ; use a checkpoint of the same classes, or "
            "set model.new_head=true to start a new head on its backbone"
        )


def _forget_later_metrics(run: Run) -> None:
    """Drop lines of steps and evaluations that will be done again."""
    path = run.run_dir / METRICS_NAME
    rows = read_jsonl(path)
    kept = [
        row
        for row in rows
        if row["step"] < run.step
        or (row["step"] == run.step and (row["kind"] != "eval" or run.epoch_finished))
    ]
    if len(kept) != len(rows):
        write_text(path, "".join(json.dumps(row) + "\n" for row in kept))
