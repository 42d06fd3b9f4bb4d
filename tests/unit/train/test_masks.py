"""Masks of dropout and stochastic depth: the rate asked for, and the mean kept."""

from __future__ import annotations

import numpy as np
import pytest

from effnet_core.family.scaling import drop_path_rates
from effnet_core.train.masks import drop_path_scale, dropout_scale, mask_generator


def test_a_mask_is_a_function_of_seed_step_and_rank() -> None:
    def mask(seed: int, step: int, rank: int) -> list[float]:
        return dropout_scale(mask_generator(seed, step=step, rank=rank), 0.5, (64,)).tolist()

    assert mask(1, 2, 3) == mask(1, 2, 3)
    assert len({tuple(mask(*place)) for place in [(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)]}) == 4


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.5, 0.9])
def test_dropout_drops_at_the_rate_asked_and_keeps_the_mean(rate: float) -> None:
    scale = dropout_scale(np.random.default_rng(0), rate, (400, 500))
    assert scale.dtype == np.float32
    assert set(np.unique(scale)) <= {np.float32(0), np.float32(1 / (1 - rate))}
    # Five standard deviations of a mean over 200,000 draws.
    error = 5 * np.sqrt(rate * (1 - rate) / scale.size)
    assert (scale == 0).mean() == pytest.approx(rate, abs=error)
    assert scale.mean() == pytest.approx(1, abs=error / (1 - rate) + 1e-6)


def test_stochastic_depth_drops_each_block_at_its_own_rate() -> None:
    rates = drop_path_rates(16, 0.2)
    scale = drop_path_scale(np.random.default_rng(0), rates, 40_000)
    assert scale.shape == (16, 40_000, 1, 1, 1)
    dropped = (scale == 0).mean(axis=(1, 2, 3, 4))
    assert dropped == pytest.approx(rates, abs=5 * 0.4 / 200)
    assert dropped[0] == 0
    assert scale.mean(axis=(1, 2, 3, 4)) == pytest.approx(1, abs=5 * 0.5 / 200)


def test_images_of_a_batch_are_dropped_one_by_one() -> None:
    scale = drop_path_scale(np.random.default_rng(0), [0.5], 64)[0].reshape(-1)
    assert 0 < (scale == 0).sum() < 64


def test_rate_zero_is_ones() -> None:
    assert (drop_path_scale(np.random.default_rng(0), (0.0, 0.0), 8) == 1).all()
