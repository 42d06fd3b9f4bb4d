"""Reading again what ``members.py`` has listed, one picture at a time and for many threads at once."""

from __future__ import annotations

import struct
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from effnet_core.data.images import ImageProblem
from effnet_core.data.sources.archives import DAMAGE, DEFAULT_LIMITS
from effnet_core.data.sources.embedded import picture_field
from effnet_core.data.sources.members import DEFLATED, PARQUET, TAR, TAR_STREAM, ZIP, Where
from effnet_core.data.sources.tar_stream import read_tar
from effnet_core.errors import DataError
from effnet_core.storage.pieces import Pieces
from effnet_core.text import human_bytes

MOST_BYTES = 1 << 30
"""Of one picture: what a thread may have to hold in memory."""
KEPT_BYTES = 64 << 20
"""Of pictures that were passed on the way to another one, and are asked for soon."""
ROWS = 16
LOCAL_HEADER = struct.Struct("<4s22xHH")
EXTRA_ROOM = 1024
"""Read beyond a zip's local header for names and extra fields, so that one request is enough."""

Item = tuple[int, Callable[[], bytes]]
"""Number of a member, and what reads it while it is the current one."""


class Contents(Protocol):
    """What reads the members of one container."""

    def want(self, places: Sequence[Where]) -> None:
        """What will be asked for next, about in this order."""
        ...

    def read(self, place: Where) -> bytes:
        """One member.

        Raises:
            ImageProblem: it is damaged or too large.
            DataError: the container itself is damaged.
        """
        ...


def open_contents(pieces: Pieces, kind: str | int) -> Contents:
    """What reads the members of a container of a kind."""
    if kind == TAR:
        return _Tar(pieces)
    if kind == ZIP:
        return _Zip(pieces)
    if kind == TAR_STREAM:
        return _InOrder(pieces, _tar_items, lambda _: 0)
    if kind == PARQUET:
        starts = _row_groups(pieces)
        return _InOrder(
            pieces,
            lambda pieces, start: _parquet_items(pieces, start, starts),
            lambda number: max(start for start in starts if start <= number),
        )
    raise ValueError(f"a container of kind {kind!r}")


def _require_size(size: int) -> None:
    if size > MOST_BYTES:
        raise ImageProblem(f"{human_bytes(size)}; pictures have at most {human_bytes(MOST_BYTES)}")


