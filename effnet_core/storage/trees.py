"""Whole folders to and from a bucket: many objects at once, each once, continuing after a cut."""

from __future__ import annotations

import json
import os
import threading
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, TypeVar

from effnet_core.errors import DataError
from effnet_core.events import Event, Threads, emit
from effnet_core.storage.addresses import S3Url, require_name
from effnet_core.storage.bulk import MD5_ETAG, SMALL_BYTES, THREADS, Bulk, write_at
from effnet_core.storage.client import S3Access, s3_client, transfer_config
from effnet_core.storage.folders import walk
from effnet_core.storage.objects import StoredObject, list_objects
from effnet_core.storage.ranged import JOURNAL_SUFFIX, Progress, fetch
from effnet_core.storage.refusals import explained
from effnet_core.system.files import (
    LOCK_NAME,
    digest_of_file,
    part_name,
    put_in_place,
    require_space,
)
from effnet_core.text import is_unicode, os_reason

STATE_NAME = ".fetched.jsonl"
CLOCK_TICK_S = 1.0
"""What servers round times to: within it an object may be older than a file of the same time."""

T = TypeVar("T")


def list_tree(place: S3Url, access: S3Access) -> list[StoredObject]:
    """Every object below a prefix, as files of a folder; empty markers of folders are left out.

    Raises:
        DataError: there is none, or a key cannot be a file below a folder.
        StoreError: the bucket cannot be listed.
    """
    prefix = folder_key(place)
    found = [
        item
        for item in list_objects(S3Url(place.bucket, prefix), access)
        if not (item.key.endswith("/") and item.size_bytes == 0)
    ]
    if not found:
        raise DataError(f"{place} has no objects; correct the address")
    found = _usable(place, prefix, found)
    _require_names(place, [item.key.removeprefix(prefix) for item in found])
    return found


def _usable(place: S3Url, prefix: str, found: list[StoredObject]) -> list[StoredObject]:
    """Objects whose keys can be files below a folder; a bad name costs one object.

    Raises:
        DataError: there is no other.
    """
    good, bad = [], []
    for item in found:
        name = item.key.removeprefix(prefix)
        try:
            require_name(name)
            if name.endswith("/"):
                raise ValueError("a slash at its end, but content")
            good.append(item)
        except ValueError as reason:
            bad.append(f"a key with {reason} ({name!r})")
    if bad and not good:
        raise DataError(f"{place} is refused: it has {bad[0]}; rename or remove it")
    if bad:
        emit(Event("copy", f"left out: {len(bad):,} object(s) of {place}; the first: {bad[0]}"))
    return good


def folder_key(place: S3Url) -> str:
    """The beginning of the keys below an address."""
    return f"{place.key.rstrip('/')}/" if place.key.strip("/") else ""


def download_tree(
    place: S3Url, folder: Path, access: S3Access, *, objects: Sequence[StoredObject] | None = None
) -> int:
    """Bring every object below a prefix to a folder, and count those that had to be fetched.

    What is there with the etag of the listing is kept; a large object continues in the middle.

    Args:
        objects: as ``list_tree`` gave them; listed when absent.

    Raises:
        DataError: a key cannot be a file, or there is no room.
        StoreError: the server refuses.
    """
    found = list_tree(place, access) if objects is None else objects
    prefix = folder_key(place)
    state = _State(folder)
    missing = [item for item in found if not state.has(item.key.removeprefix(prefix), item)]
    total = sum(item.size_bytes for item in missing)
    require_space(folder, total, what=f"fetching {place}")
    bulk = Bulk(place.bucket, access)
    progress = Progress(f"fetched {place}", total)

    def one(item: StoredObject) -> None:
        name = item.key.removeprefix(prefix)
        path = folder / name
        if item.size_bytes <= SMALL_BYTES:
            _write_small(path, bulk.get(item))
            progress.add(item.size_bytes)
        else:
            _fetch_large(S3Url(place.bucket, item.key), path, access, item, progress)
        state.note(name, item)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        _in_threads(one, missing)
    except OSError as cause:
        raise DataError(
            f"{place} cannot be fetched into {folder} ({os_reason(cause)}); choose a folder that can be "
            "written to and has room"
        ) from cause
    finally:
        state.close()
    progress.end(len(missing))
    return len(missing)


def upload_tree(folder: Path, place: S3Url, access: S3Access) -> int:
    """Store every file of a folder below a prefix, and count those that had to be sent.

    A file is not sent again when an object of its size is there that is newer, as ``aws s3 sync`` decides,
    or that has its content by the server's MD5.

    Raises:
        DataError: the folder is missing or empty, or a file cannot be read.
        StoreError: the server refuses.
    """
    paths = _files(folder) if folder.is_dir() else []
    if folder.is_file():
        raise DataError(f"{folder} is a file; give the folder that it is in: {folder.parent}")
    if not paths:
        raise DataError(f"folder {folder} has no files to upload")
    prefix = folder_key(place)
    there = {item.key: item for item in list_objects(S3Url(place.bucket, prefix), access)}
    try:
        missing = [
            path
            for path in paths
            if not _is_there(path, there.get(prefix + path.relative_to(folder).as_posix()))
        ]
    except OSError as cause:
        raise _unreadable(cause, folder) from cause
    bulk = Bulk(place.bucket, access)
    progress = Progress(f"stored {place}", sum(path.stat().st_size for path in missing))

    def one(path: Path) -> None:
        key = prefix + path.relative_to(folder).as_posix()
        size = path.stat().st_size
        if size <= SMALL_BYTES:
            bulk.put(key, path.read_bytes())
            progress.add(size)
        else:
            client = s3_client(access)
            with explained(
                f"s3://{place.bucket}/{key} cannot be written", client.meta.endpoint_url
            ):
                client.upload_file(
                    str(path),
                    place.bucket,
                    key,
                    Callback=progress.add,
                    Config=transfer_config(),
                )

    try:
        _in_threads(one, missing)
    except OSError as cause:
        raise _unreadable(cause, folder) from cause
    progress.end(len(missing))
    return len(missing)


