"""How far a transfer is, and how fast: an event a second, and a line for logs twice a minute."""

from __future__ import annotations

import threading
import time

from effnet_core.events import Event, emit
from effnet_core.files import human_bytes

STAGE = "transfer"
EVENT_EVERY_S = 1.0
LINE_EVERY_S = 30.0


class Progress:
    """Bytes that have travelled; for many threads at once."""

    def __init__(self, what: str, total: int) -> None:
        """Begin to count.

        Args:
            what: such as ``fetched s3://bucket/prefix``.
            total: bytes that are to travel.
        """
        self.what, self.total, self.done = what, total, 0
        self._lock = threading.Lock()
        self._begun = self._told = self._line = time.monotonic()

    def add(self, size_bytes: int) -> None:
        """Count bytes that have arrived."""
        with self._lock:
            self.done += size_bytes
            now = time.monotonic()
            if now - self._told < EVENT_EVERY_S:
                return
            self._told = now
            is_line = now - self._line >= LINE_EVERY_S
            if is_line:
                self._line = now
            done = self.done
        speed = self._speed(done)
        text = f"{self.what}: {human_bytes(done)} of {human_bytes(self.total)}, {speed} MB/s"
        metrics = {"mb_per_s": speed, "note": text}
        emit(Event(STAGE, text if is_line else "", done, self.total, metrics))

    def end(self, files: int) -> None:
        """Say how much it was."""
        speed = self._speed(self.done)
        text = f"{self.what}: {files:,} file(s), {human_bytes(self.done)}, {speed} MB/s"
        emit(Event(STAGE, text, self.total or None, self.total or None, {"mb_per_s": speed}))

    def _speed(self, done: int) -> float:
        return round(done / 1e6 / max(time.monotonic() - self._begun, 1e-6), 1)
