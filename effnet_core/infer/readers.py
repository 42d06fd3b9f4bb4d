"""Where the images of an ``InputList`` are read from: a folder, a bucket, containers there, or the web.

A source is opened again from its root in every process that needs it. What is wrong with one file is an
``ImageProblem`` and goes to the list of errors; what is wrong with all of them ends the run.
"""

from __future__ import annotations

import os
import stat
import threading
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from effnet_core.config.schema import InferConfig, StorageConfig
from effnet_core.data.images import ImageProblem, read_bytes
from effnet_core.data.sources.contents import Contents, open_contents
from effnet_core.data.sources.members import ZIP
from effnet_core.errors import DataError, InputLost, StoreError
from effnet_core.infer.entries import Entry, iter_entries
from effnet_core.infer.web import WebReader, is_web
from effnet_core.storage.addresses import S3_SCHEME
from effnet_core.storage.pieces import LocalPieces, ObjectPieces, Pieces
from effnet_core.text import os_reason

LOCAL_READERS, REMOTE_READERS = 2, 16


class ImageReader(Protocol):
    """Where images are read from."""

    readers: int
    """Threads that are worth having."""

    def read(self, path: str) -> bytes:
        """The content of one file.

        Raises:
            ImageProblem: this file cannot be read.
            InputLost: none can, because the folder has gone.
            StoreError: none can, because the bucket is out of reach.
        """
        ...


def open_reader(
    root: str, storage: StorageConfig, *, infer: InferConfig | None = None, members: bool = False
) -> ImageReader:
    """What reads the paths of an ``InputList`` with this root.

    Args:
        root: of the list.
        storage: how buckets are reached.
        infer: limits for addresses of the web.
        members: whether they lie in containers; the reader must ``know`` their entries then.
    """
    if members:
        return MemberReader(root, storage)
    if root.startswith(S3_SCHEME):
        return BucketReader(root, storage)
    if is_web(root):
        return WebReader(root, infer or InferConfig())
    return FolderReader(Path(root))


class FolderReader:
    """Files below a folder."""

    readers = LOCAL_READERS

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, path: str) -> bytes:
        """As ``Source.read``; never waits for a pipe or device."""
        try:
            return self._read(path)
        except ImageProblem:
            self._require_root()
            raise

    def _read(self, path: str) -> bytes:
        whole = self.root / path
        try:
            kind = whole.stat().st_mode
        except OSError as cause:
            raise ImageProblem(os_reason(cause)) from cause
        if stat.S_ISDIR(kind):
            raise ImageProblem(_of_directory(whole))
        if not stat.S_ISREG(kind):
            raise ImageProblem("not a regular file")
        return read_bytes(whole)

    def _require_root(self) -> None:
        """Tell a share that was taken away, which leaves nothing or an empty folder, from a bad file."""
        try:
            with os.scandir(self.root) as entries:
                if next(entries, None) is not None:
                    return
            reason = "it is empty now"
        except OSError as cause:
            reason = os_reason(cause)
        raise InputLost(
            f"input folder {self.root} has gone while it was read ({reason}); bring it back, and the same "
            "command continues with the shards that are missing"
        )


def _of_directory(path: Path) -> str:
    try:
        os.scandir(path).close()
    except OSError:
        return "folder that cannot be listed"
    return "a folder, not a file"


class BucketReader:
    """Objects below a prefix."""

    readers = REMOTE_READERS

    def __init__(self, root: str, storage: StorageConfig) -> None:
        self.root = root
        self.access = storage.access

    def read(self, path: str) -> bytes:
        """As ``Source.read``."""
        from effnet_core.storage.objects import read_object
        from effnet_core.storage.refusals import OF_ONE_OBJECT, code_of

        try:
            return read_object(self.root + path, self.access)
        except StoreError as error:
            cause = error.__cause__
            code = code_of(cause) if isinstance(cause, Exception) else ""
            if code not in OF_ONE_OBJECT:
                raise
            raise ImageProblem(OF_ONE_OBJECT[code]) from error


class MemberReader:
    """Members of archives and rows of tables below a folder or prefix."""

    def __init__(self, root: str, storage: StorageConfig) -> None:
        self.root, self.storage = root, storage
        self.readers = REMOTE_READERS if root.startswith(S3_SCHEME) else LOCAL_READERS
        self._entries: dict[str, Entry] = {}
        self._open: dict[str, Contents] = {}
        self._lock = threading.Lock()

    def know(self, entries: Iterable[Entry]) -> None:
        """What will be read next, about in this order, instead of what was known before."""
        self._entries = {entry.path: entry for entry in entries}
        of_container = defaultdict(list)
        for entry in self._entries.values():
            of_container[str(entry.where[1])].append(entry)
        with self._lock:
            # Others are done with: a run may have more containers than a process may have open files.
            self._open = {name: self._open[name] for name in self._open if name in of_container}
        for name, some in of_container.items():
            if name in self._open:
                self._open[name].want([entry.where for entry in some])

    def read(self, path: str) -> bytes:
        """As ``ImageReader.read``."""
        entry = self._entries[path]
        return self._contents(entry).read(entry.where)

    def _contents(self, entry: Entry) -> Contents:
        kind, name = str(entry.where[0]), str(entry.where[1])
        with self._lock:
            if name not in self._open:
                pieces = open_pieces(self.root, name, self.storage)
                if (
                    kind != ZIP and pieces.stamp != entry.stamp
                ):  # a zip has a checksum of each member
                    raise DataError(
                        f"{pieces.name} has changed since the run began; choose another output for it as it "
                        "is now, or add it with --only-new"
                    )
                contents = open_contents(pieces, kind)
                same = (item for item in self._entries.values() if item.where[1] == name)
                contents.want([item.where for item in same])
                self._open[name] = contents
            return self._open[name]


def open_pieces(root: str, name: str, storage: StorageConfig) -> Pieces:
    """A container below a folder or prefix.

    Raises:
        InputLost: it is gone, or cannot be read.
        StoreError: as the bucket.
    """
    if root.startswith(S3_SCHEME):
        return ObjectPieces(root + name, storage.access)
    try:
        return LocalPieces(Path(root, name))
    except OSError as cause:
        raise InputLost(f"{Path(root, name)} cannot be read ({os_reason(cause)})") from cause


class PlannedReader:
    """The pictures of a labelling by their paths alone, wherever they lie."""

    def __init__(
        self, root: str, records: Path, storage: StorageConfig, *, infer: InferConfig, members: bool
    ) -> None:
        """Read by a list of inputs.

        Args:
            root: of the list.
            records: the list, as it was planned.
            storage: how buckets are reached.
            infer: limits for addresses of the web.
            members: whether the files lie in containers.
        """
        self._inner = open_reader(root, storage, infer=infer, members=members)
        self.readers = self._inner.readers
        self.records = records
        self._looked_up: set[str] = set()

    def look_up(self, paths: Iterable[str]) -> None:
        """Find where some files lie, all of them in one pass, before they are read."""
        if isinstance(self._inner, MemberReader):
            self._looked_up = set(paths)
            entries = iter_entries(self.records)
            self._inner.know([entry for entry in entries if entry.path in self._looked_up])

    def read(self, path: str) -> bytes:
        """As ``ImageReader.read``."""
        if isinstance(self._inner, MemberReader) and path not in self._looked_up:
            self.look_up([path])
        try:
            return self._inner.read(path)
        except KeyError as cause:
            raise ImageProblem("not in the list of inputs any more") from cause
