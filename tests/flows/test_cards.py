"""What tasks show on the dashboard: names of classes and files are text, whatever they are."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest

from effnet_core.events import Event
from effnet_core.results import EvalResult
from effnet_core.results.confusion import Confusion
from tasks.dashboard import cards, progress

pytestmark = pytest.mark.prefect

EVIL = "![x](http://evil.example/a.png) <img src=x onerror=alert(1)> a|b\n# forged `code`\x1b[2J"


def test_a_class_may_be_called_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(cards, "create_markdown_artifact", lambda text, **_: shown.append(text))
    result = EvalResult(
        seen=2,
        correct1=1,
        correct5=2,
        loss=1.0,
        class_names=[EVIL, "b"],
        confusion=Confusion.from_dense([[1, 0], [1, 0]]),
        split="val",
    )
    cards.show_evaluation(result, f"runs/{EVIL}")
    (text,) = shown
    lines = text.splitlines()
    assert [line for line in lines if line.startswith("#")] == ["# top-1 50.00%"]
    (row,) = (
        line for line in lines if "onerror" in line and "images" not in line and "1 |" in line
    )
    assert row.startswith(
        r"| \!\[x\]\(http://evil.example/a.png\) &lt;img src=x onerror=alert\(1\)>"
    )
    assert row.replace(r"\|", "").count("|") == 6
    (weights,) = (line for line in lines if line.startswith("| weights"))
    assert weights.count("`") == 2
    assert "\x1b" not in text


def test_a_message_is_one_line_of_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    logger = logging.getLogger("tests.cards")
    described: list[str] = []

    def create(**values: str) -> SimpleNamespace:
        described.append(values["description"])
        return SimpleNamespace()

    monkeypatch.setattr(progress, "get_run_logger", lambda: logger)
    monkeypatch.setattr(progress, "create_progress_artifact", create)
    dashboard = progress._Dashboard("x", (), f"files of {EVIL}")
    with caplog.at_level("INFO", logger="tests.cards"):
        dashboard(Event("x", "bad.jpg\n12:00:00  INFO  all is well\x1b[1A", 1, 1))
    (record,) = caplog.records
    assert record.getMessage() == r"bad.jpg\n12:00:00  INFO  all is well\x1b[1A"
    assert "![" not in described[0]
    assert "<img" not in described[0]
