"""Keeps the tracebacks of expected errors out of Prefect's logs: their sentence says all there is to do."""

from __future__ import annotations

import logging

from effnet_core.errors import EffnetError

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
"""What Prefect reports the end of a flow, a task and a process with."""


def _without_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], EffnetError):
        record.exc_info = None
    return True


def leave_out_tracebacks(flow: object, flow_run: object, state: object) -> None:
    """From now on, in this process; unexpected errors keep theirs. A hook of every flow (``on_running``)."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_without_traceback)
