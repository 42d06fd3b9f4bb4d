"""Which image is seen when, by which rank: plain arithmetic, the same on every machine.

MindSpore's own samplers pad shards by repeating images and shuffle with hidden state; these rules do
neither, so evaluation counts are exact and a resumed run sees what the straight run would have seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int64]


def epoch_order(num_images: int, *, seed: int, epoch: int, repeats: int = 1) -> IntArray:
    """A permutation of all images, or several in a row, a pure function of seed and epoch."""
    passes = range(epoch * repeats, (epoch + 1) * repeats)
    return np.concatenate(
        [np.random.default_rng([seed, 1, n]).permutation(num_images) for n in passes]
    )


def train_indices(
    order: IntArray, *, rank: int, world_size: int, per_device_batch_size: int, first_step: int = 0
) -> IntArray:
    """One rank's images of an epoch, batch after batch.

    Each global batch is a run of ``order``; rank r takes the r-th share of it. Images that do not fill
    a last global batch wait for another epoch's order.

    Args:
        order: permutation of the epoch.
        first_step: global batches of this epoch that are done already.

    Returns:
        shape (steps * per_device_batch_size,).
    """
    global_batch = per_device_batch_size * world_size
    steps = len(order) // global_batch
    batches = order[: steps * global_batch].reshape(steps, world_size, per_device_batch_size)
    return batches[first_step:, rank].reshape(-1)


def eval_range(num_images: int, *, rank: int, world_size: int) -> range:
    """One rank's images of an evaluation: contiguous, none twice, none left out."""
    return range(rank * num_images // world_size, (rank + 1) * num_images // world_size)
