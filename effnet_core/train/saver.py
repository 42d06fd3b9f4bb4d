"""Checkpoints written by a thread of their own."""

from __future__ import annotations

import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from effnet_core.events import Threads
from effnet_core.weights import checkpoint as checkpoints
from effnet_core.weights.checkpoint import Sidecar


class Saver:
    """Writes one checkpoint at a time in a thread, so that steps do not wait for the disk."""

    def __init__(self, folder: Path, *, keep: int, writes: bool = True) -> None:
        """Make a saver for one rank.

        Args:
            keep: how many training checkpoints stay in ``folder``.
            writes: whether this rank writes checkpoints; only rank 0 does.
        """
        self.folder, self.keep, self.writes = folder, keep, writes
        self.saved_at = time.monotonic()
        self._threads = Threads(1, thread_name_prefix="saver")
        self._pending: Future[None] | None = None

    def save(self, path: Path, arrays: dict[str, NDArray[Any]], sidecar: Sidecar) -> None:
        """Begin to write a checkpoint; the arrays must not change any more.

        Raises:
            CheckpointError: the one before could not be written.
        """
        self.join()
        self.saved_at = time.monotonic()
        self._pending = self._threads.submit(self._write, path, arrays, sidecar)

    def raise_if_failed(self) -> None:
        """Raise the error of a write that has failed, without waiting for one that is under way.

        Raises:
            CheckpointError: it could not be written; earlier checkpoints are untouched.
        """
        if self._pending is not None and self._pending.done():
            self.join()

    def join(self) -> None:
        """Wait until everything is on the disk.

        Raises:
            CheckpointError: it could not be written; earlier checkpoints are untouched.
        """
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """Wait for the last write, whether it succeeds or not."""
        self._threads.shutdown(wait=True)

    def _write(self, path: Path, arrays: dict[str, NDArray[Any]], sidecar: Sidecar) -> None:
        checkpoints.save_arrays(path, arrays, sidecar, inside=self.folder.parent)
        checkpoints.prune(self.folder, self.keep)