class _Tar:
    """Members that lie in the file as they are."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces

    def want(self, places: Sequence[Where]) -> None:
        """Any order is as good."""

    def read(self, place: Where) -> bytes:
        """As ``Contents.read``."""
        _, _, offset, size = place
        _require_size(int(size))
        data = self.pieces.read_at(int(offset), int(size))
        if len(data) < int(size):
            raise ImageProblem("the archive ends inside it")
        return data


class _Zip:
    """Members that are packed one by one."""

    def __init__(self, pieces: Pieces) -> None:
        self.pieces = pieces

    def want(self, places: Sequence[Where]) -> None:
        """Any order is as good."""

    def read(self, place: Where) -> bytes:
        """As ``Contents.read``."""
        offset, packed, size, method, crc = (int(value) for value in place[2:])
        _require_size(max(packed, size))
        data = self.pieces.read_at(offset, LOCAL_HEADER.size + EXTRA_ROOM + packed)
        if len(data) < LOCAL_HEADER.size or not data.startswith(b"PK\3\4"):
            raise ImageProblem("damaged in the archive")
        _, name, extra = LOCAL_HEADER.unpack_from(data)
        start = LOCAL_HEADER.size + name + extra
        if start + packed > len(data):
            data, start = self.pieces.read_at(offset + start, packed), 0
        content = data[start : start + packed]
        if method == DEFLATED:
            try:
                content = zlib.decompressobj(-zlib.MAX_WBITS).decompress(content, size + 1)
            except zlib.error as cause:
                raise ImageProblem("damaged in the archive") from cause
        if len(content) != size or zlib.crc32(content) != crc:
            raise ImageProblem("damaged in the archive")
        return content


class _InOrder:
    """Members that are reached only through those before them.

    Readers ask about in order; what is passed on the way and was announced by ``want`` is kept for a while.
    """

    def __init__(
        self,
        pieces: Pieces,
        open_at: Callable[[Pieces, int], Iterator[Item]],
        start_of: Callable[[int], int],
    ) -> None:
        self.pieces, self.open_at, self.start_of = pieces, open_at, start_of
        self.lock = threading.Lock()
        self.items: Iterator[Item] = iter(())
        self.next = -1
        """Number of the member that ``items`` gives next; negative where nothing is open."""
        self.wanted: set[int] = set()
        self.passed: dict[int, bytes | ImageProblem] = {}

    def want(self, places: Sequence[Where]) -> None:
        """As ``Contents.want``."""
        with self.lock:
            self.wanted = {int(place[2]) for place in places}
            self.passed = {n: data for n, data in self.passed.items() if n in self.wanted}

    def read(self, place: Where) -> bytes:
        """As ``Contents.read``."""
        number = int(place[2])
        with self.lock:
            found = self.passed.pop(number, None)
            if found is None:
                found = self._advance_to(number)
            self.wanted.discard(number)
        if isinstance(found, ImageProblem):
            raise found
        return found

    def _advance_to(self, wanted: int) -> bytes | ImageProblem:
        start = self.start_of(wanted)
        if not start <= self.next <= wanted:
            self.items, self.next = self.open_at(self.pieces, start), start
        try:
            for number, content in self.items:
                self.next = number + 1
                if number == wanted:
                    return _read(content)
                if number in self.wanted:
                    self._keep(number, _read(content))
        except (*DAMAGE, OSError, ValueError) as cause:
            self.next = -1
            reason = " ".join(str(cause).split())[:200] or type(cause).__name__
            raise DataError(f"{self.pieces.name} is damaged ({reason}); fetch it again") from cause
        self.next = -1
        return ImageProblem("no longer in the archive")

    def _keep(self, number: int, content: bytes | ImageProblem) -> None:
        self.passed[number] = content
        while (
            sum(len(data) for data in self.passed.values() if isinstance(data, bytes)) > KEPT_BYTES
        ):
            del self.passed[next(iter(self.passed))]


def _read(content: Callable[[], bytes]) -> bytes | ImageProblem:
    try:
        return content()
    except ImageProblem as problem:
        return problem


def _tar_items(pieces: Pieces, start: int) -> Iterator[Item]:
    largest = DEFAULT_LIMITS.of_size(pieces.size_bytes)
    with pieces.stream() as stream:
        for number, (info, content) in enumerate(read_tar(stream, largest=largest)):

            def read(size: int = info.size, content: Any = content) -> bytes:
                _require_size(size)
                data: bytes = content.read()
                return data

            if content is not None:
                yield number, read


def _row_groups(pieces: Pieces) -> list[int]:
    """The number of the first row of each group that has rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    starts, rows = [0], 0
    with pieces.stream() as stream, pq.ParquetFile(pa.PythonFile(stream, "r")) as file:
        for group in range(file.num_row_groups):
            rows += file.metadata.row_group(group).num_rows
            starts.append(rows)
    return starts


def _parquet_items(pieces: Pieces, start: int, starts: list[int]) -> Iterator[Item]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pieces.stream() as stream, pq.ParquetFile(pa.PythonFile(stream, "r")) as file:
        column = picture_field(file.schema_arrow)
        groups = [n for n in range(file.num_row_groups) if starts[n] >= start]
        number = start
        try:
            for batch in file.iter_batches(ROWS, row_groups=groups, columns=[column]):
                for row in batch.to_pylist():
                    value = row[column]
                    content = value.get("bytes") if isinstance(value, dict) else value
                    yield number, lambda content=content: _of_row(content)  # type: ignore[misc]
                    number += 1
        except pa.ArrowException as cause:
            raise ValueError(str(cause)) from cause


def _of_row(content: bytes | None) -> bytes:
    if content is None:
        raise ImageProblem("no picture in this row")
    _require_size(len(content))
    return content
