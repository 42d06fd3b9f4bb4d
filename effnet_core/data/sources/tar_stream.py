"""Tar files whose headers and whose skipping cost no more than they may, checked before the bytes are there.

``tarfile`` reads a long name or an extended header into memory at the size that the file says, and skips
a compressed member by unpacking it. Both are charged here: what lies between two members, and the
position in the unpacked stream.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, cast

from effnet_core.system.files import CHUNK_BYTES
from effnet_core.text import human_bytes

HEADER_BYTES = 2 << 20
"""Headers of one member, long names and extended attributes included; paths have at most 4,096 bytes."""
GLOBAL_HEADERS = 1000
"""Attributes that hold for all members, and are kept."""


def read_tar(
    stream: IO[bytes], *, largest: int | None = None
) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Every entry of a tar file in its order, and for files a stream that is valid until the next one.

    Args:
        stream: the file, compressed by gzip, bzip2, xz or Zstandard or not; it can seek.
        largest: bytes of the unpacked stream beyond which nothing is read or skipped.

    Raises:
        tarfile.TarError: it is damaged, or would cost more than it may.
    """
    metered = _Metered(_unpacked(stream), largest)
    with tarfile.open(fileobj=cast(IO[bytes], metered), mode="r:") as tar:
        for info in tar:
            if len(tar.pax_headers) > GLOBAL_HEADERS:
                raise tarfile.ReadError(f"more than {GLOBAL_HEADERS:,} attributes for all members")
            metered.room = None
            yield info, tar.extractfile(info) if info.isreg() else None
            metered.room = HEADER_BYTES
            tar.members = []  # type: ignore[attr-defined]  # else a million of them are kept in memory


def is_compressed(stream: IO[bytes]) -> bool:
    """Whether a tar file is compressed, by its first bytes; the stream is at its beginning again."""
    packed = _unpacked(stream) is not stream
    stream.seek(0)
    return packed


def _unpacked(stream: IO[bytes]) -> Any:
    """The tar stream inside, by its first bytes."""
    start = stream.read(6)
    stream.seek(0)
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=stream)
    if start.startswith(b"BZh"):
        return bz2.BZ2File(stream)
    if start == b"\xfd7zXZ\x00":
        return lzma.LZMAFile(stream)
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return io.BufferedReader(_Zstandard(stream), CHUNK_BYTES)
    return stream


class _Zstandard(io.RawIOBase):
    """What a file of Zstandard holds, read by Arrow; Python has that format since 3.14."""

    def __init__(self, packed: IO[bytes]) -> None:
        super().__init__()
        self.packed = packed
        self._begin()

    def _begin(self) -> None:
        import pyarrow as pa

        self.packed.seek(0)
        self.position = 0
        self.inner = pa.CompressedInputStream(pa.PythonFile(self.packed, mode="r"), "zstd")

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """Whether ``seek`` works; it does, by unpacking."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; 0 at the end."""
        import pyarrow as pa

        try:
            chunk = self.inner.read(len(buffer))
        except pa.ArrowException as cause:
            raise OSError(str(cause)) from cause
        buffer[: len(chunk)] = chunk
        self.position += len(chunk)
        return len(chunk)

    def seek(self, position: int, whence: int = io.SEEK_SET) -> int:
        """Go to a position, from the start again where it lies behind."""
        if whence == io.SEEK_CUR:
            position += self.position
        if position < self.position:
            self._begin()
        room = bytearray(CHUNK_BYTES)
        while self.position < position:
            wanted = min(CHUNK_BYTES, position - self.position)
            if not self.readinto(memoryview(room)[:wanted]):
                break
        return self.position

    def tell(self) -> int:
        """The position in the unpacked stream."""
        return self.position


class _Metered:
    """What ``tarfile`` needs of a file, and no more than it is allowed to have."""

    def __init__(self, stream: Any, largest: int | None) -> None:
        self.stream, self.largest = stream, largest
        self.room: int | None = HEADER_BYTES
        """Bytes that the next member's headers may still take; None while a member is read."""

    def tell(self) -> int:
        """The position in the unpacked stream."""
        return cast(int, self.stream.tell())

    def read(self, size: int) -> bytes:
        """The next bytes."""
        if self.room is not None:
            self.room -= size
            if self.room < 0:
                raise tarfile.ReadError(
                    f"a name or header of {human_bytes(HEADER_BYTES - self.room)}, allowed are "
                    f"{human_bytes(HEADER_BYTES)}"
                )
        self._charge(self.tell() + size if size <= HEADER_BYTES else self.tell())
        try:
            return cast(bytes, self.stream.read(size))
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as cause:
            raise _damaged(cause) from cause

    def seekable(self) -> bool:
        """Whether ``seek`` works; it does, by unpacking."""
        return True

    def seek(self, position: int) -> None:
        """Go to a position; a compressed stream is unpacked up to there."""
        self._charge(position)
        try:
            self.stream.seek(position)
        except (OSError, EOFError, zlib.error, lzma.LZMAError) as cause:
            raise _damaged(cause) from cause

    def _charge(self, position: int) -> None:
        if self.largest is not None and position > self.largest:
            raise tarfile.ReadError(f"it unpacks to more than {human_bytes(self.largest)}")


def _damaged(cause: Exception) -> Exception:
    if isinstance(cause, OSError) and cause.errno is not None:
        return cause  # of the disk, not of the file
    return tarfile.ReadError(str(cause) or type(cause).__name__)
