"""One update of a run: masks, learning rate and batches in, loss out; and the warm-up of its kernels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mindspore import Tensor

from effnet_core.data.loader import Batch
from effnet_core.family.scaling import drop_path_rates, expand
from effnet_core.family.variants import variant
from effnet_core.train.control import Control
from effnet_core.train.masks import drop_path_scale, dropout_scale, mask_generator
from effnet_core.train.mixing import change_batch, changes_batches
from effnet_core.train.optim import set_learning_rate
from effnet_core.train.run import Run, next_lr

WARM_UP_STEPS = 30
"""Launches after which every CPU kernel has settled on the number of pieces to cut its loop into."""


def update(
    run: Run, parts: Sequence[Batch], control: Control | None = None
) -> tuple[float, Control]:
    """Do the update after ``run.progress.step``; the caller counts it.

    Args:
        parts: its batches, ``optim.accumulate_steps`` of them.
        control: what this rank tells; only rank 0 has something to tell.

    Returns:
        The loss before the update, the mean over all parts and ranks, and what rank 0 sent.
    """
    setup, progress = run.setup, run.progress
    progress.lr = next_lr(run)
    set_learning_rate(run.optimizer, progress.lr, setup.lr_scales)
    if setup.step_options.ema is not None:
        setup.step_options.ema.set_step(progress.step)
    *first, (images, labels, *scales) = [
        _inputs(run, batch, part) for part, batch in enumerate(parts)
    ]
    losses = [run.cell.collect(*inputs) for inputs in first]
    mean = run.cell(images, labels, (control or Control()).encode(), *scales).asnumpy()
    losses_of_parts = [*(float(loss.asnumpy()) for loss in losses), float(mean[0])]
    received = Control.decode(mean[1:], world_size=setup.group.world_size)
    return sum(losses_of_parts) / len(parts), received


def _inputs(run: Run, batch: Batch, part: int) -> tuple[Tensor | None, ...]:
    """Images, labels and masks of one part of an update: a function of seed, step and rank."""
    setup, progress = run.setup, run.progress
    config, size = setup.config, setup.config.per_device_batch_size
    draw = progress.step * config.optim.accumulate_steps + part
    rng = mask_generator(config.train.seed, step=draw, rank=setup.group.rank)
    path_scale = feature_scale = None
    architecture = expand(variant(config.model.variant))
    if config.model.drop_path_rate > 0 and not progress.frozen:
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
            num_classes=setup.dataset.num_classes,
        )
        images, labels = (Tensor(array) for array in changed)
    return images, labels, path_scale, feature_scale


def warm_up(run: Run, steps: int) -> None:
    """Do ``steps`` updates with noise; the caller overwrites parameters and progress afterwards.

    MindSpore's CPU kernels try several ways to cut a loop into pieces, one after the other in their
    first launches, and other pieces round other last bits. A resumed run continues with the bits of
    the interrupted one only where its kernels have been launched as often.
    """
    size, pixels = run.setup.config.per_device_batch_size, run.progress.train_size
    noise = np.random.default_rng(0).standard_normal((size, 3, pixels, pixels))
    batch = Batch(
        Tensor(noise.astype(np.float32)), Tensor(np.arange(size, dtype=np.int32) % 2), size
    )
    run.set_train()
    for _ in range(steps):
        update(run, [batch] * run.setup.config.optim.accumulate_steps)
