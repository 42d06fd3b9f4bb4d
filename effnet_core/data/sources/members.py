"""The pictures inside tar files, zips and Parquet files, listed without unpacking anything.

Each gets a place, from which ``contents.py`` reads it again: an offset where the container lets any member
be read by itself, a number where it has to be gone through in order.
"""

from __future__ import annotations

import re
import stat
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import IO, Any, TypeAlias

from effnet_core.data.encoded import HEAD_BYTES
from effnet_core.data.sources.archives import DAMAGE, DEFAULT_LIMITS, TAR_SUFFIXES, is_archive
from effnet_core.data.sources.columns import Columns
from effnet_core.data.sources.embedded import picture_field
from effnet_core.data.sources.finding import why_key_left_out, why_other
from effnet_core.data.sources.tables import PATH_COLUMNS
from effnet_core.data.sources.tar_stream import is_compressed, read_tar
from effnet_core.data.sources.zip_names import names_of
from effnet_core.errors import DataError
from effnet_core.storage.pieces import Pieces

Where: TypeAlias = tuple[str | int, ...]
"""Kind of container, its name, and the place in it."""
TAR, TAR_STREAM, ZIP, PARQUET = "tar", "tar stream", "zip", "parquet"

STORED, DEFLATED = zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED
ROWS = 1024
"""Rows of a table that are in memory at once while it is listed; their pictures are not."""


@dataclass
class Members:
    """What containers hold."""

    paths: list[str] = field(default_factory=list)
    stamps: list[str] = field(default_factory=list)
    where: list[Where] = field(default_factory=list)
    kept: list[tuple[Any, ...]] = field(default_factory=list)
    other: list[tuple[str, str]] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)

    def add(self, path: str, stamp: str, where: Where, kept: tuple[Any, ...] = ()) -> None:
        """Take a picture."""
        self.paths.append(path)
        self.stamps.append(stamp)
        self.where.append(where)
        self.kept.append(kept)


def may_hold_pictures(name: str) -> bool:
    """Whether a file may be a container, by its name; of a Parquet file its columns decide."""
    return is_archive(name) or name.lower().endswith(".parquet")


def list_members(
    pieces: Pieces,
    name: str,
    *,
    prefix: str = "",
    columns: Columns | None = None,
    encoding: str | None = None,
) -> Members:
    """The pictures in one container, in its own order.

    Args:
        pieces: its bytes.
        name: what its places call it.
        prefix: put before the members' paths.
        columns: of a table, what is carried through; it learns the types.
        encoding: of names in a zip that does not say.

    Raises:
        DataError: it is damaged.
        StoreError: it is out of reach.
    """
    found = Members()
    try:
        if name.lower().endswith(".zip"):
            _list_zip(pieces, name, prefix, encoding, found)
        elif name.lower().endswith(TAR_SUFFIXES):
            _list_tar(pieces, name, prefix, found)
        else:
            _list_table(pieces, name, prefix, columns, found)
    except (*DAMAGE, OSError, ValueError) as cause:
        reason = " ".join(str(cause).split())[:200] or type(cause).__name__
        raise DataError(f"{pieces.name} is damaged or cut ({reason}); fetch it again") from cause
    return found


class _Sorter:
    """Tells pictures from the rest, by the rules of folders."""

    def __init__(self, prefix: str, found: Members) -> None:
        self.prefix, self.found = prefix, found
        self.seen: set[str] = set()

    def path_of(self, name: str, stream: IO[bytes] | None) -> str:
        """The path of a picture; empty where the member is none, and noted as what it is."""
        path = re.sub(r"(?<=/)(\./|/)+|^(\./|/)+", "", name)
        shown = self.prefix + path
        if reason := why_key_left_out(path):
            self.found.left_out.append((shown, reason))
        elif reason := why_other(path, lambda: stream.read(HEAD_BYTES) if stream else b""):
            self.found.other.append((shown, reason))
        elif path in self.seen:
            self.found.other.append((shown, "a second member of this name"))
        else:
            self.seen.add(path)
            return shown
        return ""


