"""Events as plain lines, where no person watches a terminal; rich is not even loaded for them."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from effnet_core.events import Event, listen
from effnet_core.text import visible_lines

PLAIN_LINE_EVERY_S = 5.0
RICH_DECIDES = ("FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
"""Variables by which rich takes for a terminal what is none, or the other way round."""


class _Lines:
    """One line a message; of repeated progress lines only some, so that a log stays readable."""

    def __init__(self) -> None:
        self.last: dict[str, float] = {}

    def __call__(self, event: Event) -> None:
        now, kind = time.monotonic(), event.metrics.get("kind")
        repeated = "loss" in event.metrics and kind == "train"
        if not event.message or (
            repeated and now - self.last.get(event.topic, 0) < PLAIN_LINE_EVERY_S
        ):
            return
        if kind != "reminder":  # else it would keep back the news that it asks for
            self.last[event.topic] = now
        say(f"{event.topic:>9}  {event.message}")


def is_watched() -> bool:
    """Whether the output is a terminal."""
    if any(name in os.environ for name in RICH_DECIDES):
        from effnet_core.cli.terminal import console

        return console.is_terminal
    return sys.stdout.isatty()


def say(text: str) -> None:
    """Print a line as it stands, however long it is."""
    if is_watched():
        from effnet_core.cli.terminal import console

        console.print(text, soft_wrap=True, markup=False)
    else:
        sys.stdout.write(f"{visible_lines(text)}\n")


@contextmanager
def show_events(*, training: bool = False) -> Iterator[None]:
    """Show all events inside the block: live rows on a terminal, lines elsewhere.

    Args:
        training: one bar for the whole run instead of a row a stage.
    """
    if is_watched() and training:
        from effnet_core.cli.run_bar import show_run

        shown = show_run()
    elif is_watched():
        from effnet_core.cli.terminal import show_rows

        shown = show_rows()
    else:
        shown = listen(_Lines())
    with shown:
        yield
