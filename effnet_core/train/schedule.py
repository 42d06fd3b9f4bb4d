"""The learning rate of every step, as plain numpy."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from effnet_core.config.schema import ScheduleConfig
from effnet_core.errors import ConfigError

EXPONENTIAL_EPOCHS = 2.4
"""Epochs of one decay where ``decay_epochs`` is left out, as in the paper."""

Rates = NDArray[np.float64]


def lr_schedule(
    cfg: ScheduleConfig, peak_lr: float, *, steps_per_epoch: int, total_steps: int
) -> NDArray[np.float32]:
    """Learning rate of every optimizer step in a run.

    Rises linearly from zero during warm-up, then falls from ``peak_lr`` in the shape of ``cfg.name``.
    With ``by_epoch`` and without warm-up the values are those of MindSpore's ``cosine_decay_lr``,
    ``exponential_decay_lr``, ``natural_exp_decay_lr``, ``inverse_decay_lr`` and ``polynomial_decay_lr``;
    ``piecewise_constant`` is ``piecewise_constant_lr``; the warm-up is ``warmup_lr``.

    Args:
        peak_lr: rate at the end of warm-up, already scaled to the global batch.
        steps_per_epoch: updates in one epoch.
        total_steps: updates in the run.

    Returns:
        float32, shape (total_steps,); entry 0 belongs to the first update.

    Raises:
        ConfigError: ``min_lr`` is above ``peak_lr``, or warm-up does not end before the run does.

    Source: Tan & Le, EfficientNet (arXiv 1905.11946), section 5.2; cosine from Loshchilov & Hutter
    (arXiv 1608.03983).
    """
    if round(cfg.warmup_epochs * steps_per_epoch) >= total_steps:
        raise ConfigError(
            f"schedule.warmup_epochs={cfg.warmup_epochs:g} are "
            f"{round(cfg.warmup_epochs * steps_per_epoch)} steps and do not end before the run of "
            f"{total_steps} steps does; lower it or make the run longer (train.epochs, train.budget)"
        )
    step = np.arange(total_steps, dtype=np.float64)
    return rate_at(
        cfg, peak_lr, step=step, steps_per_epoch=steps_per_epoch, total_steps=total_steps
    ).astype(np.float32)


def rate_at(
    cfg: ScheduleConfig, peak_lr: float, *, step: Rates, steps_per_epoch: int, total_steps: float
) -> Rates:
    """Learning rate of the updates after ``step`` ones; ``total_steps`` may be an estimate.

    Raises:
        ConfigError: ``min_lr`` is above ``peak_lr``.
    """
    if cfg.name == "piecewise_constant":
        pieces = np.searchsorted(np.array(cfg.milestones), step, side="right")
        rate = np.array(cfg.rates)[np.minimum(pieces, len(cfg.rates) - 1)]
    else:
        if cfg.min_lr > peak_lr:
            raise ConfigError(
                f"schedule.min_lr={cfg.min_lr:g} is above the peak rate {peak_lr:g} "
                "(optim.base_lr * data.global_batch_size / 256); lower one or raise the other"
            )
        rate = _shape(cfg, peak_lr, step, steps_per_epoch, total_steps)
    warmup = round(cfg.warmup_epochs * steps_per_epoch)
    top = rate if cfg.name == "piecewise_constant" else peak_lr
    if cfg.by_epoch:
        risen = np.floor(step / steps_per_epoch) / max(cfg.warmup_epochs, 1e-9)
    else:
        risen = (step + 1) / max(1, warmup)
    return np.where(step < warmup, top * risen, rate)


def _shape(
    cfg: ScheduleConfig, peak_lr: float, step: Rates, steps_per_epoch: int, total_steps: float
) -> Rates:
    """The rate without warm-up."""
    if cfg.by_epoch:
        epoch, start = np.floor(step / steps_per_epoch), 0.0
    else:
        epoch, start = step / steps_per_epoch, cfg.warmup_epochs
    if cfg.name in ("cosine", "polynomial"):
        # Without an end of their own they fall from the end of warm-up to the end of the run.
        if cfg.decay_epochs is None:
            warmup = round(start * steps_per_epoch) / steps_per_epoch
            past, length = epoch - warmup, total_steps / steps_per_epoch - warmup
        else:
            past, length = epoch, cfg.decay_epochs
        return _fall(cfg, peak_lr, np.maximum(past, 0.0), max(length, 1 / steps_per_epoch))
    rate: Rates
    decays = epoch / (cfg.decay_epochs or EXPONENTIAL_EPOCHS)
    if cfg.stair:
        decays = np.floor(decays)
    if cfg.name == "exponential":
        rate = peak_lr * cfg.decay_factor**decays
    elif cfg.name == "natural_exp":
        # MindSpore's counts epochs, not decays, unless it falls in stairs.
        past = decays * (cfg.decay_epochs or EXPONENTIAL_EPOCHS) if cfg.stair else epoch
        rate = peak_lr * np.exp(-cfg.decay_factor * past)
    else:
        rate = peak_lr / (1 + cfg.decay_factor * decays)
    rate = np.maximum(rate, cfg.min_lr)
    return rate


def _fall(cfg: ScheduleConfig, peak_lr: float, past: Rates, length: float) -> Rates:
    """From ``peak_lr`` to ``min_lr`` in ``length`` epochs, ``past`` of which are over."""
    delta = peak_lr - cfg.min_lr
    rate: Rates
    if cfg.name == "cosine":
        share = np.minimum(past, length) / length
        rate = cfg.min_lr + 0.5 * delta * (1.0 + np.cos(math.pi * share))
        return rate
    if cfg.cycle:
        share = past / (length * np.maximum(np.ceil(past / length), 1))
    else:
        share = np.minimum(past, length) / length
    rate = cfg.min_lr + delta * (1.0 - share) ** cfg.power
    return rate
