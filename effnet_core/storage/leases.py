"""Leases in a bucket: who works on what, among processes that share nothing else.

A lease is an object that its holder replaces by another every few seconds, each time on the condition that
it is still the one that the holder wrote. Whoever sees the same object for longer than the lease lasts, by
its own clock, takes it over on the same condition: no two clocks are ever compared. A lease saves work and
decides nothing: what must happen once is written conditionally itself. See docs/adr/0024-bucket-output.md.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping
from typing import Any

from effnet_core.errors import Conflict, StoreBusy, StoreError
from effnet_core.events import in_this_context
from effnet_core.storage.objects import list_objects, patiently
from effnet_core.storage.s3 import S3Store

RENEWALS = 4
"""Times that a lease is renewed while it would last without."""


class Lease:
    """A lease that this process holds until it is released or lost."""

    def __init__(
        self, store: S3Store, key: str, facts: Mapping[str, Any], etag: str, lease_s: float
    ) -> None:
        """Keep a lease that was just written; use ``take``."""
        self.store, self.key = store, key
        self._facts, self._etag, self._renewed = dict(facts), etag, 0
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._lost = False
        self._thread = threading.Thread(
            target=in_this_context(self._keep), args=(lease_s / RENEWALS,), daemon=True
        )
        self._thread.start()

    @property
    def lost(self) -> bool:
        """Whether somebody has taken it over."""
        return self._lost

    def say(self, **facts: Any) -> None:
        """Change what the lease says, at once.

        Raises:
            Conflict: it was lost.
            StoreError: as the store.
        """
        with self._lock:
            self._facts.update(facts)
            self._write()

    def release(self) -> None:
        """Let go of it, unless it is somebody else's by now."""
        self._ended.set()
        self._thread.join()
        if not self._lost:
            self.store.delete(self.key)

    def _keep(self, every_s: float) -> None:
        while not self._ended.wait(every_s):
            with self._lock:
                try:
                    self._write()
                except StoreBusy:
                    continue  # out of reach for now; whoever takes over makes the next try fail
                except StoreError:
                    self._lost = True
                    return

    def _write(self) -> None:
        self._renewed += 1
        self._etag = self.store.put_bytes(
            self.key, _content(self._facts, self._renewed), if_match=self._etag
        )


def take(
    store: S3Store, key: str, facts: Mapping[str, Any], *, lease_s: float, instead_of: str = ""
) -> Lease | None:
    """Take a lease that nobody holds, or that its holder has let grow old.

    Args:
        store: the bucket.
        key: of the lease.
        facts: who takes it; must differ for each holder.
        lease_s: how long others wait for a sign of life.
        instead_of: etag of the lease that has grown old.

    Returns:
        None where another process was faster.

    Raises:
        StoreError: the bucket refuses, or knows no conditional writes.
    """
    try:
        etag = store.put_bytes(
            key,
            _content(facts, 0),
            if_match=instead_of or None,
            if_none_match=not instead_of,
        )
    except Conflict:
        return None
    except StoreBusy:
        raise
    except StoreError:
        if instead_of and store.head(key) is None:  # its holder has just let go
            return None
        raise
    return Lease(store, key, facts, etag, lease_s)


def _content(facts: Mapping[str, Any], renewed: int) -> bytes:
    return json.dumps({**facts, "renewed": renewed}).encode()


class Watch:
    """Which leases below a prefix show no sign of life, as one process sees it."""

    def __init__(self, store: S3Store, prefix: str, *, lease_s: float) -> None:
        self.store, self.prefix, self.lease_s = store, prefix, lease_s
        self._seen: dict[str, tuple[str, float]] = {}
        """Etag of each lease, and when it was first seen."""

    def look(self) -> dict[str, str]:
        """The leases that are there, by key, and their etags."""
        place = self.store.place.join(self.prefix)
        start = len(place.key) - len(self.prefix)
        found = patiently(lambda: list(list_objects(place, self.store.access)))
        now = time.monotonic()
        etags = {item.key[start:]: item.etag for item in found}
        self._seen = {
            key: self._seen[key] if self._seen.get(key, ("",))[0] == etag else (etag, now)
            for key, etag in etags.items()
        }
        return etags

    def stale(self, keys: Iterable[str]) -> dict[str, str]:
        """Those of some leases that have not changed for as long as one lasts, and their etags."""
        now = time.monotonic()
        seen = {key: self._seen[key] for key in keys if key in self._seen}
        return {key: etag for key, (etag, since) in seen.items() if now - since > self.lease_s}
