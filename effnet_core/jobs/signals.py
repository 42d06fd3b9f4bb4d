"""How a rank hears that it should stop, even while it waits inside C++.

Rank 0 finishes its step, saves and leaves. The other ranks and MindSpore's scheduler may not leave
before it, or it would wait for them for ever inside a collective: they stay until rank 0's answer is on
the disk.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from effnet_core.errors import EXIT_STOPPED, Interrupted

_stop = threading.Event()


def stop_requested() -> bool:
    """Whether this process was asked to stop."""
    return _stop.is_set()


def listen_as_first() -> None:
    """Note SIGTERM and SIGINT for ``stop_requested`` (rank 0)."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _stop.set())


def leave_at_once(sentence: str) -> None:
    """Raise ``Interrupted`` on SIGTERM or SIGINT: for a job that has no step to finish."""

    def leave(*_: object) -> None:
        raise Interrupted(sentence)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, leave)


def listen_as_other(answers: list[Path]) -> None:
    """Leave on SIGTERM or SIGINT, but only once one of rank 0's answer files exists."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    # The interpreter writes to this pipe inside the C signal handler, so the thread below wakes up
    # although the main thread may be waiting in a collective and cannot run a Python handler.
    signal.set_wakeup_fd(writer)
    threading.Thread(target=_leave_after, args=(reader, answers), daemon=True).start()


def _leave_after(reader: int, answers: list[Path]) -> None:
    os.read(reader, 1)
    while not any(path.exists() for path in answers):
        time.sleep(0.1)
    os._exit(EXIT_STOPPED)
