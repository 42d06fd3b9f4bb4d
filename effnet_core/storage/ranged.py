"""Fetching one large object in parts, several at a time, and continuing where an earlier try was cut."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_EXCEPTION, wait
from contextlib import closing, suppress
from pathlib import Path
from threading import Lock

from effnet_core.errors import Conflict, StoreBusy, StoreError
from effnet_core.events import Event, Threads, emit, in_this_context
from effnet_core.storage.addresses import S3Url
from effnet_core.storage.bulk import Bulk, write_at
from effnet_core.storage.client import S3Access, s3_client
from effnet_core.storage.objects import StoredObject, patiently, require_object
from effnet_core.storage.refusals import explained
from effnet_core.text import human_bytes

PART_BYTES = 16 << 20
PART_THREADS = 8
JOURNAL_SUFFIX = ".parts"


def fetch(
    place: S3Url,
    path: Path,
    access: S3Access,
    *,
    expected: StoredObject | None = None,
    resume: bool = False,
    arrived: Callable[[int], None] | None = None,
) -> StoredObject:
    """Write an object's content to ``path``.

    Every request demands the etag of the first, so parts of two different objects are never mixed.
    The caller checks the digest and gives the file its name; until then it is not whole.

    Args:
        expected: the object as it was listed; looked up when absent.
        resume: note what has arrived in a file beside it (``.parts``), so that a later call continues
            there.
        arrived: called with the bytes of each part that was fetched.

    Raises:
        Conflict: the object changed meanwhile.
        StoreError: there is no such object, or the server refuses.
        OSError: the disk refuses.
    """
    found = expected or patiently(lambda: require_object(place, access))
    journal = _Journal(path, found, keep=resume)
    missing = journal.missing()
    bulk = Bulk(place.bucket, access)
    with path.open("r+b" if path.exists() else "w+b") as stream:
        stream.truncate(found.size_bytes)
        handle = stream.fileno()

        def one(part: int) -> None:
            start = part * PART_BYTES
            stop = min(start + PART_BYTES, found.size_bytes)
            if not bulk.copy_range(found, start, stop, handle):
                write_at(
                    handle, patiently(lambda: read_range(access, place, found, start, stop)), start
                )
            journal.note(part)
            if arrived is not None:
                arrived(stop - start)

        _all(one, missing)
    journal.path.unlink(missing_ok=True)
    return found


def _all(one: Callable[[int], None], parts: Iterable[int]) -> None:
    """Run ``one`` for every part; after an error no further part is begun."""
    with Threads(PART_THREADS) as pool:
        futures = [pool.submit(one, part) for part in parts]
        done, waiting = wait(futures, return_when=FIRST_EXCEPTION)
        for future in waiting:
            future.cancel()
        for future in done:
            future.result()


def read_range(access: S3Access, place: S3Url, found: StoredObject, start: int, stop: int) -> bytes:
    """Bytes ``start`` to ``stop``, by boto3."""
    client = s3_client(access)
    try:
        with explained(f"{place} cannot be read", client.meta.endpoint_url):
            answer = client.get_object(
                Bucket=place.bucket,
                Key=place.key,
                IfMatch=f'"{found.etag}"',
                Range=f"bytes={start}-{stop - 1}",
            )
            with closing(answer["Body"]) as body:  # "with body" would skip its checks
                data: bytes = body.read()
    except Conflict as cause:
        raise Conflict(f"{place} was replaced while it was read; start again") from cause
    if len(data) != stop - start:
        if len(data) == found.size_bytes:
            raise StoreError(f"the server of {place} ignores ranges; it cannot be read in parts")
        raise StoreBusy(f"{place} came cut; try again")
    return data


class _Journal:
    """Which parts of which object a file holds."""

    def __init__(self, path: Path, found: StoredObject, *, keep: bool) -> None:
        self.keep = keep
        self.path = path.with_name(path.name + JOURNAL_SUFFIX)
        self.count = -(-found.size_bytes // PART_BYTES)
        self._identity = {"etag": found.etag, "size_bytes": found.size_bytes, "part": PART_BYTES}
        self._lock = Lock()
        self._done: set[int] = set()
        with suppress(OSError, ValueError, KeyError, TypeError):
            lines = self.path.read_text().splitlines()
            if path.exists() and json.loads(lines[0]) == self._identity:
                self._done = {int(line) for line in lines[1:]}
        if not self._done:
            path.unlink(missing_ok=True)
        if not keep:
            return
        header = [json.dumps(self._identity), *map(str, sorted(self._done))]
        self.path.write_text("".join(f"{line}\n" for line in header))

    def missing(self) -> list[int]:
        """Parts that have not arrived."""
        return [part for part in range(self.count) if part not in self._done]

    def note(self, part: int) -> None:
        """Remember that a part is on its place."""
        if not self.keep:
            return
        with self._lock, self.path.open("a") as stream:
            stream.write(f"{part}\n")


TOPIC = "transfer"
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
        self._begun = self._reported = self._line = time.monotonic()
        self._emit = in_this_context(emit)  # boto3 counts in threads of its own

    def add(self, size_bytes: int) -> None:
        """Count bytes that have arrived."""
        with self._lock:
            self.done += size_bytes
            now = time.monotonic()
            if now - self._reported < EVENT_EVERY_S:
                return
            self._reported = now
            is_line = now - self._line >= LINE_EVERY_S
            if is_line:
                self._line = now
            done = self.done
        speed = self._speed(done)
        text = f"{self.what}: {human_bytes(done)} of {human_bytes(self.total)}, {speed} MB/s"
        metrics = {"mb_per_s": speed, "note": text}
        self._emit(Event(TOPIC, text if is_line else "", done, self.total, metrics))

    def end(self, files: int) -> None:
        """Say how much it was."""
        speed = self._speed(self.done)
        text = f"{self.what}: {files:,} file(s), {human_bytes(self.done)}, {speed} MB/s"
        self._emit(Event(TOPIC, text, self.total or None, self.total or None, {"mb_per_s": speed}))

    def _speed(self, done: int) -> float:
        return round(done / 1e6 / max(time.monotonic() - self._begun, 1e-6), 1)
