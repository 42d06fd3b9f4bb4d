"""The learning rate of every step, as plain numpy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from effnet_core.config import ScheduleConfig
from effnet_core.errors import ConfigError


def lr_schedule(
    cfg: ScheduleConfig, peak_lr: float, *, steps_per_epoch: int, epochs: int
) -> NDArray[np.float32]:
    """Learning rate of every optimizer step in a run.

    Rises linearly from zero during warm-up. Then ``cosine`` falls towards ``min_lr`` until the end, and
    ``exponential`` is multiplied by ``decay_factor`` every ``decay_epochs``, counted from the start of
    the run, and never falls below ``min_lr``.

    Args:
        peak_lr: rate at the end of warm-up, already scaled to the global batch.
        steps_per_epoch: updates in one pass over the training split.
        epochs: passes in the run.

    Returns:
        float32, shape (steps_per_epoch * epochs,); entry 0 belongs to the first update.

    Raises:
        ConfigError: ``min_lr`` is above ``peak_lr``.

    Source: Tan & Le, EfficientNet (arXiv 1905.11946), section 5.2; cosine from Loshchilov & Hutter
    (arXiv 1608.03983).
    """
    if cfg.min_lr > peak_lr:
        raise ConfigError(
            f"schedule.min_lr={cfg.min_lr:g} is above the peak rate {peak_lr:g} "
            "(optim.base_lr * data.global_batch_size / 256); lower one or raise the other"
        )
    total = steps_per_epoch * epochs
    warmup = round(cfg.warmup_epochs * steps_per_epoch)
    step = np.arange(total, dtype=np.float64)
    if cfg.name == "cosine":
        progress = np.clip((step - warmup) / max(1, total - warmup), 0.0, 1.0)
        rate = cfg.min_lr + 0.5 * (peak_lr - cfg.min_lr) * (1.0 + np.cos(np.pi * progress))
    else:
        drops = np.floor(step / steps_per_epoch / cfg.decay_epochs)
        rate = np.maximum(peak_lr * cfg.decay_factor**drops, cfg.min_lr)
    rising = peak_lr * (step + 1) / max(1, warmup)
    return np.where(step < warmup, rising, rate).astype(np.float32)
