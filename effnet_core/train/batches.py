"""The batches of an epoch on one rank, from wherever a resumed run is in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from effnet_core.data.loader import Batch, batches, batches_in_blocks
from effnet_core.data.order import epoch_order, train_indices
from effnet_core.data.transforms import train_transforms
from effnet_core.train.run import Run

BLOCK_IMAGES = 4096
"""Images of a rank that are augmented from one seed: what a resumed run has to augment again at most."""


def in_parts(loaded: Iterator[Batch], size: int) -> Iterator[list[Batch]]:
    """So many batches at a time."""
    while parts := list(islice(loaded, size)):
        yield parts


def epoch_batches(run: Run) -> Iterator[Batch]:
    """This rank's batches of the epoch that the next step is in, from that step to the end."""
    setup, config = run.setup, run.setup.config
    epoch, steps_done = divmod(run.progress.step, setup.steps_per_epoch)
    done, size = steps_done * config.optim.accumulate_steps, config.per_device_batch_size
    indices = _indices(run, epoch)
    _print_share(run, epoch, indices[done * size :])
    spec = replace(setup.spec, image_size=run.progress.train_size)

    def block(begin: int, end: int) -> Iterator[Batch]:
        seed = np.random.SeedSequence([config.train.seed, epoch, setup.group.rank, begin])
        return batches(
            setup.train_split,
            indices[begin * size : end * size].tolist(),
            transforms=train_transforms(spec, config.data),
            batch_size=size,
            workers=config.data.workers,
            check_share=config.data.check_share,
            sink=config.data.sink,
            seed=int(seed.generate_state(1)[0] >> 1),
            background=spec.background,
        )

    return batches_in_blocks(
        block, steps=len(indices) // size, first=done, block_steps=max(1, BLOCK_IMAGES // size)
    )


def _indices(run: Run, epoch: int) -> NDArray[np.int64]:
    """Positions of this rank's images of an epoch."""
    setup, config = run.setup, run.setup.config
    order = epoch_order(
        len(setup.train_split), seed=config.train.seed, epoch=epoch, repeats=config.data.repeats
    )
    return train_indices(
        order[: setup.steps_per_epoch * config.data.global_batch_size],
        rank=setup.group.rank,
        world_size=setup.group.world_size,
        per_device_batch_size=config.per_device_batch_size,
    )


def _print_share(run: Run, epoch: int, indices: NDArray[np.int64]) -> None:
    """Put this rank's share of an epoch into its log."""
    group, ids = run.setup.group, [run.setup.train_split.image_ids[i] for i in indices]
    digest = hashlib.sha256("".join(ids).encode()).hexdigest()[:12]
    print(
        f"rank {group.rank} of {group.world_size}: epoch {epoch + 1} shard {digest}, "
        f"{len(ids)} images, first {' '.join(ids[:3])}",
        flush=True,
    )
