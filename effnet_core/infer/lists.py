"""Lists of what to label: a path or an address a line, or a table with a column of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effnet_core.data.sources.columns import Columns
from effnet_core.data.sources.tables import PATH_COLUMNS, decode_text, read_table
from effnet_core.errors import ConfigError, DataError
from effnet_core.infer.web import is_web
from effnet_core.storage.addresses import S3_SCHEME
from effnet_core.text import os_reason

SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")


@dataclass(frozen=True)
class Listed:
    """What a list names, in its order."""

    paths: list[str]
    kept: list[tuple[Any, ...]]
    """Values of the columns that are carried through; empty where none are."""


def is_list(file: Path) -> bool:
    """Whether a file is a list by its name."""
    return file.suffix.lower() in SUFFIXES


def read_list(file: Path, columns: Columns, *, path_column: str | None = None) -> Listed:
    """The paths that a list names.

    Args:
        file: a path a line (``.txt``), or a table with a column ``path`` or of another usual name.
        columns: what is carried through; it learns their types.
        path_column: of a table, where its name is another one.

    Raises:
        ConfigError: columns are asked of a list that has none.
        DataError: the list cannot be read, or names no files.
    """
    kept: list[tuple[Any, ...]] = []
    if file.suffix.lower() == ".txt":
        if columns.names:
            raise ConfigError(
                f"infer.keep_columns={','.join(columns.names)}: list {file} has lines and no columns; give a "
                "table (.csv, .tsv, .jsonl, .parquet)"
            )
        paths: list[Any] = _read_lines(file)
    else:
        table = read_table(file)
        if not table.rows:
            raise DataError(f"list {file} names no files")
        column = table.column(PATH_COLUMNS, "path", path_column)
        columns.require(file, table.columns)
        paths = [row.values.get(column) for row in table.rows]
        kept = [columns.take(row.values) for row in table.rows] if columns.names else []
    if not paths:
        raise DataError(f"list {file} names no files")
    for number, path in enumerate(paths, 1):
        if not isinstance(path, str) or not path or "\0" in path:
            raise DataError(f"entry {number} of list {file} is not a path: {path!r}")
    return Listed(paths, kept)


def remote_root(file: Path, paths: Sequence[str]) -> str:
    """The address that all entries of a list are below; empty where they are files.

    Raises:
        DataError: the list names files and addresses, or addresses of two kinds.
    """
    for kind, matches in (("objects", _is_object), ("addresses", is_web)):
        remote = [path for path in paths if matches(path)]
        if remote and len(remote) < len(paths):
            raise DataError(
                f"list {file} names {kind} such as {remote[0]} and files; make a list of each"
            )
        if remote:
            # of names, cut at a slash; what follows a question mark is no folder
            root = os.path.commonprefix([path.partition("?")[0] for path in paths])  # noqa: RUF071
            root = root[: root.rfind("/") + 1]
            if not root:
                raise DataError(f"list {file} names http and https addresses; make a list of each")
            return root
    return ""


def _is_object(path: str) -> bool:
    return path.startswith(S3_SCHEME)


def _read_lines(file: Path) -> list[str]:
    try:
        content = file.read_bytes()
    except OSError as cause:
        raise DataError(f"list {file} cannot be read ({os_reason(cause)})") from cause
    try:
        text = decode_text(content, fallback=None)
    except UnicodeDecodeError:  # names that are not UTF-8 stay what they are
        text = os.fsdecode(content)
    return [line.rstrip("\r") for line in text.split("\n") if line.strip()]
