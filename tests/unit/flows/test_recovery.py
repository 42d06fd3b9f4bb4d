"""Which crashes count, and when."""

from __future__ import annotations

import pytest

from flows.service.recovery import STOPPED, count_crashes

KILLED = ("CRASHED", "Process exited with status code: -9.")
REPORTED_AGAIN = ("CRASHED", "Flow run infrastructure exited with non-zero status code -9.")
STARTED = (("SCHEDULED", None), ("PENDING", None), ("RUNNING", None))
SIGTERM = ("CRASHED", "Execution was aborted by a termination signal.")


@pytest.mark.parametrize(
    ("history", "crashes"),
    [
        ((), 0),
        (STARTED, 0),
        ((*STARTED, KILLED), 1),
        ((*STARTED, KILLED, REPORTED_AGAIN), 1),
        ((*STARTED, KILLED, ("SCHEDULED", "tried again"), REPORTED_AGAIN), 1),
        ((*STARTED, KILLED, *STARTED, KILLED, REPORTED_AGAIN, *STARTED), 2),
        ((*STARTED, SIGTERM, *STARTED, ("CRASHED", STOPPED), *STARTED), 0),
        ((*STARTED, SIGTERM, REPORTED_AGAIN, *STARTED, KILLED), 1),
        ((("PENDING", None), ("CRASHED", None)), 1),
    ],
)
def test_each_start_counts_once_and_stops_never(
    history: tuple[tuple[str, str | None], ...], crashes: int
) -> None:
    states = [{"type": kind, "message": message} for kind, message in history]
    assert count_crashes(states) == crashes
