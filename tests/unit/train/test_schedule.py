"""The learning rate of chosen steps."""

from __future__ import annotations

import numpy as np
import pytest

from effnet_core.config.schema import ScheduleConfig
from effnet_core.errors import ConfigError
from effnet_core.train.schedule import lr_schedule


def rates(
    peak: float = 0.1, *, steps: int = 10, epochs: int = 20, **settings: object
) -> np.ndarray:
    values = lr_schedule(
        ScheduleConfig(**settings), peak, steps_per_epoch=steps, total_steps=steps * epochs
    )
    assert values.dtype == np.float32
    assert values.shape == (steps * epochs,)
    assert np.isfinite(values).all()
    assert (values >= 0).all()
    return values


@pytest.mark.parametrize("name", ["cosine", "exponential"])
def test_warm_up_rises_linearly_to_the_peak(name: str) -> None:
    values = rates(name=name, warmup_epochs=2)
    assert values[0] == pytest.approx(0.1 / 20)
    assert values[9] == pytest.approx(0.05)
    assert values[19] == pytest.approx(0.1)
    assert np.diff(values[:20]) == pytest.approx(0.1 / 20, rel=1e-4)


def test_cosine_halves_in_the_middle_and_ends_low() -> None:
    values = rates(warmup_epochs=2)
    assert values[20] == pytest.approx(0.1)
    assert values[20 + 90] == pytest.approx(0.05)
    assert values[-1] == pytest.approx(0.5 * 0.1 * (1 + np.cos(np.pi * 179 / 180)))
    assert (np.diff(values[20:]) < 0).all()


def test_exponential_steps_down_every_decay_epochs_from_the_start_of_the_run() -> None:
    values = rates(name="exponential", warmup_epochs=3, decay_factor=0.5, decay_epochs=2.4)
    assert values[29] == pytest.approx(0.1)
    assert values[30] == pytest.approx(0.05)  # epoch 3: one drop has passed during warm-up
    assert values[47] == pytest.approx(0.05)
    assert values[48] == pytest.approx(0.025)  # epoch 4.8
    assert values[72] == pytest.approx(0.0125)


@pytest.mark.parametrize("name", ["cosine", "exponential"])
def test_min_lr_is_a_floor_after_warm_up(name: str) -> None:
    values = rates(name=name, warmup_epochs=1, min_lr=0.03, decay_factor=0.5, decay_epochs=1)
    assert values[10:].min() == pytest.approx(0.03, rel=0.01)
    assert values[10:].min() >= np.float32(0.03)
    assert values[0] < 0.03


@pytest.mark.parametrize("name", ["cosine", "exponential"])
def test_no_warm_up_starts_at_the_peak(name: str) -> None:
    assert rates(name=name, warmup_epochs=0)[0] == pytest.approx(0.1)


def test_part_of_an_epoch_of_warm_up() -> None:
    values = rates(warmup_epochs=0.5)
    assert values[4] == pytest.approx(0.1)
    assert values[0] == pytest.approx(0.02)


def test_one_step_in_all() -> None:
    assert rates(steps=1, epochs=1, warmup_epochs=0).tolist() == pytest.approx([0.1])


def test_a_floor_above_the_peak_is_refused_with_both_numbers() -> None:
    with pytest.raises(ConfigError, match=r"schedule.min_lr=0.2 is above the peak rate 0.1"):
        rates(min_lr=0.2)


def test_warm_up_longer_than_the_run_is_refused_in_steps_too() -> None:
    with pytest.raises(
        ConfigError, match=r"warmup_epochs=5 are 50 steps and do not end before the r"
    ):
        lr_schedule(ScheduleConfig(), 0.1, steps_per_epoch=10, total_steps=50)


def test_polynomial_ends_at_min_lr() -> None:
    values = rates(name="polynomial", warmup_epochs=0, min_lr=0.02, power=2.0)
    assert values[100] == pytest.approx(0.02 + 0.08 * 0.25)
    assert values[-1] == pytest.approx(0.02, rel=1e-3)


def test_pieces_and_the_last_one_stays() -> None:
    values = rates(
        name="piecewise_constant", warmup_epochs=0, milestones=(30, 50), rates=(0.2, 0.05)
    )
    assert values[[0, 29, 30, 49, 50, 199]].tolist() == pytest.approx([0.2, 0.2, *[0.05] * 4])
