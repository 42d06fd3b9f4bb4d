"""One update of a run: masks, rate and batch in, loss out; and how to practise it."""

from __future__ import annotations

import numpy as np
from mindspore import Tensor

from effnet_core.data.loader import Batch
from effnet_core.model.regularisation import drop_path_scale, dropout_scale, mask_generator
from effnet_core.model.scaling import drop_path_rates, expand
from effnet_core.model.spec import variant
from effnet_core.train.optim import set_learning_rate
from effnet_core.train.run import Run
from effnet_core.train.step import TrainStep

NOTHING, SAVE, STOP = 0.0, 1.0, 2.0
"""What rank 0 may want from all ranks after an update."""

SETTLED_STEPS = 30
"""Launches after which every CPU kernel has stopped to try how many pieces its loop is best cut into."""


def update(run: Run, cell: TrainStep, batch: Batch, *, wish: float = NOTHING) -> Tensor:
    """Do the update after ``run.step``; the caller counts it.

    Returns:
        As ``TrainStep``: the mean loss over ranks and what rank 0 wishes.
    """
    config, size = run.config, run.config.per_device_batch_size
    rng = mask_generator(config.train.seed, step=run.step, rank=run.group.rank)
    path_scale = feature_scale = None
    architecture = expand(variant(config.model.variant))
    if config.model.drop_path_rate > 0 and not run.frozen:
        rates = drop_path_rates(len(architecture.blocks), config.model.drop_path_rate)
        path_scale = Tensor(drop_path_scale(rng, rates, size))
    if config.drop_rate > 0:
        shape = (size, architecture.head_channels)
        feature_scale = Tensor(dropout_scale(rng, config.drop_rate, shape))
    set_learning_rate(
        run.optimizer,
        float(run.rates[run.step]),
        backbone_scale=config.optim.backbone_lr_scale,
    )
    wished = Tensor(np.array([wish], dtype=np.float32))
    return cell(batch.images, batch.labels, wished, path_scale, feature_scale)


def practise(run: Run, cell: TrainStep, steps: int) -> None:
    """Do ``steps`` updates with noise; what they do to the run must be overwritten by its checkpoint.

    MindSpore's CPU kernels try several ways to cut a loop into pieces, one after the other in their
    first launches, and other pieces round other last bits. A run that goes on in a new process takes
    the bits of the run that was cut only where its kernels have been launched as often.
    """
    size, pixels = run.config.per_device_batch_size, run.config.train_image_size
    noise = np.random.default_rng(0).standard_normal((size, 3, pixels, pixels))
    batch = Batch(
        Tensor(noise.astype(np.float32)), Tensor(np.arange(size, dtype=np.int32) % 2), size
    )
    run.network.set_train(not run.frozen)
    cell.set_train(not run.frozen)
    for _ in range(steps):
        update(run, cell, batch).asnumpy()
