"""What a person sees in the terminal: a row of progress for each stage, or plain lines in a log file."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

from effnet_core.events import Event, listen

console = Console(highlight=False)
"""For answers and progress; errors go to standard error."""

PLAIN_LINE_EVERY_S = 5.0


class _Rows:
    """A live row for each stage, with the stage's last message under it."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.rows: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        stage = event.stage.partition(":")[0]
        if stage not in self.rows:
            self.rows[stage] = self.progress.add_task(stage, total=None, note="")
        row = self.rows[stage]
        if event.message:
            self.progress.update(row, note=event.message)
        if event.stage == stage and event.total:
            self.progress.update(row, completed=event.done or 0, total=event.total)


class _Lines:
    """One line a message; of repeated progress lines only some, so that a log stays readable."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        now = time.monotonic()
        repeated = "loss" in event.metrics and event.metrics.get("kind") == "train"
        if not event.message or (
            repeated and now - self.last.get(event.stage, 0) < PLAIN_LINE_EVERY_S
        ):
            return
        self.last[event.stage] = now
        console.print(f"{event.stage:>9}  {event.message}", soft_wrap=True, markup=False)


@contextmanager
def show_events() -> Iterator[None]:
    """Show all events inside the block: live rows on a terminal, lines elsewhere."""
    if not console.is_terminal:
        with listen(_Lines()):
            yield
        return
    columns = (
        SpinnerColumn(finished_text="[green]+[/green]"),
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}[/dim]", markup=True),
    )
    with Progress(*columns, console=console) as progress, listen(_Rows(progress)):
        yield
