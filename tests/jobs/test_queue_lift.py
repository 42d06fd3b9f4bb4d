"""What the review queue asks for is worth more than what chance draws; the better model is promoted, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.queue_lift import QUEUE, RANDOM, measure
from effnet_core.system.files import read_json
from tests.flows.service import ROOT


@pytest.mark.slow
@pytest.mark.mindspore
@pytest.mark.timeout(900)
def test_what_the_queue_asks_for_is_worth_more_than_chance(tmp_path: Path) -> None:
    found = measure(0, tmp_path)
    assert found.after[QUEUE] > found.after[RANDOM] > found.before
    assert found.changed[QUEUE] > 2 * found.changed[RANDOM]
    assert found.promoted and found.refused


def test_the_documentation_says_what_was_measured() -> None:
    text = (ROOT / "docs" / "quality.md").read_text(encoding="utf-8")
    for row in read_json(ROOT / "benchmarks" / "queue_lift.json"):
        cells = [row["before"], *row["after"].values()]
        assert f"| {row['seed']} | {' | '.join(f'{share:.1%}' for share in cells)} |" in text
        assert row["after"][QUEUE] > row["after"][RANDOM]
        assert row["promoted"] and row["refused"]
