"""Bring the library's events to the dashboard: lines to the run's log, counts to a progress artifact.

A dashboard that cannot be reached must not stop the work: what it misses is in the run folder.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import httpx
from prefect.artifacts import create_progress_artifact, update_progress_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import ArtifactUpdate
from prefect.exceptions import PrefectHTTPStatusError
from prefect.logging import get_run_logger

from effnet_core.events import Event, listen
from effnet_core.text import markdown_text, visible

UPDATE_EVERY_S = 2.0
"""Each update is a request to the server, so they are rationed."""
MINUTE_S = 60
HOUR_S = 3600


@contextmanager
def never_in_the_way(what: str) -> Iterator[None]:
    """Log instead of raising when ``what`` cannot be sent to the server."""
    try:
        yield
    except (httpx.HTTPError, PrefectHTTPStatusError, OSError) as error:
        get_run_logger().warning(f"{what} could not be updated: {type(error).__name__} {error}")


def replace_artifact(artifact: UUID, data: Any) -> None:
    """Give an artifact new content, without another version of it."""
    with get_client(sync_client=True) as client:
        client.update_artifact(artifact, ArtifactUpdate(data=data))


class _Dashboard:
    """A listener that writes to the current task run."""

    def __init__(self, key: str, topics: tuple[str, ...], description: str) -> None:
        self.logger = get_run_logger()
        self.topics = topics
        self.description = description = markdown_text(description)
        self.shown = 0.0
        self.updated = time.monotonic()
        self.first: tuple[float, int] | None = None  # when, and how much was done then
        self.artifact: UUID | None = None
        with never_in_the_way("progress"):
            created = create_progress_artifact(progress=0.0, key=key, description=description)
            self.artifact = created if isinstance(created, UUID) else None

    def __call__(self, event: Event) -> None:
        if event.message:
            self.logger.info(visible(event.message))
        if event.topic in self.topics and event.total and event.done is not None:
            self.show(event.done, event.total)

    def show(self, done: int, total: int) -> None:
        """Move the bar, unless it was moved a moment ago."""
        now = time.monotonic()
        self.first = self.first or (now, done)
        percent = min(100.0, 100.0 * done / total)
        if now - self.updated >= UPDATE_EVERY_S and percent > self.shown:
            self._update(
                percent, f"{self.description}: {done:,} of {total:,}{self._left(done, total)}"
            )

    def finish(self) -> None:
        """Fill the bar."""
        self._update(100.0, f"{self.description}: done")

    def _left(self, done: int, total: int) -> str:
        """The time that is left, from the pace since the first event."""
        if self.first is None or done <= self.first[1]:
            return ""
        pace_s = (time.monotonic() - self.first[0]) / (done - self.first[1])
        return f", {human_seconds(pace_s * (total - done))} left"

    def _update(self, percent: float, text: str) -> None:
        if self.artifact is not None:
            with never_in_the_way("progress"):
                update_progress_artifact(self.artifact, progress=percent, description=text)
        self.shown, self.updated = percent, time.monotonic()


def human_seconds(seconds: float) -> str:
    """A duration for people, such as ``3 min`` or ``1 h 05 min``."""
    if seconds < 2 * MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < HOUR_S:
        return f"{seconds / MINUTE_S:.0f} min"
    hours, rest = divmod(int(seconds), HOUR_S)
    return f"{hours} h {rest // MINUTE_S:02d} min"


@contextmanager
def on_dashboard(key: str, *topics: str, description: str) -> Iterator[None]:
    """Show events inside the block on the dashboard.

    Args:
        key: of the progress artifact; lower-case letters, digits and dashes.
        topics: names of the events that move the bar.
        description: what the bar counts.
    """
    dashboard = _Dashboard(key, topics, description)
    with listen(dashboard):
        yield
    dashboard.finish()
