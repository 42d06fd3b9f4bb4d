"""Checkpoints of a running training: what goes into them, and when rank 0's clock asks for one."""

from __future__ import annotations

import time

import numpy as np

from effnet_core.jobs.job import CHECKPOINTS_NAME
from effnet_core.train.metrics import require_folder
from effnet_core.train.run import Run
from effnet_core.train.saver import Saver
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.checkpoint import Sidecar

RANK_STATISTICS = "ranks.statistics"
"""BatchNorm's running statistics of every rank, (ranks, values), in a checkpoint from within an epoch."""


def open_saver(run: Run) -> Saver:
    """What writes the checkpoints of a run: into its folder, on rank 0."""
    setup = run.setup
    return Saver(
        setup.run_dir / CHECKPOINTS_NAME,
        keep=setup.config.train.keep_checkpoints,
        writes=setup.group.is_first,
    )


def save(run: Run, saver: Saver, *, alone: bool = False) -> None:
    """Save the state of the run; every rank must call it, rank 0 writes.

    Args:
        alone: the other ranks do not call it, and their statistics are those of rank 0.

    Raises:
        CheckpointError: an earlier checkpoint could not be written.
    """
    group, of_ranks = run.setup.group, None
    complete = run.at_epoch_end and run.progress.epoch_finished
    if not alone and group.world_size > 1 and not complete:
        mine = [parameter.asnumpy().reshape(-1) for parameter in run.statistics()]
        of_ranks = group.gather_floats(np.concatenate(mine))
    if not saver.writes:
        return
    arrays = {parameter.name: parameter.asnumpy().copy() for parameter in run.parameters()}
    if of_ranks is not None:
        arrays[RANK_STATISTICS] = of_ranks
    require_folder(run)
    path = checkpoints.step_path(saver.folder, run.progress.step)
    saver.save(path, arrays, describe_checkpoint(run, training_state=True))


def save_best(run: Run, saver: Saver) -> None:
    """Keep the weights as they are as the best of the run, on rank 0."""
    if not saver.writes:
        return
    require_folder(run)
    arrays = {p.name: p.asnumpy().copy() for p in run.setup.network.get_parameters()}
    path = saver.folder / checkpoints.BEST_NAME
    saver.save(path, arrays, describe_checkpoint(run, training_state=False))


def due(run: Run, saver: Saver) -> bool:
    """Whether rank 0's clock asks for a checkpoint."""
    minutes = run.setup.config.train.checkpoint_every_minutes
    if not saver.writes or not minutes:
        return False
    return time.monotonic() - saver.saved_at >= 60 * minutes


def describe_checkpoint(run: Run, *, training_state: bool) -> Sidecar:
    """The sidecar of a checkpoint of the run as it is now."""
    setup, progress = run.setup, run.progress
    return Sidecar(
        variant=setup.config.model.variant,
        class_names=setup.dataset.class_names,
        preprocess=setup.spec,
        bn_momentum=setup.config.model.bn_momentum,
        bn_eps=setup.config.bn_eps,
        padding=setup.config.padding,
        epoch=run.epoch,
        step=progress.step,
        training_state=training_state,
        data_digest=setup.dataset.digest,
        metrics=progress.metrics.copy(),
        progress=progress.to_dict() if training_state else {},
    )
