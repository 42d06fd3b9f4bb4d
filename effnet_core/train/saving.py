"""Checkpoints of a running training: written beside the steps, a few kept, and enough in them to continue."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from effnet_core.jobs.job import CHECKPOINTS_NAME
from effnet_core.train.metrics import require_folder
from effnet_core.train.run import Run
from effnet_core.train.state import Best, Losses
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.checkpoint import Sidecar

RANK_STATISTICS = "ranks.statistics"
"""BatchNorm's running statistics of every rank, (ranks, values), in a checkpoint from within an epoch."""


def save(run: Run, *, alone: bool = False) -> None:
    """Save the state of the run; every rank must call it, rank 0 writes.

    Args:
        alone: the other ranks do not call it, and their statistics are those of rank 0.

    Raises:
        CheckpointError: an earlier checkpoint could not be written.
    """
    of_ranks = None
    if not alone and run.group.world_size > 1 and not (run.at_epoch_end and run.epoch_finished):
        mine = [parameter.asnumpy().reshape(-1) for parameter in run.statistics()]
        of_ranks = run.group.gather_floats(np.concatenate(mine))
    if run.saver is None:
        return
    arrays = {parameter.name: parameter.asnumpy().copy() for parameter in run.parameters()}
    if of_ranks is not None:
        arrays[RANK_STATISTICS] = of_ranks
    require_folder(run)
    path = checkpoints.step_path(run.run_dir / CHECKPOINTS_NAME, run.step)
    run.saver.save(path, arrays, describe_checkpoint(run, training_state=True))


def due(run: Run) -> bool:
    """Whether rank 0's clock asks for a checkpoint."""
    minutes = run.config.train.checkpoint_every_minutes
    if run.saver is None or not minutes:
        return False
    return time.monotonic() - run.saver.saved_at >= 60 * minutes


def describe_checkpoint(run: Run, *, training_state: bool) -> Sidecar:
    """The sidecar of a checkpoint of the run as it is now."""
    metrics: dict[str, Any] = {}
    if run.latest is not None:
        metrics = {"top1": run.latest.top1, "top5": run.latest.top5, "loss": run.latest.loss}
    progress: dict[str, Any] = {}
    if training_state:
        progress = {
            "epoch_finished": run.epoch_finished,
            "losses": vars(run.losses).copy(),
            "best": vars(run.best).copy(),
            "spent_s": round(run.spent_s, 3),
            "train_size": run.train_size,
            "same_since": run.same_since,
        }
    return Sidecar(
        variant=run.config.model.variant,
        class_names=run.dataset.class_names,
        preprocess=run.spec,
        bn_momentum=run.config.model.bn_momentum,
        bn_eps=run.config.bn_eps,
        padding=run.config.padding,
        epoch=run.epoch,
        step=run.step,
        training_state=training_state,
        data_digest=run.dataset.digest,
        metrics=metrics,
        progress=progress,
    )


def restore_progress(run: Run, sidecar: Sidecar) -> None:
    """Take over what a checkpoint says about the course of the run."""
    progress = sidecar.progress
    run.epoch_finished = progress.get("epoch_finished", True)
    run.losses = Losses(**progress.get("losses", {}))
    run.best = Best(**progress.get("best", {}))
    run.spent_s = progress.get("spent_s", 0.0)


def save_best(run: Run) -> None:
    """Keep the weights as they are as the best of the run, on rank 0."""
    if run.saver is not None:
        require_folder(run)
        arrays = {p.name: p.asnumpy().copy() for p in run.network.get_parameters()}
        path = run.run_dir / CHECKPOINTS_NAME / checkpoints.BEST_NAME
        run.saver.save(path, arrays, describe_checkpoint(run, training_state=False))