def _list_tar(pieces: Pieces, name: str, prefix: str, found: Members) -> None:
    sorter = _Sorter(prefix, found)
    with pieces.stream() as stream:
        streamed = is_compressed(stream)
        places: dict[str, Where] = {}
        largest = DEFAULT_LIMITS.of_size(pieces.size_bytes)
        for number, (info, content) in enumerate(read_tar(stream, largest=largest)):
            if info.isdir():
                continue
            if info.isreg():
                where: Where | None = (
                    (TAR_STREAM, name, number)
                    if streamed
                    else (TAR, name, info.offset_data, info.size)
                )
            else:
                where = places.get(info.linkname) if info.islnk() else None
            if where is None:
                kind = "a link" if info.issym() or info.islnk() else "a device or pipe"
                found.other.append((prefix + info.name, kind))
                continue
            if not streamed:
                places[info.name] = where
            if path := sorter.path_of(info.name, content):
                found.add(path, pieces.stamp, where)


def _list_zip(pieces: Pieces, name: str, prefix: str, encoding: str | None, found: Members) -> None:
    sorter = _Sorter(prefix, found)
    with pieces.stream() as stream, zipfile.ZipFile(stream) as container:
        entries = container.infolist()
        for info, member in zip(entries, names_of(entries, encoding), strict=True):
            mode = info.external_attr >> 16
            if member.endswith("/"):
                continue
            if reason := _why_not(info, mode):
                found.other.append((prefix + member, reason))
                continue
            with container.open(info) as content:
                path = sorter.path_of(member, content)
            if path:
                place = info.header_offset, info.compress_size, info.file_size
                how = info.compress_type, info.CRC
                found.add(path, f"{info.file_size}-{info.CRC:08x}", (ZIP, name, *place, *how))


def _why_not(info: zipfile.ZipInfo, mode: int) -> str:
    """Why a member of a zip is not read; empty where it is."""
    if info.flag_bits & 1:
        return "an encrypted file"
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
        return "a link" if stat.S_ISLNK(mode) else "a device or pipe"
    if info.compress_type not in (STORED, DEFLATED):
        return f"compressed by a method that is not read (number {info.compress_type})"
    return ""


def _list_table(
    pieces: Pieces, name: str, prefix: str, columns: Columns | None, found: Members
) -> None:
    import pyarrow as pa

    try:
        paths = list(_row_names(pieces))
        rows = columns.read_parquet(pieces) if columns is not None else None
    except pa.ArrowException as cause:
        raise ValueError(str(cause)) from cause
    if len(set(paths)) < len(paths) or not all(paths):  # base names of several folders, or none
        paths = [f"{number:08d}" for number in range(len(paths))]
    for number, path in enumerate(paths):
        kept = rows[number] if rows is not None else ()
        found.add(prefix + path, pieces.stamp, (PARQUET, name, number), kept)


def _row_names(pieces: Pieces) -> Iterator[str]:
    """What a table calls its pictures, row by row; empty where it has no name."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pieces.stream() as stream, pq.ParquetFile(pa.PythonFile(stream, "r")) as file:
        schema = file.schema_arrow
        picture = picture_field(schema)
        if not picture:
            raise ValueError("no column holds pictures")
        kind = schema.field(picture).type
        named = ""
        if pa.types.is_struct(kind):
            named = f"{picture}.path" if any(field.name == "path" for field in kind) else ""
        if not named:
            texts = (f.name for f in schema if pa.types.is_string(f.type))
            named = next((name for name in texts if name.lower() in PATH_COLUMNS), "")
        if not named:
            yield from [""] * file.metadata.num_rows
            return
        for batch in file.iter_batches(ROWS, columns=[named]):
            for row in batch.to_pylist():
                value = row[named.partition(".")[0]]
                name = value.get("path") if isinstance(value, dict) else value
                yield str(name or "")


def prefixes(names: Sequence[str]) -> list[str]:
    """What stands before the paths of each container's members: nothing where there is only one."""
    return [""] if len(names) == 1 else [f"{name}/" for name in names]
