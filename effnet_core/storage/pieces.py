"""Files and objects read at any place, by many threads at once, without being fetched as a whole."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import IO, Protocol, cast

from effnet_core.errors import Conflict, StoreError
from effnet_core.storage.addresses import parse_s3
from effnet_core.storage.client import S3Access
from effnet_core.storage.objects import patiently, require_object
from effnet_core.storage.ranged import read_range

LOCAL_BYTES, REMOTE_BYTES = 1 << 20, 8 << 20
"""Read ahead by a stream."""


class Pieces(Protocol):
    """A file of known size and content."""

    name: str
    size_bytes: int
    stamp: str
    """Changes with its content: size and time, or the etag."""

    def read_at(self, start: int, count: int) -> bytes:
        """Bytes from ``start``; fewer at the end."""
        ...

    def stream(self) -> IO[bytes]:
        """All of it as a stream that can seek and reads ahead."""
        ...


class LocalPieces:
    """A file of this machine."""

    def __init__(self, path: Path) -> None:
        """Open the file.

        Raises:
            OSError: it cannot be read.
        """
        self.name = str(path)
        self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        facts = os.fstat(self.handle)
        self.size_bytes, self.stamp = facts.st_size, f"{facts.st_size}-{facts.st_mtime_ns}"

    def __del__(self) -> None:
        handle = getattr(self, "handle", None)
        if handle is not None:
            os.close(handle)

    def read_at(self, start: int, count: int) -> bytes:
        """As ``Pieces.read_at``."""
        return os.pread(self.handle, count, start)

    def stream(self) -> IO[bytes]:
        """As ``Pieces.stream``."""
        return cast(IO[bytes], io.BufferedReader(_Stream(self), LOCAL_BYTES))


class ObjectPieces:
    """An object of a bucket; each request demands the etag of the first."""

    def __init__(self, url: str, access: S3Access) -> None:
        """Look the object up.

        Raises:
            StoreError: there is none, or the server refuses.
        """
        self.name, self.access, self.place = url, access, parse_s3(url)
        self.found = patiently(lambda: require_object(self.place, access))
        self.size_bytes, self.stamp = self.found.size_bytes, self.found.etag

    def read_at(self, start: int, count: int) -> bytes:
        """As ``Pieces.read_at``."""
        stop = min(start + count, self.size_bytes)
        if stop <= start:
            return b""
        try:
            return patiently(lambda: read_range(self.access, self.place, self.found, start, stop))
        except Conflict as cause:
            raise StoreError(str(cause)) from cause

    def stream(self) -> IO[bytes]:
        """As ``Pieces.stream``."""
        return cast(IO[bytes], io.BufferedReader(_Stream(self), REMOTE_BYTES))


class _Stream(io.RawIOBase):
    """``Pieces`` from beginning to end."""

    def __init__(self, pieces: Pieces) -> None:
        super().__init__()
        self.pieces, self.position = pieces, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fill a buffer; 0 at the end."""
        data = self.pieces.read_at(self.position, len(buffer))
        buffer[: len(data)] = data
        self.position += len(data)
        return len(data)

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.pieces.size_bytes}
        self.position = max(0, start[whence] + position)
        return self.position

    def tell(self) -> int:
        """The position."""
        return self.position
