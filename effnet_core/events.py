"""What long work tells those who watch: one stream of events, any number of listeners.

Core functions call ``emit``; the terminal display, the Prefect run log and the tests listen. A
child process writes its events to ``events.jsonl`` and its parent emits them again, so a listener
does not know where the work was done.

Listeners belong to the context (``contextvars``) of the code that listens, so two runs in one process
do not hear each other. A plain thread starts without context: use ``Threads`` and ``in_this_context``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor  # noqa: TID251 - it makes Threads
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ParamSpec, TypeVar

from effnet_core.text import visible

logger = logging.getLogger("effnet_core")


@dataclass(frozen=True)
class Event:
    """One thing worth showing.

    ``done`` of ``total`` units of ``topic`` are finished when both are given; ``message`` is a line
    for a log; ``metrics`` are the numbers behind it.
    """

    topic: str
    """What it is about: ``train``, ``stage``, ``launch``..."""
    message: str = ""
    done: int | None = None
    total: int | None = None
    metrics: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The event as JSON-ready values, empty fields left out."""
        return {key: value for key, value in asdict(self).items() if value not in (None, "", {})}


Listener = Callable[[Event], None]
P = ParamSpec("P")
R = TypeVar("R")


_listeners: ContextVar[tuple[Listener, ...]] = ContextVar("effnet_core.listeners", default=())
_last_shown: ContextVar[dict[str, float]] = ContextVar("effnet_core.last_shown")
"""When ``emit_sometimes`` last passed a topic to these listeners."""


@contextmanager
def listen(listener: Listener) -> Iterator[None]:
    """Call ``listener`` for every event of the code inside the ``with`` block and of its ``Threads``."""
    all_of_them, shown = _listeners.set((*_listeners.get(), listener)), _last_shown.set({})
    try:
        yield
    finally:
        _last_shown.reset(shown)
        _listeners.reset(all_of_them)


def emit(event: Event) -> None:
    """Hand ``event`` to every listener, and its message to the ``effnet_core`` logger."""
    if event.message:
        event = replace(event, message=visible(event.message))
        logger.info(event.message)
    for listener in _listeners.get():
        listener(event)


PROGRESS_EVERY_S = 0.5


def emit_sometimes(topic: str, done: int, total: int) -> None:
    """Tell how far a topic is: at most every ``PROGRESS_EVERY_S`` seconds, and at its end."""
    if not _listeners.get():
        return
    now, shown = time.monotonic(), _last_shown.get()
    if done >= total or now - shown.get(topic, -PROGRESS_EVERY_S) >= PROGRESS_EVERY_S:
        shown[topic] = now
        emit(Event(topic, done=done, total=total))


def in_this_context(function: Callable[P, R]) -> Callable[P, R]:
    """``function`` with the listeners and credentials of this moment, whichever thread calls it.

    Threads may call it at the same time, and what it sets in its context stays in that call.
    """
    context = copy_context()

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        return context.copy().run(function, *args, **kwargs)

    return call


class Threads(ThreadPoolExecutor):
    """A pool whose work has the listeners and credentials of the code that submits it."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """As ``Executor.submit``, in a copy of the caller's context."""
        return super().submit(in_this_context(fn), *args, **kwargs)