def _files(folder: Path) -> list[Path]:
    """Every file of a folder and those below it, links to folders included, each once.

    Locks of commands that write there are no files of it. Names that are not UTF-8 cannot be keys.

    Raises:
        DataError: the folder cannot be listed.
    """
    try:
        walked = walk(folder, skip=lambda name, _: "a lock" if name == LOCK_NAME else "")
    except OSError as cause:
        raise _unreadable(cause, folder) from cause
    bad = [(name, "a name that is not UTF-8") for name in walked.files if not is_unicode(name)]
    left_out = [item for item in walked.left_out if item[1] != "a lock"] + bad
    if left_out:
        name, reason = left_out[0]
        emit(Event("copy", f"left out: {len(left_out):,} of {folder}, such as {name!r} ({reason})"))
    unicode = (folder / name for name in walked.files if is_unicode(name))
    return [path for path in unicode if path.is_file()]


def _unreadable(cause: OSError, folder: Path) -> DataError:
    return DataError(f"{cause.filename or folder} cannot be read ({os_reason(cause)})")


def _is_there(path: Path, found: StoredObject | None) -> bool:
    """Whether an object holds what a file holds, read only where size and times do not decide."""
    if found is None:
        return False
    facts = path.stat()
    if facts.st_size != found.size_bytes:
        return False
    if facts.st_mtime + CLOCK_TICK_S < found.modified_s:
        return True
    if not MD5_ETAG.fullmatch(found.etag):
        return facts.st_mtime <= found.modified_s
    return digest_of_file(path, "md5") == found.etag


def _write_small(path: Path, data: bytes) -> None:
    """Write a file under another name and rename it; not flushed, since sizes are compared next time.

    Thousands of files a second come here, so the usual atomic writer would be what takes the time.
    """
    part = f"{path.parent}/{part_name(path.name)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        try:
            handle = os.open(part, flags, 0o666)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(part, flags, 0o666)
        try:
            write_at(handle, data, 0)
        finally:
            os.close(handle)
        os.replace(part, path)  # noqa: PTH105
    except OSError:
        Path(part).unlink(missing_ok=True)
        raise


def _fetch_large(
    place: S3Url, path: Path, access: S3Access, found: StoredObject, progress: Progress
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(part_name(path.name))
    fetch(place, part, access, expected=found, resume=True, arrived=progress.add)
    put_in_place(part, path)
    part.with_name(part.name + JOURNAL_SUFFIX).unlink(missing_ok=True)


def _require_names(place: S3Url, names: list[str]) -> None:
    """Refuse keys that cannot be files of one folder: before the first byte, not in the middle."""
    seen: dict[str, str] = {}
    for name in names:
        same = unicodedata.normalize("NFC", name)
        if same in seen:
            raise DataError(
                f"{place} is refused: the keys {seen[same]!r} and {name!r} are one name to file systems; "
                "rename one"
            )
        seen[same] = name
    for name in names:
        parent = name.rpartition("/")[0]
        while parent:
            if parent in seen:
                raise DataError(
                    f"{place} is refused: {parent!r} is a key and the folder of {name!r}; rename one"
                )
            parent = parent.rpartition("/")[0]


def _in_threads(one: Callable[[T], None], items: Sequence[T]) -> None:
    """Run ``one`` for every item, in order of the items; after an error nothing more is begun."""
    waiting = iter(items)
    taking = threading.Lock()
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            with taking:
                item = next(waiting, None)
            if item is None:
                return
            try:
                one(item)
            except BaseException:
                stop.set()
                raise

    with Threads(THREADS) as pool:
        workers = [pool.submit(work) for _ in range(min(THREADS, len(items)))]
        try:
            for worker in workers:
                worker.result()
        except BaseException:
            stop.set()
            raise


class _State:
    """Which objects a folder holds: etag and size of each, one line a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / STATE_NAME
        self._lock = threading.Lock()
        self._known: dict[str, list[Any]] = {}
        self._stream: IO[bytes] | None = None
        with suppress(OSError):
            for line in self.path.read_text(encoding="utf-8").split("\n"):
                with suppress(ValueError, TypeError):
                    name, *facts = json.loads(line)
                    self._known[name] = facts

    def has(self, name: str, found: StoredObject) -> bool:
        """Whether the file is there as it was listed."""
        if self._known.get(name) != [found.etag, found.size_bytes]:
            return False
        try:
            return os.stat(self.folder / name).st_size == found.size_bytes  # noqa: PTH116 - speed
        except OSError:
            return False

    def note(self, name: str, found: StoredObject) -> None:
        """Remember a file that has its name."""
        line = json.dumps([name, found.etag, found.size_bytes], ensure_ascii=False) + "\n"
        with self._lock:
            if self._stream is None:
                # Unbuffered: what was fetched is known also after a kill.
                self._stream = self.path.open("ab", buffering=0)
            self._stream.write(line.encode())

    def close(self) -> None:
        """Let go of the file."""
        if self._stream is not None:
            self._stream.close()
