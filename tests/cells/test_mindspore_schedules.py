"""Schedules that hold the rate within an epoch are MindSpore's own, step for step."""

from __future__ import annotations

import numpy as np
import pytest
from mindspore import nn

from effnet_core.config.schema import ScheduleConfig
from effnet_core.train.schedule import lr_schedule

STEPS, OF_EPOCH, DECAY = 47, 4, 3


def ours(warmup_epochs: float = 0, **settings: object) -> np.ndarray:
    cfg = ScheduleConfig(warmup_epochs=warmup_epochs, by_epoch=True, **settings)
    return lr_schedule(cfg, 0.1, steps_per_epoch=OF_EPOCH, total_steps=STEPS)


@pytest.mark.parametrize("decay_epochs", [1, 3, 7, 20])
def test_cosine(decay_epochs: int) -> None:
    theirs = nn.cosine_decay_lr(0.001, 0.1, STEPS, OF_EPOCH, decay_epochs)
    found = ours(name="cosine", min_lr=0.001, decay_epochs=decay_epochs)
    assert np.array_equal(found, np.float32(theirs))


@pytest.mark.parametrize("stair", [False, True])
@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("exponential", nn.exponential_decay_lr),
        ("natural_exp", nn.natural_exp_decay_lr),
        ("inverse", nn.inverse_decay_lr),
    ],
)
def test_decays(name: str, function: object, stair: bool) -> None:
    theirs = function(0.1, 0.9, STEPS, OF_EPOCH, DECAY, stair)  # type: ignore[operator]
    found = ours(name=name, decay_factor=0.9, decay_epochs=DECAY, stair=stair)
    assert found == pytest.approx(np.float32(theirs), rel=1e-6)


@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_polynomial(power: float, cycle: bool) -> None:
    theirs = nn.polynomial_decay_lr(0.1, 0.01, STEPS, OF_EPOCH, DECAY, power, cycle)
    found = ours(name="polynomial", min_lr=0.01, decay_epochs=DECAY, power=power, cycle=cycle)
    assert found == pytest.approx(np.float32(theirs), rel=1e-6)


def test_pieces() -> None:
    theirs = nn.piecewise_constant_lr([3, 10, STEPS], [0.1, 0.05, 0.01])
    found = ours(name="piecewise_constant", milestones=(3, 10, STEPS), rates=(0.1, 0.05, 0.01))
    assert np.array_equal(found, np.float32(theirs))


def test_warm_up() -> None:
    theirs = nn.warmup_lr(0.1, STEPS, OF_EPOCH, 5)
    assert ours(5, name="cosine")[: 5 * OF_EPOCH].tolist() == pytest.approx(theirs[: 5 * OF_EPOCH])
