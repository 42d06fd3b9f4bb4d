"""One update of a run: masks, rate and batch in, loss out; and how to practise it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mindspore import Tensor

from effnet_core.data.loader import Batch
from effnet_core.family.scaling import drop_path_rates, expand
from effnet_core.family.variants import variant
from effnet_core.train.masks import drop_path_scale, dropout_scale, mask_generator
from effnet_core.train.mixing import change_batch, changes_batches
from effnet_core.train.optim import set_learning_rate
from effnet_core.train.run import Run, next_rate
from effnet_core.train.step import TrainStep

NOTHING, SAVE, STOP = 0.0, 1.0, 2.0
"""What rank 0 may want from all ranks after an update."""

SETTLED_STEPS = 30
"""Launches after which every CPU kernel has stopped to try how many pieces its loop is best cut into."""


def update(
    run: Run, cell: TrainStep, parts: Sequence[Batch], *, wish: float = NOTHING, spent_s: float = 0
) -> Tensor:
    """Do the update after ``run.step``; the caller counts it.

    Args:
        parts: its batches, ``optim.accumulate_steps`` of them.
        wish: what rank 0 wants from all ranks afterwards.
        spent_s: seconds that the run has taken, by rank 0's clock.

    Returns:
        As ``TrainStep``, with the mean loss of all parts.
    """
    run.rate = next_rate(run)
    set_learning_rate(run.optimizer, run.rate, run.lr_scales)
    if run.ema is not None:
        run.ema.set_step(run.step)
    *first, last = [_inputs(run, batch, part) for part, batch in enumerate(parts)]
    losses = [cell.collect(*inputs) for inputs in first]
    said = Tensor(np.array([wish, spent_s], dtype=np.float32))
    images, labels, *scales = last
    shared = cell(images, labels, said, *scales)
    if losses:
        total = sum(float(loss.asnumpy()) for loss in losses) + shared.asnumpy()[0]
        rest = shared.asnumpy()[1:]
        shared = Tensor(np.array([total / len(parts), *rest], dtype=np.float32))
    return shared


def _inputs(run: Run, batch: Batch, part: int) -> tuple[Tensor | None, ...]:
    """Images, labels and masks of one part of an update: a function of seed, step and rank."""
    config, size = run.config, run.config.per_device_batch_size
    draw = run.step * config.optim.accumulate_steps + part
    rng = mask_generator(config.train.seed, step=draw, rank=run.group.rank)
    path_scale = feature_scale = None
    architecture = expand(variant(config.model.variant))
    if config.model.drop_path_rate > 0 and not run.frozen:
        rates = drop_path_rates(len(architecture.blocks), config.model.drop_path_rate)
        path_scale = Tensor(drop_path_scale(rng, rates, size))
    if config.drop_rate > 0:
        shape = (size, architecture.head_channels)
        feature_scale = Tensor(dropout_scale(rng, config.drop_rate, shape))
    images, labels = batch.images, batch.labels
    if changes_batches(config.data):
        changed = change_batch(
            rng,
            images.asnumpy(),
            labels.asnumpy(),
            config.data,
            num_classes=run.dataset.num_classes,
        )
        images, labels = (Tensor(array) for array in changed)
    return images, labels, path_scale, feature_scale


def practise(run: Run, cell: TrainStep, steps: int) -> None:
    """Do ``steps`` updates with noise; what they do to the run must be overwritten by its checkpoint.

    MindSpore's CPU kernels try several ways to cut a loop into pieces, one after the other in their
    first launches, and other pieces round other last bits. A run that continues in a new process takes
    the bits of the run that was cut only where its kernels have been launched as often.
    """
    size, pixels = run.config.per_device_batch_size, run.train_size
    noise = np.random.default_rng(0).standard_normal((size, 3, pixels, pixels))
    batch = Batch(
        Tensor(noise.astype(np.float32)), Tensor(np.arange(size, dtype=np.int32) % 2), size
    )
    run.network.set_train(not run.frozen)
    cell.set_train(not run.frozen)
    parts = [batch] * run.config.optim.accumulate_steps
    for _ in range(steps):
        update(run, cell, parts).asnumpy()
