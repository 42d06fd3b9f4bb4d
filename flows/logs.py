"""Keeps the tracebacks of expected errors out of Prefect's logs: their sentence says all there is to do."""

from __future__ import annotations

import logging

from effnet_core.errors import EffnetError
from effnet_core.system.files import is_full

LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")
"""What Prefect reports the end of a flow, a task and a process with."""


def _without_traceback(record: logging.LogRecord) -> bool:
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, EffnetError):
        record.exc_info = None
    elif error is not None and is_full(error):
        record.msg = f"{record.getMessage()}; make room, and run it again"
        record.args = record.exc_info = None
    return True


def leave_out_tracebacks(flow: object, flow_run: object, state: object) -> None:
    """From now on, in this process; unexpected errors keep theirs. A hook of every flow (``on_running``)."""
    for name in LOGGERS:
        logging.getLogger(name).addFilter(_without_traceback)
