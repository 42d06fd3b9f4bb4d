"""What a person sees in the terminal: a row of progress for each topic (``lines.py``: in a log file)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

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
from rich.text import Text

from effnet_core.events import Event, listen
from effnet_core.text import visible_lines


class _Console(Console):
    """A console that prints strings as they are: no markup, no emoji, nothing that a terminal obeys."""

    def render_str(self, text: str, **options: Any) -> Text:
        """What a string looks like, in lines and in cells of tables."""
        return super().render_str(visible_lines(text), **options)

    def on_broken_pipe(self) -> None:
        """Let the command end as every other one does (``guard.py``)."""
        raise BrokenPipeError


console = _Console(highlight=False, markup=False, emoji=False)
"""For answers and progress; errors go to standard error."""


class _Rows:
    """A live row for each topic, with the topic's last message under it."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.rows: dict[str, TaskID] = {}

    def __call__(self, event: Event) -> None:
        topic = event.topic.partition(":")[0]
        if topic not in self.rows:
            self.rows[topic] = self.progress.add_task(topic, total=None, note="")
        row = self.rows[topic]
        note = event.message or event.metrics.get("note")
        if note:
            self.progress.update(row, note=note)
        if event.topic == topic and event.total:
            self.progress.update(row, completed=event.done or 0, total=event.total)


@contextmanager
def show_rows() -> Iterator[None]:
    """Show all events inside the block as live rows."""
    columns = (
        SpinnerColumn(finished_text="[green]+[/green]"),
        TextColumn("{task.description:<9}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[note]}", style="dim", markup=False),
    )
    with Progress(*columns, console=console) as progress, listen(_Rows(progress)):
        yield
