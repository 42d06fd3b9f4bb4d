"""Bring the library's events to the dashboard: lines to the run's log, counts to a progress artifact."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.logging import get_run_logger

from effnet_core.events import Event, listen

UPDATE_EVERY_S = 2.0
"""Each update is a request to the server, so they are rationed."""


class _Dashboard:
    """A listener that writes to the current task run."""

    def __init__(self, key: str, stages: tuple[str, ...], description: str) -> None:
        self.logger = get_run_logger()
        self.stages = stages
        self.shown = 0.0
        self.updated = time.monotonic()
        created = create_progress_artifact(progress=0.0, key=key, description=description)
        self.artifact = created if isinstance(created, UUID) else None

    def __call__(self, event: Event) -> None:
        if event.message:
            self.logger.info(event.message)
        if event.stage in self.stages and event.total and event.done is not None:
            self.show(100.0 * event.done / event.total)

    def show(self, percent: float, *, at_once: bool = False) -> None:
        """Move the bar, unless it was moved a moment ago."""
        due = at_once or time.monotonic() - self.updated >= UPDATE_EVERY_S
        if due and self.artifact is not None and percent > self.shown:
            update_progress_artifact(self.artifact, progress=min(100.0, percent))
            self.shown, self.updated = percent, time.monotonic()


@contextmanager
def on_dashboard(key: str, *stages: str, description: str) -> Iterator[None]:
    """Show events inside the block on the dashboard.

    Args:
        key: of the progress artifact; lower-case letters, digits and dashes.
        stages: names of the events that move the bar.
        description: what the bar counts.
    """
    dashboard = _Dashboard(key, stages, description)
    with listen(dashboard):
        yield
    dashboard.show(100.0, at_once=True)
