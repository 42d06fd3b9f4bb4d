"""What the card of a training says; that it is on the dashboard is seen in the pipeline's test."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.dashboard.training import training_card
from tests.support.tiny import tiny_config

ROW = {
    "kind": "train",
    "epoch": 3,
    "step": 1200,
    "loss": 1.5,
    "loss_mean": 1.25,
    "lr": 0.1,
    "images_per_s": 20.0,
}


@pytest.mark.parametrize(
    ("length", "shown"),
    [
        ("train.epochs=7", "| epoch | 3 of 7, step 1,200 |"),
        ("train.budget=12 epochs", "| epoch | 3 of 12, step 1,200 |"),
        ("train.budget=30 minutes", "| epoch | 3 in a run of 30 minutes, step 1,200 |"),
        ("train.budget=90000 steps", "| epoch | 3 in a run of 90000 steps, step 1,200 |"),
    ],
)
def test_how_far_a_run_is_in_the_unit_of_its_length(length: str, shown: str) -> None:
    card = training_card(tiny_config(length), Path("run"), [ROW], None)
    assert shown in card
    assert card.count("](data:image/png;base64,") == 2  # loss beside accuracy, and the rate
