"""Whether the processes of a job still do anything: one that is stopped, or waits for a share, is silent.

Neither an exit code nor a time-out tells that soon. A job counts as stalled when nothing has been reported
for a while and meanwhile either all of its processes together used less than a hundredth of a core, or
one of them was stopped or waited for a disk without moving. A long compilation tells nothing either, but
it computes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import psutil

IDLE_SHARE = 0.01
"""Share of a core; a process that only waits has threads that look around now and then."""
STATES = {
    psutil.STATUS_STOPPED: "is stopped (SIGSTOP)",
    psutil.STATUS_TRACING_STOP: "is held by a debugger",
    psutil.STATUS_DISK_SLEEP: "waits for a disk or share that does not answer",
}
LOOKS = 20
"""How often the processes are looked at within the limit."""


@dataclass(frozen=True)
class Process:
    """What the system says of a process."""

    state: str
    """One of psutil's words."""
    cpu_s: float
    """Seconds that it has computed."""


def read_processes(pids: list[int]) -> dict[int, Process]:
    """State and computing time of those that are there."""
    found = {}
    for pid in pids:
        with suppress(psutil.Error):
            process = psutil.Process(pid)
            times = process.cpu_times()
            found[pid] = Process(process.status(), times.user + times.system)
    return found


class StallWatch:
    """Looks at a job's processes now and then."""

    def __init__(
        self,
        limit_s: float,
        look: Callable[[], dict[int, Process]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Begin to watch.

        Args:
            limit_s: how long nothing may happen; 0 means for ever.
            look: gives the processes.
            clock: seconds.
        """
        self.limit_s, self.look, self.clock = limit_s, look, clock
        self.reported: object = None
        self.next_look = 0.0
        self._begin()

    def _begin(self) -> None:
        self.since = self.clock()
        self.used_s = 0.0
        self.before: dict[int, Process] = {}
        self.still: dict[int, float] = {}

    def problem(self, reported: object) -> str | None:
        """What is wrong, as the end of a sentence; None as long as something happens.

        Args:
            reported: anything that changes whenever the job reports something.
        """
        if not self.limit_s:
            return None
        if reported != self.reported:
            self.reported = reported
            self._begin()
        now = self.clock()
        if now < self.next_look:
            return None
        self.next_look = now + self.limit_s / LOOKS
        self._note(now, self.look())
        all_wait = bool(self.before) and now - self.since >= self.limit_s
        for pid, began in self.still.items():
            if all_wait or now - began >= self.limit_s:
                return f"process {pid} {STATES[self.before[pid].state]}"
        return "its processes only wait" if all_wait else None

    def _note(self, now: float, found: dict[int, Process]) -> None:
        for pid, process in found.items():
            before = self.before.get(pid)
            used = process.cpu_s - before.cpu_s if before else 0.0
            self.used_s += used
            if process.state not in STATES or used > 0:
                self.still.pop(pid, None)
            else:
                self.still.setdefault(pid, now)
        self.still = {pid: began for pid, began in self.still.items() if pid in found}
        self.before = found
        if self.used_s > IDLE_SHARE * self.limit_s:
            self.since, self.used_s = now, 0.0
