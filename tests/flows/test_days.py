"""The loop closes: the world changes, the loop notices, asks for labels, and promotes only what is better."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from benchmarks.days import Plan, simulate
from benchmarks.days_page import DAYS, LIFT, PAGE, page
from benchmarks.queue_lift import QUEUE, RANDOM
from effnet_core.system.files import read_json


@pytest.mark.slow
@pytest.mark.prefect
@pytest.mark.timeout(1800)
def test_days_on_a_schedule(tmp_path: Path) -> None:
    """A real server, real schedules, the real pipeline; from day 4 on pictures are inverted and shifted."""
    days = simulate(tmp_path, Plan(days=6))
    assert [day.drifted for day in days[:4]] == [False, False, False, True]
    assert [day.events for day in days[:4]] == [0, 0, 0, 1]
    before, first, last = days[2], days[3], days[-1]
    assert before.accuracy > 0.8 > 0.6 > first.accuracy
    assert first.wrong > 15  # the queue asks for what the model has wrong
    assert last.accuracy > first.accuracy + 0.1
    assert "images won" in first.night
    served = [version for version, _ in itertools.groupby(day.version for day in days)]
    assert len(served) == len(set(served)) > 1  # what was replaced never comes back
    assert all("is not more than" in day.old_again for day in days if day.old_again)
    assert days[-2].old_again  # the last day has no night


def test_the_page_says_what_was_measured() -> None:
    text = PAGE.read_text(encoding="utf-8")
    lift = read_json(LIFT)
    assert page(text, read_json(DAYS)["days"], lift) == text
    assert len(lift) == 5
    assert all(row["after"][QUEUE] > row["after"][RANDOM] for row in lift)
