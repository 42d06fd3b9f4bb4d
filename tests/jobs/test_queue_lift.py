"""What the review queue asks for is worth more than what chance draws; the better model is promoted, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.queue_lift import QUEUE, RANDOM, measure


@pytest.mark.slow
@pytest.mark.mindspore
@pytest.mark.timeout(900)
def test_what_the_queue_asks_for_is_worth_more_than_chance(tmp_path: Path) -> None:
    found = measure(0, tmp_path)
    assert found.after[QUEUE] > found.after[RANDOM] > found.before
    assert found.changed[QUEUE] > 2 * found.changed[RANDOM]
    assert found.promoted and found.refused
