"""What Prefect's logs say of errors: expected ones a sentence, others where they came from.

In the log of a service's run: ``test_service.py``.
"""

from __future__ import annotations

import errno
import logging
import os

import pytest
from prefect import flow, task

from effnet_core.errors import ConfigError
from flows.logs import LOGGERS, leave_out_tracebacks

pytestmark = pytest.mark.prefect


class Records(logging.Handler):
    """Keeps what has come."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


def records_of(error: Exception) -> list[logging.LogRecord]:
    """What is logged about a run whose task ends with an error."""

    @task
    def fails() -> None:
        raise error

    @flow(on_running=[leave_out_tracebacks])
    def run() -> None:
        fails()

    records = Records()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(records)
    try:
        with pytest.raises(type(error)):
            run()
    finally:
        for logger in loggers:
            logger.removeHandler(records)
    return records.kept


@pytest.mark.parametrize(("error", "tracebacks"), [(ConfigError, False), (KeyError, True)])
def test_only_unexpected_errors_have_a_traceback(error: type[Exception], tracebacks: bool) -> None:
    kept = records_of(error("data.batch is unknown"))
    told = [record for record in kept if "data.batch is unknown" in record.getMessage()]
    assert {record.name for record in told} >= {"prefect.flow_runs", "prefect.task_runs"}
    assert any(record.exc_info for record in kept) is tracebacks


@pytest.mark.parametrize(("number", "expected"), [(errno.ENOSPC, True), (errno.EIO, False)])
def test_a_full_disk_is_a_sentence(number: int, expected: bool) -> None:
    kept = records_of(OSError(number, os.strerror(number), "/disk/file"))
    assert any(record.exc_info for record in kept) is not expected
    assert any("make room, and run it again" in r.getMessage() for r in kept) is expected
