"""What one process adds to a run: who writes checkpoints and figures, and a clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from effnet_core.train.run import Run
from effnet_core.train.saver import Saver
from effnet_core.train.saving import open_saver
from effnet_core.train.tracking import Trackers, open_trackers


class Clock:
    """Seconds of a run, by the clock of this process."""

    def __init__(self, spent_s: float = 0.0) -> None:
        """Make a clock that has not started.

        Args:
            spent_s: seconds that earlier processes have spent.
        """
        self._earlier_s = spent_s
        self._started: float | None = None
        self.steps = 0
        self.seconds = 0.0

    def start(self) -> None:
        """Count from now on, if it does not yet: the graph is compiled, the first step done."""
        if self._started is None:
            self._started = time.monotonic()

    @property
    def spent_s(self) -> float:
        """Seconds since the run's first step, those of earlier processes included."""
        if self._started is None:
            return self._earlier_s
        return self._earlier_s + time.monotonic() - self._started

    def add(self, steps: int, seconds: float) -> None:
        """Count ``steps`` that took ``seconds``, without compilation, evaluation and saving."""
        self.steps += steps
        self.seconds += seconds

    @property
    def steps_per_s(self) -> float:
        """Speed of the steps counted; 0.0 where there are none."""
        return self.steps / self.seconds if self.steps else 0.0


@dataclass(frozen=True)
class Session:
    """What this process adds to a run."""

    saver: Saver
    trackers: Trackers
    """Where rows of metrics.jsonl go too; only rank 0 has some."""
    clock: Clock


@contextmanager
def open_session(run: Run) -> Iterator[Session]:
    """The session of a run; at the end everything is on the disk.

    Raises:
        ConfigError: a tracker cannot be used.
        CheckpointError: the last checkpoint could not be written.
    """
    setup, saver = run.setup, open_saver(run)
    trackers = Trackers([])
    if setup.group.is_first:
        trackers = open_trackers(setup.config, setup.run_dir, from_step=run.progress.step)
    try:
        yield Session(saver, trackers, Clock(run.progress.spent_s))
        saver.join()
    finally:
        saver.close()
        trackers.close(finished=run.finished)
