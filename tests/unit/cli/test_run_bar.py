"""What a person sees of a training in a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from effnet_core.cli import lines, run_bar, terminal
from effnet_core.events import Event, emit

DECIDED = Event(
    "auto",
    "optim.name  adamw  usual",
    metrics={"kind": "decision", "key": "optim.name", "value": "adamw", "reason": "usual"},
)
ESTIMATED = Event(
    "auto",
    "estimate: the first model after about 10.0 s",
    metrics={"kind": "estimate", "probe_s": 10.0, "training_s": 90.0},
)
PROBED = Event("probe", "probe: top-1 50.00%", 1, 1, {"kind": "probe", "top1": 0.5})


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clock, as one number that a test moves."""
    time = [100.0]
    monkeypatch.setattr(run_bar.time, "monotonic", lambda: time[0])
    return time


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """A terminal of 160 columns."""
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=160, color_system=None)
    monkeypatch.setattr(terminal, "console", console)
    monkeypatch.setattr(lines, "is_watched", lambda: True)
    return text


def bar(progress: Progress) -> str:
    """The bar as it is now."""
    console = Console(width=160)
    with console.capture() as captured:
        console.print(progress)
    return " ".join(captured.get().split())


def test_decisions_are_a_table_above_the_bar(screen: io.StringIO) -> None:
    with lines.show_events(training=True):
        emit(DECIDED)
        emit(ESTIMATED)
    shown = screen.getvalue()
    assert "decided for these pictures and this machine" in shown
    assert [word for word in ("optim.name", "adamw", "usual") if word in shown] == [
        "optim.name",
        "adamw",
        "usual",
    ]
    assert "estimate: the first model after about 10.0 s" in shown


def test_an_estimate_that_is_told_again_is_a_line_without_the_table(screen: io.StringIO) -> None:
    with lines.show_events(training=True):
        emit(DECIDED)
        emit(ESTIMATED)
        emit(PROBED)
        emit(Event("auto", "measured: 3 epochs", metrics={**ESTIMATED.metrics, "probe_s": 0.0}))
    assert "measured: 3 epochs\n" in screen.getvalue()
    assert screen.getvalue().count("optim.name") == 1


def test_warnings_stay_on_the_screen(screen: io.StringIO) -> None:
    with lines.show_events(training=True):
        emit(Event("stage", "warning: 3 pictures are in two classes"))
        emit(Event("stage", "staging: out"))
    assert "warning: 3 pictures are in two classes\n" in screen.getvalue()


def test_one_bar_tells_step_time_left_and_accuracy(now: list[float]) -> None:
    with run_bar.bar_of_run(Console(file=io.StringIO())) as progress:
        emit(Event("stage", done=3, total=10))
        assert "staging" in bar(progress)
        assert "left" not in bar(progress)

        now[0] += 5
        emit(ESTIMATED)
        assert "about 1 min 40 s left" in bar(progress)
        now[0] += 5
        emit(Event("probe", done=1, total=2))
        assert "first model" in bar(progress)
        assert "10.0 s, about 1 min 35 s left" in bar(progress)
        emit(PROBED)
        assert "about 1 min 30 s left top-1 50.0%" in bar(progress)

        now[0] += 20
        emit(Event("train", "step 1", 1, 50, {"kind": "train", "loss": 1.0, "left_s": 60.0}))
        assert "training" in bar(progress)
        assert "30.0 s, about 1 min 00 s left" in bar(progress)
        now[0] += 30  # no event: the time goes down all the same
        assert "about 30.0 s left" in bar(progress)
        emit(Event("train", "step 20", 20, 50, {"kind": "eval", "top1": 0.75}))
        emit(Event("train", "step 30", 30, 50, {"kind": "eval", "top1": 0.7}))
        assert "top-1 75.0% (first model 50.0%)" in bar(progress)


def test_a_recipe_without_an_estimate_learns_the_time_from_the_steps(now: list[float]) -> None:
    with run_bar.bar_of_run(Console(file=io.StringIO())) as progress:
        emit(Event("train", "compiling the graph and doing the first step", 0, 50))
        assert "compiling the graph" in bar(progress)
        now[0] += 10
        emit(Event("train", "", 1, 50, {"kind": "train", "loss": 1.0, "left_s": 490.0}))
        assert "about 8 min 10 s left" in bar(progress)
