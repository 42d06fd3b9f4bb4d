"""What Prefect's logs say of errors: expected ones a sentence, others where they came from."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from prefect import flow, task

from effnet_core.errors import ConfigError
from flows.logs import LOGGERS, leave_out_tracebacks
from tests.flows.service import TestedService

pytestmark = pytest.mark.prefect


class Records(logging.Handler):
    """Keeps what has come."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.kept.append(record)


@pytest.mark.parametrize(("error", "tracebacks"), [(ConfigError, False), (KeyError, True)])
def test_only_unexpected_errors_have_a_traceback(error: type[Exception], tracebacks: bool) -> None:
    @task
    def fails() -> None:
        raise error("data.batch is unknown")

    @flow(on_running=[leave_out_tracebacks])
    def run() -> None:
        fails()

    records = Records()
    loggers = [logging.getLogger(name) for name in LOGGERS]
    for logger in loggers:
        logger.addHandler(records)
    try:
        with pytest.raises(error):
            run()
    finally:
        for logger in loggers:
            logger.removeHandler(records)
    told = [record for record in records.kept if "data.batch is unknown" in record.getMessage()]
    assert {record.name for record in told} >= {"prefect.flow_runs", "prefect.task_runs"}
    assert any(record.exc_info for record in records.kept) is tracebacks


@pytest.mark.mindspore
def test_a_mistyped_setting_is_one_sentence_in_a_runs_log(
    service: TestedService, data_dir: Path, tmp_path: Path
) -> None:
    options = ["-p", f"data={data_dir}", "-p", f"run_dir={tmp_path / 'run'}"]
    options += ["-p", "overrides=[data.batch_size=4]"]
    done = service.effnet("run", "train-b0", *options, "--watch")
    assert done.returncode == 1
    assert (
        "unknown setting 'data.batch_size'; did you mean 'data.global_batch_size'?" in done.stdout
    )
    assert "Traceback" not in done.stdout + done.stderr
