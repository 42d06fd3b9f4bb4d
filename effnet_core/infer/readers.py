"""Where the images of an ``InputList`` are read from: a folder or a bucket.

A source is opened again from its root in every process that needs it. What is wrong with one file is an
``ImageProblem`` and goes to the list of errors; what is wrong with all of them ends the run.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Protocol

from effnet_core.config.schema import StorageConfig
from effnet_core.data.images import ImageProblem, read_bytes
from effnet_core.errors import InputLost, StoreError
from effnet_core.text import os_reason

S3_SCHEME = "s3://"
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


def open_reader(root: str, storage: StorageConfig) -> ImageReader:
    """What reads the paths of an ``InputList`` with this root."""
    if root.startswith(S3_SCHEME):
        return BucketReader(root, storage)
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
