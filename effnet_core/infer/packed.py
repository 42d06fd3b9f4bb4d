"""Archives and Parquet files whose pictures are labelled where they lie."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effnet_core.config.schema import StorageConfig
from effnet_core.data.sources.archives import is_archive
from effnet_core.data.sources.columns import Columns
from effnet_core.data.sources.embedded import picture_column, picture_field
from effnet_core.data.sources.members import Members, list_members, may_hold_pictures, prefixes
from effnet_core.errors import ConfigError, DataError
from effnet_core.events import Event, emit
from effnet_core.infer.readers import open_pieces
from effnet_core.storage.addresses import S3_SCHEME


@dataclass(frozen=True)
class Packed:
    """Containers of one kind below a folder or prefix."""

    root: str
    names: tuple[str, ...]


def is_packed(path: Path) -> bool:
    """Whether a file of this machine holds pictures."""
    return path.is_file() and (is_archive(path.name) or bool(picture_column(path)))


def packed_files(paths: Sequence[str]) -> Packed | None:
    """Files that are all containers, or None."""
    if not paths or not all(is_packed(Path(path)) for path in paths):
        return None
    absolute = sorted({os.path.abspath(path) for path in paths})
    root = os.path.commonpath([os.path.dirname(path) for path in absolute])
    return Packed(root, tuple(os.path.relpath(path, root) for path in absolute))


def packed_among(root: str, names: Sequence[str], storage: StorageConfig) -> Packed | None:
    """The containers among files or objects that are not pictures themselves, or None."""
    candidates = sorted(name for name in names if may_hold_pictures(name))
    archives = [name for name in candidates if is_archive(name)]
    tables = [name for name in candidates if not is_archive(name)]
    found = archives or [name for name in tables if _holds_pictures(root, name, storage)]
    return Packed(root, tuple(found)) if found else None


def _holds_pictures(root: str, name: str, storage: StorageConfig) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not root.startswith(S3_SCHEME):
        return bool(picture_column(Path(root, name)))
    try:
        with open_pieces(root, name, storage).stream() as stream:
            return bool(picture_field(pq.read_schema(stream)))
    except (OSError, pa.ArrowException):
        return False


def list_packed(
    packed: Packed, storage: StorageConfig, columns: Columns, encoding: str | None
) -> Members:
    """The pictures in all containers, in their own order.

    Args:
        packed: the containers.
        storage: how buckets are reached.
        columns: of tables, what is carried through; it learns their types.
        encoding: of names in zips that do not say.

    Raises:
        ConfigError: columns are asked of archives.
        DataError: a container is damaged, or there are no pictures.
        StoreError: a bucket cannot be reached.
    """
    if columns.names and any(is_archive(name) for name in packed.names):
        raise ConfigError(
            f"infer.keep_columns={','.join(columns.names)} needs a list or a table with columns, and "
            f"{packed.names[0]} is an archive"
        )
    whole = Members()
    for done, (name, prefix) in enumerate(zip(packed.names, prefixes(packed.names), strict=True)):
        emit(Event("predict", f"looking into {name}", done, len(packed.names)))
        pieces = open_pieces(packed.root, name, storage)
        found = list_members(
            pieces,
            name,
            prefix=prefix,
            columns=columns if columns.names else None,
            encoding=encoding,
        )
        whole.paths += found.paths
        whole.stamps += found.stamps
        whole.where += found.where
        whole.kept += found.kept
        whole.other += found.other
        whole.left_out += found.left_out
    if not whole.paths:
        where = f"{packed.root.rstrip('/')}/{packed.names[0]}"
        more = f" and {len(packed.names) - 1} more" if len(packed.names) > 1 else ""
        raise DataError(f"{where}{more} hold(s) no pictures")
    return whole
