"""What long work tells those who watch: one stream of events, any number of listeners.

Core functions call ``emit``; the terminal display, the Prefect run log and the tests listen. A
child process writes its events to ``events.jsonl`` and its parent emits them again, so a listener
does not know where the work was done.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from effnet_core.text import visible

logger = logging.getLogger("effnet_core")


@dataclass(frozen=True)
class Event:
    """One thing worth showing.

    ``done`` of ``total`` units of ``stage`` are finished when both are given; ``message`` is a line
    for a log; ``metrics`` are the numbers behind it.
    """

    stage: str
    message: str = ""
    done: int | None = None
    total: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON-ready values, empty fields left out."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "", {})}


Listener = Callable[[Event], None]

_listeners: list[Listener] = []


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Call ``listener`` for every event inside the ``with`` block."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def emit(event: Event) -> None:
    """Hand ``event`` to every listener, and its message to the ``effnet_core`` logger."""
    if event.message:
        event = replace(event, message=visible(event.message))
        logger.info(event.message)
    for listener in list(_listeners):
        listener(event)


PROGRESS_EVERY_S = 0.5
_last_progress: dict[str, float] = {}


def emit_sometimes(stage: str, done: int, total: int) -> None:
    """Tell how far a stage is: at most every ``PROGRESS_EVERY_S`` seconds, and at its end."""
    now = time.monotonic()
    if done >= total or now - _last_progress.get(stage, -PROGRESS_EVERY_S) >= PROGRESS_EVERY_S:
        _last_progress[stage] = now
        emit(Event(stage, done=done, total=total))
