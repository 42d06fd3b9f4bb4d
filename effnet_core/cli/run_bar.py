"""What a person sees of a training in the terminal: one table, then one bar for the whole run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn
from rich.table import Table

from effnet_core.cli import terminal
from effnet_core.events import Event, listen
from effnet_core.text import format_seconds

NAMES = {"stage": "staging", "auto": "measuring", "probe": "first model", "train": "training"}
"""Of topics of a run, as they are shown."""
WHOLE = 1000
"""Parts of the bar."""


class _Bar(Progress):
    """A bar whose time left goes down between events, too."""

    run: RunBar | None = None

    def get_renderables(self) -> Iterator[Any]:
        """Called for each picture of the bar."""
        if self.run is not None:
            self.run.tick()
        yield from super().get_renderables()


class RunBar:
    """One bar for staging, first model and fine-tuning, with time left and accuracy so far."""

    def __init__(self, progress: _Bar) -> None:
        self.progress = progress
        self.began = time.monotonic()
        self.known_at: float | None = None
        """When ``left_s`` was reported."""
        self.left_s = self.probe_s = self.training_s = 0.0
        self.topic = "stage"
        self.probe_top1: float | None = None
        self.best_top1: float | None = None
        self.decisions: list[dict[str, str]] = []
        self.row = progress.add_task("", total=None, time="", top1="", note="")
        progress.run = self

    def __call__(self, event: Event) -> None:
        """Show what an event changes."""
        topic, kind = event.topic.partition(":")[0], event.metrics.get("kind")
        if kind == "decision":
            self.decisions.append(event.metrics)
            return
        if kind == "estimate":
            self._show_decisions(event)
        elif event.message and "warning" in event.message:
            self.progress.console.print(event.message, style="yellow")
        if topic in NAMES:
            self.topic = topic
        self._learn_time(event, topic)
        self._learn_accuracy(event, kind)
        note = event.message or event.metrics.get("note")
        if note and kind not in ("estimate", "probe"):
            self.progress.update(self.row, note=note)
        self.tick()

    def tick(self) -> None:
        """Bring bar and times up to now."""
        spent = time.monotonic() - self.began
        text, done, total = format_seconds(spent), 0.0, None
        if self.known_at is not None:
            left = max(0.0, self.left_s - (time.monotonic() - self.known_at))
            done, total = WHOLE * spent / (spent + left + 1e-9), WHOLE
            text += f", about {format_seconds(round(left))} left"
        name = NAMES[self.topic]
        self.progress.update(self.row, completed=done, total=total, description=name, time=text)

    def _learn_time(self, event: Event, topic: str) -> None:
        left = event.metrics.get("left_s")
        if event.metrics.get("kind") == "estimate":
            self.probe_s, self.training_s = event.metrics["probe_s"], event.metrics["training_s"]
            left = self.probe_s + self.training_s
        elif event.metrics.get("kind") == "probe":
            left = self.training_s
        elif topic == "probe" and event.total and self.probe_s:
            left = self.probe_s * (1 - (event.done or 0) / event.total) + self.training_s
        if left:
            self.left_s, self.known_at = left, time.monotonic()

    def _learn_accuracy(self, event: Event, kind: object) -> None:
        top1 = event.metrics.get("top1")
        if top1 is None or kind not in ("probe", "eval"):
            return
        if kind == "probe":
            self.probe_top1 = top1
        self.best_top1 = max(top1, self.best_top1 or 0.0)
        text = f"top-1 {self.best_top1:.1%}"
        if self.probe_top1 is not None and kind == "eval":
            text += f" (first model {self.probe_top1:.1%})"
        self.progress.update(self.row, top1=text)

    def _show_decisions(self, event: Event) -> None:
        if not self.decisions:  # an estimate that came again
            self.progress.console.print(event.message)
            return
        table = Table()
        for column in ("key", "value", "reason"):
            table.add_column({"key": "setting"}.get(column, column), overflow="fold")
        for decision in self.decisions:
            table.add_row(*(decision[column] for column in ("key", "value", "reason")))
        self.progress.console.print("decided for these pictures and this machine:")
        self.progress.console.print(table)
        self.decisions.clear()
        self.progress.console.print(event.message)


@contextmanager
def bar_of_run(console: Console) -> Iterator[Progress]:
    """Listen to a training inside the block and draw one bar of it."""
    columns = (
        SpinnerColumn(finished_text="[green]+[/green]"),
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[time]}", markup=False),
        TextColumn("{task.fields[top1]}", style="bold", markup=False),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    progress = _Bar(*columns, console=console, transient=True)
    bar = RunBar(progress)
    with progress, listen(bar):
        yield progress


@contextmanager
def show_run() -> Iterator[None]:
    """Show a training inside the block: what was decided, and one bar."""
    with bar_of_run(terminal.console):
        yield
